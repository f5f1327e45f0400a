//! The W3C trace context of an incident: one line of text that travels in etcd records and in gRPC metadata.

use std::fmt;
use std::str::FromStr;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};

/// The header of W3C's recommendation, and its name in gRPC metadata.
pub const TRACEPARENT: &str = "traceparent";

/// A span that others can be put below: `00-<trace id>-<span id>-<flags>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

/// A text that is no trace context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a traceparent; expected 00-<32 hexadecimal digits>-<16>-<2>, in lower case and not all zero"
)]
pub struct TraceContextError(pub String);

impl TraceContext {
    /// A new trace, for an incident that nothing else names.
    pub fn new_root() -> Self {
        let mut bytes = [0; 16];
        random(&mut bytes);
        Self { trace_id: u128::from_be_bytes(bytes).max(1), span_id: new_span_id(), sampled: true }
    }

    /// A context in the same trace for a span that is not there yet.
    pub fn child(&self) -> Self {
        Self { span_id: new_span_id(), ..*self }
    }

    /// The id that `holdfast events` shows.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The id of the span that others are put below.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether the trace is recorded at all.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Puts the context into the metadata of a call.
    pub fn inject(&self, metadata: &mut MetadataMap) {
        let text =
            AsciiMetadataValue::try_from(self.to_string()).expect("hexadecimal digits and hyphens are ASCII");
        metadata.insert(TRACEPARENT, text);
    }

    /// The context of a call; a caller that sends nonsense is treated as one that sends none.
    pub fn extract(metadata: &MetadataMap) -> Option<Self> {
        metadata.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
    }
}

fn random(bytes: &mut [u8]) {
    // Ids need to be unique, not secret; this is the source of random numbers that is there anyway.
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(bytes).expect("the kernel's random numbers never end after boot");
}

fn new_span_id() -> u64 {
    let mut bytes = [0; 8];
    random(&mut bytes);
    // Zero means "no span".
    u64::from_be_bytes(bytes).max(1)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    fn from_str(text: &str) -> Result<Self, TraceContextError> {
        parse(text).ok_or_else(|| TraceContextError(text.to_owned()))
    }
}

/// Version 00, and what later versions promise to begin with.
fn parse(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let mut digits = |count: usize| {
        let part = parts.next()?;
        let hexadecimal = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (part.len() == count && hexadecimal).then_some(part)
    };
    let (version, trace_id, span_id, flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id != 0)?;
    let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some(TraceContext { trace_id, span_id, sampled: flags & 1 == 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_survives_its_text_and_metadata() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert_eq!(context.to_string(), EXAMPLE);
        let mut metadata = MetadataMap::new();
        assert_eq!(TraceContext::extract(&metadata), None);
        context.inject(&mut metadata);
        assert_eq!(TraceContext::extract(&metadata), Some(context));
    }

    #[test]
    fn a_child_is_in_the_same_trace() {
        let root = TraceContext::new_root();
        assert_eq!(root.child().trace_id(), root.trace_id());
        assert_ne!(root.child().span_id(), root.span_id());
        assert_ne!(root, TraceContext::new_root());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "00",
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &EXAMPLE.replace("00-4", "ff-4"),
            &format!("{EXAMPLE}-00"),
            &EXAMPLE.replace("b7-01", "+7-01"),
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad:?} was taken");
        }
    }
}
