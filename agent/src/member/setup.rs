//! How Patroni is set up on this host, as far as only the host can see it. Reads `/proc` and Patroni's file; called on the
//! thread that may block on a disk.

use holdfast_types::record::{PatroniFile, SetupSeen};

use crate::gate::start;
use crate::observe::patroni_file;
use crate::observe::processes::{Postmaster, Seen};

/// What can be seen now; `None` while Patroni does not run. The profile and PostgreSQL's own setting are added by others.
pub fn look(seen: &Seen) -> Option<SetupSeen> {
    let patroni = seen.patroni.iter().find_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())?;
    let (file, file_problem) = match read(&patroni) {
        Ok(file) => (Some(file), None),
        Err(problem) => (None, Some(problem)),
    };
    let through_gate = match seen.postmaster {
        Postmaster::Alive(pid) => {
            std::fs::read(format!("/proc/{pid}/cmdline")).ok().map(|line| came_through_gate(&line))
        }
        Postmaster::Gone | Postmaster::Unknown => None,
    };
    Some(SetupSeen { file, file_problem, through_gate, ..SetupSeen::default() })
}

fn read(command_line: &[u8]) -> Result<PatroniFile, String> {
    let path = patroni_file::path(command_line)
        .ok_or("Patroni's command line names no file by its whole path, so its settings are not known")?;
    let named = path.display().to_string();
    let text = holdfast_proto::read_text(&path, patroni_file::FILE_BYTES_MAX);
    patroni_file::parse(&named, &text.map_err(|error| format!("{named}: {error}"))?)
}

/// Patroni starts a binary by its path; the start gate becomes PostgreSQL under its bare name.
fn came_through_gate(command_line: &[u8]) -> bool {
    let program = command_line.split(|byte| *byte == 0).next().unwrap_or_default();
    // The name alone is that of builds before the mark had a path.
    program == b"postgres" || program.ends_with(start::MARK.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gates_name_for_postgresql_is_bare() {
        assert!(came_through_gate(b"postgres\0-D\0/d\0"));
        assert!(came_through_gate(b"/usr/lib/postgresql/15/bin/./postgres\0-D\0/d\0"));
        assert!(!came_through_gate(b"/usr/lib/postgresql/15/bin/postgres\0-D\0/d\0"));
    }
}
