//! What this host answers over gRPC: its own view, signs of life, and orders to fence or unfence a member.
//!
//! Who may ask is decided in `holdfast-proto`'s one authorisation table, before it comes here. An order carries the term
//! that its giver saw; an older one is refused (promise I10).

use std::sync::{Arc, Mutex};

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::Phase;
use holdfast_agent_core::member::{Postgres, term_in_force};
use holdfast_host::clock;
use holdfast_proto::message::{
    HostStatus, InstanceName, InstanceStatus, Life, LifeAnswer, LifeQuestion, Order, PoolerStatus,
    PromiseHeld, Refusal, Role,
};
use holdfast_proto::server::{Giver, Host};
use holdfast_store::{Compare, Txn, TxnOutcome, Write};
use holdfast_types::record::{FenceReason, FenceRecord, Stored};
use holdfast_types::{Incarnation, Term};
use tokio::sync::watch;

use crate::config::Config;
use crate::member::Member;
use crate::session::Held;
use crate::world::World;

/// The host's answers.
pub struct Answers {
    config: Arc<Config>,
    world: Arc<World>,
    session: watch::Receiver<Held>,
    members: Arc<[Arc<Member>]>,
    routes: Vec<Arc<Mutex<PoolerStatus>>>,
}

impl Answers {
    /// Answers for these members and poolers.
    pub fn new(
        config: Arc<Config>,
        world: Arc<World>,
        session: watch::Receiver<Held>,
        members: Arc<[Arc<Member>]>,
        routes: Vec<Arc<Mutex<PoolerStatus>>>,
    ) -> Self {
        Self { config, world, session, members, routes }
    }

    fn member(&self, name: &InstanceName) -> Result<&Arc<Member>, Refusal> {
        let is = |member: &&Arc<Member>| {
            let cluster = &member.instance.cluster;
            cluster.namespace == name.namespace
                && cluster.scope == name.scope
                && member.instance.member == name.member
        };
        self.members.iter().find(is).ok_or_else(|| Refusal::NotHere(name.member.to_string()))
    }

    async fn present(&self, member: &Member, asked: Term) -> Result<Cluster, Refusal> {
        let cluster = self.world.read(&member.keys).await;
        let cluster = cluster.map_err(|error| Refusal::Unavailable(error.to_string()))?;
        match term_in_force(&cluster).map(|term| term.value.term) {
            Some(present) if asked < present => Err(Refusal::OldTerm { asked, present }),
            _ => Ok(cluster),
        }
    }

    /// What was seen last; never waits.
    pub fn view(&self) -> HostStatus {
        let own = self.session.borrow().alive();
        let mut problems = Vec::new();
        if own.is_none() {
            problems.push("this host has no session in etcd".to_owned());
        }
        let poolers = self.routes.iter();
        HostStatus {
            region: self.config.region.clone(),
            host: self.config.host.clone(),
            incarnation: own.map_or(Incarnation(0), |own| own.incarnation),
            version: env!("CARGO_PKG_VERSION").into(),
            at_wall_ms: clock::wall_ms(),
            etcd_reachable: Some(self.world.is_connected()),
            instances: self.members.iter().map(|member| instance(member)).collect(),
            poolers: poolers
                .map(|route| route.lock().expect("nobody panics while holding a route").clone())
                .collect(),
            problems,
        }
    }

    async fn write(&self, compares: Vec<Compare>, write: Write) -> Result<(), Refusal> {
        let txn = Txn { compares, writes: vec![write], otherwise_read: Vec::new() };
        match self.world.store.txn(txn).await {
            Ok(TxnOutcome::Succeeded { .. }) => Ok(()),
            Ok(TxnOutcome::Refused { .. }) => {
                Err(Refusal::Unavailable("etcd has changed meanwhile; look again and repeat it".into()))
            }
            Err(error) => Err(Refusal::Unavailable(error.to_string())),
        }
    }
}

#[tonic::async_trait]
impl Host for Answers {
    async fn status(&self) -> HostStatus {
        self.view()
    }

    async fn life(&self, question: LifeQuestion) -> Result<LifeAnswer, Refusal> {
        let member = self.member(&question.instance)?;
        let state = member.state();
        let life = match state.postgres {
            Some(Postgres::Running { in_recovery: Some(_) }) => Life::Alive,
            Some(Postgres::Gone) => Life::Stopped,
            Some(Postgres::Running { in_recovery: None } | Postgres::Unknown) | None => Life::Unknown,
        };
        let term = state.term.as_ref().map_or(question.term, |term| term.term);
        let age_ms = clock::boottime_ms().saturating_sub(state.looked_ms);
        Ok(LifeAnswer { term, life, age_ms })
    }

    async fn fence(&self, order: Order, giver: Giver) -> Result<String, Refusal> {
        let member = self.member(&order.instance)?;
        let cluster = self.present(member, order.term).await?;
        let me = &member.instance.member;
        if cluster.fences.contains_key(me) {
            return Ok(format!("{me} was fenced already"));
        }
        let by = giver.caller.peer.to_string();
        tracing::warn!(%me, %by, from = %giver.caller.address, reason = order.reason, "fenced by order");
        let record = FenceRecord {
            why: FenceReason::Operator { by, text: order.reason },
            at_wall_ms: clock::wall_ms(),
        };
        let key = member.keys.fence(me);
        let compares = vec![Compare::ModRevision { key: key.clone(), is: 0 }];
        self.write(compares, Write::put(key, Stored::new(record).encode())).await?;
        Ok(format!("{me} is fenced; clear it with: holdfast unfence {me}"))
    }

    async fn unfence(&self, order: Order, giver: Giver) -> Result<String, Refusal> {
        let member = self.member(&order.instance)?;
        let cluster = self.present(member, order.term).await?;
        let me = &member.instance.member;
        let Some(fence) = cluster.fences.get(me) else { return Ok(format!("{me} is not fenced")) };
        let holder = term_in_force(&cluster).map(|term| term.value.holder());
        if holder.is_some_and(|holder| holder != me) && member.state().postgres_accepts_writes() {
            return Err(Refusal::Unsafe(format!("{me} accepts writes in a term that is not its own")));
        }
        let key = member.keys.fence(me);
        let compares = vec![Compare::ModRevision { key: key.clone(), is: fence.mod_revision }];
        self.write(compares, Write::Delete { key }).await?;
        tracing::warn!(%me, by = %giver.caller.peer, from = %giver.caller.address, reason = order.reason, "unfenced by order");
        Ok(format!("{me} may come back"))
    }
}

fn instance(member: &Member) -> InstanceStatus {
    let state = member.state();
    let cluster = &member.instance.cluster;
    let promise = state.phase.as_ref().map(|phase| PromiseHeld {
        term: phase.term(),
        position: match phase {
            Phase::Intended { .. } => None,
            Phase::Positioned { promise } | Phase::Promised { promise } => Some(promise.position),
        },
    });
    let mut problems = Vec::new();
    if state.patroni_hung {
        problems.push("Patroni does not answer".to_owned());
    }
    InstanceStatus {
        name: InstanceName {
            namespace: cluster.namespace.clone(),
            scope: cluster.scope.clone(),
            member: member.instance.member.clone(),
        },
        class: member.instance.class,
        mode: state.remembered.mode,
        role: match state.postgres {
            Some(Postgres::Running { in_recovery: Some(true) }) => Some(Role::Standby),
            Some(Postgres::Running { in_recovery: Some(false) }) => Some(Role::Primary),
            Some(Postgres::Gone) => Some(Role::Stopped),
            Some(Postgres::Running { in_recovery: None } | Postgres::Unknown) | None => None,
        },
        position: state.position,
        term: state.term.clone(),
        promise,
        fenced: state.remembered.fenced.clone(),
        patroni_state: state.published.as_ref().and_then(|facts| facts.patroni_state.clone()),
        waits: state.waits.clone(),
        would: state.would.clone(),
        problems,
    }
}
