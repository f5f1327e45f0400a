//! How Patroni is set up on this host, as far as only the host can see it. Reads `/proc` and Patroni's file; called on the
//! thread that may block on a disk.

use std::path::Path;

use holdfast_types::record::{PatroniFile, SetupSeen};

use crate::gate::start;
use crate::observe::patroni_file;
use crate::observe::processes::{Postmaster, Seen};

/// The program behind the start gate's name.
const OUR_PROGRAM: &str = "holdfast-agent";
/// A unit of vip-manager has one of these while it runs under systemd: its own unit, and Debian's, one for each cluster.
const VIP_MANAGER: [&str; 2] = [
    "/sys/fs/cgroup/system.slice/vip-manager.service",
    "/sys/fs/cgroup/system.slice/system-vip\\x2dmanager.slice",
];

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
    let gate_named = file.as_ref().map(|file| names_gate(file.bin_name_postgres.as_deref()));
    let vip_manager = VIP_MANAGER.iter().any(|path| Path::new(path).exists()).then_some(true);
    Some(SetupSeen { file, file_problem, through_gate, gate_named, vip_manager, ..SetupSeen::default() })
}

fn read(command_line: &[u8]) -> Result<PatroniFile, String> {
    let path = patroni_file::path(command_line)
        .ok_or("Patroni's command line names no file by its whole path, so its settings are not known")?;
    let named = path.display().to_string();
    let text = holdfast_proto::read_text(&path, patroni_file::FILE_BYTES_MAX);
    patroni_file::parse(&named, &text.map_err(|error| format!("{named}: {error}"))?)
}

/// Whether Patroni starts our program in the place of `postgres`. A name without a folder is one of PostgreSQL's own.
fn names_gate(bin_name: Option<&str>) -> bool {
    let path = bin_name.map(Path::new).filter(|path| path.is_absolute());
    let program = path.and_then(|path| path.canonicalize().ok());
    program.is_some_and(|program| program.file_name().is_some_and(|name| name == OUR_PROGRAM))
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
    fn the_gate_is_named_by_what_leads_to_our_program() {
        let folder = tempfile::tempdir().unwrap();
        let (program, link) = (folder.path().join("holdfast-agent"), folder.path().join("postgres"));
        std::fs::write(&program, "").unwrap();
        std::os::unix::fs::symlink(&program, &link).unwrap();
        assert!(names_gate(link.to_str()));
        std::fs::remove_file(&program).unwrap();
        assert!(!names_gate(link.to_str()), "a link to nothing starts nothing");
        assert!(!names_gate(Some("postgres")) && !names_gate(None));
    }

    #[test]
    fn the_gates_name_for_postgresql_is_bare() {
        assert!(came_through_gate(b"postgres\0-D\0/d\0"));
        assert!(came_through_gate(b"/usr/lib/postgresql/15/bin/./postgres\0-D\0/d\0"));
        assert!(!came_through_gate(b"/usr/lib/postgresql/15/bin/postgres\0-D\0/d\0"));
    }
}
