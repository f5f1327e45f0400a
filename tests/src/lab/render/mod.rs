//! The configuration files of a lab, one kind of program a file. Pure: from the plan to text.

/// The user of etcd that the lab's operator is.
pub const OPERATOR: &str = "operator/lab";

pub mod agent;
pub mod clock;
pub mod etcd;
pub mod haproxy;
pub mod patroni;
pub mod pgbouncer;
