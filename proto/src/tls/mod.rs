//! Mutual TLS with one identity per host or person (DESIGN section 6).

pub mod peer;

pub use peer::{Peer, PeerError, PersonName};
