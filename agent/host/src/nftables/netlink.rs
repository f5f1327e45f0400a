//! Messages of netlink to nftables, and back: bytes, without meaning. All through safe calls of `nix`.
//!
//! A process per question is too dear for what is asked once a second for ever. What is built here is small; whole tables
//! are left to `nft`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_DUMP_INTR`: something changed while it was listed.
pub const INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`: an error, or with number 0 an acknowledgement.
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a listing.
pub const DONE: u16 = 3;
/// `NFNL_SUBSYS_NFTABLES`.
pub const NFTABLES: u16 = 10;
/// `NFPROTO_UNSPEC`.
pub const ANY_FAMILY: u8 = 0;
/// `NFPROTO_INET`.
pub const INET: u8 = 1;

/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `struct nfgenmsg` behind it.
const FAMILY_BYTES: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// The kernel answers a request of netlink before the send returns; this bounds a kernel that does not.
const DEADLINE_MS: i64 = 200;

/// What a message is about.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Subsystem and message.
    pub kind: u16,
    /// [`REQUEST`] and others.
    pub flags: u16,
    /// Repeated in every answer to it.
    pub sequence: u32,
    /// [`ANY_FAMILY`] or [`INET`].
    pub family: u8,
    /// Used by the messages that begin and end a transaction.
    pub resource: u16,
}

/// One message.
pub fn message(head: Head, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + FAMILY_BYTES + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).expect("our messages are short").to_ne_bytes());
    bytes.extend(head.kind.to_ne_bytes());
    bytes.extend(head.flags.to_ne_bytes());
    bytes.extend(head.sequence.to_ne_bytes());
    // The sender: the kernel knows us by our socket.
    bytes.extend([0; 4]);
    // `struct nfgenmsg`: family, version 0, and a number in network byte order.
    bytes.extend([head.family, 0]);
    bytes.extend(head.resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// One attribute, filled up to a multiple of four bytes.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend(u16::try_from(length).expect("our attributes are short").to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds text, with the zero byte at its end.
pub fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// An attribute that holds others.
pub fn nested(kind: u16, inner: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, inner)
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Subsystem and message, [`ERROR`] or [`DONE`].
    pub kind: u16,
    /// [`INTERRUPTED`] and others.
    pub flags: u16,
    /// Of the request.
    pub sequence: u32,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The attributes behind the family.
    pub fn attributes(&self) -> &'a [u8] {
        self.body.get(FAMILY_BYTES..).unwrap_or_default()
    }

    /// The number of an [`ERROR`] or of a [`DONE`], positive; 0: an acknowledgement.
    pub fn error(&self) -> i32 {
        let number = self.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        number.saturating_neg()
    }
}

/// The messages of one packet.
pub fn answers(mut packet: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = packet.get(..HEADER_BYTES)?;
        let number = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = usize::try_from(u32::from_ne_bytes(*header.first_chunk()?)).ok()?;
        let answer = Answer {
            kind: number(4),
            flags: number(6),
            sequence: u32::from_ne_bytes(*header[8..].first_chunk()?),
            body: packet.get(HEADER_BYTES..length)?,
        };
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// The value of the first attribute of this kind.
pub fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let [l0, l1, k0, k1, ..] = attributes {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        if u16::from_ne_bytes([*k0, *k1]) & !NESTED == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..)?;
    }
    None
}

/// A connection to the nftables of this network namespace.
///
/// Whoever changes something again and again keeps it: closing one waits until the kernel has let go of what the last
/// transaction took away (`nft_rcv_nl_event`; 8-16 ms in which no processor works).
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: AtomicU32,
}

impl Socket {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&descriptor, ReceiveTimeout, &TimeVal::milliseconds(DEADLINE_MS))?;
        Ok(Self { descriptor, sequence: AtomicU32::new(1) })
    }

    /// The first of so many numbers for messages, none of which was used on this connection.
    pub fn sequence(&self, count: u32) -> u32 {
        self.sequence.fetch_add(count, Ordering::Relaxed)
    }

    /// Sends messages. The kernel has done what they ask when this returns; it waits for transactions of others before.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(self.descriptor.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// The next packet of answers.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let length = recv(self.descriptor.as_raw_fd(), buffer, MsgFlags::empty())?;
        Ok(&buffer[..length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again() {
        let bytes = [text(1, "abc"), attribute(2, &[7; 6]), nested(3, &attribute(1, &[9]))].concat();
        assert_eq!(find(&bytes, 1), Some(&b"abc\0"[..]));
        assert_eq!(find(&bytes, 2), Some(&[7; 6][..]));
        assert_eq!(find(&bytes, 3).and_then(|inner| find(inner, 1)), Some(&[9][..]));
        assert_eq!(find(&bytes, 4), None);
    }

    #[test]
    fn broken_attributes_end_the_search() {
        for bytes in
            [&[][..], &[1], &[0, 0, 1, 0], &[0, 0, 2, 0], &[255, 255, 1, 0, 7], &[3, 0, 2, 0, 1, 1, 1]]
        {
            assert_eq!(find(bytes, 1), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_packet_is_taken_apart() {
        let head = Head { kind: DONE, flags: INTERRUPTED, sequence: 7, family: INET, resource: 0 };
        let (one, two) = (message(head, &[]), message(Head { sequence: 8, ..head }, &attribute(1, b"x")));
        let packet = [one.clone(), two].concat();
        let found: Vec<_> = answers(&packet).collect();
        assert_eq!(found.iter().map(|answer| answer.sequence).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(find(found[1].attributes(), 1), Some(&b"x"[..]));
        for length in 0..one.len() {
            assert_eq!(answers(&one[..length]).count(), 0);
        }
        assert_eq!(answers(&[0; 64]).count(), 0);
    }

    #[test]
    fn errors_are_positive_numbers() {
        let mut bytes = message(Head { kind: ERROR, flags: 0, sequence: 1, family: 0, resource: 0 }, &[]);
        bytes[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(answers(&bytes).next().map(|answer| answer.error()), Some(2));
    }
}
