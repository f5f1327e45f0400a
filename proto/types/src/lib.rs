//! Names, terms, positions, timings and stored records: what every program of Holdfast must agree on.
//!
//! This crate has no IO, no async and no clock. A value of one of these types has been checked when it was made;
//! code that holds one need not check it again. `PROTOCOL.md` gives the rules that the records serve.

pub mod certificate;
pub mod configuration;
pub mod fact;
pub mod keys;
pub mod mode;
pub mod names;
pub mod now;
pub mod patroni_versions;
pub mod permissions;
pub mod position;
pub mod preflight;
pub mod record;
pub mod renewals;
pub mod term;
pub mod timings;

pub use configuration::Configuration;
pub use fact::Fact;
pub use mode::{Class, Mode};
pub use names::{ClusterId, HostName, MemberName, NameError, Namespace, RegionName, Scope};
pub use now::Now;
pub use position::{Lsn, Position, Timeline};
pub use term::{Incarnation, SessionId, Term};
pub use timings::{Profile, Timings};
