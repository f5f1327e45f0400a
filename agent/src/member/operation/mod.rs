//! A member's part in a planned operation, most of it the writer's: what a phase asks of its PostgreSQL and its Patroni is done,
//! and how it went is said in etcd.
//!
//! One task beside the member's loop: a checkpoint takes seconds, and nothing else waits for it. It may be killed at any line:
//! what was answered is not done again, and what was not is done again without harm. Decides nothing: that is
//! `holdfast-agent-core`'s `planned`.

mod hand_over;
mod prepare;
mod restart;

use std::sync::Arc;
use std::time::Duration;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::planned::{self, Task};
use holdfast_host::clock;
use holdfast_store::{StoreError, Txn, Write};
use holdfast_types::record::{PhaseDone, Stored};
use tokio::sync::watch;

use super::Member;
use crate::world::Mirror;

/// It is looked at this often when nothing changes.
const TICK: Duration = Duration::from_secs(10);
/// What could not be done or said is tried again after this.
const AGAIN: Duration = Duration::from_millis(200);

impl Member {
    /// Runs until the runtime ends.
    pub(super) async fn take_part(self: Arc<Self>) {
        let mut changes = self.world.changes();
        // What was answered last, and whether it stands in etcd: the watch may not show it yet.
        let (mut said, mut stands) = (None::<PhaseDone>, true);
        loop {
            changes.mark_unchanged();
            let mut wait = TICK;
            if let Some(task) = self.task(said.as_ref()) {
                match self.perform(&task, changes.clone()).await {
                    Some(done) => (said, stands) = (Some(done), false),
                    None => wait = AGAIN,
                }
            }
            if let Some(done) = said.as_ref().filter(|_| !stands) {
                match self.say(done).await {
                    Ok(()) => stands = true,
                    Err(error) => {
                        tracing::debug!(cluster = %self.instance.cluster, %error, "how a phase went is not said yet");
                        wait = AGAIN;
                    }
                }
            }
            if self.is_order_left_over() && !self.take_order_back().await {
                wait = AGAIN;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn is_order_left_over(&self) -> bool {
        let (cluster, connected) = self.world.watched(&self.keys);
        connected && !self.disarmed_here() && planned::is_left_over(&cluster, &self.instance.member)
    }

    /// What is to be done now, by what the watch shows.
    fn task(&self, said: Option<&PhaseDone>) -> Option<Task> {
        let (cluster, connected) = self.world.watched(&self.keys);
        if !connected || self.disarmed_here() || self.contradiction(&cluster).is_some() {
            return None;
        }
        planned::task(&cluster, &self.instance.member, said, clock::wall_ms())
    }

    /// Does it, for as long as it is wanted; `None`: it is looked at again.
    async fn perform(self: &Arc<Self>, task: &Task, changes: watch::Receiver<Mirror>) -> Option<PhaseDone> {
        let (operation, phase) = task.place();
        let cluster = &self.instance.cluster;
        tracing::info!(%cluster, operation, %phase, "this member's part of an operation");
        let outcome = match task {
            Task::Prepare { drain_timeout_ms, terminate, .. } => tokio::select! {
                outcome = self.prepare(operation, *drain_timeout_ms, *terminate) => outcome?,
                () = self.no_longer(task, changes) => return None,
            },
            Task::HandOver { .. } => self.order_hand_over(operation).await?,
            Task::Restart { .. } => self.restart_in_place(operation).await?,
        };
        let (problem, remark) = match outcome {
            Ok(remark) => (None, remark),
            Err(problem) => (Some(problem), None),
        };
        if let Some(problem) = &problem {
            tracing::warn!(%cluster, operation, %phase, "this member's part of an operation failed: {problem}");
        }
        Some(PhaseDone { operation, phase, problem, remark })
    }

    /// Waits until the task is wanted no longer. While etcd is not heard it may still be.
    async fn no_longer(&self, task: &Task, mut changes: watch::Receiver<Mirror>) {
        loop {
            changes.mark_unchanged();
            if self.world.is_connected() && self.task(None).as_ref() != Some(task) {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The cluster by a linearizable read, before anything is done to Patroni. `None`: it is looked at again.
    async fn fresh(&self) -> Option<Cluster> {
        match self.world.read(&self.keys).await {
            Ok(fresh) => Some(fresh).filter(|fresh| self.contradiction(fresh).is_none()),
            Err(error) => {
                tracing::debug!(%error, "nothing is ordered of Patroni without a linearizable read");
                None
            }
        }
    }

    /// Says in etcd how a phase went.
    async fn say(&self, done: &PhaseDone) -> Result<(), StoreError> {
        let key = self.keys.done(&self.instance.member);
        let write = Write::put(key, Stored::new(done.clone()).encode());
        self.world.store.txn(Txn { writes: vec![write], ..Txn::default() }).await.map(drop)
    }
}

/// How it went: done, perhaps with a remark, or the problem.
type Outcome = Result<Option<String>, String>;
