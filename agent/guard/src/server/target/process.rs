//! What `/proc` says of a process, read through a held directory into a buffer on the stack.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RawDir, open, openat};

use crate::server::text::Text;

/// `/proc`.
#[derive(Debug)]
pub struct Processes {
    directory: OwnedFd,
}

/// What is needed of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D` (uninterruptible), `T` (stopped), `Z` and `X` (ended), ...
    pub state: u8,
    /// Its parent.
    pub parent: i32,
}

impl Stat {
    /// It runs no more; at most its parent has not asked for its end yet.
    pub fn has_ended(self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

impl Processes {
    /// Opens `/proc`.
    pub fn open() -> rustix::io::Result<Self> {
        let directory = open(c"/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { directory })
    }

    /// `None`: there is no such process.
    pub fn stat(&self, pid: i32) -> Option<Stat> {
        let path = Text::<32>::of(format_args!("{pid}/stat"));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.directory, path.as_c_str(), flags, Mode::empty()).ok()?;
        let mut text = [0; 256];
        let length = rustix::io::read(&file, &mut text).ok()?;
        parse(&text[..length])
    }

    /// Calls `visit` with each process of the host.
    pub fn each(&self, mut visit: impl FnMut(i32)) {
        // An own open directory has an own position.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(directory) = openat(&self.directory, c".", flags, Mode::empty()) else { return };
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(&directory, &mut space);
        while let Some(Ok(entry)) = entries.next() {
            let number =
                std::str::from_utf8(entry.file_name().to_bytes()).ok().and_then(|name| name.parse().ok());
            if let Some(pid) = number {
                visit(pid);
            }
        }
    }
}

/// The name may hold spaces and brackets: it ends at the last bracket.
fn parse(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { state, parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_read() {
        assert_eq!(parse(b"12 (a) b) (c) T 7 12 12 0"), Some(Stat { state: b'T', parent: 7 }));
        assert_eq!(parse(b"nonsense"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn we_are_there() {
        let processes = Processes::open().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!processes.stat(own).unwrap().has_ended());
        assert_eq!(processes.stat(i32::MAX), None);
        let mut seen = false;
        processes.each(|pid| seen |= pid == own);
        assert!(seen);
    }
}
