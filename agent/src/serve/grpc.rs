//! What this host answers over gRPC: its own view, and signs of life of its instances. It takes no orders: those are
//! records in etcd.
//!
//! Who may ask is decided in `holdfast-proto`'s one authorisation table, before it comes here.

use std::sync::Arc;
use std::time::SystemTime;

use holdfast_agent_core::detach::Phase;
use holdfast_agent_core::grant::Asked;
use holdfast_agent_core::hung::Pulse;
use holdfast_agent_core::member::Postgres;
use holdfast_host::clock;
use holdfast_proto::message::{
    GrantAnswer, GrantQuestion, HostReport, HostStatus, InstanceName, InstanceStatus, Life, LifeAnswer,
    LifeQuestion, PromiseHeld, Refusal, Role,
};
use holdfast_proto::server::{Asker, Host};
use holdfast_proto::tls::Identity;
use holdfast_types::preflight::Preflight;
use holdfast_types::record::ObservedRecord;
use holdfast_types::renewals::RenewalDay;
use holdfast_types::{Incarnation, certificate};
use tokio::sync::watch;

use crate::act;
use crate::config::Config;
use crate::history::History;
use crate::member::Member;
use crate::pooler::seen::Poolers;
use crate::renewals::Renewals;
use crate::session::Held;
use crate::world::World;

/// The host's answers.
pub struct Answers {
    config: Arc<Config>,
    world: Arc<World>,
    session: watch::Receiver<Held>,
    members: Arc<[Arc<Member>]>,
    routes: Poolers,
    renewals: Renewals,
    identity: Identity,
}

impl Answers {
    /// Answers for these members and poolers.
    pub fn new(
        config: Arc<Config>,
        world: Arc<World>,
        session: watch::Receiver<Held>,
        members: Arc<[Arc<Member>]>,
        routes: Poolers,
        renewals: Renewals,
        identity: Identity,
    ) -> Self {
        Self { config, world, session, members, routes, renewals, identity }
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

    /// What was seen last; never waits.
    pub fn view(&self) -> HostStatus {
        let own = self.session.borrow().alive();
        let mut problems = Vec::new();
        if own.is_none() {
            problems.push("this host has no session in etcd".to_owned());
        }
        let end = certificate::warning(self.identity.ends_unix_s(), clock::wall_ms() / 1_000);
        problems.extend(
            end.map(|end| format!("the certificate of this agent {end}; issue a new one: holdfast pki host")),
        );
        problems.extend(self.identity.problems());
        HostStatus {
            region: self.config.region.clone(),
            host: self.config.host.clone(),
            incarnation: own.map_or(Incarnation(0), |own| own.incarnation),
            version: crate::BUILD.into(),
            at_wall_ms: clock::wall_ms(),
            etcd_reachable: Some(self.world.is_connected()),
            instances: self.members.iter().map(|member| instance(member)).collect(),
            poolers: self.routes.iter().map(|pooler| pooler.status()).collect(),
            problems,
        }
    }
}

#[tonic::async_trait]
impl Host for Answers {
    async fn status(&self) -> HostStatus {
        self.view()
    }

    async fn report(&self, since_wall_ms: i64) -> HostReport {
        let mut incidents: Vec<ObservedRecord> = Vec::new();
        for member in self.members.iter() {
            let state = member.state();
            let observed = state.observed.iter().flat_map(History::bodies);
            incidents.extend(observed.filter(|one| one.noticed_wall_ms >= since_wall_ms).cloned());
        }
        let since_day = RenewalDay::of(since_wall_ms);
        let mut renewals = self.renewals.days();
        renewals.retain(|day| day.day >= since_day);
        HostReport {
            region: self.config.region.clone(),
            host: self.config.host.clone(),
            version: crate::BUILD.into(),
            at_wall_ms: clock::wall_ms(),
            profile: Some(self.config.profile),
            incidents,
            renewals,
            unreadable: 0,
        }
    }

    async fn life(&self, question: LifeQuestion, asker: Asker) -> Result<LifeAnswer, Refusal> {
        let start = SystemTime::now();
        let member = self.member(&question.instance)?;
        // Asked now, not remembered: who asks has heard nothing from it for a while.
        let answers = member.sql.is_in_recovery().await.is_ok();
        let (life, term, is_first) = {
            let mut state = member.state();
            let life = match state.postgres {
                _ if answers => Life::Alive,
                Some(Postgres::Gone) => Life::Stopped,
                Some(Postgres::Running { .. } | Postgres::Unknown) | None => Life::Unknown,
            };
            let is_first = state.asked_in != asker.trace;
            state.asked_in = asker.trace;
            (life, state.term.as_ref().map_or(question.term, |term| term.term), is_first)
        };
        // In the asker's incident, if there will be one: it shows that this host was reached, and by whom. Once: it is asked
        // several times a second.
        if is_first {
            let from = [("holdfast.asker", asker.caller.peer.to_string())];
            act::trace::step(&member.telemetry, asker.trace, "life", start, &from);
        }
        let age_ms = u64::try_from(start.elapsed().unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        Ok(LifeAnswer { term, life, age_ms })
    }

    async fn preflight(&self, instance: InstanceName) -> Result<Preflight, Refusal> {
        Ok(self.member(&instance)?.preflight().await)
    }

    async fn grant(&self, question: GrantQuestion, asker: Asker) -> Result<GrantAnswer, Refusal> {
        let member = self.member(&question.instance)?;
        // The certificate says which host asks; the facts say whose host the writer's is.
        if !member.is_host_of(&question.writer, &asker.caller.peer) {
            return Err(Refusal::Rule(format!(
                "{} is not the host of {}",
                asker.caller.peer, question.writer
            )));
        }
        let asked = Asked { term: question.term, writer: question.writer, incarnation: question.incarnation };
        member.grant(&asked).map_err(|why| Refusal::Rule(why.to_string()))
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
    let mut problems: Vec<String> = state.disarmed_here().map(|record| {
        format!("{record}; Patroni alone decides here, and I2 does not hold; on this host: holdfast disarm --local --undo")
    }).into_iter().collect();
    problems.extend(state.local_problem.clone());
    if state.patroni_hung {
        problems.push("Patroni does not answer".to_owned());
    }
    if let Some(Pulse::Hung(hung)) = state.pulse {
        problems.push(hung.to_string());
    }
    problems.extend(state.contradiction.clone());
    problems.extend(state.fence_problem.clone());
    problems.extend(state.guard_problem.clone());
    problems.extend(state.rest_problem.as_ref().map(|why| format!("Patroni's REST API: {why}")));
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
        hung_ms: state.pulse.map(Pulse::hung_ms),
    }
}
