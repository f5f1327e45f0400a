//! The gates without a usable configuration: after a removal that left Patroni's settings behind, or with a file that
//! somebody has damaged. They must not be what keeps Patroni from its work where nothing was ever armed, nor the hole
//! through which a second writer starts where something was.
//!
//! What is known then is what lies in the state directory. Only a file that still names it, or one that is not there at
//! all, lets that be believed.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_proto::left_behind::{Configuration, memories};
use holdfast_types::Mode;
use holdfast_types::record::LocalDisarm;
use holdfast_types::record::local_disarm::{RUN_DIR, RememberedMode, STATE_DIR};

use super::local_disarm;
use super::protocol::SOCKET;

/// Where Debian's packages and PostgreSQL's own put the programs of one major version: before it, and after it.
const SERVERS: [(&str, &str); 2] = [("/usr/lib/postgresql/", "/bin"), ("/usr/pgsql-", "/bin")];

/// A host whose configuration cannot be used.
#[derive(Debug)]
pub struct Host {
    remains: Configuration,
    state_dir: PathBuf,
    run_dir: PathBuf,
}

impl Host {
    /// What is left of the configuration `file`.
    pub fn of(file: &Path) -> Self {
        let remains = Configuration::read(file);
        let state_dir = remains.state_dir.clone().unwrap_or_else(|| STATE_DIR.into());
        Self { remains, state_dir, run_dir: RUN_DIR.into() }
    }

    /// Why the gates of this host let pass all the same, or why not.
    pub fn lets_pass(&self) -> Result<String, String> {
        let at = self.state_dir.display();
        let memories = memories(&self.state_dir);
        if let Some(local) = self.local() {
            let remembered = memories.iter().filter_map(|memory| memory.remembered.as_ref());
            let fenced = remembered.filter_map(|remembered| remembered.fenced.clone()).next();
            return match fenced.filter(|_| !local.over_fence) {
                Some(why) => Err(format!(
                    "a member of this host is fenced ({why}); validate and clear it with: holdfast unfence; or: holdfast \
                     disarm --local --over-fence --reason WHY"
                )),
                None => Ok(format!("{local}; until: holdfast disarm --local --undo")),
            };
        }
        let is_free = |memory: &RememberedMode| matches!(memory.mode, Mode::Observe | Mode::Disarmed);
        if !memories.iter().all(|memory| memory.remembered.as_ref().is_some_and(is_free)) {
            return Err(format!(
                "{at} says that a cluster of this host is armed; repair the configuration, or: holdfast disarm --local"
            ));
        }
        let agent_is_here = self.run_dir.join(SOCKET).exists();
        match (self.remains.absent, &self.remains.state_dir) {
            _ if !memories.is_empty() => Ok(format!("by {at} no cluster of this host is armed")),
            (true, _) if !agent_is_here => Ok("Holdfast is not installed here any more".into()),
            (false, Some(_)) => Ok(format!("by {at} no cluster of this host was ever armed")),
            _ => Err("it is not known whether a cluster of this host is armed; repair the configuration, or: holdfast \
                      disarm --local"
                .into()),
        }
    }

    /// The server's program for this data directory.
    pub fn server(&self, data_dir: Option<&Path>) -> Option<PathBuf> {
        let of_instance = |dir: &Path| {
            let found = self.remains.instances.iter().find(|(data_dir, _)| data_dir == dir);
            found.map(|(_, bin_dir)| bin_dir.clone())
        };
        let named = || self.local()?.bin_dir.map(PathBuf::from);
        let by_version = || by_version(&fs::read_to_string(data_dir?.join("PG_VERSION")).ok()?);
        let any = || self.remains.instances.first().map(|(_, bin_dir)| bin_dir.clone()).or_else(newest);
        let bin_dir = data_dir.and_then(of_instance).or_else(named).or_else(by_version);
        let bin_dir = bin_dir.or_else(|| if data_dir.is_none() { any() } else { None });
        bin_dir.map(|dir| dir.join("postgres"))
    }

    /// Also where the command line puts it when it cannot read the file either.
    fn local(&self) -> Option<LocalDisarm> {
        local_disarm::standing(&self.state_dir)
    }
}

fn by_version(version: &str) -> Option<PathBuf> {
    let places =
        SERVERS.iter().map(|(before, after)| PathBuf::from(format!("{before}{}{after}", version.trim())));
    places.into_iter().find(|dir| dir.join("postgres").exists())
}

/// For `--version` and its like, which name no data directory.
fn newest() -> Option<PathBuf> {
    (10..100).rev().find_map(|major: u32| by_version(&major.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::record::local_disarm::REMEMBERED_FILE;

    struct Fixture {
        folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn remember(&self, mode: &str) {
            let folder = self.folder.path().join("state/service.main");
            fs::create_dir_all(&folder).unwrap();
            let text =
                format!(r#"{{"format":1,"min_reader":1,"mode":"{mode}","fenced":null,"attesting":true}}"#);
            fs::write(folder.join(REMEMBERED_FILE), text).unwrap();
        }

        fn disarm_locally(&self, more: &str) {
            let text =
                format!(r#"{{"format":1,"min_reader":1,"by":"root","reason":"x","at_wall_ms":1{more}}}"#);
            fs::write(self.folder.path().join("state").join(LocalDisarm::FILE), text).unwrap();
        }

        /// `named`: the damaged file still says where the state directory is; `None`: there is no file.
        fn lets_pass(&self, named: Option<bool>) -> bool {
            let at = |name: &str| self.folder.path().join(name);
            let remains = Configuration {
                absent: named.is_none(),
                state_dir: named.unwrap_or(false).then(|| at("state")),
                ..Configuration::default()
            };
            Host { remains, state_dir: at("state"), run_dir: at("run") }.lets_pass().is_ok()
        }
    }

    #[test]
    fn after_a_removal_the_gates_are_open() {
        let host = Fixture::new();
        assert!(host.lets_pass(None), "nothing is left of us");
        fs::create_dir_all(host.folder.path().join("run")).unwrap();
        fs::write(host.folder.path().join("run").join(SOCKET), "").unwrap();
        assert!(!host.lets_pass(None), "an agent is here: its configuration lies elsewhere");
    }

    #[test]
    fn what_was_armed_stays_shut_and_what_was_not_is_open() {
        for named in [None, Some(true), Some(false)] {
            let host = Fixture::new();
            for (mode, open) in [("observe", true), ("disarmed", true), ("armed", false), ("?", false)] {
                host.remember(mode);
                assert_eq!(host.lets_pass(named), open, "{mode} {named:?}");
            }
        }
    }

    #[test]
    fn a_damaged_file_that_does_not_name_the_directory_is_no_word_of_it() {
        let host = Fixture::new();
        assert!(host.lets_pass(Some(true)), "never armed");
        assert!(!host.lets_pass(Some(false)), "the directory may be another one");
    }

    #[test]
    fn a_local_disarm_opens_an_armed_host() {
        let host = Fixture::new();
        host.remember("armed");
        host.disarm_locally("");
        for named in [None, Some(true), Some(false)] {
            assert!(host.lets_pass(named));
        }
        let memory = host.folder.path().join("state/service.main").join(REMEMBERED_FILE);
        let text = fs::read_to_string(&memory).unwrap();
        fs::write(&memory, text.replace("null", "\"by ann\"")).unwrap();
        assert!(!host.lets_pass(Some(true)), "a fence stands");
        host.disarm_locally(r#","over_fence":true"#);
        assert!(host.lets_pass(Some(true)));
    }

    #[test]
    fn the_remains_of_a_file_name_the_directories() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        let text = "state_dir = \"/s\"\nnonsense = 1\n[[instance]]\ndata_dir = \"/d\"\nbin_dir = \"/b\"\n";
        fs::write(&file, text).unwrap();
        let host = Host::of(&file);
        assert_eq!(host.state_dir, Path::new("/s"));
        assert_eq!(host.server(Some(Path::new("/d"))), Some("/b/postgres".into()));
        assert_eq!(host.server(None), Some("/b/postgres".into()));
    }
}
