//! The fence of a writer's own host (rules 19 to 22): set anew at each renewal, and left to close by itself.
//!
//! What it must be is decided by `holdfast-agent-core`; the kernel and the guard hold it ([`crate::act::fence`]). Also the
//! other side: the leases that this node grants to the writer while etcd is out of reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::Phase;
use holdfast_agent_core::grant::{self, Asked, Refused};
use holdfast_agent_core::lease::{self, Fence};
use holdfast_agent_core::local_disarm;
use holdfast_agent_core::member::{OwnSession, Postgres, term_in_force};
use holdfast_agent_core::mutant::{Mutant, left_out};
use holdfast_agent_core::rollback::KnownReign;
use holdfast_host::{clock, process};
use holdfast_proto::client::{AgentClient, CallError};
use holdfast_proto::message::{GrantAnswer, GrantQuestion, InstanceName};
use holdfast_proto::tls::Peer;
use holdfast_types::record::{MemberFacts, TermRecord};
use holdfast_types::{Class, MemberName, Mode, Term};
use tokio::sync::watch;

use super::Member;
use crate::act;
use crate::session::Held;

/// A fence that could not be set is tried again after this.
const RETRY: Duration = Duration::from_millis(100);
/// A node whose fence rests at nothing looks again this often when nothing wakes it.
const REST: Duration = Duration::from_secs(10);

/// What the task carries along.
#[derive(Default)]
struct Lease {
    /// The newest renewal that was confirmed while the watch was heard.
    renewed_ms: Option<u64>,
    /// The term that the grants are for.
    term: Option<Term>,
    /// When the last question was sent that each member answered with a grant.
    grants: BTreeMap<MemberName, u64>,
    /// Each member's agent, by the address that its facts told.
    clients: BTreeMap<MemberName, (String, AgentClient)>,
}

impl Member {
    /// Runs until the runtime ends.
    pub(super) async fn keep_fence(self: Arc<Self>) {
        let mut changes = self.world.changes();
        let mut session = self.session.clone();
        let mut kept = Lease::default();
        loop {
            changes.mark_unchanged();
            let (fence, wait) = self.renew_fence(&mut session, &mut kept).await;
            let is_writer = !matches!(fence, Fence::None | Fence::Closed | Fence::Ended);
            tokio::select! {
                _ = changes.changed() => {}
                _ = session.changed(), if is_writer => {}
                () = self.fence_wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One look at the lease; returns the fence that was wanted and how long to wait for the next look.
    async fn renew_fence(&self, session: &mut watch::Receiver<Held>, kept: &mut Lease) -> (Fence, Duration) {
        let renewed_ms = session.borrow_and_update().renewed_ms;
        let (cluster, connected) = self.world.watched(&self.keys);
        if connected {
            kept.renewed_ms = renewed_ms;
        }
        let term = term_in_force(&cluster).map(|term| &term.value);
        if kept.term != term.map(|term| term.term) {
            (kept.term, kept.grants) = (term.map(|term| term.term), BTreeMap::new());
        }
        let interval = Duration::from_millis(self.config.timings.renew_interval_ms());
        let mut wait = interval;
        let named = self.named(kept.term);
        if lease::needs_grants(&self.lease_view(&cluster, connected, kept, &named)) {
            self.ask_for_grants(&cluster, kept, interval / 2).await;
            wait = interval / 2;
        }
        // Whom the record names may have grown meanwhile.
        let named = self.named(kept.term);
        let fence = lease::decide(&self.lease_view(&cluster, connected, kept, &named));
        let problem = act::fence::set(self, fence).await.err().map(|error| format!("{error:#}"));
        if let Some(problem) = &problem {
            tracing::warn!(cluster = %self.instance.cluster, "the fence of this host cannot be set: {problem}; tried again");
            wait = RETRY;
        } else if matches!(fence, Fence::None | Fence::Closed | Fence::Ended) {
            wait = REST;
        }
        let mut state = self.state();
        state.fence_problem = problem;
        // What was prepared for a term that is not opened is taken away when its time is over, and not later.
        let opening_ms = state.opening.map(|(_, until_ms)| until_ms.saturating_sub(clock::boottime_ms()));
        let opening = opening_ms.filter(|left_ms| *left_ms > 0).map(Duration::from_millis);
        (fence, opening.map_or(wait, |left| wait.min(left)))
    }

    /// Class `off`: whom our floor records name in the term, as far as this start of the agent has sent any.
    fn named(&self, term: Option<Term>) -> BTreeSet<MemberName> {
        let state = self.state();
        let named = state.named.as_ref().filter(|(of, _)| Some(*of) == term);
        named.map(|(_, members)| members.clone()).unwrap_or_default()
    }

    fn lease_view<'o>(
        &'o self,
        cluster: &'o Cluster,
        connected: bool,
        kept: &'o Lease,
        named: &'o BTreeSet<MemberName>,
    ) -> lease::View<'o> {
        // Before the first word from etcd nothing is known of it, not even what it has forgotten.
        let was_heard = cluster.revision > 0;
        let contradiction = self.contradiction(cluster).filter(|_| was_heard);
        let state = self.state();
        let reign = state.remembered.reign.as_ref();
        let is_last = |reign: &KnownReign| reign.is_last_of(&self.instance.member, cluster);
        let forgotten = contradiction.map(|_| reign.is_some_and(is_last));
        let says = cluster.known_mode().filter(|_| was_heard && forgotten.is_none());
        let mode = says.unwrap_or(state.remembered.mode);
        let mode = local_disarm::mode_here(Some(mode), state.disarmed_here());
        lease::View {
            now_ms: clock::boottime_ms(),
            me: &self.instance.member,
            fences: mode == Some(Mode::Armed),
            named: (self.instance.class == Class::Off).then_some(named),
            term: term_in_force(cluster).map(|term| &term.value),
            term_is_heard: connected,
            own: self.own(),
            renewed_ms: kept.renewed_ms,
            grants: &kept.grants,
            floor: cluster.floor.as_ref().map(|floor| &floor.value),
            accepts_writes: state.accepts_writes(),
            opening: state
                .opening
                .filter(|(_, until_ms)| clock::boottime_ms() < *until_ms)
                .map(|(term, _)| term),
            forgotten,
            ends_hung: state.remembered.ends_hung,
            has_stopped: state.postgres == Some(Postgres::Gone) || state.postmaster.is_some_and(has_ended),
            paused: cluster.suspended(clock::wall_ms()) == Some(true),
            held: cluster.held_by(&self.instance.member).is_some(),
            timings: &self.config.timings,
        }
    }

    /// While this term is being opened for us: our port closes when the lease that our session gives us now has ended. The
    /// guard is told only once the term is ours: it would end a standby whose OPEN was refused.
    pub(super) async fn prepare_fence(&self, term: Term) -> anyhow::Result<()> {
        let deadline_ms = self.lease_deadline_ms(None)?;
        self.state().opening = Some((term, deadline_ms));
        act::fence::prepare(self, term, deadline_ms).await
    }

    /// Before our promotion in this term, which is ours: the whole fence, until the lease that our session gives us now has
    /// ended.
    ///
    /// By the session under which the term is ours: a lease of a later one says nothing of it, because a host that stood
    /// still wakes up with a new session in a term that has been closed (simulator, seed 325247).
    pub(super) async fn fence_for(&self, term: Term, own: OwnSession) -> anyhow::Result<()> {
        let deadline_ms = self.lease_deadline_ms(Some(own))?;
        self.state().opening = Some((term, deadline_ms));
        act::fence::set(self, Fence::Until { term, deadline_ms }).await?;
        // A host that stood still meanwhile has set nothing: the guard was not told, and another may reign by now.
        if deadline_ms <= clock::boottime_ms() {
            bail!("the lease of our session has run out while the fence was set; etcd is asked again");
        }
        self.fence_wake.notify_one();
        Ok(())
    }

    /// The term was not opened for us: what was prepared for it is taken away.
    pub(super) fn was_not_opened(&self) {
        self.state().opening = None;
        self.fence_wake.notify_one();
    }

    fn lease_deadline_ms(&self, under: Option<OwnSession>) -> anyhow::Result<u64> {
        let session = self.session.borrow();
        if under.is_some_and(|own| session.alive() != Some(own)) {
            bail!("our session has ended since the term was opened; etcd is asked again");
        }
        let renewed_ms = session.renewed_ms.context("our session was not renewed yet")?;
        let deadline_ms = renewed_ms + self.config.timings.write_lease_ms();
        if deadline_ms <= clock::boottime_ms() {
            bail!("the lease of our session has run out; it must be renewed first");
        }
        Ok(deadline_ms)
    }

    /// Asks every member of the floor record's configuration at once; no answer is no grant.
    async fn ask_for_grants(&self, cluster: &Cluster, kept: &mut Lease, deadline: Duration) {
        let Some(term) = term_in_force(cluster).map(|term| &term.value) else { return };
        let own = self.session.borrow().incarnation();
        let Some(asked) = Asked::of(term, &self.instance.member, own) else { return };
        let Some(floor) = cluster.floor.as_ref().map(|floor| &floor.value) else { return };
        let named = self.named(Some(term.term));
        let members: Vec<&MemberName> = floor.configuration.members.union(&named).collect();
        for member in &members {
            let member = *member;
            let Some(facts) = cluster.facts.get(member) else { continue };
            if kept.clients.get(member).is_none_or(|(address, _)| *address != facts.grpc) {
                kept.clients.insert(member.clone(), (facts.grpc.clone(), self.client_of(facts, deadline)));
            }
        }
        let sent_ms = clock::boottime_ms();
        let questions = members.into_iter().filter_map(|member| {
            let (_, client) = kept.clients.get(member)?;
            let question = self.question(member, &asked);
            Some(async move { (member.clone(), client.grant(&question).await) })
        });
        for (member, answer) in join_all(questions).await {
            match answer {
                Ok(GrantAnswer { duration_ms }) if duration_ms >= self.config.timings.grant_ms() => {
                    kept.grants.insert(member, sent_ms);
                }
                Ok(GrantAnswer { duration_ms }) => {
                    tracing::warn!(%member, duration_ms, "a lease is granted for too short a time: its agent has another timing profile");
                }
                Err(error @ CallError::Refused { .. }) => tracing::warn!(%member, %error, "no lease"),
                Err(error) => tracing::debug!(%member, %error, "no lease"),
            }
        }
    }

    pub(super) fn client_of(&self, facts: &MemberFacts, deadline: Duration) -> AgentClient {
        let expected = Peer::Host { region: self.config.region.clone(), host: facts.host.clone() };
        AgentClient::new(self.identity.clone(), &facts.grpc, Some(expected), deadline)
    }

    fn question(&self, member: &MemberName, asked: &Asked) -> GrantQuestion {
        let cluster = &self.instance.cluster;
        let (namespace, scope) = (cluster.namespace.clone(), cluster.scope.clone());
        GrantQuestion {
            instance: InstanceName { namespace, scope, member: member.clone() },
            term: asked.term,
            writer: asked.writer.clone(),
            incarnation: asked.incarnation,
        }
    }

    /// Rule 22: grants a lease to the writer, or says why not. Returns for how long.
    pub fn grant(&self, asked: &Asked) -> Result<GrantAnswer, Refused> {
        let (cluster, _) = self.world.watched(&self.keys);
        let term: Option<&TermRecord> = term_in_force(&cluster).map(|term| &term.value);
        // Either binds: a state directory that was lost does not take back what etcd holds.
        let told = cluster.promises.get(&self.instance.member).map(|promise| promise.value.term);
        let recorded = cluster.term.as_ref().map_or(0, |term| term.mod_revision);
        let duration_ms = self.config.timings.grant_ms();
        // One lock over the decision and the mark: a promise is begun under the same lock.
        let mut state = self.state();
        // An OPEN whose answer was lost ends the term, unless the term record has moved since.
        let follows = state.remembered.follows.as_ref();
        let follows = follows.filter(|sent| recorded <= sent.term_mod_revision).map(|sent| sent.term);
        grant::decide(
            asked,
            &grant::View {
                me: &self.instance.member,
                armed: state.remembered.mode == Mode::Armed && state.disarmed_here().is_none(),
                term,
                promised: state.phase.as_ref().map(Phase::term).max(told).max(follows),
                promising: state.promising,
                accepts_writes: state.accepts_writes() == Some(true),
            },
        )?;
        state.granted_until_ms = state.granted_until_ms.max(clock::boottime_ms() + duration_ms);
        Ok(GrantAnswer { duration_ms })
    }

    /// Whether a promise may be begun: no lease that we granted is in force. From then on none is granted until
    /// [`super::State::promising`] is taken back.
    pub fn begin_promising(&self) -> bool {
        let mut state = self.state();
        let run_out = clock::boottime_ms() >= state.granted_until_ms;
        state.promising = run_out || left_out(Mutant::GrantDoesNotBlock);
        state.promising
    }

    /// Whether this peer is the host of that member, as far as the facts say.
    pub fn is_host_of(&self, member: &MemberName, peer: &Peer) -> bool {
        let (cluster, _) = self.world.watched(&self.keys);
        let is = |facts: &MemberFacts| matches!(peer, Peer::Host { host, .. } if *host == facts.host);
        cluster.facts.get(member).is_some_and(is)
    }
}

/// By the kernel's word of now: a host that stood still asks for its lease before its next look at PostgreSQL.
fn has_ended(postmaster: i32) -> bool {
    process::stat(postmaster).map_or(true, |stat| stat.state == 'Z')
}
