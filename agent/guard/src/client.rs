//! The agent's side of the guard's socket: one question, one answer, each within a deadline.
//!
//! Blocking, because the guard answers within microseconds and its messages fit the socket; a guard that is stuck costs a
//! caller [`ANSWER_DEADLINE_MS`]. After an error of the connection, connect and register again: the guard may have been
//! started anew, and then it guards nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, sendmsg, socket_with,
};

use crate::wire::{
    INSTANCES_MAX, Name, REPLY_BYTES, Refusal, Reply, Request, State, decode_reply, encode_request,
};

/// How long an answer may take. The guard's longest turn, 16 kills at once on a busy machine, took a few milliseconds.
pub const ANSWER_DEADLINE_MS: u32 = 200;
/// Answers to earlier questions that came too late and are still in the socket.
const STALE_MAX: u32 = 64;

/// Why there is no state.
#[derive(Debug)]
pub enum GuardError {
    /// The guard cannot be reached, or did not answer in time.
    Io(io::Error),
    /// It said no, and nothing has changed.
    Refused(Refusal),
    /// It answered something that is not of this version.
    Answer,
}

impl std::fmt::Display for GuardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the guard cannot be reached: {error}; does holdfast-guard run?"),
            Self::Refused(refusal) => write!(f, "the guard refuses: {refusal}"),
            Self::Answer => f.write_str("the guard's answer is not understood: is it of another version?"),
        }
    }
}

impl std::error::Error for GuardError {}

impl From<rustix::io::Errno> for GuardError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A connection to the guard.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    serial: AtomicU32,
}

impl Client {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Self, GuardError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket, serial: AtomicU32::new(0) })
    }

    /// Makes the guard hold this cgroup directory. Repeat it with every new start of Patroni's unit.
    pub fn register(
        &self,
        name: Name,
        cgroup: BorrowedFd<'_>,
        port: u16,
        postmaster: Option<i32>,
    ) -> Result<State, GuardError> {
        self.ask(&Request::Register { name, port, postmaster }, Some(cgroup))
    }

    /// The writer of this term may live until `deadline_ns` (`CLOCK_BOOTTIME`, the grace included).
    pub fn extend(
        &self,
        name: Name,
        term: u64,
        deadline_ns: u64,
        postmaster: Option<i32>,
    ) -> Result<State, GuardError> {
        self.ask(&Request::Extend { name, term, deadline_ns, postmaster }, None)
    }

    /// No writer of this term runs any more, or the duty went to somebody else.
    pub fn release(&self, name: Name, term: u64) -> Result<State, GuardError> {
        self.ask(&Request::Release { name, term }, None)
    }

    /// How the instance stands; `None`: the guard does not know it.
    pub fn query(&self, name: Name) -> Result<Option<State>, GuardError> {
        match self.exchange(&Request::Query { name }, None)? {
            Reply::State(state) => Ok(Some(state)),
            Reply::Absent => Ok(None),
            Reply::Refused(refusal) => Err(GuardError::Refused(refusal)),
        }
    }

    /// How all instances stand.
    pub fn all(&self) -> Result<Vec<State>, GuardError> {
        let mut states = Vec::new();
        for place in 0..u16::try_from(INSTANCES_MAX).expect("sixteen") {
            if let Reply::State(state) = self.exchange(&Request::QueryPlace { place }, None)? {
                states.push(state);
            }
        }
        Ok(states)
    }

    /// Nothing is guarded any more on this host, and the watchdog is let go of (`holdfast disarm --local`). A guard of a build
    /// before this order is told instance by instance.
    pub fn stand_down(&self) -> Result<(), GuardError> {
        match self.exchange(&Request::StandDown, None)? {
            Reply::Absent => Ok(()),
            Reply::Refused(Refusal::Malformed) => {
                self.all()?.iter().try_for_each(|state| self.release(state.name, state.term).map(drop))
            }
            Reply::Refused(refusal) => Err(GuardError::Refused(refusal)),
            Reply::State(_) => Err(GuardError::Answer),
        }
    }

    fn ask(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<State, GuardError> {
        match self.exchange(request, descriptor)? {
            Reply::State(state) => Ok(state),
            Reply::Refused(refusal) => Err(GuardError::Refused(refusal)),
            Reply::Absent => Err(GuardError::Answer),
        }
    }

    fn exchange(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<Reply, GuardError> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let packet = encode_request(serial, request);
        let descriptors = descriptor.as_slice();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.socket, &[io::IoSlice::new(&packet)], &mut control, flags)?;
        for _ in 0..STALE_MAX {
            let mut answer = [0; REPLY_BYTES];
            self.wait()?;
            let (length, _) = recv(&self.socket, &mut answer, rustix::net::RecvFlags::DONTWAIT)?;
            if length == 0 {
                return Err(GuardError::Io(io::ErrorKind::ConnectionReset.into()));
            }
            let (answered, reply) = decode_reply(&answer[..length]).ok_or(GuardError::Answer)?;
            if answered == serial {
                return Ok(reply);
            }
        }
        Err(GuardError::Answer)
    }

    fn wait(&self) -> Result<(), GuardError> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(ANSWER_DEADLINE_MS) * 1_000_000 };
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout))? {
            0 => Err(GuardError::Io(io::ErrorKind::TimedOut.into())),
            _ => Ok(()),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
