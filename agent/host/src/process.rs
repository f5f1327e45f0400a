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
}

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
    Some(Stat { comm, state, ppid })
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
        pidfd_send_sigkill(self.fd.as_fd().as_raw_fd())
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
fn pidfd_send_sigkill(fd: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is documented to mean the one that kill(2) would send; the rest are integers.
    let result = unsafe {
        let none = std::ptr::null::<nix::libc::siginfo_t>();
        nix::libc::syscall(nix::libc::SYS_pidfd_send_signal, fd, nix::libc::SIGKILL, none, 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_read() {
        let stat = parse("12 (a) b) (c) T 1 12 12 0").unwrap();
        assert_eq!(stat, Stat { comm: "a) b) (c".into(), state: 'T', ppid: 1 });
        assert_eq!(parse("nonsense"), None);
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
