//! The agent's own reading of etcd's pairs, compiled here from the agent's files: the agent is a program without a library,
//! and a copy of its decoder would be tested instead of it.

#[path = "../../../agent/src/world/decode.rs"]
mod pairs;
#[path = "../../../agent/src/world/patroni.rs"]
mod patroni;

pub use pairs::cluster;
pub use patroni::sync;
