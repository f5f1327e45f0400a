//! The seams to the operating system: processes, cgroups, packet filter, durable files, clocks.
//!
//! Each module does one kind of thing to this host and reports how it went. None of them decides; all of them end within
//! a deadline. Called by the agent's shell.

pub mod cgroup;
pub mod clock;
pub mod decoders;
pub mod disk;
pub mod durable;
pub mod nftables;
pub mod process;
pub mod run;
pub mod sockets;
