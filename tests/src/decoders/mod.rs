//! Every decoder of bytes that somebody else has made, one function each: a fuzzer (`tests/fuzz`) and the test of the corpus
//! (`tests/tests/corpus.rs`) call the same function with anything at all.
//!
//! A function hands the bytes to the product's own decoder, asserts what must hold of whatever was understood (written
//! again, it is read as the same), and says whether anything was. It decides nothing and keeps nothing. Decoders of
//! programs without a library are compiled here from their own files: a copy would be tested instead of them.

mod files;
mod foreign;
mod messages;
mod records;

/// One decoder.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// Its name: that of its fuzz target and of its folder in the corpus.
    pub name: &'static str,
    /// Decodes; `true`: something was understood. Panics if a property does not hold.
    pub run: fn(&[u8]) -> bool,
    /// The largest input that its caller hands over, in bytes.
    pub bytes_max: usize,
}

/// etcd's own limit of a request is 1.5 MiB; records of ours are a few hundred bytes.
const VALUE_BYTES_MAX: usize = 1_536 * 1_024;
const MIB: usize = 1_024 * 1_024;

/// All of them.
pub const ALL: &[Decoder] = &[
    Decoder { name: "record", run: records::record, bytes_max: VALUE_BYTES_MAX },
    Decoder { name: "pairs", run: records::pairs, bytes_max: VALUE_BYTES_MAX },
    Decoder { name: "key", run: records::key, bytes_max: 64 * 1_024 },
    Decoder { name: "grpc", run: messages::grpc, bytes_max: 4 * MIB },
    Decoder { name: "traceparent", run: messages::traceparent, bytes_max: 16 * 1_024 },
    Decoder { name: "guard", run: messages::guard, bytes_max: 512 },
    Decoder { name: "gate", run: messages::gate, bytes_max: 16 * 1_024 },
    Decoder { name: "agent_config", run: files::agent_config, bytes_max: MIB },
    Decoder { name: "operator_config", run: files::operator_config, bytes_max: MIB },
    Decoder { name: "lab_spec", run: files::lab_spec, bytes_max: MIB },
    Decoder { name: "patroni_file", run: files::patroni_file, bytes_max: MIB },
    Decoder { name: "certificate", run: files::certificate, bytes_max: MIB },
    Decoder { name: "control_data", run: foreign::control_data, bytes_max: 256 * 1_024 },
    Decoder { name: "standby_names", run: foreign::standby_names, bytes_max: 64 * 1_024 },
    Decoder { name: "process", run: foreign::process, bytes_max: 64 * 1_024 },
    Decoder { name: "packet_filter", run: foreign::packet_filter, bytes_max: 256 * 1_024 },
    Decoder { name: "netlink", run: foreign::netlink, bytes_max: 32 * 1_024 },
];

/// The decoder of that name.
pub fn named(name: &str) -> Option<&'static Decoder> {
    ALL.iter().find(|decoder| decoder.name == name)
}

/// Text, as its readers want it: what is not UTF-8 is refused by `read_to_string` before a decoder sees it.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
