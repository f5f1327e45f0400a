//! The bench: the same faults, at random phases, against Patroni alone and against Holdfast, with the same clients.
//!
//! It drives `holdfast-lab` by its verbs as anybody else could, and judges with the [`crate::checker`]. It decides when
//! a fault is injected and when a run is over; it knows nothing of how a system reacts. `holdfast-bench` calls it.

pub mod armed;
pub mod case;
pub mod command;
pub mod etcd;
pub mod health;
pub mod idle;
pub mod judge;
pub mod lab;
pub mod plan;
pub mod record;
pub mod run;
pub mod script;
pub mod session;
pub mod settle;
pub mod stalls;
pub mod statistics;
pub mod summary;
pub mod tail;
pub mod target;
#[cfg(test)]
mod testing;
pub mod watch;
pub mod writes;
