//! The three system calls that `rustix` does not have, each with its argument for safety, and the clock.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::process::{Pid, setpriority_process};
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` in nanoseconds: goes on during suspend, never goes back.
pub fn boottime_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A descriptor that is readable once SIGTERM or SIGINT has come; neither ends the process any more.
#[allow(unsafe_code)]
pub fn signal_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: the set lives on this stack, is initialised by sigemptyset before it is read, and no call keeps it.
    let descriptor = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `SCHED_FIFO`: the thread runs before every normal one. 0 is the calling thread.
#[allow(unsafe_code)]
pub fn make_real_time(thread: i32, priority: i32) -> io::Result<()> {
    // SAFETY: all fields of a zeroed sched_param are valid; the kernel only reads it.
    let result = unsafe {
        let mut parameters = std::mem::zeroed::<libc::sched_param>();
        parameters.sched_priority = priority;
        // The system call itself: musl's function of this name only returns ENOSYS.
        libc::syscall(libc::SYS_sched_setscheduler, thread, libc::SCHED_FIFO, &raw const parameters)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets a thread that is to die run at once, below our own priority. What is not permitted is not missed: it dies later.
pub fn hasten(thread: i32) {
    if make_real_time(thread, 1).is_err() {
        let _ = Pid::from_raw(thread).map(|thread| setpriority_process(Some(thread), -20));
    }
}

/// `WDIOC_SETTIMEOUT`: after how many seconds without food the host is reset. Returns what the device made of it.
#[allow(unsafe_code)]
pub fn set_watchdog_timeout(device: BorrowedFd<'_>, seconds: i32) -> rustix::io::Result<i32> {
    /// `_IOWR('W', 6, int)` of `linux/watchdog.h`.
    const SET_TIMEOUT: u64 = 0xc004_5706;
    let mut set = seconds;
    // SAFETY: the request reads and writes one int, which outlives the call. Through syscall, because the type of the
    // second argument of ioctl differs between C libraries.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), SET_TIMEOUT, &raw mut set) };
    if result >= 0 {
        return Ok(set);
    }
    Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO))
}
