//! The processes of an instance: its postmaster, its Patroni, and what is left of PostgreSQL.

use std::path::Path;

use holdfast_host::cgroup::Cgroup;
use holdfast_host::process;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The cgroup could be read; if not, an absent postmaster is unknown and not gone.
    pub readable: bool,
    /// The postmaster of the data directory.
    pub postmaster: Option<i32>,
    /// Processes of PostgreSQL in the cgroup.
    pub postgres_processes: usize,
    /// Patroni's processes.
    pub patroni: Vec<i32>,
    /// Some of Patroni's are stopped by a signal.
    patroni_stopped: bool,
}

impl Seen {
    /// Patroni has a process and none of its is stopped.
    pub fn patroni_alive(&self) -> bool {
        !self.patroni.is_empty() && !self.patroni_stopped
    }
    /// Patroni has been stopped by a signal and does not know it.
    pub fn patroni_stopped(&self) -> bool {
        self.patroni_stopped
    }
}

/// Looks at the cgroup and at `postmaster.pid`. A few reads of `/proc`; nothing waits.
pub fn look(cgroup: &Path, data_dir: &Path) -> Seen {
    let Ok(pids) = Cgroup::open(cgroup).and_then(|cgroup| cgroup.pids()) else { return Seen::default() };
    let mut seen = Seen { readable: true, ..Seen::default() };
    for pid in pids {
        let Ok(stat) = process::stat(pid) else { continue };
        if stat.state == 'Z' {
            continue;
        }
        // The start gate has the name of PostgreSQL's binary and becomes it: it counts as PostgreSQL.
        if stat.comm == "postgres" {
            seen.postgres_processes += 1;
        } else if stat.comm.starts_with("patroni") || stat.comm.starts_with("python") {
            seen.patroni.push(pid);
            seen.patroni_stopped |= stat.state == 'T';
        }
    }
    seen.postmaster = postmaster(data_dir);
    seen
}

/// The first line of `postmaster.pid`, if that process is a PostgreSQL that works in this data directory.
fn postmaster(data_dir: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let stat = process::stat(pid).ok()?;
    let here = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let same = here == data_dir || data_dir.canonicalize().is_ok_and(|canonical| canonical == here);
    (stat.comm == "postgres" && stat.state != 'Z' && same).then_some(pid)
}
