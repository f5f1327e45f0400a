//! The guard: kills PostgreSQL and its Patroni when the word of their agent is late, and keeps the proof.
//!
//! The second step of the fence ladder (`DESIGN.md` section 4). The agent says up to which moment of `CLOCK_BOOTTIME` the
//! guarded processes may live; whoever does not say it again in time loses them. Deadlines go on without the agent.
//!
//! It never decides who may write and never renews (`PROTOCOL.md` rule 23), and it asks nobody. It holds what it needs in
//! locked memory and in open descriptors: no disk, no allocation and no path stand between a deadline and the kill.
//!
//! A guard that was started again guards nothing until the agent has registered and extended again. It feeds no watchdog
//! meanwhile when its predecessor was armed: it has neither a live lease nor a proof.
//!
//! [`wire`] and [`client`] are the agent's; [`server`] is the program.

pub mod client;
pub mod server;
pub mod wire;
