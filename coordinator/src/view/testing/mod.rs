//! Views for tests.

pub mod built;
pub mod built_host;
pub mod host;

pub use built::{Built, NOW_WALL_MS, db};

use holdfast_store::{KeyValue, Reading};

use super::cluster::ClusterView;

impl Built {
    /// The keys as one reading; each key's revision is its place; a stale one is older than all others.
    pub fn reading(&self) -> Reading {
        let pairs: Vec<KeyValue> = self
            .pairs
            .iter()
            .zip(2..)
            .map(|((key, value), place)| (key, value, if self.stale.contains(key) { 1 } else { place }))
            .map(|(key, value, revision)| KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                lease: 0,
            })
            .collect();
        Reading { revision: 1_000, cluster_id: 7, pairs }
    }

    /// The view of it.
    pub fn view(&self) -> ClusterView {
        ClusterView::new(self.cluster.clone(), &self.reading(), NOW_WALL_MS)
    }
}

/// The view of [`Built::healthy`].
pub fn healthy() -> ClusterView {
    Built::healthy().view()
}
