//! The lab: whole regions of real etcd, Patroni, PostgreSQL, PgBouncer and our agents in namespaces of this machine.
//!
//! [`plan::Plan`] says what belongs to a lab; [`up`] makes it, [`down`] takes it away, [`fault`] breaks it, and
//! [`supervise`] is the init of each of its hosts. Called by the program `holdfast-lab`; tests and benchmarks drive that
//! program.

pub mod arm;
pub mod certificates;
pub mod cgroup;
pub mod control;
pub mod describe;
pub mod down;
pub mod etcd_users;
pub mod etcdctl;
pub mod exec;
pub mod failure;
pub mod fault;
pub mod files;
pub mod health;
pub mod network;
pub mod plan;
pub mod render;
pub mod repoint;
pub mod scenario;
pub mod shell;
pub mod spec;
pub mod sql;
pub mod supervise;
pub mod systemd;
pub mod units;
pub mod up;
