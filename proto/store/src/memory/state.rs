//! etcd's semantics as plain data: revisions, versions, history, compaction, leases. No time of its own: `now` is given.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Compare, KeyValue, Read, Reading, StoreError, Txn, TxnOutcome, Write};

/// etcd's default for `--max-txn-ops`.
const TXN_OPERATIONS_MAX: usize = 128;
/// etcd's floor for a lease: one and a half election timeouts of 1 s, rounded up.
const LEASE_TTL_S_MIN: i64 = 2;
/// Any number will do, as long as it stays the same for one store.
const CLUSTER_ID: u64 = 0x686f_6c64;

/// One change of one key; `after` is absent when it was deleted.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub revision: i64,
    pub key: String,
    pub after: Option<KeyValue>,
}

#[derive(Debug)]
struct Lease {
    ttl_s: i64,
    ends: Duration,
}

#[derive(Debug)]
pub(super) struct State {
    pub revision: i64,
    keys: BTreeMap<String, KeyValue>,
    history: Vec<Change>,
    compacted: i64,
    leases: BTreeMap<i64, Lease>,
    leases_granted: i64,
}

impl State {
    pub fn new() -> Self {
        // A new etcd stands at revision 1.
        let (keys, leases) = (BTreeMap::new(), BTreeMap::new());
        Self { revision: 1, keys, history: Vec::new(), compacted: 0, leases, leases_granted: 0 }
    }

    pub fn read(&self, what: &[Read]) -> Reading {
        let mut pairs = Vec::new();
        for read in what {
            match read {
                Read::Key(key) => pairs.extend(self.keys.get(key).cloned()),
                Read::Prefix(prefix) => pairs.extend(self.below(prefix).cloned()),
            }
        }
        Reading { revision: self.revision, cluster_id: CLUSTER_ID, pairs }
    }

    fn below<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = &'s KeyValue> {
        let from_prefix = self.keys.range(prefix.to_owned()..);
        from_prefix.take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, pair)| pair)
    }

    pub fn read_at(&self, key: &str, revision: i64) -> Result<Option<KeyValue>, StoreError> {
        let call = "read_at";
        if revision < self.compacted {
            return Err(StoreError::Compacted { call, revision });
        }
        if revision > self.revision {
            let why = format!("revision {revision} is in the future, etcd stands at {}", self.revision);
            return Err(StoreError::Refused { call, why });
        }
        let last = self.history.iter().rfind(|change| change.key == key && change.revision <= revision);
        Ok(last.and_then(|change| change.after.clone()))
    }

    pub fn changes_after(&self, revision: i64) -> Option<impl Iterator<Item = &Change>> {
        // A reader that stands before the compaction has missed changes that are no longer known.
        (revision >= self.compacted).then(|| self.history.iter().filter(move |c| c.revision > revision))
    }

    pub fn compact(&mut self, revision: i64) {
        self.compacted = revision.clamp(self.compacted, self.revision);
        let mut kept: Vec<Change> = Vec::new();
        let mut newest_old: BTreeMap<String, Change> = BTreeMap::new();
        for change in self.history.drain(..) {
            if change.revision > self.compacted {
                kept.push(change);
            } else {
                newest_old.insert(change.key.clone(), change);
            }
        }
        self.history = newest_old.into_values().filter(|change| change.after.is_some()).chain(kept).collect();
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        check_shape(txn)?;
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            let read: Vec<Read> = txn.otherwise_read.iter().cloned().map(Read::Key).collect();
            let reading = self.read(&read);
            return Ok(TxnOutcome::Refused { revision: reading.revision, read: reading.pairs });
        }
        for write in &txn.writes {
            self.check_write(write)?;
        }
        let revision = self.revision + 1;
        for write in &txn.writes {
            self.write(write, revision);
        }
        if self.history.last().is_some_and(|change| change.revision == revision) {
            self.revision = revision;
        }
        Ok(TxnOutcome::Succeeded { revision: self.revision })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let number = |key: &str, field: fn(&KeyValue) -> i64| self.keys.get(key).map_or(0, field);
        match compare {
            Compare::ModRevision { key, is } => number(key, |pair| pair.mod_revision) == *is,
            Compare::CreateRevision { key, is } => number(key, |pair| pair.create_revision) == *is,
            Compare::Version { key, is } => number(key, |pair| pair.version) == *is,
            Compare::Lease { key, is } => number(key, |pair| pair.lease) == *is,
            Compare::Value { key, is } => self.keys.get(key).is_some_and(|pair| pair.value == *is),
        }
    }

    fn check_write(&self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease) => {
                Err(StoreError::LeaseNotFound { call: "txn" })
            }
            Write::PutSameValue { key } if !self.keys.contains_key(key) => Err(refused("key not found")),
            _ => Ok(()),
        }
    }

    fn write(&mut self, write: &Write, revision: i64) {
        match write {
            Write::Put { key, value, lease } => self.put(key, value.clone(), *lease, revision),
            Write::PutSameValue { key } => {
                let same = self.keys.get(key).map(|pair| (pair.value.clone(), pair.lease));
                let (value, lease) = same.expect("check_write has seen the key");
                self.put(key, value, lease, revision);
            }
            Write::Delete { key } => self.delete(key, revision),
            Write::DeletePrefix { prefix } => {
                let doomed: Vec<String> = self.below(prefix).map(|pair| pair.key.clone()).collect();
                for key in doomed {
                    self.delete(&key, revision);
                }
            }
        }
    }

    fn put(&mut self, key: &str, value: Vec<u8>, lease: i64, revision: i64) {
        let before = self.keys.get(key);
        let pair = KeyValue {
            key: key.to_owned(),
            value,
            create_revision: before.map_or(revision, |pair| pair.create_revision),
            mod_revision: revision,
            version: before.map_or(0, |pair| pair.version) + 1,
            lease,
        };
        self.history.push(Change { revision, key: key.to_owned(), after: Some(pair.clone()) });
        self.keys.insert(key.to_owned(), pair);
    }

    fn delete(&mut self, key: &str, revision: i64) {
        if self.keys.remove(key).is_some() {
            self.history.push(Change { revision, key: key.to_owned(), after: None });
        }
    }

    pub fn grant(&mut self, ttl_s: i64, now: Duration) -> i64 {
        self.leases_granted += 1;
        let (id, ttl_s) = (self.leases_granted, ttl_s.max(LEASE_TTL_S_MIN));
        self.leases.insert(id, Lease { ttl_s, ends: now + seconds(ttl_s) });
        id
    }

    /// Renews a lease and says how long it lives now, in seconds.
    pub fn keep_alive(&mut self, id: i64, now: Duration) -> Option<i64> {
        let lease = self.leases.get_mut(&id)?;
        lease.ends = now + seconds(lease.ttl_s);
        Some(lease.ttl_s)
    }

    pub fn remaining(&self, id: i64, now: Duration) -> Option<Duration> {
        self.leases.get(&id).map(|lease| lease.ends.saturating_sub(now))
    }

    /// Ends a lease; its keys go at one revision.
    pub fn revoke(&mut self, id: i64) -> bool {
        if self.leases.remove(&id).is_none() {
            return false;
        }
        let doomed: Vec<String> =
            self.keys.values().filter(|pair| pair.lease == id).map(|pair| pair.key.clone()).collect();
        if !doomed.is_empty() {
            self.revision += 1;
            for key in doomed {
                self.delete(&key, self.revision);
            }
        }
        true
    }

    /// Ends every lease whose time is over.
    pub fn expire(&mut self, now: Duration) {
        let over = self.leases.iter().filter(|(_, lease)| lease.ends <= now);
        let over: Vec<i64> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.revoke(id);
        }
    }

    pub fn next_expiry(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.ends).min()
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

fn refused(why: impl Into<String>) -> StoreError {
    StoreError::Refused { call: "txn", why: why.into() }
}

/// What etcd refuses before it looks at a comparison.
fn check_shape(txn: &Txn) -> Result<(), StoreError> {
    if txn.writes.len().max(txn.compares.len()).max(txn.otherwise_read.len()) > TXN_OPERATIONS_MAX {
        return Err(refused("too many operations in txn request"));
    }
    let put = |write: &Write| match write {
        Write::Put { key, .. } | Write::PutSameValue { key } => Some(key.clone()),
        Write::Delete { .. } | Write::DeletePrefix { .. } => None,
    };
    let touched = |write: &Write, key: &str| match write {
        Write::Put { key: other, .. } | Write::PutSameValue { key: other } | Write::Delete { key: other } => {
            other == key
        }
        Write::DeletePrefix { prefix } => key.starts_with(prefix.as_str()),
    };
    for (place, key) in txn.writes.iter().enumerate().filter_map(|(place, write)| Some((place, put(write)?)))
    {
        if key.is_empty() {
            return Err(refused("key is not provided"));
        }
        if txn.writes.iter().enumerate().any(|(other, write)| other != place && touched(write, &key)) {
            return Err(refused("duplicate key given in txn request"));
        }
    }
    Ok(())
}
