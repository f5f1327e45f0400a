//! Mutual TLS with one identity per host or person (DESIGN section 6): reading it from its files, connecting and
//! accepting with it, and who the other side is.

mod accept;
mod connect;
pub(crate) mod files;
mod identity;
mod peer;
mod problem;
mod reread;
mod shown;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use accept::{AcceptLimits, Caller, Connection, incoming};
pub use connect::{Connector, channel};
pub use files::{TlsPaths, server_verifier};
pub use identity::{Identity, Protocol, trusting};
pub use peer::{Peer, PeerError, PersonName};
pub use problem::TlsProblem;
pub use shown::ShownCertificate;
