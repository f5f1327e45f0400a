//! The element of the set: put in, taken out, asked for. The bytes are built by pure functions.

use std::io::{self, ErrorKind};

use nix::errno::Errno;

use crate::nftables::generation::Generation;
use crate::nftables::netlink::{
    ACK, ANY_FAMILY, Answer, CREATE, ERROR, Head, INET, NFTABLES, REQUEST, Socket, answers, attribute, find,
    message, nested, text,
};

/// The set's name in the table.
const SET: &str = "open";

// linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const BATCH_GENERATION: u16 = 1;
const GET_SET: u16 = NFTABLES << 8 | 10;
const NEW_ELEMENT: u16 = NFTABLES << 8 | 12;
const GET_ELEMENT: u16 = NFTABLES << 8 | 13;
const DELETE_ELEMENT: u16 = NFTABLES << 8 | 14;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ONE_OF_LIST: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const DATA_VALUE: u16 = 1;

/// How many numbers one transaction takes.
const SEQUENCES: u32 = 4;

/// A change of the element, on top of a generation: the kernel refuses it (`ERESTART`) on top of another.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The table.
    pub table: &'a str,
    /// The element.
    pub port: u16,
    /// What it is based on.
    pub generation: Generation,
}

/// A transaction, numbered.
#[derive(Debug)]
pub struct Transaction {
    bytes: Vec<u8>,
    /// Of the first message.
    first: u32,
    /// Of the last message that must be acknowledged.
    last: u32,
}

impl Change<'_> {
    /// Puts it in with this timeout; `present`: in the place of the one that is there, in one transaction.
    pub fn put(&self, first: u32, present: bool, timeout_ms: u64) -> Transaction {
        let timeout = attribute(ELEMENT_TIMEOUT, &timeout_ms.to_be_bytes());
        let put = self.message(NEW_ELEMENT, CREATE, first + 2, &timeout);
        let delete = if present { self.message(DELETE_ELEMENT, 0, first + 1, &[]) } else { Vec::new() };
        self.transaction(first, &[delete, put].concat())
    }

    /// Takes it out.
    pub fn take(&self, first: u32) -> Transaction {
        self.transaction(first, &self.message(DELETE_ELEMENT, 0, first + 2, &[]))
    }

    fn message(&self, kind: u16, flags: u16, sequence: u32, more: &[u8]) -> Vec<u8> {
        let head = Head { kind, flags: flags | REQUEST | ACK, sequence, family: INET, resource: 0 };
        message(head, &element(self.table, self.port, more))
    }

    fn transaction(&self, first: u32, messages: &[u8]) -> Transaction {
        let edge =
            |kind, sequence| Head { kind, flags: REQUEST, sequence, family: ANY_FAMILY, resource: NFTABLES };
        let based_on = attribute(BATCH_GENERATION, &self.generation.to_be_bytes());
        let begin = message(edge(BATCH_BEGIN, first), &based_on);
        let end = message(edge(BATCH_END, first + 3), &[]);
        Transaction { bytes: [&begin, messages, &end].concat(), first, last: first + 2 }
    }
}

fn element(table: &str, port: u16, more: &[u8]) -> Vec<u8> {
    let key = nested(ELEMENT_KEY, &attribute(DATA_VALUE, &port.to_be_bytes()));
    let list = nested(LIST_ELEMENTS, &nested(ONE_OF_LIST, &[&key, more].concat()));
    [text(LIST_TABLE, table), text(LIST_SET, SET), list].concat()
}

/// The first of the numbers that a transaction takes.
pub fn numbers(socket: &Socket) -> u32 {
    socket.sequence(SEQUENCES)
}

/// Sends a transaction. `None`: it is in force. Some error: nothing of it is.
pub fn commit(socket: &Socket, transaction: &Transaction) -> io::Result<Option<Errno>> {
    socket.send(&transaction.bytes)?;
    let mut buffer = [0; 4096];
    let (mut last_is_done, mut refused) = (false, None);
    // The kernel refuses a transaction as a whole: one error is enough, and it may come behind acknowledgements.
    while !last_is_done && refused.is_none() {
        let ours = |answer: &Answer<'_>| {
            answer.kind == ERROR && (transaction.first..=transaction.last + 1).contains(&answer.sequence)
        };
        for answer in answers(socket.receive(&mut buffer)?).filter(ours) {
            match answer.error() {
                0 => last_is_done |= answer.sequence == transaction.last,
                number => refused = refused.or(Some(Errno::from_raw(number))),
            }
        }
    }
    Ok(refused)
}

/// For how long the element is still there; `None`: it is not, or neither is its table.
pub fn remaining_ms(socket: &Socket, table: &str, port: u16) -> io::Result<Option<u64>> {
    let mut buffer = [0; 4096];
    let packet = ask(socket, GET_ELEMENT, &element(table, port, &[]), &mut buffer)?;
    let Some(answer) = packet else { return Ok(None) };
    let remaining_ms = expiration_ms(&answer);
    remaining_ms.map(Some).ok_or_else(|| {
        io::Error::new(
            ErrorKind::InvalidData,
            "the element of the dead-man has no end: somebody else put it in",
        )
    })
}

pub(crate) fn expiration_ms(answer: &Answer<'_>) -> Option<u64> {
    let list = find(answer.attributes(), LIST_ELEMENTS)?;
    let expiration = find(find(list, ONE_OF_LIST)?, ELEMENT_EXPIRATION)?;
    Some(u64::from_be_bytes(expiration.try_into().ok()?))
}

/// Whether the set, and with it the table, is there.
pub fn set_is_there(socket: &Socket, table: &str) -> io::Result<bool> {
    let attributes = [text(SET_TABLE, table), text(SET_NAME, SET)].concat();
    Ok(ask(socket, GET_SET, &attributes, &mut [0; 4096])?.is_some())
}

/// One question, one answer; `None`: there is no such thing.
fn ask<'b>(
    socket: &Socket,
    kind: u16,
    attributes: &[u8],
    buffer: &'b mut [u8],
) -> io::Result<Option<Answer<'b>>> {
    let sequence = socket.sequence(1);
    let head = Head { kind, flags: REQUEST, sequence, family: INET, resource: 0 };
    socket.send(&message(head, attributes))?;
    // Answers to earlier questions may still be there.
    let length = loop {
        let packet = socket.receive(buffer)?;
        if answers(packet).any(|answer| answer.sequence == sequence) {
            break packet.len();
        }
    };
    let answer = answers(&buffer[..length]).next();
    match answer.filter(|answer| answer.kind == ERROR).map(|answer| Errno::from_raw(answer.error())) {
        None => Ok(answer),
        Some(Errno::ENOENT) => Ok(None),
        Some(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change<'static> {
        Change { table: "t", port: 5432, generation: Generation::for_tests(258) }
    }

    fn kinds(transaction: &Transaction) -> Vec<(u16, u16, u32)> {
        answers(&transaction.bytes).map(|message| (message.kind, message.flags, message.sequence)).collect()
    }

    #[test]
    fn a_refresh_takes_out_and_puts_in_between_the_ends_of_one_transaction() {
        let put = change().put(1, true, 3_200);
        let expected = [
            (BATCH_BEGIN, REQUEST, 1),
            (DELETE_ELEMENT, REQUEST | ACK, 2),
            (NEW_ELEMENT, REQUEST | ACK | CREATE, 3),
            (BATCH_END, REQUEST, 4),
        ];
        assert_eq!(kinds(&put), expected);
        assert_eq!(kinds(&change().put(1, false, 3_200)), [expected[0], expected[2], expected[3]]);
        let begin = answers(&put.bytes).next().unwrap();
        assert_eq!(find(begin.attributes(), BATCH_GENERATION), Some(&[0, 0, 1, 2][..]));
        // Version 0, subsystem in network byte order.
        assert_eq!(put.bytes[16..20], [ANY_FAMILY, 0, 0, 10]);
    }

    #[test]
    fn the_element_is_the_port_with_its_timeout() {
        let put = change().put(1, false, 3_200);
        let message = answers(&put.bytes).nth(1).unwrap();
        let list = find(message.attributes(), LIST_ELEMENTS).unwrap();
        let one = find(list, ONE_OF_LIST).unwrap();
        assert_eq!(find(find(one, ELEMENT_KEY).unwrap(), DATA_VALUE), Some(&5432_u16.to_be_bytes()[..]));
        assert_eq!(find(one, ELEMENT_TIMEOUT), Some(&3_200_u64.to_be_bytes()[..]));
        assert_eq!(find(message.attributes(), LIST_TABLE), Some(&b"t\0"[..]));
        assert_eq!(find(message.attributes(), LIST_SET), Some(&b"open\0"[..]));
    }

    #[test]
    fn taking_it_out_is_the_last_message_too() {
        assert_eq!(kinds(&change().take(1))[1], (DELETE_ELEMENT, REQUEST | ACK, 3));
    }

    #[test]
    fn the_expiration_is_read() {
        let expiration = attribute(ELEMENT_EXPIRATION, &77_u64.to_be_bytes());
        let head = Head { kind: NEW_ELEMENT, flags: 0, sequence: 1, family: INET, resource: 0 };
        let packet = message(head, &element("t", 5432, &expiration));
        assert_eq!(expiration_ms(&answers(&packet).next().unwrap()), Some(77));
        let without = message(head, &element("t", 5432, &[]));
        assert_eq!(expiration_ms(&answers(&without).next().unwrap()), None);
    }
}
