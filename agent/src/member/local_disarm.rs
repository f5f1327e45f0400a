//! A person has disarmed this host alone: the agent stands aside, opens what it had shut, and tells of it.
//!
//! What that means is decided in `holdfast-agent-core`'s `local`; the record is the command line's. What we had told others of
//! this host (a promise, an attestation) is taken back before anything of it is forgotten here.

use std::time::Duration;

use anyhow::{Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_store::{Compare, Write};
use holdfast_types::record::LocalDisarm;

use super::{Member, TICK, look};
use crate::act;

impl Member {
    /// Whether a local disarm of this host stands, by what was read last.
    pub fn disarmed_here(&self) -> bool {
        self.state().disarmed_here().is_some()
    }

    /// Reads the record again. A disk that does not answer changes nothing: what was known of it stands.
    pub(super) async fn look_for_order(&self, eyes: &mut look::Eyes) {
        let Some(read) = eyes.order.read(&self.config.state_dir).await else { return };
        let (found, problem) = match read {
            Ok(found) => (found, None),
            Err(problem) => (None, Some(problem)),
        };
        let cluster = &self.instance.cluster;
        let mut state = self.state();
        if state.local_problem != problem
            && let Some(problem) = &problem
        {
            tracing::error!(%cluster, "{problem}");
        }
        state.local_problem = problem;
        if state.local_disarm == found {
            return;
        }
        match &found {
            Some(record) if record.stands() => tracing::warn!(
                %cluster, "{record}: this agent stands aside, and Patroni alone decides here; I2 does not hold on this host"
            ),
            _ => tracing::info!(%cluster, "the local disarm of this host has ended"),
        }
        state.local_disarm = found;
        drop(state);
        // The guard and the kernel's dead-man are let go at once, or taken up again.
        self.fence_wake.notify_one();
    }

    /// What is done instead of everything else while a local disarm stands. Returns when to look again.
    pub(super) async fn stand_aside(&self, watched: &Cluster, connected: bool) -> Duration {
        let (record, installed) = {
            let mut state = self.state();
            state.would.clear();
            (state.disarmed_here().map(ToString::to_string), state.network.installed)
        };
        let mut waits: Vec<String> = record.into_iter().collect();
        if installed && let Err(error) = self.firewall.remove().await {
            waits.push(format!("replication is still restricted: {error}"));
        }
        if installed {
            self.state().network_generation = None;
        }
        if connected {
            if watched.known_mode().is_some() && self.contradiction(watched).is_none() {
                self.follow_records(watched).await;
            }
            if let Err(error) = self.take_back(watched).await {
                waits.push(format!("what this host had told others stands in etcd: {error:#}"));
            }
            if let Err(error) = act::facts::publish(self, watched).await {
                tracing::debug!(%error, "facts are not published");
            }
        } else {
            waits.push("etcd is not heard".into());
        }
        self.state().waits = waits;
        TICK
    }

    /// A promise that is no longer kept, a stop that is no longer certain.
    async fn take_back(&self, cluster: &Cluster) -> Result<()> {
        let me = &self.instance.member;
        if let Some(promise) = cluster.promises.get(me) {
            let key = self.keys.promise(me, promise.value.term);
            let compares = vec![Compare::ModRevision { key: key.clone(), is: promise.mod_revision }];
            if !act::armed_txn(self, cluster, act::txn(compares, vec![Write::Delete { key }])).await? {
                bail!("etcd has changed since it was read");
            }
            tracing::warn!(cluster = %self.instance.cluster, term = promise.value.term.0, "promise taken back: a local disarm opened this host");
        }
        let ours = cluster.attestation.as_ref().filter(|found| found.value.holder == *me);
        if let (Some(word), Some(term)) = (ours, &cluster.term) {
            act::attest::withdraw(self, cluster, word.mod_revision, term.mod_revision).await?;
        }
        let (bound, shut) = {
            let state = self.state();
            (state.phase.is_some(), state.remembered.attesting || state.remembered.ends_hung)
        };
        if bound {
            self.set_phase(None).await?;
        }
        if shut {
            self.remember(|remembered| (remembered.attesting, remembered.ends_hung) = (false, false)).await;
        }
        Ok(())
    }
}

impl super::State {
    /// The local disarm that stands.
    pub fn disarmed_here(&self) -> Option<&LocalDisarm> {
        self.local_disarm.as_ref().filter(|record| record.stands())
    }
}
