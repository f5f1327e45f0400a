//! One line to standard error, which never blocks: a log that nobody takes must not keep a deadline waiting.
//!
//! Errors are named by their number: their text would be allocated.

use std::fmt;
use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::text::Text;

/// Writes a line, or drops it when the other side would make us wait.
pub fn say(arguments: fmt::Arguments<'_>) {
    let line = Text::<512>::of(format_args!("holdfast-guard: {arguments}\n"));
    let stderr = io::stderr();
    // A pipe or a socket that is ready takes a line of this length whole.
    let ready = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    if ready == Ok(1) {
        // Nobody is left to tell.
        let _ = rustix::io::write(&stderr, line.bytes());
    }
}
