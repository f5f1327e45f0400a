//! A region in a box: the lab, the checker of acknowledged writes, and the bench.

pub mod checker;
pub mod otlp;
