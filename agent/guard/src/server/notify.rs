//! The service manager's socket (`sd_notify`): that we are ready, and that we are alive.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};

/// The manager, if there is one.
#[derive(Debug)]
pub struct Manager {
    link: Option<(OwnedFd, SocketAddrUnix)>,
    /// Half of the time in which it wants to hear of us.
    interval_ns: Option<u64>,
    next_ns: u64,
}

impl Manager {
    /// From the environment, as `sd_notify(3)` says.
    pub fn from_environment() -> Self {
        let interval_ns = std::env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|us| us.parse::<u64>().ok())
            .filter(|_| is_for_us())
            .map(|us| us.saturating_mul(500));
        Self { link: link(), interval_ns, next_ns: 0 }
    }

    /// Tells that the socket is open.
    pub fn ready(&self) {
        self.tell(b"READY=1");
    }

    /// Tells that we are alive when it is time; returns when it wants to be called again.
    pub fn turn(&mut self, now_ns: u64) -> Option<u64> {
        let interval_ns = self.interval_ns.filter(|_| self.link.is_some())?;
        if now_ns >= self.next_ns {
            self.tell(b"WATCHDOG=1");
            self.next_ns = now_ns + interval_ns;
        }
        Some(self.next_ns)
    }

    fn tell(&self, word: &[u8]) {
        if let Some((socket, address)) = &self.link {
            // A manager that does not listen is not our business.
            let _ = sendto(socket, word, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, address);
        }
    }
}

fn is_for_us() -> bool {
    std::env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(std::process::id()))
}

fn link() -> Option<(OwnedFd, SocketAddrUnix)> {
    let path = std::env::var_os("NOTIFY_SOCKET")?;
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        name => SocketAddrUnix::new(name),
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    Some((socket.ok()?, address.ok()?))
}
