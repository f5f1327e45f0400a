//! What an operator sees, as pure functions: from one reading of the store to a view, to findings, to text and JSON.
//!
//! Nothing here reads a clock, a file or a socket; [`crate::cli`] does, and hands over what it found. What could not be
//! read is shown as unknown, never guessed.

pub mod adoption;
pub mod agents;
pub mod arming;
pub mod changes;
pub mod class;
pub mod cluster;
pub mod disk;
pub mod doctor;
pub mod drained;
pub mod etcd_users;
pub mod events;
pub mod fenced;
pub mod fencing;
pub mod findings;

pub mod local_disarm;
pub mod maintenance;
pub mod observation;
pub mod operation;
pub mod overriding;
pub mod patroni;
pub mod report;
pub mod restarts;
pub mod setup;
pub mod stalls;
pub mod status;
pub mod text;
pub mod unsupported;
pub mod upgrade;
pub mod warned;
pub mod would;

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
