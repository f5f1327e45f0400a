//! What other programs and the kernel print or answer.

use holdfast_types::Lsn;

#[allow(dead_code)] // The agent uses the rest of this file.
#[path = "../../../agent/src/observe/control_data.rs"]
mod pg_controldata;
#[path = "../../../agent/src/observe/synchronous_standby_names.rs"]
mod synchronous_standby_names;

/// `pg_controldata` and `pg_waldump`: what they print is text for [`holdfast_host::run`], whatever it was.
pub fn control_data(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let _ = (pg_controldata::end_of_wal(&text), pg_controldata::end_of_record(&text, Lsn(7)));
    pg_controldata::parse(&text).is_ok()
}

/// `synchronous_standby_names`: what is understood fits more members than it names at no time.
pub fn standby_names(bytes: &[u8]) -> bool {
    let Some(text) = super::text(bytes) else { return false };
    let Ok(setting) = synchronous_standby_names::parse(text) else { return false };
    let names: Vec<String> = setting.names.iter().map(|name| format!("\"{name}\"")).collect();
    let again = format!("ANY {} ({})", setting.acknowledgements, names.join(","));
    assert_eq!(synchronous_standby_names::parse(&again).as_ref(), Ok(&setting), "{again}");
    true
}

/// `/proc/<pid>/stat`.
pub fn process(bytes: &[u8]) -> bool {
    super::text(bytes).is_some_and(holdfast_host::decoders::stat)
}

/// `nft -j list table`.
pub fn packet_filter(bytes: &[u8]) -> bool {
    holdfast_host::decoders::listing(&String::from_utf8_lossy(bytes))
}

/// A packet of netlink.
pub fn netlink(bytes: &[u8]) -> bool {
    holdfast_host::decoders::netlink(bytes)
}
