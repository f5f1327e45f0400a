//! Telling the own Patroni to hand over. What comes of it is seen by the term record; Patroni's answer is a hint.
//!
//! Patroni writes the order into its key `/failover`, wakes its loop, and answers only when another leads or the order is
//! gone, seconds later. It refuses at once what it will not do, and an order that names another leader than the present one:
//! an order that is given again after it was carried out does nothing.

use std::sync::Arc;
use std::time::Duration;

use holdfast_agent_core::planned::{self, HandOver};
use holdfast_host::clock;
use holdfast_types::MemberName;
use holdfast_types::record::{OperationPhase, PhaseDone};
use tokio::sync::watch;

use super::Outcome;
use crate::disk;
use crate::member::Member;
use crate::observe::patroni_rest::{Order, Wish};
use crate::observe::{patroni_file, patroni_rest};
use crate::world::Mirror;

/// Patroni waits for twice its `loop_wait`, 20 s at least, for what becomes of the order.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

impl Member {
    /// Gives the order, once it is known to be wanted by a read of etcd. `None`: it is looked at again.
    pub(super) async fn order_hand_over(
        self: &Arc<Self>,
        operation: u64,
        changes: watch::Receiver<Mirror>,
    ) -> Option<Outcome> {
        let fresh = self.fresh().await?;
        match planned::hand_over(&fresh, &self.instance.member, operation, clock::wall_ms()) {
            HandOver::Over => None,
            HandOver::Ordered => Some(Ok(None)),
            HandOver::Refused(why) => Some(Err(why)),
            HandOver::Order { successor } => Some(self.order(operation, successor, changes).await),
        }
    }

    async fn order(
        self: &Arc<Self>,
        operation: u64,
        successor: MemberName,
        changes: watch::Receiver<Mirror>,
    ) -> Outcome {
        let order = Order {
            url: self.instance.patroni_url.clone(),
            tls: self.patroni_tls(),
            login: self.patroni_login().await,
            wish: Wish::Switchover { leader: self.instance.member.clone(), candidate: successor },
        };
        let mut answer = tokio::spawn(async move {
            let answer = tokio::time::timeout(ANSWER_DEADLINE, patroni_rest::give(order));
            answer.await.unwrap_or_else(|_| Err("Patroni has not answered in 60 s".into()))
        });
        tokio::select! {
            answer = &mut answer => match answer {
                Ok(answer) => answer.map(|_| None),
                Err(error) => Err(format!("the order was not given: {error}")),
            },
            () = self.taken_up(operation, changes) => {
                let member = Arc::clone(self);
                tokio::spawn(async move {
                    if let Ok(Err(why)) = answer.await {
                        member.say_taken_back(operation, why).await;
                    }
                });
                Ok(None)
            }
        }
    }

    /// Waits until the order stands in etcd, or is of no consequence any more.
    async fn taken_up(&self, operation: u64, mut changes: watch::Receiver<Mirror>) {
        loop {
            changes.mark_unchanged();
            let (cluster, connected) = self.world.watched(&self.keys);
            let now = planned::hand_over(&cluster, &self.instance.member, operation, clock::wall_ms());
            if connected && matches!(now, HandOver::Ordered | HandOver::Over) {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Patroni has taken the order up and given up: says so, while that is the state of things.
    async fn say_taken_back(&self, operation: u64, why: String) {
        let Ok(fresh) = self.world.read(&self.keys).await else { return };
        let now = planned::hand_over(&fresh, &self.instance.member, operation, clock::wall_ms());
        if matches!(now, HandOver::Order { .. } | HandOver::Refused(_)) {
            let phase = OperationPhase::HandOver;
            let done = PhaseDone { operation, phase, problem: Some(why), remark: None };
            if let Err(error) = self.say(&done).await {
                tracing::debug!(%error, "that Patroni has taken the order back is not said");
            }
        }
    }

    /// Name and password that Patroni's REST API may ask for, from Patroni's own file.
    pub(super) async fn patroni_login(&self) -> Option<patroni_file::Login> {
        let path = self.state().setup.as_ref()?.file.as_ref()?.path.clone();
        let read = move || {
            let text = holdfast_proto::read_text(path.as_ref(), patroni_file::FILE_BYTES_MAX).ok()?;
            patroni_file::login(&text)
        };
        disk::look(read).await.ok()?
    }
}
