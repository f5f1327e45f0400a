//! The checker of acknowledged writes: clients that record every attempt, and the verdict over what they saw.
//!
//! It decides what the clients of a cluster may say after a fault: which acknowledged rows are gone, whether two nodes
//! took writes at the same time, how long each route was without an acknowledgement, when redundancy was back. It never
//! repairs, retries or explains. An attempt whose end is not known counts neither as lost nor as absent.
//!
//! [`clients`] runs inside the network namespace of the clients and streams a [`record::Recording`] to a file;
//! [`verdict::judge`] is a pure function over that recording and the rows of the final leader. The bench and the tests
//! call both.

pub mod clients;
pub mod connect;
pub mod describe;
pub mod gap;
pub mod probe;
pub mod record;
pub mod recorder;
mod redundancy;
pub mod rows;
pub mod table;
pub mod verdict;
pub mod writer;
pub mod writers;

/// `CLOCK_MONOTONIC` in microseconds: the one clock of every recorded moment. All network namespaces share it.
pub fn monotonic_us() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
    time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_nsec().unsigned_abs() / 1_000
}
