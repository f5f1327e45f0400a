//! The chains and rules of the table as the kernel lists them: compared as bytes, never understood.

use std::io;

use nix::errno::Errno;

use crate::nftables::netlink::{
    DONE, DUMP, ERROR, Head, INET, INTERRUPTED, NFTABLES, REQUEST, Socket, answers, find, message, text,
};

// linux/netfilter/nf_tables.h. Tables and chains have the same first attribute, the table's name.
const GET_CHAIN: u16 = NFTABLES << 8 | 4;
const GET_RULE: u16 = NFTABLES << 8 | 7;
const TABLE: u16 = 1;
/// Somebody who changes the filter all the time does not end soon.
const ATTEMPTS: u32 = 5;

/// All of them. Chains: which hook, which priority, which policy; rules: each with its number and its expressions. Without
/// the table: nothing.
pub fn read(socket: &Socket, table: &str) -> io::Result<Vec<u8>> {
    for _ in 0..ATTEMPTS {
        let mut found = Vec::new();
        if list(socket, GET_CHAIN, table, &mut found)? && list(socket, GET_RULE, table, &mut found)? {
            return Ok(found);
        }
    }
    Err(Errno::EINTR.into())
}

/// `false`: something has changed meanwhile, and what was found may not belong together.
fn list(socket: &Socket, kind: u16, table: &str, found: &mut Vec<u8>) -> io::Result<bool> {
    let sequence = socket.sequence(1);
    let head = Head { kind, flags: REQUEST | DUMP, sequence, family: INET, resource: 0 };
    socket.send(&message(head, &text(TABLE, table)))?;
    let mut buffer = vec![0; 32 * 1024];
    let mut whole = true;
    loop {
        let packet = socket.receive(&mut buffer)?;
        for answer in answers(packet).filter(|answer| answer.sequence == sequence) {
            whole &= answer.flags & INTERRUPTED == 0;
            match answer.kind {
                DONE => return Ok(whole),
                ERROR if answer.error() == Errno::ENOENT as i32 => return Ok(whole),
                ERROR => return Err(Errno::from_raw(answer.error()).into()),
                // A kernel that does not filter by table lists the chains of all.
                _ if belongs(answer.attributes(), table) => found.extend(answer.attributes()),
                _ => {}
            }
        }
    }
}

pub(crate) fn belongs(attributes: &[u8], table: &str) -> bool {
    let name = find(attributes, TABLE);
    name.and_then(|name| name.strip_suffix(&[0])) == Some(table.as_bytes())
}
