//! `agent/src/member/operation/*.rs`: a member's part in a planned operation.

use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::planned::{self, HandOver, Task};
use holdfast_store::{Compare, Write};
use holdfast_types::MemberName;
use holdfast_types::record::{OperationPhase, PhaseDone, Stored};

use super::{Agent, Done, Failed};
use crate::simulator::executor::{ms, wait};
use crate::simulator::mutant::Mutant;

const TICK_US: u64 = ms(10_000);
const AGAIN_US: u64 = ms(200);
const WATCHED_FOR_US: u64 = ms(60_000);
const LOOK_US: u64 = ms(500);

type Outcome = Result<Option<String>, String>;

impl Agent {
    pub(super) async fn take_part(self: Rc<Self>) {
        let (mut said, mut stands) = (None::<PhaseDone>, true);
        loop {
            let told = self.mirror.told.count();
            let mut wait_us = TICK_US;
            if let Some(task) = self.task(said.as_ref()) {
                match self.play(&task).await {
                    Some(done) => (said, stands) = (Some(done), false),
                    None => wait_us = AGAIN_US,
                }
            }
            if let Some(done) = said.as_ref().filter(|_| !stands) {
                match self.say_done(done).await {
                    Ok(()) => stands = true,
                    Err(Failed(_)) => wait_us = AGAIN_US,
                }
            }
            let left_over = self.mirror.connected.get()
                && planned::is_left_over(&self.mirror.cluster(), &self.here().member);
            if left_over && !self.take_order_back().await {
                wait_us = AGAIN_US;
            }
            wait(&self.world.executor, wait_us, &[(&self.mirror.told, told)]).await;
        }
    }

    fn task(&self, said: Option<&PhaseDone>) -> Option<Task> {
        if !self.mirror.connected.get() {
            return None;
        }
        planned::task(&self.mirror.cluster(), &self.here().member, said, self.wall_ms())
    }

    async fn play(self: &Rc<Self>, task: &Task) -> Option<PhaseDone> {
        let (operation, phase) = task.place();
        let outcome = match task {
            Task::Prepare { .. } => self.prepare_hand_over(task).await?,
            Task::HandOver { .. } => self.order_hand_over(operation).await?,
            Task::Restart { .. } => return None,
        };
        let (problem, remark) = match outcome {
            Ok(remark) => (None, remark),
            Err(problem) => (Some(problem), None),
        };
        Some(PhaseDone { operation, phase, problem, remark })
    }

    /// A checkpoint, and a look at open transactions, of which there are none; for as long as it is wanted.
    async fn prepare_hand_over(&self, task: &Task) -> Option<Outcome> {
        self.step(&"makes a checkpoint for an operation").await;
        let ends_us = self.world.executor.now_us() + self.world.random(ms(10), ms(1_200));
        while self.world.executor.now_us() < ends_us {
            self.world.executor.sleep(ms(20)).await;
            if self.mirror.connected.get() && self.task(None).as_ref() != Some(task) {
                return None;
            }
        }
        Some(match self.sql().await {
            Ok(_) => Ok(None),
            Err(Failed(why)) => Err(format!("no checkpoint can be made: {why}")),
        })
    }

    async fn order_hand_over(self: &Rc<Self>, operation: u64) -> Option<Outcome> {
        let fresh = self.client.cluster().await.ok()?;
        match planned::hand_over(&fresh, &self.here().member, operation, self.wall_ms()) {
            HandOver::Over => None,
            HandOver::Ordered => {
                self.world.executor.spawn(self.process, Rc::clone(self).say_if_taken_back(operation));
                Some(Ok(None))
            }
            HandOver::Refused(why) => Some(Err(why)),
            HandOver::Order { successor, stop_at_once } => {
                let stall_us = self.world.outside.stalls_before_ordering_us.take();
                if stall_us > 0 {
                    self.say(&"stands still before its order");
                    self.world.freeze_for(self.process, stall_us).await;
                }
                if self.order(&fresh, operation, &successor).await.is_err() {
                    return None;
                }
                if stop_at_once && self.here().postmaster().is_some() {
                    self.step(&"tells PostgreSQL to stop: it hands over").await;
                    self.world.shut_down(self.host);
                }
                self.world.executor.spawn(self.process, Rc::clone(self).say_if_taken_back(operation));
                Some(Ok(None))
            }
        }
    }

    async fn order(&self, cluster: &Cluster, operation: u64, successor: &MemberName) -> Done {
        let (leader, member) = (self.here().member.as_str(), successor.as_str());
        let order =
            serde_json::json!({ "leader": leader, "member": member, "holdfast_operation": operation });
        let write = Write::put(self.world.keys.patroni_failover(), order.to_string());
        let compares = [self.unchanged(cluster), vec![self.not_fenced(successor)]].concat();
        self.step(&format_args!("orders of Patroni that {successor} follows")).await;
        if self.world.is_mutant(Mutant::OrderWithoutCompare) {
            return self.client.transact(Vec::new(), vec![write]).await.map(drop).map_err(Failed::from);
        }
        self.changed_or(cluster, compares, vec![write]).await
    }

    fn unchanged(&self, cluster: &Cluster) -> Vec<Compare> {
        let keys = &self.world.keys;
        let revision = |key: String, is: i64| Compare::ModRevision { key, is };
        vec![
            self.term_is(cluster.term.as_ref().map_or(0, |term| term.mod_revision)),
            revision(keys.operation(), cluster.operation.as_ref().map_or(0, |found| found.mod_revision)),
            revision(keys.patroni_failover(), cluster.failover_mod_revision),
        ]
    }

    async fn take_order_back(&self) -> bool {
        let Ok(fresh) = self.client.cluster().await else { return false };
        if !planned::is_left_over(&fresh, &self.here().member) {
            return true;
        }
        self.step(&"takes the order of an operation back").await;
        let write = Write::Delete { key: self.world.keys.patroni_failover() };
        self.changed_or(&fresh, self.unchanged(&fresh), vec![write]).await.is_ok()
    }

    async fn say_if_taken_back(self: Rc<Self>, operation: u64) {
        let until_us = self.world.executor.now_us() + WATCHED_FOR_US;
        while self.world.executor.now_us() < until_us {
            self.world.executor.sleep(LOOK_US).await;
            let Ok(fresh) = self.client.cluster().await else { continue };
            match planned::hand_over(&fresh, &self.here().member, operation, self.wall_ms()) {
                HandOver::Over => return,
                HandOver::Ordered => {}
                HandOver::Order { .. } | HandOver::Refused(_) => {
                    let phase = OperationPhase::HandOver;
                    let problem = Some("Patroni has taken the order and dropped it".to_owned());
                    let done = PhaseDone { operation, phase, problem, remark: None };
                    if self.say_done(&done).await.is_ok() {
                        return;
                    }
                }
            }
        }
    }

    async fn say_done(&self, done: &PhaseDone) -> Done {
        self.step(&format_args!("says how {} went: {:?}", done.phase, done.problem)).await;
        let key = self.world.keys.done(&self.here().member);
        let write = Write::put(key, Stored::new(done.clone()).encode());
        Ok(self.client.transact(Vec::new(), vec![write]).await.map(drop)?)
    }
}
