//! The host that a local order is for: its directories, what its agent has left there, and who gives the order. Reads only.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use holdfast_host::durable;
use holdfast_proto::left_behind::{Configuration, Memory, memories};
use holdfast_types::record::local_disarm::{RUN_DIR, STATE_DIR};
use holdfast_types::record::{LocalDisarm, Stored};

use super::LocalOptions;
use crate::cli::exit::{Exit, Failure};

/// This host.
pub struct Host {
    /// Its name, by its kernel.
    pub name: String,
    /// Who gives the order.
    pub user: String,
    /// Where PostgreSQL's programs are, if that is known.
    pub bin_dir: Option<PathBuf>,
    /// The clusters of this host.
    pub memories: Vec<Memory>,
    /// The record that is there already.
    pub record: Option<Stored<LocalDisarm>>,
    /// What a person should know.
    pub notes: Vec<String>,
    state_dirs: Vec<PathBuf>,
    run_dir: PathBuf,
}

impl Host {
    /// Looks at it. Only root may open a host.
    pub fn look(options: &LocalOptions) -> Result<Self, Failure> {
        // The kernel's word for who runs this.
        let uid = fs::metadata("/proc/self").map(|found| found.uid());
        if !matches!(uid, Ok(0)) {
            return Err(Failure::new(Exit::Refused, "disarm --local opens this host: run it as root"));
        }
        let named = Configuration::read(&options.agent_config);
        let usable = named.state_dir.is_some();
        let mut notes = Vec::new();
        let file = options.agent_config.display();
        let state_dir = options.state_dir.clone().or(named.state_dir);
        if !usable {
            notes.push(format!("{file} cannot be used; its gates look for the record in {STATE_DIR}"));
        }
        let mut state_dirs = vec![state_dir.clone().unwrap_or_else(|| STATE_DIR.into())];
        // A gate that cannot read the file knows no other directory.
        if !usable && state_dirs[0] != Path::new(STATE_DIR) {
            state_dirs.push(STATE_DIR.into());
        }
        let file = state_dirs[0].join(LocalDisarm::FILE);
        let record = match read_record(&file) {
            Ok(record) => record,
            Err(why) => {
                notes.push(format!(
                    "{}: {why}; it counts for nothing, here and for the gates",
                    file.display()
                ));
                None
            }
        };
        Ok(Self {
            name: name(),
            user: user(),
            bin_dir: options.bin_dir.clone().or_else(|| Some(named.instances.first()?.1.clone())),
            memories: memories(&state_dirs[0]),
            record,
            notes,
            state_dirs,
            run_dir: options.run_dir.clone().or(named.run_dir).unwrap_or_else(|| RUN_DIR.into()),
        })
    }

    /// Where the record is kept.
    pub fn records(&self) -> Vec<PathBuf> {
        self.state_dirs.iter().map(|dir| dir.join(LocalDisarm::FILE)).collect()
    }

    /// The guard's socket.
    pub fn guard(&self) -> PathBuf {
        self.run_dir.join("guard.sock")
    }

    /// Whether somebody listens on the agent's socket; it may hang.
    pub fn agent_is_alive(&self) -> bool {
        UnixStream::connect(self.run_dir.join("agent.sock")).is_ok()
    }
}

/// `None`: there was never one.
fn read_record(file: &Path) -> Result<Option<Stored<LocalDisarm>>, String> {
    let Some(bytes) = durable::read_optional(file).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    Stored::decode(&file.display().to_string(), &bytes).map(Some).map_err(|error| error.to_string())
}

/// The name of this host, by its kernel.
pub fn name() -> String {
    read_line("/proc/sys/kernel/hostname")
}

/// Who became root, if it can be told.
pub fn user() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|name| !name.is_empty());
    let who = named("SUDO_USER").or_else(|| named("USER")).or_else(|| named("LOGNAME"));
    format!("user {} of {}", who.unwrap_or_else(|| "root".into()), name())
}

fn read_line(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| "this host".into(), |text| text.trim().to_owned())
}
