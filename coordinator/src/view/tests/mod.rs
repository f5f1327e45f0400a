//! Tests of the files that the simulator compiles too (`tests/src/simulator/operation/view.rs`): beside them, because they
//! are made with what only this program has.

mod cluster;
mod patroni;
