//! What the agent leaves on disk for the time when it does not answer: the last mode of each cluster, and a fence.
//!
//! World-readable, because the gates run as Patroni's user; it holds no secret.

use std::path::{Path, PathBuf};

use holdfast_agent_core::rollback::KnownReign;
use holdfast_host::durable;
use holdfast_types::record::local_disarm::REMEMBERED_FILE;
use holdfast_types::record::{RestartEnd, Stored};
use holdfast_types::{ClusterId, Mode, Term};
use serde::{Deserialize, Serialize};

/// The last that is known of one cluster on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The mode.
    pub mode: Mode,
    /// When that mode was ordered (rule 25).
    #[serde(default)]
    pub mode_at_wall_ms: i64,
    /// For how long at most a lease lasts that this host may have granted (rule 22), in milliseconds.
    #[serde(default)]
    pub grant_ms: u64,
    /// The member is fenced, and why.
    pub fenced: Option<String>,
    /// The member attests that it has stopped: no start until that is used or withdrawn.
    pub attesting: bool,
    /// A PostgreSQL that hung is being ended, or something of it is left in the kernel: its port stays closed (rule 9).
    #[serde(default)]
    pub ends_hung: bool,
    /// Class `off`: the writer after which this host has tried to open a term, without having heard how that ended. It is
    /// granted no lease in that term any more.
    #[serde(default)]
    pub follows: Option<Follows>,
    /// The last reign that the watch has shown in force (rule 25).
    #[serde(default)]
    pub reign: Option<KnownReign>,
    /// Our PostgreSQL has ended as the writer of its term, and its restart has not been told in etcd.
    #[serde(default)]
    pub away: Option<Away>,
    /// How many restarts in place were told.
    #[serde(default)]
    pub restarts: u64,
}

/// A writer that is away, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// Its term.
    pub term: Term,
    /// Its last sign of life: wall clock, milliseconds since 1970.
    pub gone_wall_ms: i64,
    /// How it had ended.
    pub ended: RestartEnd,
    /// Why nobody followed it, for people; empty where that is not known.
    pub why: String,
}

/// An OPEN of class `off` that may still arrive in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// The term that it ends.
    pub term: Term,
    /// The revision of the term record that it compares: once that has moved, it is refused.
    pub term_mod_revision: i64,
}

/// The folder of a cluster below the state directory.
pub fn folder(state_dir: &Path, cluster: &ClusterId) -> PathBuf {
    state_dir.join(ClusterId::folder_name(&cluster.namespace, &cluster.scope))
}

impl Remembered {
    /// Its term; 0 for none.
    pub fn known_term(&self) -> Term {
        self.reign.as_ref().map_or(Term(0), |reign| reign.term)
    }

    /// Reads it. Absent means never armed; damaged is an error, because guessing a mode could start a second writer.
    pub fn load(state_dir: &Path, cluster: &ClusterId) -> Result<Self, String> {
        let file = Self::file(state_dir, cluster);
        let at =
            |error: String| format!("{}: {error}; start the agent, it writes the file again", file.display());
        match durable::read_optional(&file).map_err(|error| at(error.to_string()))? {
            Some(bytes) => Stored::decode(&file.display().to_string(), &bytes)
                .map(|stored| stored.body)
                .map_err(|error| at(error.to_string())),
            None => Ok(Self::default()),
        }
    }

    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        Stored::new(self.clone()).encode()
    }

    /// Where it is kept.
    pub fn file(state_dir: &Path, cluster: &ClusterId) -> PathBuf {
        folder(state_dir, cluster).join(REMEMBERED_FILE)
    }
}
