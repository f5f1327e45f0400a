//! A receiver of traces: what the agents of a lab export over OTLP/gRPC ends here, and can be looked at as a tree.
//!
//! It keeps spans in memory, up to a bound, for as long as it lives; the demo prints them, tests ask whether the hosts
//! of an incident tell one story. It takes what any OTLP exporter sends, ours or another.

pub mod folder;
mod receiver;
mod tree;

pub use receiver::Receiver;
pub use tree::{Broken, Tree};

/// One finished step of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace it belongs to.
    pub trace_id: u128,
    /// Its own id.
    pub span_id: u64,
    /// The span above it; absent for a root.
    pub parent: Option<u64>,
    /// What was done.
    pub name: String,
    /// `host.name` of the exporter; empty if it named none.
    pub host: String,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// In the exporter's order, values as text.
    pub attributes: Vec<(String, String)>,
}
