//! `/dev/watchdog`: the kernel resets the host when nobody writes to it in time.
//!
//! It is open only while an instance has a duty, and closed with the magic `V` when the last one has been released: a
//! guard that ends otherwise leaves it ticking. It is fed only while [`Food::Give`].

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::write;

use super::say::say;
use super::system::set_watchdog_timeout;
use crate::wire;

/// What the duties of all instances together allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Food {
    /// No instance has a duty.
    NotNeeded,
    /// Each has a live lease, or a proof that no writer runs.
    Give,
    /// One of them has neither.
    Withhold,
}

/// The device.
#[derive(Debug)]
pub struct Watchdog {
    path: Option<CString>,
    timeout_s: i32,
    device: Option<OwnedFd>,
    /// Said once: there is none.
    missing: bool,
    next_ns: u64,
    food: Food,
}

impl Watchdog {
    /// `path` absent: there is none, and none is wanted.
    pub fn new(path: Option<CString>, timeout_s: i32) -> Self {
        Self { path, timeout_s, device: None, missing: false, next_ns: 0, food: Food::NotNeeded }
    }

    /// What it gets now.
    pub fn state(&self) -> wire::Watchdog {
        match (&self.device, self.food) {
            (None, _) | (_, Food::NotNeeded) => wire::Watchdog::None,
            (Some(_), Food::Give) => wire::Watchdog::Fed,
            (Some(_), Food::Withhold) => wire::Watchdog::Withheld,
        }
    }

    /// Feeds it when it is time; returns when it wants to be called again.
    pub fn turn(&mut self, now_ns: u64, food: Food) -> Option<u64> {
        let changed = food != self.food;
        self.food = food;
        match food {
            Food::NotNeeded => {
                self.close();
                return None;
            }
            // One that is not open yet stays closed: opening it starts its clock anew.
            Food::Withhold => return None,
            Food::Give if changed => self.open(),
            Food::Give => {}
        }
        let device = self.device.as_ref()?;
        if now_ns >= self.next_ns {
            if let Err(error) = write(device, b"\0") {
                say(format_args!("the watchdog does not take its food: errno {}", error.raw_os_error()));
            }
            // Five times within its timeout: four may be late.
            self.next_ns = now_ns + u64::from(self.timeout_s.unsigned_abs()) * 200_000_000;
        }
        Some(self.next_ns)
    }

    /// A person takes every duty away. What a former guard has left ticking is taken in hand, to be let go of in order.
    pub fn stand_down(&mut self, left_ticking: bool) {
        if left_ticking {
            self.open();
        }
        self.turn(0, Food::NotNeeded);
    }

    fn open(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.device.is_none()) else { return };
        self.next_ns = 0;
        match open(path.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(device) => {
                match set_watchdog_timeout(device.as_fd(), self.timeout_s) {
                    Ok(seconds) => {
                        say(format_args!("the watchdog {path:?} resets this host after {seconds} s"))
                    }
                    Err(error) => say(format_args!(
                        "the watchdog {path:?} keeps its own timeout: errno {}",
                        error.raw_os_error()
                    )),
                }
                self.device = Some(device);
            }
            Err(error) if !self.missing => {
                self.missing = true;
                say(format_args!("going on without a watchdog: {path:?}: errno {}", error.raw_os_error()));
            }
            Err(_) => {}
        }
    }

    fn close(&mut self) {
        if let Some(device) = self.device.take() {
            match write(&device, b"V") {
                Ok(_) => say(format_args!("no duty is left: the watchdog is released")),
                Err(error) => say(format_args!(
                    "the watchdog does not let itself be released: errno {}",
                    error.raw_os_error()
                )),
            }
        }
    }
}
