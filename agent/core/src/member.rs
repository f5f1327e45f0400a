//! The one decision of a database member: everything that was seen goes in, the actions in their order come out.
//!
//! Called by the shell after every change of what it sees. It composes the rules of the other modules and adds none of
//! safety; what it decides on a watched view of etcd is decided again on a linearizable read before it is acted on
//! ([`Action::needs_fresh_read`]). It never acts, and never remembers anything but [`Memory`].

mod action;
mod asynchronous;
mod closing;
mod come_back;
mod standby;
mod suspension;
mod writer;

use std::collections::BTreeSet;

use holdfast_types::record::{Reign, TermRecord};
use holdfast_types::{Class, HostName, Incarnation, MemberName, Now, Position, SessionId, Term, Timings};

use crate::attest::ControlState;
use crate::close::Revised;
use crate::cluster::Cluster;
use crate::detach::{Life, Phase};
use crate::hung::Pulse;
use crate::outside::{self, Devices, Silent};
use crate::relinquish::Hooks;
use crate::sync::AnySetting;

pub use action::Action;

/// Our own session in etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnSession {
    /// The lease.
    pub session: SessionId,
    /// The start of the agent.
    pub incarnation: Incarnation,
}

/// What was seen of the postmaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Postgres {
    /// Its process lives.
    Running {
        /// `pg_is_in_recovery()`; unknown while it does not answer.
        in_recovery: Option<bool>,
    },
    /// There is no postmaster.
    Gone,
    /// Could not be told.
    Unknown,
}

impl Postgres {
    /// Whether it accepts writes, or runs without an answer and was never a standby: a writer that is shutting down can
    /// hang there for minutes with sessions that still wait for their acknowledgement. `None`: cannot be told.
    pub fn accepts_writes(self, started_as_primary: bool) -> Option<bool> {
        match self {
            Self::Running { in_recovery: Some(recovers) } => Some(!recovers),
            Self::Running { in_recovery: None } => started_as_primary.then_some(true),
            Self::Gone => Some(false),
            Self::Unknown => None,
        }
    }
}

/// What was seen after the postmaster of a writer went.
#[derive(Debug, Clone)]
pub struct AfterStop {
    /// No process of PostgreSQL is left, or none that can run again (rule 9); after a crash, none of Patroni's either.
    pub processes_gone: bool,
    /// What the control file says.
    pub control: ControlState,
    /// After a crash: the members whose agents have said, since this stop, that their PostgreSQL is alive. A host that has
    /// died is in everybody's facts until its session ends.
    pub answering: BTreeSet<MemberName>,
}

/// What a standby knows of a writer that may be dead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspicion {
    /// etcd's own count says that the session's renewals are overdue.
    pub late: bool,
    /// For how long no WAL and no keepalive has come, by our monotonic clock, in milliseconds.
    pub silent_ms: u64,
    /// Fresh probes since the silence began, oldest first.
    pub probes: Vec<Life>,
    /// For how long its session cannot have been renewed, in milliseconds.
    pub unrenewed_ms: u64,
}

/// What this host saw of its own instance.
#[derive(Debug, Clone)]
pub struct Local<'o> {
    /// Ourselves.
    pub me: &'o MemberName,
    /// Our host.
    pub host: &'o HostName,
    /// Which promises the cluster can be given.
    pub class: Class,
    /// The time.
    pub now: Now,
    /// For how long the agent has been up, in milliseconds.
    pub uptime_ms: u64,
    /// Our session; `None` when it is not known to be alive.
    pub own: Option<OwnSession>,
    /// The postmaster.
    pub postgres: Postgres,
    /// PostgreSQL was not started as a standby: there is no `standby.signal`.
    pub started_as_primary: bool,
    /// Patroni does not answer although PostgreSQL is healthy: stopped by a signal, or its REST API silent twice.
    pub patroni_hung: bool,
    /// What is felt of our PostgreSQL, when it is the writer; `None`: it is not asked.
    pub pulse: Option<Pulse>,
    /// Only when the postmaster of a writer is gone.
    pub after_stop: Option<AfterStop>,
    /// How far a standby has come: what it has received or replayed, whichever is more.
    pub reached: Option<Position>,
    /// The highest term that this host remembers.
    pub known_term: Term,
    /// For how long the session of the open term has been seen gone, in milliseconds: [`Gone`](crate::gone::Gone).
    pub writer_gone_ms: u64,
    /// A write lease that we granted without etcd has not run out (rule 22).
    pub granted: bool,
    /// The start gate refuses, because we attest.
    pub gate_shut: bool,
    /// A PostgreSQL that hung is being ended, perhaps by an earlier start of the agent (rule 9).
    pub ends_hung: bool,
    /// The term in which our PostgreSQL was started again, as its writer, which nobody has been told.
    pub away_in: Option<Term>,
    /// What promotion hooks have been told by this start of the agent (rule 10).
    pub hooks: Hooks,
    /// The fence of this host stands by a lease or is shut, as far as it was set by this start of the agent.
    pub fenced_in: bool,
    /// Where we are in leaving a writer, as it stands on disk.
    pub phase: Option<&'o Phase>,
    /// What we know of the writer's signs of life.
    pub suspicion: &'o Suspicion,
    /// What the kernel's table lets through, as it was read back last.
    pub network: &'o Network,
    /// Our actual `synchronous_standby_names`, when we are the writer.
    pub setting: Option<&'o AnySetting>,
    /// The fence devices that this host may ask.
    pub devices: &'o Devices,
    /// The timings in force.
    pub timings: &'o Timings,
    /// How long a second automatic failover waits for a person.
    pub second_failover_hold_ms: u64,
}

impl Local<'_> {
    fn accepts_writes(&self) -> bool {
        self.postgres.accepts_writes(self.started_as_primary) == Some(true)
    }
}

/// What our nftables table lets through. The kernel's word counts, not what was put there once: an agent that starts
/// finds what its last start left, and whoever flushes the packet filter takes our table with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// The kernel has the table.
    pub installed: bool,
    /// Replication is open towards this address and port.
    pub source: Option<(String, u16)>,
    /// Addresses that are cut off.
    pub cut: BTreeSet<String>,
}

/// What is carried from one decision to the next. It is rebuilt from nothing after a restart; losing it costs time only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    close_possible_since_ms: Option<u64>,
    named: Option<Named>,
    attested_since_ms: Option<u64>,
    /// Class `off`: Patroni's lock was first seen another's while our PostgreSQL still ran.
    another_leads_since_ms: Option<u64>,
    /// Since when Patroni's lock has been nobody's, while we hold the open term and stand ready.
    unlocked_since_ms: Option<u64>,
    /// Nobody used the attestation of this stop: Patroni starts PostgreSQL on the spot, and it is not attested again.
    attestation_withdrawn: bool,
    /// The incident whose proof has been begun by this start of the agent.
    proving: Option<Term>,
    /// The restart in place whose telling has been begun by this start of the agent.
    telling: Option<Term>,
    /// Rule 11: a writer that was seen silent.
    silent: Option<Silent>,
}

/// Rule 13: who holds the leader key of a closed term, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    term_mod_revision: i64,
    leader_mod_revision: i64,
    since_ms: u64,
    /// Names before this one: each gets twice the time of the last, so that two slow successors do not take the key from
    /// each other for ever.
    earlier: u32,
}

/// For how long something has been so, in milliseconds, that began at the latest now.
fn lasts_ms(since_ms: &mut Option<u64>, local: &Local<'_>) -> u64 {
    let now_ms = local.now.boottime_ms;
    now_ms.saturating_sub(*since_ms.get_or_insert(now_ms))
}

/// What comes out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// To do now, in this order.
    pub actions: Vec<Action>,
    /// What is being waited for, for `status` and the log.
    pub waits: Vec<String>,
    /// Look again after this many milliseconds even if nothing changes.
    pub again_in_ms: Option<u64>,
    /// The verdict rests on earlier values of `/sync`, which only a read brings: decide again on one (rule 2).
    pub needs_sync_history: bool,
}

/// Decides what a database member does now.
///
/// While Patroni is paused, a maintenance is in force, or neither can be told, nothing automatic happens but what a person
/// has ordered: people pause because they work on the cluster by hand (rule 24).
pub fn decide(cluster: &Cluster, local: &Local<'_>, memory: &mut Memory) -> Decision {
    let mut decision = Decision::default();
    let runs = matches!(local.postgres, Postgres::Running { .. });
    if cluster.fenced(local.me) && runs {
        decision.actions.push(Action::KillFenced);
    }
    let suspended = cluster.suspended(local.now.wall_ms);
    if suspended != Some(false) {
        decision.waits.extend(cluster.why_suspended(local.now.wall_ms));
        if local.class != Class::On {
            // Not of rules 4 to 13: nothing changes hands by it, and without it the writer's lease would end (rule 23).
            decision.actions.extend(writer::keep_term(cluster, local));
            if suspended == Some(true) {
                writer::give_back(cluster, local, &mut decision);
                if decision.actions.is_empty() {
                    decision.actions.extend(suspension::hold(cluster, local));
                }
            }
        }
        return decision;
    }
    if local.patroni_hung && runs {
        decision.actions.push(Action::RestartPatroni);
    }
    decision.actions.extend(suspension::end(cluster, local));
    match local.class {
        Class::Quorum => with_quorum(cluster, local, memory, &mut decision),
        Class::Off => asynchronous::decide(cluster, local, memory, &mut decision),
        // Refused at arming (DESIGN section 4).
        Class::On => {}
    }
    decision
}

fn with_quorum(cluster: &Cluster, local: &Local<'_>, memory: &mut Memory, decision: &mut Decision) {
    let Some(term) = term_in_force(cluster) else {
        *memory = Memory::default();
        return open_first(cluster, local, decision);
    };
    match &term.value.reign {
        Reign::Open { holder, .. } if holder == local.me => {
            writer::decide(cluster, local, term, memory, decision)
        }
        Reign::Open { holder, .. } => standby::decide(cluster, local, term, holder, memory, decision),
        Reign::Closed { holder, .. } => closing::while_closed(cluster, local, term, holder, memory, decision),
    }
    match outside::decide(cluster, local, &mut memory.silent) {
        // First: it is only begun here, and what fails after it must not keep it from being begun.
        Some(ask) => decision.actions.insert(0, ask),
        None => {
            if let Some(left_ms) = outside::due_in_ms(cluster, local, memory.silent.as_ref()) {
                decision.again_in_ms = Some(decision.again_in_ms.map_or(left_ms, |again| again.min(left_ms)));
            }
        }
    }
}

/// The term record, unless it is older than the arming: a record from before says only how high terms have been.
pub fn term_in_force(cluster: &Cluster) -> Option<&Revised<TermRecord>> {
    let mode = cluster.mode.as_ref()?;
    cluster.term.as_ref().filter(|term| term.mod_revision > mode.mod_revision)
}

fn open_first(cluster: &Cluster, local: &Local<'_>, decision: &mut Decision) {
    let is_leader = cluster.leader_key.as_ref().is_some_and(|leader| leader.value == *local.me);
    let is_primary = local.postgres == Postgres::Running { in_recovery: Some(false) };
    if !is_leader || !is_primary || cluster.cannot_tell_terms() {
        return;
    }
    decision.actions.push(Action::OpenFirst {
        term: highest_term(cluster, local).next(),
        term_mod_revision: cluster.term.as_ref().map_or(0, |term| term.mod_revision),
    });
}

/// The highest term that etcd, our disk or another host's agent knows of (rule 25).
fn highest_term(cluster: &Cluster, local: &Local<'_>) -> Term {
    let promised = cluster.promises.values().map(|promise| promise.value.term);
    let on_disk = local.phase.map(Phase::term);
    let recorded = cluster.term.as_ref().map(|term| term.value.term);
    let remembered = cluster.facts.values().map(|facts| facts.highest_term);
    promised.chain(on_disk).chain(recorded).chain(remembered).max().unwrap_or(Term(0)).max(local.known_term)
}

fn open_record(old: &TermRecord, me: &MemberName, own: OwnSession, writable: bool) -> TermRecord {
    let OwnSession { session, incarnation } = own;
    let floor = match &old.reign {
        Reign::Open { floor, .. } => *floor,
        Reign::Closed { .. } => None,
    };
    let reign = Reign::Open { holder: me.clone(), incarnation, session, writable, floor };
    TermRecord { reign, ..old.clone() }
}

#[cfg(test)]
mod tests;
