//! A region in a box: the lab, the checker of acknowledged writes, and the bench.

pub mod bench;
pub mod campaign;
pub mod checker;
pub mod contract;
pub mod decoders;
pub mod lab;
pub mod model;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod otlp;
pub mod scene;
pub mod simulator;
