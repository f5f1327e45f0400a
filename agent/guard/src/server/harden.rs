//! What keeps the guard able to kill on a host in trouble: locked memory, priority, and not being the kernel's victim.

use std::fs;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::setpriority_process;

use super::say::say;
use super::system::make_real_time;

/// Above every normal process, below the kernel's own threads of importance (migration has 99, interrupts 50).
const REAL_TIME_PRIORITY: i32 = 10;

/// Does what is permitted, and says what is not: a guard that may be swapped out is better than none.
pub fn harden() {
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        say(format_args!("memory is not locked: {error}; give it CAP_IPC_LOCK or LimitMEMLOCK=infinity"));
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        say(format_args!("the kernel may kill this guard for memory: {error}; set OOMScoreAdjust=-1000"));
    }
    if let Err(error) = make_real_time(0, REAL_TIME_PRIORITY) {
        match setpriority_process(None, -20) {
            Ok(()) => say(format_args!("no real-time scheduling ({error}); nice -20 instead")),
            Err(nice) => say(format_args!("no real-time scheduling ({error}) and no nice -20 ({nice})")),
        }
    }
}
