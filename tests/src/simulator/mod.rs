//! The seeded simulator: the agent's real decisions against simulated hosts, etcd, Patroni, PostgreSQL and clocks.
//!
//! Time is simulated, so that minutes of a cluster's life take milliseconds and every interleaving of them can be had
//! again by its seed. [`agent`] mirrors the agent's shell around the crates `holdfast-agent-core`, `holdfast-types` and
//! `holdfast-store`, which are the product's own; the rest is the world that the shell lives in.
//!
//! | module | holds |
//! | --- | --- |
//! | [`executor`] | simulated time, processes that can be frozen and ended between two steps |
//! | [`world`], [`power`] | hosts, disks, kernels, links; boots |
//! | [`ladder`] | the kernel's dead-man and the guard |
//! | [`etcd`], [`decode`] | requests, answers, watches, all of them late or lost |
//! | [`postgres`], [`patroni`], [`agent`] | the programs |
//! | [`operation`] | coordinators, poolers, and what operations must keep |
//! | [`fault`], [`mutant`] | what goes wrong, and which rule is left out |
//! | [`checker`], [`history`] | what must hold, and what happened |
//! | [`run`], [`search`] | one run and its shortest form; many runs |

mod agent;
mod checker;
pub mod command;
mod decode;
mod etcd;
mod executor;
mod fault;
mod history;
mod ladder;
pub mod mutant;
pub mod operation;
mod patroni;
mod postgres;
mod power;
mod run;
pub mod search;
mod world;

pub use checker::{Promise, Violation};
pub use run::{Outcome, Plan, run, shorten};
pub use search::{Found, Tally, search, search_operations};
