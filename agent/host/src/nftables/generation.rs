//! The generation of the packet filter: the kernel counts every transaction of nftables in a network namespace.
//!
//! One netlink message each way (`NFT_MSG_GETGEN` of `linux/netfilter/nf_tables.h`), all through safe calls of `nix`.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// The kernel's count of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u32);

impl Generation {
    /// Whether exactly one change lies between `before` and this one.
    pub fn follows(self, before: Self) -> bool {
        self.0 == before.0.wrapping_add(1)
    }
}

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
const GET_GENERATION: u16 = 10 << 8 | 16;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NFTA_GEN_ID`: the count, in network byte order.
const GENERATION_ID: u16 = 1;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER_BYTES: usize = 16 + 4;
/// The kernel answers a request of netlink before the send returns; this bounds a kernel that does not.
const DEADLINE_MS: i64 = 200;

/// Asks the kernel.
pub fn read() -> io::Result<Generation> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(DEADLINE_MS))?;
    let mut request = Vec::with_capacity(HEADER_BYTES);
    request.extend(u32::try_from(HEADER_BYTES).expect("20 fits").to_ne_bytes());
    request.extend(GET_GENERATION.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    // Sequence and sender: this socket has one question.
    request.extend([0; 8]);
    // `struct nfgenmsg`: any family, version 0.
    request.extend([0; 4]);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse(&answer[..length]).ok_or_else(|| {
        io::Error::new(ErrorKind::InvalidData, "the kernel does not tell the generation of nftables")
    })
}

fn parse(message: &[u8]) -> Option<Generation> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    if kind != NEW_GENERATION {
        return None;
    }
    let mut rest = message.get(HEADER_BYTES..)?;
    while rest.len() >= 8 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let attribute = u16::from_ne_bytes([rest[2], rest[3]]);
        if attribute == GENERATION_ID && length == 8 {
            return Some(Generation(u32::from_be_bytes(rest[4..8].try_into().ok()?)));
        }
        rest = rest.get(length.next_multiple_of(4).max(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 4];
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER_BYTES, 0);
        message.extend(attributes);
        message
    }

    #[test]
    fn the_count_is_found_among_the_attributes() {
        let name = [12, 0, 3, 0, b'n', b'f', b't', 0, 0, 0, 0, 0];
        let count = [8, 0, 1, 0, 0, 0, 1, 2];
        let found = parse(&message(NEW_GENERATION, &[&name[..], &count].concat()));
        assert_eq!(found, Some(Generation(258)));
        assert!(found.unwrap().follows(Generation(257)));
    }

    #[test]
    fn anything_else_is_nothing() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&message(2, &[8, 0, 1, 0, 0, 0, 0, 1])), None);
        assert_eq!(parse(&message(NEW_GENERATION, &[0; 8])), None);
        assert_eq!(parse(&message(NEW_GENERATION, &[200, 0, 3, 0, 0, 0, 0, 0])), None);
    }
}
