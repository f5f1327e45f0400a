//! What is killed for one instance: a cgroup, and a postmaster that is not in it.

mod cgroup;
mod outside;
mod process;

use std::os::fd::OwnedFd;

use super::duty::Left;
use crate::wire::{Postmaster, Refusal};
use cgroup::Cgroup;
use outside::Outside;
pub use process::Processes;

/// What a round does besides killing. Each costs a walk over all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Quick,
    /// Lets the killed run before everybody else: they end by themselves, and on a host whose processors are taken they
    /// were gone only 260 ms later at worst (200 kills beside 8 busy loops on 2 cores).
    Hasten,
    /// The same, and counts and names them.
    Name,
}

/// Whether this can be a postmaster's number: not init, not a group's, not our own.
pub fn may_be_postmaster(pid: Option<i32>) -> bool {
    pid.is_none_or(|pid| pid > 1 && pid != own_pid())
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// What is killed.
#[derive(Debug)]
pub struct Target {
    cgroup: Cgroup,
    outside: Option<Outside>,
    postmaster: Postmaster,
}

impl Target {
    /// Takes the directory of a cgroup. `by_pid`: as on a kernel that has no `cgroup.kill`.
    pub fn new(directory: OwnedFd, by_pid: bool) -> Result<Self, Refusal> {
        let cgroup = Cgroup::new(directory, by_pid)?;
        Ok(Self { cgroup, outside: None, postmaster: Postmaster::Unknown })
    }

    /// Whether the cgroup still exists. Its unit gets a new one at each start.
    pub fn is_there(&self) -> bool {
        self.cgroup.is_there()
    }

    /// Whether there is nobody to kill, nor can be: only an empty cgroup can be removed.
    pub fn is_gone(&self) -> bool {
        !self.is_there() && self.outside.as_ref().is_none_or(Outside::has_exited)
    }

    /// Whether there is a process of this number.
    pub fn is_process(pid: i32) -> bool {
        Outside::open(pid).is_some_and(|process| !process.has_exited())
    }

    /// Where the postmaster is.
    pub fn postmaster(&self) -> Postmaster {
        self.postmaster
    }

    /// The agent names the postmaster. One that is not in the cgroup is held by a descriptor from now on, so that a
    /// process that gets its number later is never killed. Not named: what is held stays held.
    pub fn place(&mut self, pid: Option<i32>) {
        let Some(pid) = pid else { return };
        if self.cgroup.holds(pid) {
            (self.outside, self.postmaster) = (None, Postmaster::Inside);
        } else if self.outside.as_ref().is_none_or(|outside| !outside.is(pid)) {
            self.outside = Outside::open(pid);
            self.postmaster = if self.outside.is_some() { Postmaster::Outside } else { Postmaster::Unknown };
        }
    }

    /// One round of the kill: everything that is there now gets SIGKILL. Tells who was left when it looked.
    pub fn kill(&mut self, processes: &Processes, look: Look) -> Left {
        let mut left = self.cgroup.kill(processes, look);
        if let Some(outside) = &mut self.outside {
            outside.kill(processes, &mut left);
        }
        left
    }
}
