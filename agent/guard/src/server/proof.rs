//! The proof of one instance in a small file under `/run`, for people, for `doctor`, and for the next guard.
//!
//! Memory, not disk: `/run` is a tmpfs. The file is written once at the registration, in full length, and held open:
//! later writings need no new page and no path.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::pwrite;

use super::duty::Duty;
use super::say::say;
use super::text::Text;
use crate::wire::{INSTANCES_MAX, Name, Phase};

const BYTES: usize = 512;
const FILE_NAME_BYTES: usize = 256;
const PREFIX: &str = "guard-";
const SUFFIX: &str = ".state";

/// What a former guard has left of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    /// Which.
    pub name: Name,
    /// The highest term it had heard of.
    pub term: u64,
    /// It was armed, or had not ended a kill: nobody knows whether a writer runs.
    pub owed: bool,
}

/// Reads what former guards of this boot have left.
pub fn former(folder: &Path) -> [Option<Former>; INSTANCES_MAX] {
    let mut found = [None; INSTANCES_MAX];
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
    });
    let read = ours.filter_map(|entry| parse(&read(&entry.path())?));
    found.iter_mut().zip(read).for_each(|(place, former)| *place = Some(former));
    found
}

/// At most what a guard writes.
fn read(path: &Path) -> Option<String> {
    let mut page = String::new();
    fs::File::open(path).ok()?.take(BYTES as u64).read_to_string(&mut page).ok()?;
    Some(page)
}

/// Opens the file of an instance in this folder.
pub fn create(folder: &OwnedFd, name: &Name) -> Option<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, file_name(name).as_c_str(), flags, Mode::from_raw_mode(0o644))
        .inspect_err(|error| complain(name, *error))
        .ok()
}

/// Writes how the instance stands.
pub fn write(file: &OwnedFd, name: &Name, port: u16, duty: &Duty) {
    let mut page = Text::<BYTES>::new();
    // A page has room for all of it; a longer text is cut.
    let _ = render(&mut page, name, port, duty);
    if let Err(error) = pwrite(file, &page.padded(b'\n'), 0) {
        complain(name, error);
    }
}

fn complain(name: &Name, error: rustix::io::Errno) {
    say(format_args!("{}: the proof is kept in memory only: errno {}", name.as_str(), error.raw_os_error()));
}

fn render(page: &mut Text<BYTES>, name: &Name, port: u16, duty: &Duty) -> fmt::Result {
    let phase = match duty.phase() {
        Phase::Idle => "idle",
        Phase::Armed => "armed",
        Phase::Killing => "killing",
        Phase::Killed => "killed",
    };
    writeln!(page, "instance {}\nphase {phase}\nterm {}\nport {port}", name.as_str(), duty.term())?;
    if let Some(kill) = duty.last_kill() {
        writeln!(page, "killed_term {}\ndeadline_ns {}", kill.term, kill.deadline_ns)?;
        writeln!(page, "begun_ns {}\nleft {}", kill.begun_ns, kill.left)?;
        if let Some(empty_ns) = kill.empty_ns {
            writeln!(page, "empty_ns {empty_ns}")?;
        }
        kill.stuck.pids().iter().try_for_each(|pid| writeln!(page, "stuck {pid}"))?;
    }
    Ok(())
}

fn parse(text: &str) -> Option<Former> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let owed = matches!(field("phase")?, "armed" | "killing");
    Some(Former { name: Name::new(field("instance")?)?, term: field("term")?.parse().ok()?, owed })
}

/// Names of files hold letters, digits and few marks; everything else becomes its code.
fn file_name(name: &Name) -> Text<FILE_NAME_BYTES> {
    let mut text = Text::new();
    // Three times 63 bytes and the two ends fit.
    let _ = text.write_str(PREFIX);
    for letter in name.as_str().chars() {
        let _ = if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_') {
            text.write_char(letter)
        } else {
            write!(text, "%{:02X}", u32::from(letter))
        };
    }
    let _ = text.write_str(SUFFIX);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::duty::Left;

    #[test]
    fn the_next_guard_reads_what_is_owed() {
        let folder = tempfile::tempdir().unwrap();
        let name = Name::new("service/main").unwrap();
        let opened = OwnedFd::from(fs::File::open(folder.path()).unwrap());
        let file = create(&opened, &name).unwrap();
        let mut duty = Duty::new(0);
        let check = |duty: &Duty, owed: bool| {
            write(&file, &name, 5432, duty);
            let expected = Former { name, term: duty.term(), owed };
            assert_eq!(former(folder.path())[0], Some(expected), "{duty:?}");
        };
        check(&duty, false);
        duty.extend(1, 7, 100).unwrap();
        check(&duty, true);
        duty.begin_kill(101);
        let mut left = Left { count: 9, ..Left::default() };
        (1..9).for_each(|pid| left.stuck.push(i32::MAX - pid));
        duty.saw(102, left);
        check(&duty, true);
        duty.saw(103, Left::default());
        check(&duty, false);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_left_there_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("guard-x.state", "nonsense"),
            ("guard-y.state", "instance a b\nphase armed\nterm 1\n"),
            ("other", "instance a\nphase armed\nterm 1\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(former(folder.path()), [None; INSTANCES_MAX]);
    }
}
