//! How Patroni keeps `/sync` and `synchronous_standby_names`: `_process_quorum_replication` and its helpers.

use std::collections::BTreeSet;
use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::sync::AnySetting;
use holdfast_store::{Compare, Write};
use holdfast_types::MemberName;
use serde_json::json;

use super::quorum::{Resolver, Seen, Transition};
use super::{DcsError, Patroni};
use crate::simulator::executor::ms;
use crate::simulator::postgres::{SyncNames, members};

impl Patroni {
    /// One round of the leader. It works from the cached `/sync`, and each write names the version before it.
    pub(super) async fn process_quorum_replication(&self, cluster: &Cluster) -> Result<(), DcsError> {
        let Some(sync) = &cluster.sync else {
            // `_maybe_enable_synchronous_mode`.
            self.put_sync(self.me(), 0, &BTreeSet::new(), 0).await?;
            return Ok(());
        };
        let Some(leader) = &sync.leader else { return Ok(()) };
        let mut mod_revision = sync.mod_revision;
        let mut known = (leader.clone(), sync.quorum, sync.sync_standby.clone());
        for _ in 0..2 {
            let seen = self.current_state();
            let steps = Resolver::new(known.clone(), seen, self.world.setup.sync_wanted, self.me().clone());
            let mut again = false;
            for step in steps.transitions() {
                match step {
                    Transition::Quorum { leader, quorum, voters } => {
                        let put = self.put_sync(&leader, quorum, &voters, mod_revision).await?;
                        let Some(revision) = put else { return Ok(()) };
                        (mod_revision, known) = (revision, (leader, quorum, voters));
                    }
                    Transition::Sync { numsync, sync } => self.set_sync_names(sync, numsync).await,
                    Transition::Restart => again = true,
                }
            }
            if !again {
                return Ok(());
            }
            self.world.executor.sleep(ms(1_000)).await;
        }
        Ok(())
    }

    /// `None`: somebody else has changed it.
    async fn put_sync(
        &self,
        leader: &MemberName,
        quorum: usize,
        voters: &BTreeSet<MemberName>,
        mod_revision: i64,
    ) -> Result<Option<i64>, DcsError> {
        let listed: Vec<&str> = voters.iter().map(MemberName::as_str).collect();
        let value = json!({ "leader": leader.as_str(), "sync_standby": listed.join(","), "quorum": quorum });
        let key = self.world.keys.patroni_sync();
        let compare = Compare::ModRevision { key: key.clone(), is: mod_revision };
        let txn = holdfast_store::Txn {
            compares: vec![compare],
            writes: vec![Write::put(key, value.to_string())],
            otherwise_read: Vec::new(),
        };
        Ok(match self.client.txn(txn).await? {
            holdfast_store::TxnOutcome::Succeeded { revision } => {
                self.say(&format_args!("puts /sync: {leader}, {quorum} of ({})", listed.join(", ")));
                Some(revision)
            }
            holdfast_store::TxnOutcome::Refused { .. } => {
                self.say(&"/sync has been changed by somebody else");
                None
            }
        })
    }

    fn current_state(&self) -> Seen {
        let nothing = || Seen { numsync: 0, sync: BTreeSet::new(), confirmed: 0, active: BTreeSet::new() };
        let Some(postmaster) = self.here().postmaster() else { return nothing() };
        let senders = self.world.heard_standbys(&postmaster);
        let (numsync, sync) = match &postmaster.live.borrow().sync_names {
            SyncNames::Empty => (0, BTreeSet::new()),
            SyncNames::Anybody(count) => (*count, BTreeSet::new()),
            SyncNames::Any(setting) => (setting.acknowledgements, setting.names.clone()),
        };
        let mut state = self.state.borrow_mut();
        let caught_up = senders.iter().filter(|(_, flushed)| **flushed >= state.setting_changed_at);
        let caught_up = members(&self.world, caught_up.map(|(host, _)| *host));
        state.ready.extend(caught_up.intersection(&sync).cloned());
        let active = members(&self.world, senders.keys().copied());
        let confirmed = active.intersection(&state.ready).count();
        Seen { numsync, sync, confirmed, active }
    }

    /// Writes the setting and reloads; it is in force a moment later.
    pub(super) async fn set_sync_names(&self, names: BTreeSet<MemberName>, count: usize) {
        let new = match (names.is_empty(), count) {
            (true, 0) => SyncNames::Empty,
            (true, count) => SyncNames::Anybody(count),
            (false, count) => SyncNames::Any(AnySetting { acknowledgements: count, names: names.clone() }),
        };
        self.say(&format_args!("sets synchronous_standby_names: {new:?}"));
        self.here().data.borrow_mut().sync_names = new.clone();
        let Some(postmaster) = self.here().postmaster() else { return };
        let (later, world) = (Rc::clone(&postmaster), Rc::clone(&self.world));
        let delay_us = self.world.random(500, ms(60));
        self.world.executor.spawn(postmaster.process, async move {
            world.executor.sleep(delay_us).await;
            later.live.borrow_mut().sync_names = new;
            later.changed.raise();
        });
        self.world.executor.sleep(ms(100)).await;
        let mut state = self.state.borrow_mut();
        state.setting_changed_at = self.here().data.borrow().wal.len();
        state.ready.retain(|member| names.contains(member));
    }
}
