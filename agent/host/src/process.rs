//! Single processes: what `/proc` says of one, and a handle that cannot be fooled by a reused process id.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The name of the program, at most 15 bytes.
    pub comm: String,
    /// `R`, `S`, `D` (in the kernel, cannot be killed now), `T` (stopped by a signal), `Z` (ended), ...
    pub state: char,
    /// Its parent.
    pub ppid: i32,
    /// Processor time that it has used, in ticks of [`TICK_MS`].
    pub ran_ticks: u64,
}

/// The unit of processor time in `/proc`: `USER_HZ`, which is 100 on every architecture that we build for.
pub const TICK_MS: u64 = 10;

/// Reads it; an error if there is no such process.
pub fn stat(pid: i32) -> io::Result<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not understood"))
    })
}

/// The name may hold spaces and brackets: it ends at the last bracket.
pub(crate) fn parse(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let comm = head.split_once('(')?.1.to_owned();
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    // User and system time are the tenth and eleventh after the parent.
    let mut ran = fields.skip(9).map(str::parse);
    let both: (u64, u64) = ran.next()?.ok().zip(ran.next()?.ok())?;
    let ran_ticks = both.0.checked_add(both.1)?;
    Some(Stat { comm, state, ppid, ran_ticks })
}

/// How often the first thread of a process has waited of its own accord; an error if there is no such process.
pub fn waits(pid: i32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/status is not understood"))
    })
}

/// Whether a process will not execute another instruction of its own: each of its threads has ended, or is in
/// uninterruptible sleep with SIGKILL pending. One that is gone has ended.
pub fn is_held_by_kernel(pid: i32) -> io::Result<bool> {
    let threads = match std::fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(threads) => threads,
        Err(error) if is_gone(&error) => return Ok(true),
        Err(error) => return Err(error),
    };
    for thread in threads {
        let status = match std::fs::read_to_string(thread?.path().join("status")) {
            Ok(status) => status,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        if !is_thread_held(&status) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What ends between two looks at it is no error.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32)
}

/// SIGKILL is the ninth bit; a kill of the whole process and one of a thread stand in different lines.
fn is_thread_held(status: &str) -> bool {
    const SIGKILL: u64 = 1 << 8;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    };
    let pending = |name| {
        let mask = field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok());
        mask.is_some_and(|mask| mask & SIGKILL != 0)
    };
    match field("State").and_then(|state| state.chars().next()) {
        Some('Z' | 'X') => true,
        Some('D') => pending("SigPnd") || pending("ShdPnd"),
        _ => false,
    }
}

/// A process that can be waited for and killed without a race.
#[derive(Debug)]
pub struct PidFd {
    fd: AsyncFd<OwnedFd>,
}

impl PidFd {
    /// Opens it. Must be called inside a tokio runtime.
    pub fn open(pid: i32) -> io::Result<Self> {
        register(pidfd_open(pid)?)
    }

    /// Ends when the process has exited.
    pub async fn exited(&self) {
        // The descriptor becomes readable at the exit and stays so; an error cannot come from a pidfd.
        drop(self.fd.readable().await);
    }

    /// SIGKILL.
    pub fn kill(&self) -> io::Result<()> {
        pidfd_send_signal(self.fd.as_fd().as_raw_fd(), nix::libc::SIGKILL)
    }

    /// SIGINT: a postmaster's fast shutdown (<https://www.postgresql.org/docs/current/server-shutdown.html>).
    pub fn interrupt(&self) -> io::Result<()> {
        pidfd_send_signal(self.fd.as_fd().as_raw_fd(), nix::libc::SIGINT)
    }
}

#[allow(unsafe_code)]
fn register(fd: OwnedFd) -> io::Result<PidFd> {
    // SAFETY: an OwnedFd names its open descriptor for as long as it lives, and AsyncFd owns it from now on.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)?;
    Ok(PidFd { fd })
}

#[allow(unsafe_code)]
fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1; nothing is shared with the kernel.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from(File::from_raw_fd(fd)) })
}

#[allow(unsafe_code)]
fn pidfd_send_signal(fd: i32, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is documented to mean the one that kill(2) would send; the rest are integers.
    let result = unsafe {
        let none = std::ptr::null::<nix::libc::siginfo_t>();
        nix::libc::syscall(nix::libc::SYS_pidfd_send_signal, fd, signal, none, 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sleeps_has_waited() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(waits(own).is_ok() && waits(i32::MAX).is_err());
    }

    #[test]
    fn a_name_with_brackets_is_read() {
        let stat = parse("12 (a) b) (c) T 1 12 12 0 -1 4194560 5 0 0 0 30 12 0 0 20 0 1 0").unwrap();
        assert_eq!(stat, Stat { comm: "a) b) (c".into(), state: 'T', ppid: 1, ran_ticks: 42 });
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn only_what_can_never_run_again_is_held() {
        let status = |state: &str, thread: &str, process: &str| {
            format!("Name:\tpostgres\nState:\t{state}\nSigPnd:\t{thread}\nShdPnd:\t{process}\n")
        };
        let (none, kill, term) = ("0000000000000000", "0000000000000100", "0000000000004000");
        assert!(is_thread_held(&status("D (disk sleep)", kill, none)));
        assert!(is_thread_held(&status("D (disk sleep)", none, kill)));
        assert!(is_thread_held(&status("Z (zombie)", none, none)));
        assert!(!is_thread_held(&status("D (disk sleep)", none, term)), "it goes on when the disk does");
        assert!(!is_thread_held(&status("T (stopped)", none, none)));
        assert!(!is_thread_held(&status("R (running)", kill, none)), "looked at again");
        assert!(!is_thread_held(""));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_held_by_kernel(own).unwrap());
        assert!(is_held_by_kernel(i32::MAX).unwrap(), "there is none");
    }

    #[tokio::test]
    async fn an_exit_is_seen_and_a_kill_arrives() {
        #[allow(clippy::disallowed_methods)]
        let mut child = tokio::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let fd = PidFd::open(pid).unwrap();
        assert_ne!(stat(pid).unwrap().state, 'Z');
        fd.kill().unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(10), fd.exited()).await.unwrap();
        child.wait().await.unwrap();
    }
}
