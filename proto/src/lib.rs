//! What two programs of Holdfast must agree on when they speak to each other: identities in certificates, TLS, the gRPC
//! service of the agent, and who may call which method of it.
//!
//! The generated types of `holdfast/v1/agent.proto` do not leave this crate: [`message`] has the types that programs use,
//! [`convert`] is the only place that sees both.

pub mod authorisation;
pub mod client;
pub mod convert;
pub mod decoders;
mod file;
pub mod left_behind;
pub mod message;
pub mod poolers;
pub mod server;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod trace;

pub use file::{read_bounded, read_text};

/// The generated code.
pub(crate) mod wire {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("holdfast.v1");

    /// The compiled `.proto` file.
    #[cfg(test)]
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
}
