//! The host that a local order is for: its directories, what its agent has left there, and who gives the order. Reads only.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use holdfast_host::durable;
use holdfast_types::record::local_disarm::{
    PROMISE_FILE, REMEMBERED_FILE, RUN_DIR, RememberedMode, STATE_DIR,
};
use holdfast_types::record::{LocalDisarm, Stored};

use super::LocalOptions;
use crate::cli::exit::{Exit, Failure};
use crate::view::local_disarm::Memory;

const FILE_BYTES_MAX: u64 = 1 << 20;

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

/// What the agent's configuration says, as far as it can be read.
#[derive(Default)]
struct Named {
    usable: bool,
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    bin_dir: Option<PathBuf>,
}

impl Host {
    /// Looks at it. Only root may open a host.
    pub fn look(options: &LocalOptions) -> Result<Self, Failure> {
        // The kernel's word for who runs this.
        let uid = fs::metadata("/proc/self").map(|found| found.uid());
        if !matches!(uid, Ok(0)) {
            return Err(Failure::new(Exit::Refused, "disarm --local opens this host: run it as root"));
        }
        let named = named(&options.agent_config);
        let mut notes = Vec::new();
        let file = options.agent_config.display();
        let state_dir = options.state_dir.clone().or(named.state_dir);
        if !named.usable {
            notes.push(format!("{file} cannot be used; its gates look for the record in {STATE_DIR}"));
        }
        let mut state_dirs = vec![state_dir.clone().unwrap_or_else(|| STATE_DIR.into())];
        // A gate that cannot read the file knows no other directory.
        if !named.usable && state_dirs[0] != Path::new(STATE_DIR) {
            state_dirs.push(STATE_DIR.into());
        }
        let file = state_dirs[0].join(LocalDisarm::FILE);
        let record = durable::read_optional(&file).ok().flatten();
        Ok(Self {
            name: read_line("/proc/sys/kernel/hostname"),
            user: user(),
            bin_dir: options.bin_dir.clone().or(named.bin_dir),
            memories: memories(&state_dirs[0]),
            record: record.and_then(|bytes| Stored::decode(&file.display().to_string(), &bytes).ok()),
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

fn named(file: &Path) -> Named {
    let Ok(text) = holdfast_proto::read_text(file, FILE_BYTES_MAX) else { return Named::default() };
    let Ok(table) = text.parse::<toml::Table>() else { return Named::default() };
    let path = |table: &toml::Table, key: &str| {
        let path = PathBuf::from(table.get(key)?.as_str()?);
        path.is_absolute().then_some(path)
    };
    let instances = table.get("instance").and_then(toml::Value::as_array);
    let first = instances.and_then(|all| all.first()?.as_table());
    let state_dir = path(&table, "state_dir");
    Named {
        usable: state_dir.is_some(),
        state_dir,
        run_dir: path(&table, "run_dir"),
        bin_dir: first.and_then(|instance| path(instance, "bin_dir")),
    }
}

/// What the agent has left of each cluster.
fn memories(state_dir: &Path) -> Vec<Memory> {
    let one = |folder: PathBuf| {
        let found = durable::read_optional(&folder.join(REMEMBERED_FILE));
        let remembered = match found {
            Ok(None) => return None,
            Ok(Some(bytes)) => Stored::<RememberedMode>::decode("", &bytes).ok().map(|stored| stored.body),
            Err(_) => None,
        };
        let cluster = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some(Memory { cluster, remembered, promised: folder.join(PROMISE_FILE).exists() })
    };
    let folders = fs::read_dir(state_dir).into_iter().flatten().flatten();
    let folders = folders.map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut memories: Vec<Memory> = folders.filter_map(one).collect();
    memories.sort_by(|one, other| one.cluster.cmp(&other.cluster));
    memories
}

/// Who became root, if it can be told.
fn user() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|name| !name.is_empty());
    let who = named("SUDO_USER").or_else(|| named("USER")).or_else(|| named("LOGNAME"));
    format!("user {} of {}", who.unwrap_or_else(|| "root".into()), read_line("/proc/sys/kernel/hostname"))
}

fn read_line(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| "this host".into(), |text| text.trim().to_owned())
}
