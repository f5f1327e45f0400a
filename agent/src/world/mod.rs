//! What etcd says: a mirror that is kept by one watch, and linearizable reads for what a decision rests on.
//!
//! Decides nothing. The mirror wakes the members and poolers of this host; whatever acts reads again by [`World::read`].

mod decode;
pub mod patroni;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use holdfast_agent_core::cluster::Cluster;
use holdfast_host::clock;
use holdfast_store::{KeyValue, Read, Reading, Store, StoreError, WatchEvent};
use holdfast_types::keys::{self, ClusterKeys};
use holdfast_types::{ClusterId, RegionName};
use tokio::sync::watch;

/// How many earlier values of `/sync` are looked up at most (rule 2); more of them in one reign's floor record means
/// that the writer has not published one for long, and the answer is unknown.
const SYNC_HISTORY_MAX: usize = 32;

/// What the watch has told so far.
#[derive(Debug, Default)]
pub struct Mirror {
    /// Whether etcd is heard at the moment.
    pub connected: bool,
    /// Since when it is not, `CLOCK_BOOTTIME` in milliseconds.
    silent_since_ms: Option<u64>,
    /// The newest revision that was told of.
    pub revision: i64,
    pairs: BTreeMap<String, KeyValue>,
}

impl Mirror {
    /// Whether etcd was heard to have lost a key since this revision.
    pub fn has_lost(&self, key: &str, since_revision: i64) -> bool {
        self.connected && self.revision > since_revision && !self.pairs.contains_key(key)
    }

    fn apply(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Snapshot(Reading { revision, pairs, .. }) => {
                (self.connected, self.silent_since_ms) = (true, None);
                self.revision = revision;
                self.pairs = pairs.into_iter().map(|pair| (pair.key.clone(), pair)).collect();
            }
            WatchEvent::Changes { revision, puts, deletes } => {
                self.revision = self.revision.max(revision);
                for key in deletes {
                    self.pairs.remove(&key);
                }
                for pair in puts {
                    self.pairs.insert(pair.key.clone(), pair);
                }
            }
            WatchEvent::Disconnected { why } => {
                self.connected = false;
                self.silent_since_ms.get_or_insert_with(clock::boottime_ms);
                tracing::warn!(%why, "etcd is not heard; nothing is promised, closed or opened until it is");
            }
        }
    }
}

/// The store as the rest of the agent sees it.
pub struct World {
    /// The store itself, for transactions and leases.
    pub store: Arc<dyn Store>,
    region: RegionName,
    mirror: watch::Receiver<Mirror>,
    /// What was decoded last of each cluster, by its prefix: an idle cluster is looked at far more often than it changes.
    decoded: Mutex<BTreeMap<String, Cluster>>,
}

impl World {
    /// Starts the one watch over all of `clusters` and the region's sessions. Its task ends with the runtime.
    pub fn start(store: Arc<dyn Store>, region: &RegionName, clusters: &[ClusterId]) -> Self {
        let mut prefixes = vec![keys::sessions(region)];
        for cluster in clusters {
            let keys = ClusterKeys::new(cluster);
            for prefix in [keys.prefix().to_owned(), keys.patroni_prefix().to_owned()] {
                if !prefixes.contains(&prefix) {
                    prefixes.push(prefix);
                }
            }
        }
        let mut watch = store.watch(prefixes);
        let (sender, mirror) = watch::channel(Mirror::default());
        tokio::spawn(async move {
            loop {
                let event = watch.next().await;
                sender.send_modify(|mirror| mirror.apply(event));
            }
        });
        Self { store, region: region.clone(), mirror, decoded: Mutex::default() }
    }

    /// A receiver that wakes at every change.
    pub fn changes(&self) -> watch::Receiver<Mirror> {
        self.mirror.clone()
    }

    /// Whether etcd is heard at the moment.
    pub fn is_connected(&self) -> bool {
        self.mirror.borrow().connected
    }

    /// For how long etcd has not been heard, after it was, in milliseconds; `None` while it is.
    pub fn silent_ms(&self, now_ms: u64) -> Option<u64> {
        self.mirror.borrow().silent_since_ms.map(|since_ms| now_ms.saturating_sub(since_ms))
    }

    /// The cluster as the watch shows it, and whether etcd is heard.
    pub fn watched(&self, keys: &ClusterKeys) -> (Cluster, bool) {
        let mirror = self.mirror.borrow();
        let mut decoded = self.decoded.lock().expect("nobody panics while decoding");
        match decoded.get(keys.prefix()).filter(|known| known.revision == mirror.revision) {
            Some(known) => (known.clone(), mirror.connected),
            None => {
                let cluster = decode::cluster(keys, &self.region, mirror.revision, mirror.pairs.values());
                decoded.insert(keys.prefix().to_owned(), cluster.clone());
                (cluster, mirror.connected)
            }
        }
    }

    /// The cluster by a linearizable read, with as much of the history of `/sync` as rule 2 needs.
    pub async fn read(&self, keys: &ClusterKeys) -> Result<Cluster, StoreError> {
        let what = [keys::sessions(&self.region), keys.prefix().to_owned(), keys.patroni_prefix().to_owned()];
        let reading = self.store.read(what.into_iter().map(Read::Prefix).collect()).await?;
        let mut cluster = decode::cluster(keys, &self.region, reading.revision, reading.pairs.iter());
        self.read_sync_history(keys, &mut cluster).await?;
        Ok(cluster)
    }

    async fn read_sync_history(&self, keys: &ClusterKeys, cluster: &mut Cluster) -> Result<(), StoreError> {
        let (Some(floor), Some(sync)) = (&cluster.floor, &cluster.sync) else { return Ok(()) };
        let known = floor.value.sync_version;
        let (mut version, mut revision) = (sync.version, sync.mod_revision);
        while version > known + 1 && cluster.sync_history.len() < SYNC_HISTORY_MAX {
            match self.store.read_at(keys.patroni_sync(), revision - 1).await {
                Ok(Some(pair)) => {
                    let Ok(older) = patroni::sync(&pair) else { return Ok(()) };
                    (version, revision) = (older.version, older.mod_revision);
                    cluster.sync_history.push(older);
                }
                // What is not found stays unknown, and CLOSE refuses (rule 2).
                Ok(None) | Err(StoreError::Compacted { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
