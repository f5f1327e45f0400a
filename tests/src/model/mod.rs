//! The protocol as a model, its mutants, and the check that finds every one of them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`node`], [`log`], [`state`] | what is remembered of a cluster |
//! | [`action`] | what may happen next |
//! | [`world`] | the model: bounds, steps, promises |
//! | `postgres`, `patroni`, `agents` | what each part of the world does |
//! | [`quorum`], [`resolver`] | Patroni's way of changing `/sync`, and its comparison with the original |
//! | [`product`] | the product's own decisions, asked about a state |
//! | [`lease`] | the timed model of leases and grants |
//! | [`mutant`], [`hunt`], [`scripts`] | the rules left out, and where each is caught |
//! | [`search`], [`stuck`] | searches for broken promises, and for traps |
//! | [`check`], [`command`] | the whole of it, and its command `holdfast-lab model` |
//!
//! What it takes for granted: the cut and the end of the walreceiver are one step, a setting that is loaded is in force
//! at once, there is one region, and etcd keeps what it committed.

pub mod action;
mod agents;
pub mod check;
pub mod command;
pub mod hunt;
pub mod lease;
pub mod log;
pub mod mutant;
pub mod node;
mod patroni;
mod postgres;
pub mod product;
pub mod quorum;
pub mod resolver;
pub mod scripts;
pub mod search;
pub mod state;
pub mod stuck;
pub mod world;
