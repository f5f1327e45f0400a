//! `restart`: the PostgreSQL of one member after the other is started anew, the writer's last.
//!
//! Each member's own agent has it done by its Patroni; between two members the redundancy is proved again. The writer is never
//! restarted in place: it hands over by the steps of a switchover, and comes back as a standby, which is a start too.

mod preflight;
mod steps;

pub use preflight::{Plan, check};
pub(crate) use steps::{asks, cancelled, given_up, step};
