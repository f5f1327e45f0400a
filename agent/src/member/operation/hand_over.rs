//! Handing over: Patroni's order, and the stop of PostgreSQL. What comes of it is seen by the term record.
//!
//! The order is written into Patroni's key `/failover`, as its REST API would, in a transaction that holds only while the very
//! operation, term and mode stand. Patroni looks at the key at once, and refuses by emptying it. An order that names another
//! leader than the present one is dropped by Patroni: one that comes late does nothing.

use std::sync::Arc;
use std::time::Duration;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::planned::{self, HandOver};
use holdfast_host::clock;
use holdfast_host::process::PidFd;
use holdfast_store::{Compare, Write};
use holdfast_types::MemberName;
use holdfast_types::record::{OperationPhase, PhaseDone};

use super::Outcome;
use crate::act::{armed_txn, not_fenced, term_is, txn};
use crate::disk;
use crate::member::Member;
use crate::observe::processes::{self, Postmaster};
use crate::world::patroni::OPERATION;

/// A coordinator waits no longer for what becomes of the order.
const WATCHED_FOR: Duration = Duration::from_secs(60);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(500);

impl Member {
    /// Gives the order, once it is known to be wanted by a read of etcd. `None`: it is looked at again.
    pub(super) async fn order_hand_over(self: &Arc<Self>, operation: u64) -> Option<Outcome> {
        let fresh = self.fresh().await?;
        match planned::hand_over(&fresh, &self.instance.member, operation, clock::wall_ms()) {
            HandOver::Over => None,
            // By an earlier start of this agent.
            HandOver::Ordered => {
                tokio::spawn(Arc::clone(self).say_if_taken_back(operation));
                Some(Ok(None))
            }
            HandOver::Refused(why) => Some(Err(why)),
            HandOver::Order { successor, stop_at_once } => {
                if let Err(error) = self.order(&fresh, operation, &successor).await {
                    tracing::debug!(operation, "the order was not given: {error:#}; looked at again");
                    return None;
                }
                if stop_at_once {
                    self.stop_postgres(operation).await;
                }
                tokio::spawn(Arc::clone(self).say_if_taken_back(operation));
                Some(Ok(None))
            }
        }
    }

    async fn order(&self, cluster: &Cluster, operation: u64, successor: &MemberName) -> anyhow::Result<()> {
        let (leader, member) = (self.instance.member.as_str(), successor.as_str());
        let order = serde_json::json!({ "leader": leader, "member": member, OPERATION: operation });
        let write = Write::put(self.keys.patroni_failover(), order.to_string());
        let compares = [self.unchanged(cluster), vec![not_fenced(self, successor)]].concat();
        if !armed_txn(self, cluster, txn(compares, vec![write])).await? {
            anyhow::bail!("etcd has changed since it was read");
        }
        Ok(())
    }

    /// Term, operation and order are what they were.
    fn unchanged(&self, cluster: &Cluster) -> Vec<Compare> {
        let revision = |key: String, is: i64| Compare::ModRevision { key, is };
        vec![
            term_is(self, cluster.term.as_ref().map_or(0, |term| term.mod_revision)),
            revision(self.keys.operation(), cluster.operation.as_ref().map_or(0, |found| found.mod_revision)),
            revision(self.keys.patroni_failover(), cluster.failover_mod_revision),
        ]
    }

    /// Takes back what an operation has ordered that does not hand over any more. Returns whether nothing is left of it.
    pub(super) async fn take_order_back(&self) -> bool {
        let Some(fresh) = self.fresh().await else { return false };
        if !planned::is_left_over(&fresh, &self.instance.member) {
            return true;
        }
        let write = Write::Delete { key: self.keys.patroni_failover() };
        match armed_txn(self, &fresh, txn(self.unchanged(&fresh), vec![write])).await {
            Ok(true) => {
                let operation = fresh.failover_operation;
                tracing::info!(
                    operation,
                    "the order to hand over is taken back: its operation does so no more"
                );
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::debug!("the order to hand over is not taken back yet: {error:#}");
                false
            }
        }
    }

    /// A fast shutdown, as Patroni orders it. Where it cannot be told which process that is, Patroni does it a moment later.
    async fn stop_postgres(&self, operation: u64) {
        let Some(pid) = self.state().postmaster else { return };
        // Opened before it is looked at: the process that is seen is the one that is meant.
        let Ok(postmaster) = PidFd::open(pid) else { return };
        let (cgroup, data_dir) = (self.instance.cgroup.clone(), self.instance.data_dir.clone());
        let seen = disk::look(move || processes::look(&cgroup, &data_dir).postmaster).await;
        if !matches!(seen, Ok(Postmaster::Alive(seen)) if seen == pid) {
            return;
        }
        match postmaster.interrupt() {
            Ok(()) => tracing::info!(operation, pid, "PostgreSQL is told to stop: it hands over"),
            Err(error) => tracing::debug!(operation, pid, %error, "PostgreSQL's stop is left to Patroni"),
        }
    }

    /// Patroni has taken the order up and given up: says so, while that is the state of things.
    async fn say_if_taken_back(self: Arc<Self>, operation: u64) {
        let until = tokio::time::Instant::now() + WATCHED_FOR;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            let Ok(fresh) = self.world.read(&self.keys).await else { continue };
            match planned::hand_over(&fresh, &self.instance.member, operation, clock::wall_ms()) {
                HandOver::Over => return,
                HandOver::Ordered => {}
                HandOver::Order { .. } | HandOver::Refused(_) => {
                    let phase = OperationPhase::HandOver;
                    let why = "Patroni has taken the order and dropped it; its log says why".to_owned();
                    let done = PhaseDone { operation, phase, problem: Some(why), remark: None };
                    if let Err(error) = self.say(&done).await {
                        tracing::debug!(%error, "that Patroni has dropped the order is not said yet");
                        continue;
                    }
                    return;
                }
            }
        }
    }
}
