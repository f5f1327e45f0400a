//! An application host: its clients connect to the members of a cluster directly, and a lost writer is refused to them.
//!
//! A host that is gone answers nothing, and a client that names several hosts waits for it at every attempt, at least 2 s
//! with libpq. Here the kernel answers in its place, with a reset. Connections that were open end too. Decides nothing:
//! whom to refuse is `holdfast-agent-core`'s `route::lost_writers`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_agent_core::route;
use holdfast_host::{nftables, sockets};
use holdfast_types::ClusterId;
use holdfast_types::keys::ClusterKeys;

use crate::local_disarm;
use crate::world::World;

/// What failed is tried again after this.
const RETRY: Duration = Duration::from_millis(200);
/// It is looked at this often when nothing changes.
const TICK: Duration = Duration::from_secs(10);

/// The task of one cluster.
pub struct Client {
    name: String,
    keys: ClusterKeys,
    world: Arc<World>,
    refuse: nftables::Refuse,
    /// `None` until it has been put in place: an earlier start of the agent may have left a table.
    refused: Option<BTreeSet<(String, u16)>>,
    state_dir: PathBuf,
    order: local_disarm::Reader,
}

impl Client {
    /// Prepares the task.
    pub fn new(cluster: &ClusterId, world: Arc<World>, state_dir: &Path) -> Self {
        Self {
            name: cluster.to_string(),
            keys: ClusterKeys::new(cluster),
            world,
            refuse: nftables::Refuse::new(&format!("client.{}.{}", cluster.namespace, cluster.scope)),
            refused: None,
            state_dir: state_dir.to_owned(),
            order: local_disarm::Reader::default(),
        }
    }

    /// Runs until the runtime ends.
    pub async fn run(mut self) {
        let mut changes = self.world.changes();
        loop {
            changes.mark_unchanged();
            let (cluster, connected) = self.world.watched(&self.keys);
            let mut wait = TICK;
            // Without etcd nothing is known: whoever is refused stays refused, and nobody else.
            // A person has opened this host: nobody is refused.
            let stands_aside = self.order.stands(&self.state_dir).await;
            if connected || stands_aside {
                let lost = || route::lost_writers(&cluster).unwrap_or_default();
                let wanted = if stands_aside { BTreeSet::new() } else { lost() };
                if self.refused.as_ref() != Some(&wanted)
                    && let Err(error) = self.apply(wanted).await
                {
                    tracing::warn!(cluster = self.name, "{error:#}; tried again");
                    wait = RETRY;
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn apply(&mut self, wanted: BTreeSet<(String, u16)>) -> Result<()> {
        let list: Vec<_> = wanted.iter().cloned().collect();
        self.refuse.only(&list).await.context("refusing lost writers")?;
        let known = self.refused.clone().unwrap_or_default();
        for (address, port) in wanted.difference(&known) {
            sockets::destroy(address, *port).await.context("closing connections to a lost writer")?;
        }
        if wanted != known {
            tracing::warn!(cluster = self.name, ?wanted, "clients of this host are refused these writers");
        }
        self.refused = Some(wanted);
        Ok(())
    }
}
