//! The two gates that Patroni runs, as its own user: before a promotion and before every start of PostgreSQL.
//!
//! They ask the agent over its Unix socket and answer by their exit code. They decide nothing while the agent lives;
//! without it they fall back on what the agent has left on disk ([`Remembered`]). Blocking code: they are programs of
//! milliseconds, and `postgres` must become the same process.

pub mod local_disarm;
pub mod places;
pub mod promote;
pub mod protocol;
pub mod remembered;
pub mod start;
pub mod without_configuration;
