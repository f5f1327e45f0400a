//! The timed part: write lease, session and grants, on clocks that need not agree.
//!
//! Promises protect commits that wait for a standby. Local commits, reads, and a writer whose `/sync` is empty are
//! protected by time alone: the writer has stopped before anybody can open the next term. Time is counted in ticks. One
//! writer, two members that grant and promise (`|M|` = 2, q = 1). The lease here is write lease and guard grace together:
//! what ends with it is the writer's process.

use holdfast_types::timings::{Proposed, Timings};
use stateright::{Model, Property};

use super::mutant::Mutant;

/// How many members grant and promise.
const MEMBERS: usize = 2;
/// Members that must grant: `|M| - q`.
const GRANTS_NEEDED: u8 = 1;
/// Milliseconds of a tick, to compare with the product's timings.
const TICK_MS: u64 = 1_000;

/// The lengths, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// The session in etcd.
    pub session: u8,
    /// Write lease and guard grace.
    pub lease: u8,
    /// A grant, on its granter's clock.
    pub grant: u8,
    /// How many ticks the writer's clock may lose in all.
    pub drift: u8,
    /// How long the writer's host may be stopped.
    pub pause: u8,
    /// When the search ends.
    pub horizon: u8,
}

impl Lengths {
    /// Such that rule 19 and rule 22 just hold.
    pub const RIGHT: Self = Self { session: 3, lease: 2, grant: 3, drift: 1, pause: 0, horizon: 7 };

    /// The product's own opinion: `Timings::new` with a grace of one tick and no margin but the drift.
    pub fn product_accepts(&self) -> bool {
        let (grace, ms) = (1, |ticks: u8| u64::from(ticks) * TICK_MS);
        let write_lease_ms = ms(self.lease - grace);
        Timings::new(Proposed {
            session_ttl_ms: ms(self.session),
            renew_interval_ms: write_lease_ms / 2,
            write_lease_ms,
            guard_grace_ms: ms(grace),
            margin_ms: 0,
            // One lost tick in the two of the right lease.
            drift_per_mille: u64::from(self.drift) * 1_000 / 2,
            suspect_after_ms: 0,
            probe_deadline_ms: 0,
            hung_after_ms: 0,
            watchdog_ms: 0,
        })
        .is_ok()
    }
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    lengths: Lengths,
    mutant: Option<Mutant>,
}

impl Lease {
    /// The right rules, or all but one.
    pub fn new(mutant: Option<Mutant>) -> Self {
        let right = Lengths::RIGHT;
        let lengths = match mutant {
            Some(Mutant::NoMargin) => Lengths { lease: right.session, ..right },
            Some(Mutant::GrantTooShort) => Lengths { grant: 1, ..right },
            Some(Mutant::WriterIsPaused) => Lengths { pause: 2, ..right },
            _ => right,
        };
        Self { lengths, mutant }
    }

    /// Its lengths.
    pub fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn tick(&self, state: &mut Moment, slow: bool) -> Option<()> {
        state.now += 1;
        if state.etcd {
            state.session = state.session.saturating_sub(1);
        }
        for member in &mut state.members {
            member.grant = member.grant.saturating_sub(1);
            member.up_for = (member.up_for + 1).min(self.lengths.grant);
        }
        if let Some(paused) = &mut state.paused {
            *paused += 1;
            return (*paused <= self.lengths.pause).then_some(());
        }
        if slow {
            state.lost_ticks += 1;
            return Some(());
        }
        state.lease = state.lease.saturating_sub(1);
        state.renewal_age = state.renewal_age.map(|age| age.saturating_add(1));
        state.round_age = state.round_age.map(|age| age.saturating_add(1));
        Some(())
    }

    /// From the sending on: what the reply took is already used up.
    fn lease_from(&self, age: u8) -> u8 {
        let age = if self.is(Mutant::DeadlineFromReply) { 0 } else { age };
        self.lengths.lease.saturating_sub(age)
    }

    fn grant(&self, state: &mut Moment, member: usize) -> Option<()> {
        let granter = &mut state.members[member];
        if state.round_age.is_none() || granter.promised || granter.granted_this_round {
            return None;
        }
        granter.granted_this_round = true;
        granter.grant = self.lengths.grant;
        granter.remembers = true;
        Some(())
    }

    fn promise(&self, state: &mut Moment, member: usize) -> Option<()> {
        let session_gone = state.etcd && state.session == 0;
        let granter = &mut state.members[member];
        let granted = granter.remembers && granter.grant > 0 && !self.is(Mutant::GrantDoesNotBlock);
        let young = granter.up_for < self.lengths.grant && !self.is(Mutant::RestartWithoutWaiting);
        if !session_gone || granter.promised || granted || young {
            return None;
        }
        granter.promised = true;
        Some(())
    }
}

/// A member that may grant a lease or promise to leave the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    grant: u8,
    granted_this_round: bool,
    /// A grant is lost with the agent that gave it.
    remembers: bool,
    up_for: u8,
    promised: bool,
}

/// A moment of the timed model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    now: u8,
    etcd: bool,
    /// What is left of the session, by etcd's count.
    session: u8,
    /// What is left of the lease, on the writer's clock.
    lease: u8,
    paused: Option<u8>,
    /// Since a renewal was sent that has not been answered, on the writer's clock.
    renewal_age: Option<u8>,
    /// Since a round of grants was asked for.
    round_age: Option<u8>,
    members: [Member; MEMBERS],
    opened: bool,
    lost_ticks: u8,
    restarts: u8,
}

/// A step of the timed model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the meaning.
pub enum Step {
    Tick,
    /// The writer's clock does not see this one.
    SlowTick,
    SendRenewal,
    RenewalAnswered,
    EtcdGoes,
    /// A new leader of etcd counts every lease from its beginning.
    EtcdReturns,
    AskForGrants,
    Grant(usize),
    UseGrants,
    Promise(usize),
    OpenNextTerm,
    AgentRestarts(usize),
    HostStops,
    HostGoesOn,
}

/// What must never be seen.
pub const STOPPED_IN_TIME: &str = "I2: no lease lives beside an open next term";

/// What must be reachable.
pub const MUST_BE_REACHED: [&str; 2] =
    ["reached: the next term opens", "reached: grants carry the writer through an outage of etcd"];

impl Model for Lease {
    type State = Moment;
    type Action = Step;

    fn init_states(&self) -> Vec<Moment> {
        let member = Member {
            grant: 0,
            granted_this_round: false,
            remembers: true,
            up_for: self.lengths.grant,
            promised: false,
        };
        vec![Moment {
            now: 0,
            etcd: true,
            session: self.lengths.session,
            lease: self.lengths.lease,
            paused: None,
            renewal_age: None,
            round_age: None,
            members: [member; MEMBERS],
            opened: false,
            lost_ticks: 0,
            restarts: 0,
        }]
    }

    fn actions(&self, state: &Moment, steps: &mut Vec<Step>) {
        if state.now < self.lengths.horizon {
            steps.push(Step::Tick);
            if state.lost_ticks < self.lengths.drift {
                steps.push(Step::SlowTick);
            }
        }
        if state.paused.is_some() {
            steps.push(Step::HostGoesOn);
        } else {
            steps.extend([Step::SendRenewal, Step::RenewalAnswered, Step::AskForGrants, Step::UseGrants]);
            if self.lengths.pause > 0 {
                steps.push(Step::HostStops);
            }
        }
        steps.push(if state.etcd { Step::EtcdGoes } else { Step::EtcdReturns });
        for member in 0..MEMBERS {
            steps.extend([Step::Grant(member), Step::Promise(member)]);
            if state.restarts == 0 {
                steps.push(Step::AgentRestarts(member));
            }
        }
        steps.push(Step::OpenNextTerm);
    }

    fn next_state(&self, before: &Moment, step: Step) -> Option<Moment> {
        let mut state = *before;
        match step {
            Step::Tick => self.tick(&mut state, false)?,
            Step::SlowTick => self.tick(&mut state, true)?,
            Step::SendRenewal => {
                if !state.etcd || state.session == 0 || state.renewal_age.is_some() {
                    return None;
                }
                state.renewal_age = Some(0);
                state.session = self.lengths.session;
            }
            Step::RenewalAnswered => {
                state.lease = state.lease.max(self.lease_from(state.renewal_age.take()?))
            }
            Step::EtcdGoes => state.etcd = false,
            Step::EtcdReturns => {
                state.etcd = true;
                if state.session > 0 {
                    state.session = self.lengths.session;
                }
            }
            Step::AskForGrants => {
                if state.lease == 0 || state.round_age.is_some() {
                    return None;
                }
                state.round_age = Some(0);
                state.members.iter_mut().for_each(|member| member.granted_this_round = false);
            }
            Step::Grant(member) => self.grant(&mut state, member)?,
            Step::UseGrants => {
                let age = state.round_age.take()?;
                let granted = state.members.iter().filter(|member| member.granted_this_round).count();
                if granted >= usize::from(GRANTS_NEEDED) {
                    state.lease = state.lease.max(self.lengths.lease.saturating_sub(age));
                }
                state.members.iter_mut().for_each(|member| member.granted_this_round = false);
            }
            Step::Promise(member) => self.promise(&mut state, member)?,
            Step::OpenNextTerm => {
                state.opened = state.etcd && state.members.iter().all(|member| member.promised);
            }
            Step::AgentRestarts(member) => {
                state.restarts += 1;
                state.members[member].remembers = false;
                state.members[member].up_for = 0;
            }
            Step::HostStops => state.paused = Some(0),
            Step::HostGoesOn => state.paused = None,
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(STOPPED_IN_TIME, |_, state: &Moment| !(state.opened && state.lease > 0)),
            Property::sometimes(MUST_BE_REACHED[0], |_, state: &Moment| state.opened),
            Property::sometimes(MUST_BE_REACHED[1], |lease: &Self, state: &Moment| {
                !state.etcd && state.lease > 0 && state.now == lease.lengths.horizon
            }),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_products_timings_refuse_what_the_model_breaks() {
        assert!(Lengths::RIGHT.product_accepts());
        assert!(!Lease::new(Some(Mutant::NoMargin)).lengths().product_accepts());
    }
}
