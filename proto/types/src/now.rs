//! The time that a decision is given. Nothing in a core crate reads a clock.

use serde::{Deserialize, Serialize};

/// One reading of both clocks of a host, taken by the shell at the start of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// `CLOCK_BOOTTIME` in milliseconds: goes on during suspend, never goes back. All deadlines are on it.
    pub boottime_ms: u64,
    /// Wall clock, milliseconds since 1970. For people and records, a hold, and a maintenance that ends by itself; no safety rests
    /// on it.
    pub wall_ms: i64,
}
