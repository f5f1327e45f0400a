//! A postmaster that is not in the guarded cgroup (started by hand, it lives in a login session's), and its children.
//!
//! The descriptor is opened when the agent names the process, so a number that was given to another is never killed. The
//! children have no descriptors; a *stopped* postmaster takes their place: it starts no more of them, and it collects none
//! of the ended ones, so that none of their numbers can be given to another process while they are killed. Only when all
//! of them have ended, the postmaster is killed too.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::process::Processes;
use crate::server::duty::Left;
use crate::server::system::hasten;

/// The postmaster.
#[derive(Debug)]
pub struct Outside {
    pid: i32,
    descriptor: OwnedFd,
}

impl Outside {
    /// `None`: there is no such process.
    pub fn open(pid: i32) -> Option<Self> {
        let descriptor = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Self { pid, descriptor })
    }

    /// Whether this number still names the held process.
    pub fn is(&self, pid: i32) -> bool {
        self.pid == pid && !self.has_exited()
    }

    /// Whether it has ended.
    pub fn has_exited(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&now)) == Ok(1)
    }

    /// One round: adds who is left.
    pub fn kill(&mut self, processes: &Processes, left: &mut Left) {
        if self.has_exited() {
            return;
        }
        // One that has ended meanwhile is what was wanted, here and below.
        let _ = pidfd_send_signal(&self.descriptor, Signal::STOP);
        let stopped = processes.stat(self.pid).is_some_and(|stat| matches!(stat.state, b'T' | b't'));
        let mut children = 0;
        processes.each(|pid| {
            let Some(stat) = processes.stat(pid).filter(|stat| stat.parent == self.pid) else { return };
            if stat.has_ended() {
                return;
            }
            children += 1;
            // Without the stop the number might be another's by now: the next round sees to it.
            if stopped {
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
                hasten(pid);
            }
            if stat.state == b'D' {
                left.stuck.push(pid);
            }
        });
        if stopped && children == 0 {
            let _ = pidfd_send_signal(&self.descriptor, Signal::KILL);
            hasten(self.pid);
        }
        left.count += children + 1;
    }
}
