//! What this crate reads of what the kernel and other programs say, without a socket or a process around it: for tests of
//! hostile input only. Each function says whether anything was understood.

use crate::nftables;
use crate::process;

/// `/proc/<pid>/stat`.
pub fn stat(text: &str) -> bool {
    process::parse(text).is_some()
}

/// `nft -j list table`.
pub fn listing(text: &str) -> bool {
    nftables::listing::parse(text).is_ok_and(|state| state.is_some())
}

/// A packet of netlink about nftables.
pub fn netlink(packet: &[u8]) -> bool {
    let mut count = 0;
    for answer in nftables::netlink::answers(packet) {
        let _ = (answer.error(), nftables::dead_man::element::expiration_ms(&answer));
        let _ = nftables::dead_man::rules::belongs(answer.attributes(), "holdfast");
        count += 1;
    }
    assert!(count <= packet.len() / 16, "more messages than the packet has room for");
    nftables::generation::parse(packet).is_some() || count > 0
}
