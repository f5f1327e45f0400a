//! Probes: one kind of foreign output a file, each a pure function over what was read, tested on real output.
//!
//! They decide nothing and end within their deadlines; what they cannot tell is unknown.

pub mod control_data;
pub mod disk_write;
pub mod last_write;
pub mod life;
pub mod patroni_file;
pub mod patroni_rest;
pub mod preflight;
pub mod processes;
pub mod synchronous_standby_names;
pub mod wal_files;
pub mod walreceiver;
pub mod warned;
