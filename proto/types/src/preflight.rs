//! What the agent of a member sees of it before a planned change of the writer. It judges nothing: what stands in the way is
//! decided by whoever asks.
//!
//! Absent means unknown, everywhere: neither healthy nor failed.

use serde::{Deserialize, Serialize};

/// How many open transactions are named, the oldest first.
pub const TRANSACTIONS_MAX: usize = 20;
/// A transaction that is younger is not counted: it will have ended before anybody acts on it.
pub const TRANSACTION_AGE_MS_MIN: u64 = 1_000;

/// One member before a planned change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// `server_version_num`, for example 150018.
    pub server_version_num: Option<u32>,
    /// What is free for PostgreSQL on the file system of its data directory, in bytes.
    pub data_free_bytes: Option<u64>,
    /// The same of `pg_wal`, which may be another.
    pub wal_free_bytes: Option<u64>,
    /// What only a primary knows; absent of a standby, and when it is not known what it is.
    pub writer: Option<WriterPreflight>,
    /// What only a standby knows; likewise.
    pub standby: Option<StandbyPreflight>,
    /// The operations of which its agent's build knows its part, by the names of [`OPERATIONS`]; none of builds that do not
    /// tell.
    pub operations: Vec<String>,
}

/// The operations of which this build's agents know their part.
pub const OPERATIONS: [&str; 3] = ["switchover", "drain", "restart"];

impl Preflight {
    /// Whether its agent's build knows its part of an operation.
    pub fn knows(&self, operation: &str) -> bool {
        self.operations.iter().any(|one| one == operation)
    }
}

/// A primary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterPreflight {
    /// Transactions of clients that are older than [`TRANSACTION_AGE_MS_MIN`].
    pub transactions: Option<OpenTransactions>,
    /// Prepared transactions (two-phase commit): they go over to the next writer, and keep their locks there.
    pub prepared_transactions: Option<u64>,
    /// The logical replication slots that the next writer would not have: all before PostgreSQL 17, from then on those
    /// without `failover`. Temporary ones end with their connection and are not among them.
    pub lost_slots: Option<Vec<String>>,
    /// Its archiver.
    pub archiver: Option<Archiver>,
    /// WAL since the place at which recovery would begin now, in bytes: what the shutdown's checkpoint has before it.
    pub wal_since_redo_bytes: Option<u64>,
    /// The standbys that stream from it, or have begun to.
    pub standbys: Option<Vec<StandbyLag>>,
}

/// Open transactions of clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransactions {
    /// How many.
    pub count: u64,
    /// The oldest of them, at most [`TRANSACTIONS_MAX`].
    pub oldest: Vec<OpenTransaction>,
}

/// An open transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransaction {
    /// Process id of its backend.
    pub pid: u32,
    /// For how long it has been open, in milliseconds.
    pub age_ms: u64,
    /// Its client does nothing; else a statement runs.
    pub idle_in_transaction: bool,
    /// Its role.
    pub user: String,
    /// Its `application_name`.
    pub application_name: String,
}

/// The state of the archiver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archiver {
    /// `archive_mode` is not `off`.
    pub is_on: bool,
    /// The last try failed: no segment has been archived since. Absent when none was ever tried.
    pub fails: Option<bool>,
    /// Segments that wait.
    pub waiting: Option<u64>,
}

/// How far a standby is behind, in the eyes of the writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyLag {
    /// Its `application_name`: the name of the member, where it is one.
    pub application_name: String,
    /// `state` of `pg_stat_replication`, for example `streaming`.
    pub state: Option<String>,
    /// Written here and not yet flushed there, in bytes.
    pub flush_bytes: Option<u64>,
    /// Written here and not yet replayed there, in bytes.
    pub replay_bytes: Option<u64>,
    /// `replay_lag`, in milliseconds. PostgreSQL forgets it when nothing has been written for a while.
    pub replay_ms: Option<u64>,
}

/// A standby.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyPreflight {
    /// Received and not yet replayed, in bytes.
    pub replay_bytes: Option<u64>,
    /// `pg_is_wal_replay_paused()`.
    pub replay_paused: Option<bool>,
}
