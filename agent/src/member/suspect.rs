//! Watches the writer of the open term for signs of life (rule 4), so that a death costs no time when it is certain.
//!
//! At rest it asks etcd once in a while what is left of the writer's session. When the renewals are overdue it begins to
//! probe the writer's PostgreSQL port and to watch what arrives from it. It decides nothing; what it saw stands in
//! [`Suspicion`] for the next decision.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_agent_core::detach::Life;
use holdfast_agent_core::member::{Suspicion, term_in_force};
use holdfast_agent_core::renewed::Renewed;
use holdfast_host::clock;
use holdfast_proto::client::AgentClient;
use holdfast_proto::message::{self, InstanceName, LifeQuestion};
use holdfast_proto::tls::Peer;
use holdfast_proto::trace::TraceContext;
use holdfast_types::record::Reign;
use holdfast_types::{Class, HostName, Lsn, MemberName, Mode, SessionId, Term};

use super::Member;
use crate::act;
use crate::observe::life;

/// How many probes are kept.
const PROBES_KEPT: usize = 4;
/// Pause between two probes that answer at once.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The writer that is being watched.
struct Writer {
    member: MemberName,
    term: Term,
    session: SessionId,
    address: String,
    port: u16,
    /// Its host, and where its agent answers.
    agent: Option<(HostName, String)>,
    /// The incident that this may become.
    trace: Option<TraceContext>,
}

/// What was seen of one writer since its renewals were overdue.
#[derive(Default)]
struct Watching {
    last_sign: Option<(Option<Lsn>, Option<String>)>,
    silent_since_ms: u64,
    probes: Vec<Life>,
    asked_ms: u64,
    /// Since when, and until when, etcd said each time that its session has less than a second left.
    session_at_zero_ms: Option<(u64, u64)>,
    renewed: Renewed,
}

impl Member {
    /// Runs until the runtime ends.
    pub(super) async fn suspect(self: Arc<Self>) {
        if self.instance.class != Class::Quorum {
            // Nobody promises anything there.
            return;
        }
        let interval = Duration::from_millis(self.config.timings.renew_interval_ms().clamp(500, 1_000));
        let mut wait = interval;
        loop {
            tokio::time::sleep(wait).await;
            wait = interval;
            let Some(writer) = self.writer_to_watch() else { continue };
            let Some(in_time) = self.in_time_for(&writer).await else { continue };
            // Nobody is late before its time: a writer that has just renewed is not asked about again so soon. Whatever etcd
            // says, no session lasts for longer than its own time: one wrong answer made a standby blind for good.
            wait = interval.max(in_time.min(Duration::from_millis(self.config.timings.session_ttl_ms())));
            if in_time.is_zero() {
                self.state().suspected_at = Some(SystemTime::now());
                self.watch_for_life(&writer).await;
                let mut state = self.state();
                state.suspicion = Suspicion::default();
                state.suspected_at = None;
            }
        }
    }

    fn writer_to_watch(&self) -> Option<Writer> {
        let (cluster, connected) = self.world.watched(&self.keys);
        if !connected || self.disarmed_here() {
            return None;
        }
        let cluster = self.considered(cluster);
        let Reign::Open { holder, session, .. } = &term_in_force(&cluster)?.value.reign else { return None };
        if *holder == self.instance.member {
            return None;
        }
        let (address, port) = cluster.address(holder)?;
        let agent = cluster.facts.get(holder).map(|facts| (facts.host.clone(), facts.grpc.clone()));
        Some(Writer {
            member: holder.clone(),
            term: term_in_force(&cluster)?.value.term,
            session: *session,
            address: address.to_owned(),
            port,
            agent,
            trace: act::trace::of_incident(&cluster),
        })
    }

    /// How long the writer's renewals cannot be overdue yet, by etcd's own count; zero when they are. No answer is no sign
    /// of anything.
    async fn in_time_for(&self, writer: &Writer) -> Option<Duration> {
        let left_ms = self.world.store.remaining(writer.session.0).await.ok()?.unwrap_or(0);
        Some(Duration::from_millis(left_ms.saturating_sub(self.config.timings.late_when_remaining_ms())))
    }

    /// An idle stream is silent for seconds. When the renewals were seen overdue, the last of them was this old or older.
    fn last_renewal_at_the_latest_ms(&self) -> Option<i64> {
        let timings = &self.config.timings;
        let overdue = timings.session_ttl_ms().saturating_sub(timings.late_when_remaining_ms());
        let seen = self.state().suspected_at?.checked_sub(Duration::from_millis(overdue))?;
        i64::try_from(seen.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis()).ok()
    }

    /// The writer's own agent, on one connection for as long as the writer is watched.
    fn agent_of(&self, writer: &Writer, deadline: Duration) -> Option<AgentClient> {
        let (host, address) = writer.agent.as_ref()?;
        let expected = Peer::Host { region: self.config.region.clone(), host: host.clone() };
        Some(AgentClient::new(self.identity.clone(), address, Some(expected), deadline))
    }

    /// Asks the writer's PostgreSQL and, beside it, its own agent: either sign of life will do.
    async fn probe(&self, writer: &Writer, agent: Option<&AgentClient>, deadline: Duration) -> Life {
        let port = life::probe(&writer.address, writer.port, deadline);
        let agent = async {
            let cluster = &self.instance.cluster;
            let instance = InstanceName {
                namespace: cluster.namespace.clone(),
                scope: cluster.scope.clone(),
                member: writer.member.clone(),
            };
            let question = LifeQuestion { instance, term: writer.term };
            agent?.life(&question, writer.trace.as_ref()).await.ok()
        };
        let (port, agent) = tokio::join!(port, agent);
        let fresh_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        match agent {
            Some(answer) if answer.life == message::Life::Alive && answer.age_ms <= fresh_ms => Life::Alive,
            _ => port,
        }
    }

    /// Probes until the writer is in time again or is no longer the writer.
    async fn watch_for_life(&self, writer: &Writer) {
        let deadline = Duration::from_millis(self.config.timings.probe_deadline_ms());
        let agent = self.agent_of(writer, deadline);
        let mut watching = Watching { silent_since_ms: clock::boottime_ms(), ..Watching::default() };
        while self.writer_to_watch().is_some_and(|now| now.session == writer.session) {
            self.listen(&mut watching).await;
            let probe = self.probe(writer, agent.as_ref(), deadline).await;
            if probe == Life::Alive {
                watching.silent_since_ms = clock::boottime_ms();
            }
            watching.probes.push(probe);
            if watching.probes.len() > PROBES_KEPT {
                watching.probes.remove(0);
            }
            let silent_ms = clock::boottime_ms().saturating_sub(watching.silent_since_ms);
            let probes = watching.probes.clone();
            let unrenewed_ms = watching.renewed.unrenewed_ms(clock::boottime_ms());
            self.state().suspicion = Suspicion { late: true, silent_ms, probes, unrenewed_ms };
            self.wake.notify_one();
            let silent = silent_ms >= self.config.timings.suspect_after_ms();
            if !self.is_still_late(writer, &mut watching, silent).await {
                return;
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }

    /// What has come from the writer since the last look, by our own walreceiver.
    async fn listen(&self, watching: &mut Watching) {
        let Ok(standby) = self.sql.standby().await else {
            // PostgreSQL that does not answer us says nothing about the writer: what is not known is no silence.
            watching.silent_since_ms = clock::boottime_ms();
            return;
        };
        let renewed_ms = self.last_renewal_at_the_latest_ms();
        {
            let mut state = self.state();
            state.heard_wall_ms = standby.heard_wall_ms.max(renewed_ms);
            state.received_timeline = standby.received_timeline.max(state.received_timeline);
        }
        let sign = Some((standby.received, standby.last_message));
        if watching.last_sign.is_some() && watching.last_sign != sign {
            watching.silent_since_ms = clock::boottime_ms();
            watching.probes.clear();
        }
        watching.last_sign = sign;
    }

    /// Asks etcd how long the writer's session lasts: once a second, and at every look when its PostgreSQL is silent too.
    ///
    /// etcd ends leases in rounds of 500 ms. It tells the remaining time in whole seconds: a session that was seen at 0 for
    /// a whole second has run out by etcd's own count, and is revoked at once instead of in the next round. Not earlier
    /// than it runs out, so nobody's deadline is shortened by it.
    async fn is_still_late(&self, writer: &Writer, watching: &mut Watching, silent: bool) -> bool {
        let now_ms = clock::boottime_ms();
        if !silent && now_ms.saturating_sub(watching.asked_ms) < 1_000 {
            return true;
        }
        watching.asked_ms = now_ms;
        let left = self.world.store.remaining(writer.session.0).await;
        if let Ok(left_ms) = left {
            watching.renewed.answer(now_ms, clock::boottime_ms(), left_ms, &self.config.timings);
        }
        match left {
            Ok(Some(0)) => {
                let at_ms = clock::boottime_ms();
                // Between two answers further apart than this a renewal could have come and gone by unseen: the shortest
                // session is 2 s, and a renewed one is not at 0 before its last second.
                let seen_throughout = |(_, until_ms): &(u64, u64)| at_ms.saturating_sub(*until_ms) < 1_000;
                let since_ms =
                    watching.session_at_zero_ms.filter(seen_throughout).map_or(at_ms, |(since, _)| since);
                watching.session_at_zero_ms = Some((since_ms, at_ms));
                let run_out = at_ms.saturating_sub(since_ms) >= 1_000;
                let armed = {
                    let state = self.state();
                    state.remembered.mode == Mode::Armed && state.disarmed_here().is_none()
                };
                if silent && run_out && armed {
                    // One that has ended meanwhile is what was wanted.
                    if let Err(error) = self.world.store.revoke(writer.session.0).await {
                        tracing::debug!(%error, "the writer's session, which has run out, is left to etcd");
                    }
                }
                true
            }
            Ok(Some(left_ms)) => {
                watching.session_at_zero_ms = None;
                left_ms <= self.config.timings.late_when_remaining_ms()
            }
            Ok(None) => true,
            Err(_) => {
                watching.session_at_zero_ms = None;
                true
            }
        }
    }
}
