//! The processes of an instance: its postmaster, its Patroni, and what is left of PostgreSQL.

use std::path::Path;

use holdfast_host::cgroup::Cgroup;
use holdfast_host::process;

/// PostgreSQL writes eight short lines; its data directory belongs to another user.
const PID_FILE_BYTES_MAX: u64 = 8 * 1024;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The postmaster of the data directory.
    pub postmaster: Postmaster,
    /// Processes of PostgreSQL in the cgroup.
    pub postgres_processes: usize,
    /// Patroni's processes.
    pub patroni: Vec<i32>,
    /// Some of Patroni's are stopped by a signal.
    patroni_stopped: bool,
}

/// The first process of PostgreSQL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Postmaster {
    /// It lives.
    Alive(i32),
    /// The file that names it is gone with all processes, or names one that is no more.
    Gone,
    /// Neither can be told: the disk does not answer, or it is just starting.
    #[default]
    Unknown,
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

    /// Looks again at the processes that are known, without the cgroup and without the disk: three reads of `/proc` where
    /// a full look costs one for each session. `None` when one of them is no longer what it was.
    pub fn glance(&self) -> Option<Self> {
        let Postmaster::Alive(pid) = self.postmaster else { return None };
        process::stat(pid).ok().filter(|stat| stat.comm == "postgres" && stat.state != 'Z')?;
        if self.patroni.is_empty() {
            return None;
        }
        let mut patroni_stopped = false;
        for pid in &self.patroni {
            let stat = process::stat(*pid).ok().filter(|stat| is_patroni(stat) && stat.state != 'Z')?;
            patroni_stopped |= stat.state == 'T';
        }
        Some(Self { patroni_stopped, ..self.clone() })
    }
}

/// Looks at the cgroup and at `postmaster.pid`. Reads a file of the data directory: call it where a dead disk may block.
pub fn look(cgroup: &Path, data_dir: &Path) -> Seen {
    let Ok(pids) = Cgroup::open(cgroup).and_then(|cgroup| cgroup.pids()) else { return Seen::default() };
    let mut seen = Seen::default();
    for pid in pids {
        let Ok(stat) = process::stat(pid) else { continue };
        if stat.state == 'Z' {
            continue;
        }
        // The start gate has the name of PostgreSQL's binary and becomes it: it counts as PostgreSQL.
        if stat.comm == "postgres" {
            seen.postgres_processes += 1;
        } else if is_patroni(&stat) {
            seen.patroni.push(pid);
            seen.patroni_stopped |= stat.state == 'T';
        }
    }
    seen.postmaster = postmaster(data_dir, seen.postgres_processes);
    seen
}

/// Processor time of PostgreSQL's processes in the cgroup, in milliseconds; `None`: there are none, or it cannot be told.
pub fn ran_ms(cgroup: &Path) -> Option<u64> {
    let ran = postgres(cgroup).ok()?.into_iter().map(|(_, stat)| stat.ran_ticks * process::TICK_MS);
    ran.reduce(|a, b| a + b)
}

/// PostgreSQL's processes in the cgroup that have not ended, without a look at the data directory.
pub fn postgres(cgroup: &Path) -> std::io::Result<Vec<(i32, process::Stat)>> {
    let pids = Cgroup::open(cgroup)?.pids()?;
    let stats = pids.into_iter().filter_map(|pid| Some((pid, process::stat(pid).ok()?)));
    Ok(stats.filter(|(_, stat)| stat.comm == "postgres" && stat.state != 'Z').collect())
}

/// Patroni's processes alone, without a look at the data directory.
pub fn patroni(cgroup: &Path) -> std::io::Result<Vec<i32>> {
    let pids = Cgroup::open(cgroup)?.pids()?;
    Ok(pids.into_iter().filter(|pid| process::stat(*pid).is_ok_and(|stat| is_patroni(&stat))).collect())
}

fn is_patroni(stat: &process::Stat) -> bool {
    stat.comm.starts_with("patroni") || stat.comm.starts_with("python")
}

/// The first line of `postmaster.pid`, if that process is a PostgreSQL that works in this data directory.
fn postmaster(data_dir: &Path, postgres_processes: usize) -> Postmaster {
    let text = match holdfast_proto::read_text(&data_dir.join("postmaster.pid"), PID_FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && postgres_processes == 0 => {
            return Postmaster::Gone;
        }
        Err(_) => return Postmaster::Unknown,
    };
    // Negative in single-user mode, which is no postmaster; the process is counted all the same.
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else {
        return Postmaster::Unknown;
    };
    if pid < 0 {
        return if postgres_processes == 0 { Postmaster::Gone } else { Postmaster::Unknown };
    }
    let lives = process::stat(pid).is_ok_and(|stat| stat.comm == "postgres" && stat.state != 'Z');
    let here = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    let same = here.is_some_and(|here| {
        here == data_dir || data_dir.canonicalize().is_ok_and(|canonical| canonical == here)
    });
    if lives && same { Postmaster::Alive(pid) } else { Postmaster::Gone }
}
