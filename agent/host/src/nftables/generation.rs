//! The generation of the packet filter: the kernel counts every transaction of nftables in a network namespace.

use std::io::{self, ErrorKind};

use super::netlink::{ANY_FAMILY, Head, NFTABLES, REQUEST, Socket, answers, find, message};

/// The kernel's count of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u32);

impl Generation {
    /// Whether exactly one change lies between `before` and this one.
    pub fn follows(self, before: Self) -> bool {
        self == before.next()
    }

    /// The generation after one more change: the kernel leaves out 0.
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1).max(1))
    }

    #[cfg(test)]
    pub(super) fn for_tests(count: u32) -> Self {
        Self(count)
    }

    pub(super) fn to_be_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }
}

/// `NFT_MSG_GETGEN`.
const GET_GENERATION: u16 = NFTABLES << 8 | 16;
/// `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = NFTABLES << 8 | 15;
/// `NFTA_GEN_ID`: the count, in network byte order.
const GENERATION_ID: u16 = 1;

/// Asks the kernel.
pub fn read() -> io::Result<Generation> {
    read_by(&Socket::open()?)
}

pub(super) fn read_by(socket: &Socket) -> io::Result<Generation> {
    let sequence = socket.sequence(1);
    let head = Head { kind: GET_GENERATION, flags: REQUEST, sequence, family: ANY_FAMILY, resource: 0 };
    socket.send(&message(head, &[]))?;
    let mut buffer = [0; 4096];
    loop {
        let packet = socket.receive(&mut buffer)?;
        // An answer to an earlier question may still be there.
        if answers(packet).any(|answer| answer.sequence == sequence) {
            return parse(packet).ok_or_else(|| {
                io::Error::new(ErrorKind::InvalidData, "the kernel does not tell the generation of nftables")
            });
        }
    }
}

pub(crate) fn parse(packet: &[u8]) -> Option<Generation> {
    let answer = answers(packet).next().filter(|answer| answer.kind == NEW_GENERATION)?;
    let count: [u8; 4] = find(answer.attributes(), GENERATION_ID)?.try_into().ok()?;
    Some(Generation(u32::from_be_bytes(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, attributes: &[u8]) -> Vec<u8> {
        message(Head { kind, flags: 0, sequence: 0, family: ANY_FAMILY, resource: 0 }, attributes)
    }

    #[test]
    fn the_count_is_found_among_the_attributes() {
        let name = [12, 0, 3, 0, b'n', b'f', b't', 0, 0, 0, 0, 0];
        let count = [8, 0, 1, 0, 0, 0, 1, 2];
        let found = parse(&answer(NEW_GENERATION, &[&name[..], &count].concat()));
        assert_eq!(found, Some(Generation(258)));
        assert!(found.unwrap().follows(Generation(257)));
    }

    #[test]
    fn anything_else_is_nothing() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&answer(2, &[8, 0, 1, 0, 0, 0, 0, 1])), None);
        assert_eq!(parse(&answer(NEW_GENERATION, &[0; 8])), None);
        assert_eq!(parse(&answer(NEW_GENERATION, &[200, 0, 3, 0, 0, 0, 0, 0])), None);
    }
}
