//! Mode `observe`: every decision is computed, recorded as *would have ...*, and nothing acts.

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::Decision;
use holdfast_agent_core::observe;
use holdfast_host::clock;
use holdfast_store::{Compare, Read, Txn, Write};
use holdfast_types::Mode;
use holdfast_types::record::{Stored, WouldLine, WouldRecord};

use super::Member;
use crate::act;

impl Member {
    /// The cluster that decisions are made on: as it is, or, while observing, as if it were armed.
    pub(super) fn considered(&self, cluster: Cluster) -> Cluster {
        if cluster.known_mode() != Some(Mode::Observe) {
            return cluster;
        }
        let term = {
            let mut state = self.state();
            state.shadow = observe::imagine(state.shadow.as_ref(), &cluster);
            state.shadow.clone()
        };
        match term {
            Some(term) => observe::as_if_armed(cluster, term),
            None => cluster,
        }
    }

    /// Records what is new in a decision that is not acted on: in the log, for `status`, and in etcd.
    pub(super) async fn record_would(&self, decision: &Decision) {
        let worth_saying = decision.actions.iter().filter(|action| observe::is_worth_saying(action));
        let would: Vec<String> = worth_saying.map(act::describe).collect();
        let new: Vec<String> = {
            let mut state = self.state();
            state.waits.clone_from(&decision.waits);
            let new = would.iter().filter(|line| !state.would.contains(line)).cloned().collect();
            state.would = would;
            new
        };
        for line in &new {
            tracing::info!(cluster = %self.instance.cluster, "would have {line}");
        }
        if !new.is_empty()
            && let Err(error) = self.keep_would(&new).await
        {
            tracing::warn!(cluster = %self.instance.cluster, %error, "what would have been done is not recorded in etcd");
        }
    }

    async fn keep_would(&self, new: &[String]) -> anyhow::Result<()> {
        let key = self.keys.would(&self.instance.member);
        let found = self.world.store.read(vec![Read::Key(key.clone())]).await?;
        let stored = holdfast_store::decode_from::<WouldRecord>(&found, &key)?
            .unwrap_or_else(|| Stored::new(WouldRecord::default()));
        let mut record = stored.body.clone();
        let at_wall_ms = clock::wall_ms();
        for text in new {
            record.push(WouldLine { at_wall_ms, text: text.clone() });
        }
        let compares = vec![Compare::ModRevision { key: key.clone(), is: found.mod_revision(&key) }];
        let writes = vec![Write::put(key, stored.with_body(record).encode())];
        self.world.store.txn(Txn { compares, writes, otherwise_read: Vec::new() }).await?;
        Ok(())
    }
}
