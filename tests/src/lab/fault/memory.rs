//! Memory that is used up on one host: no process gets more than it has, and so do the processes that it forks.
//!
//! By `RLIMIT_AS`: where the kernel does not overcommit, as PostgreSQL's manual advises, a machine without memory looks
//! like this to its processes (ENOMEM), and no controller is needed that a machine may not have. What the supervisor
//! starts anew has no limit: its memory was freed by the end of what it replaces.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};

use crate::lab::plan::HostPlan;
use crate::lab::{cgroup, shell};

const DEADLINE_MS: u64 = 5_000;
/// What is left to each process: a small statement still works, a new session does not.
const LEFT_BYTES: u64 = 256 * 1024;

/// Sets the limits.
pub async fn limit(host: &HostPlan) -> Result<()> {
    for pid in cgroup::pids(&host.cgroup) {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let Some(size) = virtual_size(&status) else { continue };
        set(pid, &(size + LEFT_BYTES).to_string()).await?;
    }
    Ok(())
}

/// Lifts them.
pub async fn unlimit(host: &HostPlan) -> Result<()> {
    for pid in cgroup::pids(&host.cgroup) {
        set(pid, "unlimited").await?;
    }
    Ok(())
}

/// The soft limit: the hard one stays, so that it can be raised again. As the owner of the process: for somebody else's it
/// takes a capability (CAP_SYS_RESOURCE) that root in a container may lack.
async fn set(pid: i32, bytes: &str) -> Result<()> {
    // A process that is gone needs no limit.
    let Ok(owner) = std::fs::metadata(format!("/proc/{pid}")) else { return Ok(()) };
    let (user, group) = (format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid()));
    let (process, limit) = (format!("--pid={pid}"), format!("--as={bytes}:"));
    let line = ["setpriv", &user, &group, "--clear-groups", "prlimit", &process, &limit];
    match shell::run(DEADLINE_MS, &line).await {
        Err(_) if !std::path::Path::new(&format!("/proc/{pid}")).exists() => Ok(()),
        other => other.map(drop).with_context(|| format!("the memory limit of process {pid}")),
    }
}

/// `VmSize:  1234 kB`; a kernel thread or a zombie has none.
fn virtual_size(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_read_as_the_kernel_prints_it() {
        assert_eq!(virtual_size("VmPeak:\t  9 kB\nVmSize:\t   2048 kB\nVmLck:\t0 kB\n"), Some(2_097_152));
        assert_eq!(virtual_size("Name:\tkworker\n"), None);
    }
}
