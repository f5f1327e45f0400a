//! The model.

pub mod action;
mod agents;
pub mod log;
pub mod mutant;
pub mod node;
mod patroni;
mod postgres;
pub mod product;
pub mod quorum;
pub mod search;
pub mod state;
pub mod world;
