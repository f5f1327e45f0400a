//! The start gate: runs in the place of `postgres`, asks, and becomes `postgres` in the same process.
//!
//! Patroni calls it by `bin_name.postgres` for every start, also after a crash or a restart. It must have decided 2 s
//! after its birth: one that took 5 s made a restarted Patroni start a second postmaster every 11 s (DESIGN section 4).

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_agent_core::start_gate::{self, StartAs};

use holdfast_types::record::LocalDisarm;
use holdfast_types::{Class, Mode};

use super::places::{self, Looking};
use super::protocol::{Answer, Question, SOCKET, ask};
use super::remembered::Remembered;
use super::{local_disarm, without_configuration};
use crate::config::{self, Config, Instance};

/// For how long the agent may think; the rest of the 2 s is for starting and reading files.
const ANSWER_DEADLINE: Duration = Duration::from_millis(1_400);

/// How the program that came through the gate is called, by the end of its first argument: PostgreSQL finds its own files by
/// that, so it must be a path that leads to it, and nobody writes this one by hand.
pub const MARK: &str = "/./postgres";

/// Runs as `postgres` with the agent's configuration `file`; returns only the exit code of a refusal or failure.
pub fn run(file: &Path, arguments: &[OsString]) -> u8 {
    match decide(file, arguments) {
        Ok(Some(postgres)) => {
            // The seam's runner waits for children; this one replaces us instead.
            #[allow(clippy::disallowed_methods)]
            let error = std::process::Command::new(&postgres).arg0(marked(&postgres)).args(arguments).exec();
            eprintln!(
                "holdfast: {} cannot be run: {error}; check bin_dir in the agent's configuration",
                postgres.display()
            );
            1
        }
        Ok(None) => 1,
        Err(why) => {
            eprintln!("holdfast: PostgreSQL is not started: {why}");
            1
        }
    }
}

/// The same program, marked.
fn marked(postgres: &Path) -> OsString {
    let folder = postgres.parent().unwrap_or(Path::new("/"));
    let mut path = folder.as_os_str().to_owned();
    path.push(MARK);
    path
}

fn decide(file: &Path, arguments: &[OsString]) -> Result<Option<PathBuf>, String> {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(problems) => return without_configuration(file, arguments, &problems).map(Some),
    };
    let data_dir = data_dir(arguments);
    let instance = data_dir.as_deref().and_then(|dir| find(&config, dir));
    let Some(instance) = instance else {
        // `--version` and its like name no data directory; any instance's binaries answer them alike.
        if passes_through(arguments)
            && let Some(first) = config.instances.first()
        {
            return Ok(Some(first.bin_dir.join("postgres")));
        }
        return Err(format!("no [[instance]] of {} has data_dir {data_dir:?}", file.display()));
    };
    let postgres = instance.bin_dir.join("postgres");
    let local = local_disarm::standing(&config.state_dir);
    if passes_through(arguments) {
        // Patroni repairs a crashed data directory with it, and recovery writes wherever the links lead.
        if repairs(arguments) {
            on_its_places(
                &config,
                instance,
                places::begin(&instance.data_dir, &instance.cluster),
                local.as_ref(),
            )?;
        }
        return Ok(Some(postgres));
    }
    let looking = places::begin(&instance.data_dir, &instance.cluster);
    let standby = instance.data_dir.join("standby.signal").exists();
    let question = Question::Start { data_dir: instance.data_dir.clone(), standby };
    let answer = match &local {
        // A person's order to this host: the agent, which may hang, is not asked.
        Some(local) => {
            eprintln!("holdfast: {local}; until: holdfast disarm --local --undo");
            alone(&config, instance, standby, Some(local))
        }
        None => ask(&config.run_dir.join(SOCKET), &question, ANSWER_DEADLINE).unwrap_or_else(|error| {
            eprintln!("holdfast: the agent does not answer ({error}); deciding by what it left on disk");
            alone(&config, instance, standby, None)
        }),
    };
    match answer {
        Answer::Pass => on_its_places(&config, instance, looking, local.as_ref()).map(|()| Some(postgres)),
        Answer::Refuse { why } => Err(why),
    }
}

/// What is wrong with the disks is a reason only where the cluster is armed, and no person has opened the host; elsewhere it is
/// said.
fn on_its_places(
    config: &Config,
    instance: &Instance,
    looking: Result<Looking, String>,
    local: Option<&LocalDisarm>,
) -> Result<(), String> {
    let wrong = looking.and_then(|looking| places::wrong(looking, &config.state_dir, &instance.cluster));
    let why = match wrong {
        Ok(wrong) if wrong.is_empty() => return Ok(()),
        Ok(wrong) => {
            let all: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            format!("{}; if it is meant: holdfast disk adopt --reason WHY", all.join("; "))
        }
        Err(why) => why,
    };
    let remembered = Remembered::load(&config.state_dir, &instance.cluster);
    let armed = remembered.map_or(true, |remembered| remembered.mode == Mode::Armed);
    if armed && local.is_none() {
        return Err(why);
    }
    eprintln!(
        "holdfast: PostgreSQL starts, because this host is not armed, on what may not belong to it: {why}"
    );
    Ok(())
}

/// A left-over gate must not keep Patroni from its work where nothing was armed, nor a damaged file where a person has
/// opened the host.
fn without_configuration(
    file: &Path,
    arguments: &[OsString],
    problems: &[config::Problem],
) -> Result<PathBuf, String> {
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let not_usable =
        format!("the agent's configuration {} is not usable: {}", file.display(), all.join("; "));
    let host = without_configuration::Host::of(file);
    let data_dir = data_dir(arguments);
    let server = || {
        host.server(data_dir.as_deref()).ok_or_else(|| {
            format!("{not_usable}; nor is it known where PostgreSQL's programs are: holdfast disarm --local --bin-dir DIR")
        })
    };
    if passes_through(arguments) {
        return server();
    }
    let why = host.lets_pass().map_err(|shut| format!("{not_usable}; {shut}"))?;
    eprintln!("holdfast: {not_usable}; PostgreSQL starts: {why}");
    server()
}

/// Calls that start no postmaster: Patroni makes them to learn versions and to repair with `--single`.
fn passes_through(arguments: &[OsString]) -> bool {
    let first = arguments.first().and_then(|argument| argument.to_str()).unwrap_or_default();
    let anywhere = ["-C", "--version", "-V", "--describe-config", "--help", "-?"];
    matches!(first, "--single" | "--boot" | "--check" | "--describe-config")
        || arguments.iter().any(|argument| anywhere.iter().any(|one| argument == *one))
}

/// A server in single-user mode recovers from a crash as any other.
fn repairs(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|first| first == "--single")
}

fn data_dir(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "-D" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(dir) = argument.to_str().and_then(|text| text.strip_prefix("-D")) {
            return Some(PathBuf::from(dir));
        }
    }
    std::env::var_os("PGDATA").map(PathBuf::from)
}

fn find<'c>(config: &'c Config, data_dir: &Path) -> Option<&'c Instance> {
    let same = |one: &&Instance| {
        one.data_dir == data_dir
            || matches!((one.data_dir.canonicalize(), data_dir.canonicalize()), (Ok(a), Ok(b)) if a == b)
    };
    config.instances.iter().find(same)
}

/// The agent is gone: a standby may start, a primary only in a cluster that was not armed, or on a host that a person has
/// opened.
fn alone(config: &Config, instance: &Instance, standby: bool, local: Option<&LocalDisarm>) -> Answer {
    let remembered = match Remembered::load(&config.state_dir, &instance.cluster) {
        Ok(remembered) => remembered,
        Err(why) if local.is_some() => {
            eprintln!("holdfast: {why}");
            Remembered { mode: Mode::Armed, ..Remembered::default() }
        }
        Err(why) => return Answer::Refuse { why },
    };
    let answer = start_gate::decide(&start_gate::View {
        me: &instance.member,
        mode: None,
        agent_gone: true,
        contradiction: None,
        last_known_mode: remembered.mode,
        local,
        start_as: if standby { StartAs::Standby } else { StartAs::Primary },
        fenced: remembered.fenced.as_deref(),
        attesting: remembered.attesting,
        // Only the agent knows; without it no primary starts.
        given_back: false,
        term: None,
        term_unreadable: true,
        has_terms: instance.class != Class::On,
        needs_session: instance.class == Class::Off,
        own_session: None,
    });
    match answer {
        start_gate::Answer::Pass => Answer::Pass,
        start_gate::Answer::Refuse(why) => Answer::Refuse { why },
    }
}

/// Whether the program was started under the name of PostgreSQL's binary.
pub fn is_called_as_postgres(program: Option<&OsStr>) -> bool {
    program.map(Path::new).and_then(Path::file_name) == Some(OsStr::new("postgres"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn only_a_postmaster_is_asked_about() {
        for line in
            ["--version", "-C wal_segment_size -D /d", "--single -D /d template1", "--describe-config"]
        {
            assert!(passes_through(&arguments(line)), "{line}");
        }
        for line in ["-D /d --config-file=/d/postgresql.conf --port=5432", ""] {
            assert!(!passes_through(&arguments(line)), "{line}");
        }
    }

    #[test]
    fn the_data_directory_is_found_in_both_forms() {
        assert_eq!(data_dir(&arguments("--port=1 -D /d")), Some("/d".into()));
        assert_eq!(data_dir(&arguments("-D/d --port=1")), Some("/d".into()));
    }

    #[test]
    fn the_marked_path_leads_to_the_same_program() {
        let marked = marked(Path::new("/usr/lib/postgresql/15/bin/postgres"));
        assert_eq!(marked, "/usr/lib/postgresql/15/bin/./postgres");
        assert!(marked.to_str().unwrap().ends_with(MARK));
    }

    #[test]
    fn the_name_decides() {
        assert!(is_called_as_postgres(Some(OsStr::new("/usr/lib/holdfast/postgres"))));
        assert!(!is_called_as_postgres(Some(OsStr::new("/usr/bin/holdfast-agent"))));
    }
}
