//! What is asked of a store, and what it answers. Keys are text: ours and Patroni's both are.

use std::time::Instant;

/// A key with its value and the numbers by which etcd tells its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that made the key; another one means that it was deleted in between.
    pub create_revision: i64,
    /// The revision that changed it last.
    pub mod_revision: i64,
    /// Changes since it was made: 1 for the first.
    pub version: i64,
    /// The lease it hangs on; 0 for none.
    pub lease: i64,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// One key.
    Key(String),
    /// All keys that begin with this text.
    Prefix(String),
}

/// One linearizable read: everything in it was true at the same revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The revision of the store at that moment.
    pub revision: i64,
    /// etcd's cluster id: another one means another etcd, whose revisions mean nothing here.
    pub cluster_id: u64,
    /// What was found, in the order of keys within each [`Read`].
    pub pairs: Vec<KeyValue>,
}

impl Reading {
    /// The pair of a key, if it was there.
    pub fn get(&self, key: &str) -> Option<&KeyValue> {
        self.pairs.iter().find(|pair| pair.key == key)
    }

    /// The `mod_revision` of a key; 0 when it was absent, as [`Compare::ModRevision`] wants it.
    pub fn mod_revision(&self, key: &str) -> i64 {
        self.get(key).map_or(0, |pair| pair.mod_revision)
    }

    /// All pairs whose key begins with `prefix`.
    pub fn below<'r>(&'r self, prefix: &'r str) -> impl Iterator<Item = &'r KeyValue> {
        self.pairs.iter().filter(move |pair| pair.key.starts_with(prefix))
    }
}

/// One condition of a transaction. All conditions must hold; there is no OR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last changed by this revision; 0 means that it is absent.
    ModRevision {
        /// The key.
        key: String,
        /// The revision.
        is: i64,
    },
    /// The key was made by this revision; 0 means that it is absent.
    CreateRevision {
        /// The key.
        key: String,
        /// The revision.
        is: i64,
    },
    /// The key has been changed so often; 0 means that it is absent.
    Version {
        /// The key.
        key: String,
        /// The version.
        is: i64,
    },
    /// The key hangs on this lease; 0 holds for an absent key too.
    Lease {
        /// The key.
        key: String,
        /// The lease.
        is: i64,
    },
    /// The key has this value; never true for an absent key.
    Value {
        /// The key.
        key: String,
        /// The value.
        is: Vec<u8>,
    },
}

/// One change of a transaction. etcd refuses a transaction that names a key twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// The lease to hang it on, 0 for none. If it is dead the whole transaction is refused.
        lease: i64,
    },
    /// Raises a key's revision and version and leaves its value and lease. Refused if the key is absent.
    PutSameValue {
        /// The key.
        key: String,
    },
    /// Deletes a key if it is there.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes all keys that begin with this text.
    DeletePrefix {
        /// The text; not empty.
        prefix: String,
    },
}

impl Write {
    /// A put without a lease.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: 0 }
    }
}

/// A transaction: if all `compares` hold, all `writes` happen at one revision, else `otherwise_read` is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The changes.
    pub writes: Vec<Write>,
    /// Keys to read when a condition fails, so that the caller learns which.
    pub otherwise_read: Vec<String>,
}

/// How a transaction ended. An error instead means that it did not happen, or, if
/// [`outcome_unknown`](crate::StoreError::outcome_unknown), that only a read can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All conditions held and all changes were made.
    Succeeded {
        /// The revision of the changes.
        revision: i64,
    },
    /// A condition did not hold; nothing was changed.
    Refused {
        /// The revision at which it was looked at.
        revision: i64,
        /// What was found of `otherwise_read`; absent keys are absent here.
        read: Vec<KeyValue>,
    },
}

/// An answered renewal of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// How long the lease lives from `sent` on, in milliseconds (etcd counts whole seconds).
    pub ttl_ms: u64,
    /// When the renewal was sent. Deadlines count from here, never from the answer.
    pub sent: Instant,
}
