//! The coordinator's own reading of a cluster, compiled here from its files: the coordinator is a program without a library,
//! and a copy would be tested instead of it. What operations are decided on comes from here.

#![allow(dead_code, reason = "the command line needs more of it than operations do")]

#[path = "../../../../coordinator/src/view/cluster.rs"]
mod cluster;
#[path = "../../../../coordinator/src/view/observation.rs"]
mod observation;
#[path = "../../../../coordinator/src/view/patroni.rs"]
mod patroni;

pub use cluster::{Asked, ClusterView};
pub use observation::{next_number, observe, running};
