//! The socket: who may speak, one packet at a time, and nothing that could make us wait.

use std::ffi::CStr;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, recvmsg, send, socket_with,
};

use crate::wire::{REQUEST_BYTES, Reply, encode_reply};

/// An agent, its successor, and people who look.
pub const PEERS_MAX: usize = 8;

/// Opens the socket, in place of one that an earlier guard left. Only root may connect.
pub fn open(path: &CStr) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = bind(&listener, &SocketAddrUnix::new(path)?);
    rustix::process::umask(before);
    bound?;
    listen(&listener, i32::try_from(PEERS_MAX).expect("eight"))?;
    Ok(listener)
}

/// One connection.
#[derive(Debug)]
pub struct Peer {
    /// Its socket.
    pub socket: OwnedFd,
    /// When it last spoke.
    pub heard_ns: u64,
}

/// What came.
pub enum Received {
    /// The other side has gone, or must go.
    Closed,
    /// Nothing.
    Nothing,
    /// A packet, whole or too long, and the descriptor that came with it.
    Packet {
        /// One byte more than a request, so that a longer one shows.
        bytes: [u8; REQUEST_BYTES + 1],
        /// How much of it was filled.
        length: usize,
        /// The one descriptor; `None` when there was none, or more than one.
        descriptor: Option<OwnedFd>,
    },
}

impl Peer {
    /// Takes the next connection; one that is not root's is closed at once.
    pub fn accept(listener: &OwnedFd, now_ns: u64) -> Option<Self> {
        let socket = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
        let credentials = socket_peercred(&socket).ok()?;
        credentials.uid.is_root().then_some(Self { socket, heard_ns: now_ns })
    }

    /// Takes one packet.
    pub fn receive(&self) -> Received {
        let mut bytes = [0; REQUEST_BYTES + 1];
        // Room for two: what does not fit into it is closed by the kernel, and two are refused.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
        let message = match received {
            Ok(message) if message.bytes > 0 => message,
            Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
            Ok(_) | Err(_) => return Received::Closed,
        };
        let mut descriptors = [None, None];
        let sent = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        descriptors.iter_mut().zip(sent.flatten()).for_each(|(place, sent)| *place = Some(sent));
        let descriptor = match descriptors {
            [one, None] if !message.flags.contains(ReturnFlags::CTRUNC) => one,
            _ => None,
        };
        Received::Packet { bytes, length: message.bytes, descriptor }
    }

    /// Sends an answer; `false`: the other side does not take it.
    pub fn answer(&self, serial: u32, reply: &Reply) -> bool {
        let packet = encode_reply(serial, reply);
        send(&self.socket, &packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
    }
}
