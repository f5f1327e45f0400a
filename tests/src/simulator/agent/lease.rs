//! `agent/src/member/lease.rs`: renews the fence of the writer's own host, asks for grants while etcd is away, and grants.
//!
//! Grants go over simulated calls between the agents: questions and answers late, lost, twice, out of order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::Phase;
use holdfast_agent_core::grant::{self, Asked, Refused};
use holdfast_agent_core::lease::{self, Fence};
use holdfast_agent_core::member::{OwnSession, Postgres, term_in_force};
use holdfast_agent_core::mutant;
use holdfast_types::{MemberName, Mode, Term};

use super::{Agent, Done, Failed};
use crate::simulator::executor::{Signal, ms, wait};
use crate::simulator::fault::Moment;
use crate::simulator::mutant::Mutant;
use crate::simulator::world::Sim;

const RETRY_US: u64 = ms(100);
const REST_US: u64 = ms(10_000);

/// What the task carries along.
#[derive(Default)]
struct Lease {
    renewed_ms: Option<u64>,
    term: Option<Term>,
    grants: BTreeMap<MemberName, u64>,
}

/// The members that granted, as their answers arrive.
type Granted = Rc<RefCell<Vec<MemberName>>>;

impl Agent {
    pub(super) async fn keep_fence(self: Rc<Self>) {
        let mut kept = Lease::default();
        loop {
            let (told, renewed) = (self.mirror.told.count(), self.session_told.count());
            let woken = self.fence_wake.count();
            let (fence, wait_us) = self.renew_fence(&mut kept).await;
            let mut signals = vec![(&self.mirror.told, told), (&self.fence_wake, woken)];
            if !matches!(fence, Fence::None | Fence::Closed) {
                signals.push((&self.session_told, renewed));
            }
            wait(&self.world.executor, wait_us, &signals).await;
        }
    }

    /// One look at the lease; returns the fence that was wanted and how long to wait for the next look.
    async fn renew_fence(&self, kept: &mut Lease) -> (Fence, u64) {
        let (cluster, connected) = (self.mirror.cluster(), self.mirror.connected.get());
        if connected {
            kept.renewed_ms = self.renewed_ms.get();
        }
        let term = term_in_force(&cluster).map(|term| term.value.term);
        if kept.term != term {
            (kept.term, kept.grants) = (term, BTreeMap::new());
        }
        let interval_us = ms(self.world.setup.timings.renew_interval_ms());
        let mut wait_us = interval_us;
        if self.with_lease_view(&cluster, connected, kept, lease::needs_grants) {
            self.ask_for_grants(&cluster, kept, interval_us / 2).await;
            wait_us = interval_us / 2;
        }
        let fence = self.with_lease_view(&cluster, connected, kept, lease::decide);
        if let Err(Failed(why)) = self.set_fence(fence).await {
            self.say(&format_args!("the fence cannot be set: {why}"));
            wait_us = RETRY_US;
        } else if matches!(fence, Fence::None | Fence::Closed) {
            wait_us = REST_US;
        }
        let opening = self.state.borrow().opening;
        let left_ms = opening.map_or(0, |(_, until_ms)| until_ms.saturating_sub(self.now_ms()));
        (fence, if left_ms > 0 { wait_us.min(ms(left_ms)) } else { wait_us })
    }

    fn with_lease_view<T>(
        &self,
        cluster: &Cluster,
        connected: bool,
        kept: &Lease,
        ask: impl FnOnce(&lease::View<'_>) -> T,
    ) -> T {
        let (was_heard, state) = (cluster.revision > 0, self.state.borrow());
        let says = cluster.known_mode().filter(|_| was_heard);
        let now_ms = self.now_ms();
        let here_has_none =
            matches!(state.postgres, Some(Postgres::Running { .. })) && self.here().postmaster().is_none();
        ask(&lease::View {
            now_ms,
            me: &self.here().member,
            fences: says.unwrap_or(state.remembered.mode) == Mode::Armed,
            named: None,
            term: term_in_force(cluster).map(|term| &term.value),
            term_is_heard: connected,
            own: self.own(),
            renewed_ms: kept.renewed_ms,
            grants: &kept.grants,
            floor: cluster.floor.as_ref().map(|floor| &floor.value),
            accepts_writes: state.accepts_writes(),
            opening: state.opening.filter(|(_, until_ms)| now_ms < *until_ms).map(|(term, _)| term),
            forgotten: None,
            // Hangs of PostgreSQL are waited for here.
            ends_hung: false,
            has_stopped: state.postgres == Some(Postgres::Gone) || here_has_none,
            paused: cluster.suspended(self.wall_ms()) == Some(true),
            held: cluster.held_by(&self.here().member).is_some(),
            timings: &self.world.setup.timings,
        })
    }

    /// The moment from which a lease counts whose question was sent then and is answered now.
    pub(super) fn counts_from(&self, sent_ms: u64) -> u64 {
        let timings = &self.world.setup.timings;
        match self.world.setup.mutant {
            Some(Mutant::DeadlineFromReply) => self.now_ms(),
            Some(Mutant::NoMargin) => sent_ms + timings.session_ttl_ms() - timings.write_lease_ms(),
            _ => sent_ms,
        }
    }

    /// While this term is being opened for us.
    pub(super) async fn prepare_fence(&self, term: Term) -> Done {
        let deadline_ms = self.lease_deadline_ms(None)?;
        self.state.borrow_mut().opening = Some((term, deadline_ms));
        self.prepare(term, deadline_ms).await
    }

    /// Before our promotion in this term, which is ours.
    pub(super) async fn fence_for(&self, term: Term, own: OwnSession) -> Done {
        let deadline_ms = self.lease_deadline_ms(Some(own))?;
        self.state.borrow_mut().opening = Some((term, deadline_ms));
        self.set_fence(Fence::Until { term, deadline_ms }).await?;
        if deadline_ms <= self.now_ms() {
            return Err("the lease of our session has run out while the fence was set".into());
        }
        self.fence_wake.raise();
        Ok(())
    }

    /// The term was not opened for us.
    pub(super) fn was_not_opened(&self) {
        self.state.borrow_mut().opening = None;
        self.fence_wake.raise();
    }

    fn lease_deadline_ms(&self, under: Option<OwnSession>) -> Done<u64> {
        if under.is_some_and(|own| self.own() != Some(own)) {
            return Err("our session has ended since the term was opened".into());
        }
        let renewed_ms = self.renewed_ms.get().ok_or("our session was not renewed yet")?;
        let deadline_ms = renewed_ms + self.world.setup.timings.write_lease_ms();
        if deadline_ms <= self.now_ms() {
            return Err("the lease of our session has run out; it must be renewed first".into());
        }
        Ok(deadline_ms)
    }

    /// Asks every member of the floor record's configuration at once; no answer is no grant.
    async fn ask_for_grants(&self, cluster: &Cluster, kept: &mut Lease, deadline_us: u64) {
        let Some(term) = term_in_force(cluster).map(|term| &term.value) else { return };
        let own = self.held.get().map(|(own, _)| own.incarnation);
        let Some(asked) = Asked::of(term, &self.here().member, own) else { return };
        let Some(floor) = cluster.floor.as_ref().map(|floor| &floor.value) else { return };
        let (sent_ms, until_us) = (self.now_ms(), self.world.executor.now_us() + deadline_us);
        let (granted, answered) = (Granted::default(), Signal::new(&self.world.executor));
        let mut answers = 0;
        for member in floor.configuration.members.iter().filter(|member| cluster.facts.contains_key(*member))
        {
            let Some(other) = self.world.host_of(member) else { continue };
            answers += 1;
            let answer = (Rc::clone(&granted), Rc::clone(&answered));
            question(&self.world, self.host, other.index, &asked, answer);
        }
        while answered.count() < answers {
            let left_us = until_us.saturating_sub(self.world.executor.now_us());
            if left_us == 0 {
                break;
            }
            wait(&self.world.executor, left_us, &[(&answered, answered.count())]).await;
        }
        for member in granted.borrow().iter() {
            kept.grants.insert(member.clone(), self.counts_from(sent_ms));
        }
    }

    /// Rule 22: grants a lease to the writer, or says why not.
    fn grant(&self, asked: &Asked) -> Result<(), Refused> {
        let cluster = self.mirror.cluster();
        let term = term_in_force(&cluster).map(|term| &term.value);
        let told = cluster.promises.get(&self.here().member).map(|promise| promise.value.term);
        let mut state = self.state.borrow_mut();
        grant::decide(
            asked,
            &grant::View {
                me: &self.here().member,
                armed: state.remembered.mode == Mode::Armed,
                term,
                promised: state.phase.as_ref().map(Phase::term).max(told),
                promising: state.promising,
                accepts_writes: state.accepts_writes() == Some(true),
            },
        )?;
        let lasts_ms = match self.world.setup.mutant {
            Some(Mutant::GrantDoesNotBlock) => 0,
            Some(Mutant::GrantTooShort) => self.world.setup.timings.grant_ms() / 10,
            _ => self.world.setup.timings.grant_ms(),
        };
        state.granted_until_ms = state.granted_until_ms.max(self.now_ms() + lasts_ms);
        drop(state);
        self.world.moment(Moment::Granted);
        Ok(())
    }

    /// Whether a promise may be begun: no lease that we granted is in force.
    pub(super) fn begin_promising(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let run_out = self.now_ms() >= state.granted_until_ms;
        state.promising = run_out || mutant::left_out(mutant::Mutant::GrantDoesNotBlock);
        state.promising
    }
}

/// One question to a peer, on its way: it may arrive late, twice, or never, and so may its answer. An agent that is
/// stopped answers when it goes on; whoever asked has given up by then.
fn question(world: &Sim, from: usize, to: usize, asked: &Asked, answer: (Granted, Rc<Signal>)) {
    let twice = world.random(0, 20) == 0;
    let delays = [Some(world.latency_us()), twice.then(|| world.random(ms(1), ms(2_000)))];
    for delay_us in delays.into_iter().flatten() {
        let (inner, asked, answer) = (Rc::clone(world), asked.clone(), answer.clone());
        world.executor.after(delay_us, move || {
            let agent = inner.hosts[to].agent.borrow().clone();
            let Some(agent) = agent.filter(|_| inner.link(from, to)) else { return };
            let process = agent.process;
            let world = Rc::clone(&inner);
            inner.executor.spawn(process, async move {
                world.pause(50, 600).await;
                let granted = agent.grant(&asked).is_ok();
                let (back, member) = (Rc::clone(&world), agent.here().member.clone());
                world.executor.after(world.latency_us(), move || {
                    if back.link(to, from) {
                        if granted {
                            answer.0.borrow_mut().push(member);
                        }
                        answer.1.raise();
                    }
                });
            });
        });
    }
}
