//! What a data directory lies on: mounts, file systems, and the marker beside each of its parts (promise I12).
//!
//! Looks, and writes nothing but the marker. Everything here may hang with a disk: callers look from a thread or a process that
//! they can leave behind. Called by the start gate, the agent and `holdfast disk`.

mod mounts;
mod places;

pub use places::{look, mark};
