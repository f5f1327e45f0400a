//! The parts of a data directory that lie where a link leads, and the file systems on which each was when it was last well
//! (promise I12).
//!
//! The record lies in the state directory of the host's agent, beside what it remembers of the cluster, and never in etcd: the
//! start gate reads it with agent and etcd gone. The agent keeps it while PostgreSQL runs; a person replaces it with
//! `holdfast disk adopt`.

use serde::{Deserialize, Serialize};

/// Name of the record in the cluster's folder below the state directory.
pub const PLACES_FILE: &str = "places.json";

/// Which part of a data directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceName {
    /// The data directory itself.
    Data,
    /// `pg_wal`.
    Wal,
    /// A link in `pg_tblspc`, by its name: the tablespace's oid.
    Tablespace(String),
}

impl std::fmt::Display for PlaceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Data => f.write_str("the data directory"),
            Self::Wal => f.write_str("pg_wal"),
            Self::Tablespace(oid) => write!(f, "tablespace {oid}"),
        }
    }
}

/// A file system, as far as it can be told from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Where it is mounted.
    pub mount_point: String,
    /// For example `ext4`.
    pub fs_type: String,
    /// What was mounted, for people; the same device may have another name after the next boot.
    pub source: String,
    /// Its UUID, where udev tells it.
    #[serde(default)]
    pub uuid: Option<String>,
    /// The id that `statvfs` tells, for those types in which it comes from the UUID (`ext2` to `ext4`, `btrfs`).
    #[serde(default)]
    pub fs_id: Option<u64>,
}

/// One part, where it was when it was last well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which.
    pub name: PlaceName,
    /// Its directory, links followed.
    pub path: String,
    /// What that lies on.
    pub on: FileSystem,
    /// The words of which one stands in the marker beside it. Two while the marker is being rewritten; none where a marker has
    /// no place, because the directory is the root of its file system.
    #[serde(default)]
    pub markers: Vec<String>,
}

/// Who has declared the places right that are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The user of the host.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Wall clock of the host, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// All parts of one data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Each once.
    pub places: Vec<Place>,
    /// When the markers were rewritten last; wall clock of the host, milliseconds since 1970.
    #[serde(default)]
    pub marked_wall_ms: i64,
    /// The last order of a person.
    #[serde(default)]
    pub adopted: Option<Adopted>,
}

/// What was found of one part now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPlace {
    /// Which.
    pub name: PlaceName,
    /// Its directory, links followed; as the link says where that leads nowhere.
    pub path: String,
    /// What is there; the reason where it cannot be looked at.
    pub there: Result<There, String>,
}

/// A directory that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct There {
    /// What it lies on.
    pub on: FileSystem,
    /// A mount point above it that `/etc/fstab` names, and on which nothing is mounted.
    pub unmounted: Option<String>,
    /// A marker can be kept beside it.
    pub takes_marker: bool,
    /// What the marker says.
    pub marker: Option<String>,
    /// The file system, and the rights of whoever looked, allow writing.
    pub writable: bool,
    /// Free for PostgreSQL's user, in bytes.
    pub free_bytes: u64,
    /// PostgreSQL's own directory is in it: `PG_VERSION` or, in a tablespace, `PG_<version>_<catalog>`.
    pub is_postgres: bool,
}
