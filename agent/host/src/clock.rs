//! The clocks of this host. Decisions get [`Now`] as data; nothing but the shell calls this.

use holdfast_types::Now;
use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` in milliseconds: goes on during suspend, never goes back. All deadlines are on it.
pub fn boottime_ms() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has CLOCK_BOOTTIME");
    let (seconds, nanos) = (time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs());
    seconds * 1_000 + nanos / 1_000_000
}

/// Wall clock, milliseconds since 1970, for people and records only.
pub fn wall_ms() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).expect("every Unix has CLOCK_REALTIME");
    time.tv_sec() * 1_000 + time.tv_nsec() / 1_000_000
}

/// Both clocks, read one after the other.
pub fn now() -> Now {
    Now { boottime_ms: boottime_ms(), wall_ms: wall_ms() }
}

/// The kernel's id of this boot.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
