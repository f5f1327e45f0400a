//! A cgroup v2 directory that is held open: who is in it and below it, and the end of all of them.
//!
//! `cgroup.kill` (since Linux 5.14) takes everything below the directory in one write, with what is being forked
//! meanwhile. Before that, one by one, again and again until `cgroup.events` says that nobody is left: a process with
//! SIGKILL pending cannot fork any more.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, fstatfs, openat};
use rustix::io::{Errno, pread, pwrite, read};
use rustix::process::{Pid, Signal, kill_process};

use super::Look;
use super::process::Processes;
use crate::server::duty::Left;
use crate::server::system::hasten;
use crate::wire::Refusal;

/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// How deep the walk goes; `cgroup.kill` and `cgroup.events` have no such bound. Patroni's unit has one level, or none.
const DEPTH_MAX: u32 = 16;

/// A cgroup.
#[derive(Debug)]
pub struct Cgroup {
    directory: OwnedFd,
    /// Says whether anybody is in it or below it.
    events: OwnedFd,
    /// `None` on a kernel that has none.
    kill: Option<OwnedFd>,
}

impl Cgroup {
    /// Takes the directory, and opens what the kill needs. The root is refused (it has no `cgroup.events`), and so is the
    /// cgroup that we are in.
    pub fn new(directory: OwnedFd, by_pid: bool) -> Result<Self, Refusal> {
        let kind = fstatfs(&directory).map_err(|_| Refusal::NotACgroup)?.f_type;
        if i128::from(kind) != i128::from(CGROUP2_MAGIC) {
            return Err(Refusal::NotACgroup);
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let events =
            openat(&directory, c"cgroup.events", flags, Mode::empty()).map_err(|_| Refusal::NotACgroup)?;
        let kill = match openat(&directory, c"cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(_) if by_pid => None,
            Ok(kill) => Some(kill),
            Err(Errno::NOENT) => None,
            Err(_) => return Err(Refusal::NotACgroup),
        };
        let cgroup = Self { directory, events, kill };
        if cgroup.holds(super::own_pid()) {
            return Err(Refusal::OwnCgroup);
        }
        // The kernel gets its buffer for this file now, and keeps it: the next reading needs no memory.
        cgroup.is_populated();
        Ok(cgroup)
    }

    /// Whether it has not been removed.
    pub fn is_there(&self) -> bool {
        pread(&self.events, &mut [0_u8; 1], 0).err() != Some(Errno::NODEV)
    }

    /// Whether this process is in it or below it.
    pub fn holds(&self, pid: i32) -> bool {
        let mut found = false;
        self.each(Of::Processes, &mut |member| found |= member == pid);
        found
    }

    /// Kills everything in it and below it, and tells who was left.
    pub fn kill(&self, processes: &Processes, look: Look) -> Left {
        match &self.kill {
            // A directory that has been removed had nobody in it; the look below says so.
            Some(kill) => drop(pwrite(kill, b"1", 0)),
            None => self.each(Of::Processes, &mut |pid| {
                // One that has ended meanwhile is what was wanted.
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }),
        }
        if !self.is_populated() {
            return Left::default();
        }
        if look == Look::Hasten {
            self.each(Of::Threads, &mut hasten);
        }
        let mut left = Left::default();
        if look == Look::Name {
            self.each(Of::Processes, &mut |pid| {
                left.count += 1;
                hasten(pid);
                if processes.stat(pid).is_some_and(|stat| stat.state == b'D') {
                    left.stuck.push(pid);
                }
            });
        }
        // The kernel says that somebody is there: a walk that missed them does not make a proof.
        left.count = left.count.max(1);
        left
    }

    fn each(&self, of: Of, visit: &mut dyn FnMut(i32)) {
        walk(self.directory.as_fd(), of, DEPTH_MAX, visit);
    }

    /// An unreadable answer is not a proof of emptiness; a removed directory is, because only an empty one can be removed.
    fn is_populated(&self) -> bool {
        let mut text = [0; 128];
        match pread(&self.events, &mut text, 0) {
            Ok(length) => !text[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 0"),
            Err(error) => error != Errno::NODEV,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Processes,
    Threads,
}

/// Calls `visit` with each member of the cgroup and of those below it, down to a depth.
fn walk(directory: BorrowedFd<'_>, of: Of, depth: u32, visit: &mut dyn FnMut(i32)) {
    members(directory, of, visit);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // An own open directory has an own position.
    let Ok(entries) = openat(directory, c".", flags, Mode::empty()) else { return };
    let mut space = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(&entries, &mut space);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if depth == 0 || !entry.file_type().is_dir() || name.to_bytes().starts_with(b".") {
            continue;
        }
        if let Ok(child) = openat(directory, name, flags, Mode::empty()) {
            walk(child.as_fd(), of, depth - 1, visit);
        }
    }
}

/// Calls `visit` with each member of this cgroup alone.
fn members(directory: BorrowedFd<'_>, of: Of, visit: &mut dyn FnMut(i32)) {
    let list = match of {
        Of::Processes => c"cgroup.procs",
        Of::Threads => c"cgroup.threads",
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = openat(directory, list, flags, Mode::empty()) else { return };
    let mut buffer = [0; 2048];
    // A number may be cut in two between two readings.
    let mut number = 0;
    while let Ok(length @ 1..) = read(&file, &mut buffer) {
        for byte in &buffer[..length] {
            if byte.is_ascii_digit() {
                number = number * 10 + i32::from(byte - b'0');
            } else if number != 0 {
                visit(number);
                number = 0;
            }
        }
    }
}
