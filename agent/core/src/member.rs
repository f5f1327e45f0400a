//! The one decision of a database member: everything that was seen goes in, the actions in their order come out.
//!
//! Called by the shell after every change of what it sees. It composes the rules of the other modules and adds none of
//! safety; what it decides on a watched view of etcd is decided again on a linearizable read before it is acted on
//! ([`Action::needs_fresh_read`]). It never acts, and never remembers anything but [`Memory`].

mod closing;

use std::collections::BTreeSet;

use holdfast_types::record::{Reign, StopKind, TermRecord};
use holdfast_types::{Class, HostName, Incarnation, MemberName, Now, SessionId, Term, Timings};

use crate::attest::{self, ControlState, Stopped};
use crate::close::{ClosePlan, Revised};
use crate::cluster::Cluster;
use crate::detach::{self, Life, Phase};
use crate::floor::{self, Begun};
use crate::in_force;
use crate::sync::AnySetting;
use closing::{close, while_closed};

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

/// What was seen after the postmaster of a writer went.
#[derive(Debug, Clone)]
pub struct AfterStop {
    /// No process of PostgreSQL is left; after a crash, none of Patroni's either.
    pub processes_gone: bool,
    /// What the control file says.
    pub control: ControlState,
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
}

/// What this host saw of its own instance.
#[derive(Debug, Clone)]
pub struct Local<'o> {
    /// Ourselves.
    pub me: &'o MemberName,
    /// Our host.
    pub host: &'o HostName,
    /// Which promises the cluster can be given: terms exist with quorum commit only.
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
    /// Only when the postmaster of a writer is gone.
    pub after_stop: Option<AfterStop>,
    /// The start gate refuses, because we attest.
    pub gate_shut: bool,
    /// Where we are in leaving a writer, as it stands on disk.
    pub phase: Option<&'o Phase>,
    /// What we know of the writer's signs of life.
    pub suspicion: &'o Suspicion,
    /// The address that replication is open towards, and whether that is by our own table at all.
    pub source: &'o Network,
    /// Our actual `synchronous_standby_names`, when we are the writer.
    pub setting: Option<&'o AnySetting>,
    /// The timings in force.
    pub timings: &'o Timings,
    /// How long a second automatic failover waits for a person.
    pub second_failover_hold_ms: u64,
}

impl Local<'_> {
    /// PostgreSQL accepts writes, or runs without an answer and was never a standby: a writer that is shutting down can
    /// hang there for minutes with sessions that still wait for their acknowledgement.
    fn accepts_writes(&self) -> bool {
        match self.postgres {
            Postgres::Running { in_recovery: Some(recovers) } => !recovers,
            Postgres::Running { in_recovery: None } => self.started_as_primary,
            Postgres::Gone | Postgres::Unknown => false,
        }
    }
}

/// What our nftables table lets through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// The table has been put in place.
    pub installed: bool,
    /// Replication is open towards this address.
    pub source: Option<String>,
    /// Addresses that are cut off.
    pub cut: BTreeSet<String>,
}

/// What is carried from one decision to the next. It is rebuilt from nothing after a restart; losing it costs time only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    close_possible_since_ms: Option<u64>,
    closed_seen: Option<(i64, u64)>,
    attested_since_ms: Option<u64>,
    /// Nobody used the attestation of this stop: Patroni starts PostgreSQL on the spot, and it is not attested again.
    attestation_withdrawn: bool,
}

/// One thing to do. The shell does them in their order and stops at the first failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Rule 1, last sentence: the present leader opens the first term after arming, above every term that is known.
    OpenFirst {
        /// The term to open.
        term: Term,
        /// Compare; 0 is absent.
        term_mod_revision: i64,
    },
    /// Rule 23: our term goes on under the session and incarnation that we have now.
    KeepTerm {
        /// The record to put.
        record: TermRecord,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Our PostgreSQL has left recovery: say so in the term record, prove it with a write, close the incident.
    SayWritable {
        /// The record to put.
        record: TermRecord,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Rule 1: publish a new floor record.
    KeepFloor(Begun),
    /// Shut the start gate and kill Patroni together with what is left of PostgreSQL.
    ShutGateAndKill,
    /// Rule 9: put the attestation.
    Attest {
        /// The term.
        term: Term,
        /// How it stopped.
        stop: StopKind,
    },
    /// Rule 9a: nobody has used the attestation; withdraw it, then open the gate.
    WithdrawAttestation {
        /// Compare.
        attestation_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
    },
    /// The term in which we attested is over: the gate may let a standby start.
    OpenGate,
    /// Kill Patroni only; its supervisor starts it again and PostgreSQL runs on.
    RestartPatroni,
    /// A term that is not ours is in force and our PostgreSQL still accepts writes: kill it with its Patroni.
    KillDeposed,
    /// A person has fenced this node, and its PostgreSQL runs: end it; the start gate keeps it out.
    KillFenced,
    /// Rule 6: replication is open towards this member's address and no other.
    Follow {
        /// The writer, or nobody.
        address: Option<String>,
    },
    /// Rules 4 and 5: begin to leave, or go on with leaving, the writer of this term.
    Promise {
        /// The term.
        term: Term,
        /// Its writer.
        writer: MemberName,
    },
    /// Rule 7.
    WithdrawPromise {
        /// Compare; 0 when the promise never reached etcd.
        promise_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
        /// Compare: this session's key exists.
        writers_session: SessionId,
    },
    /// A later term is open: what bound us is over.
    ForgetPhase,
    /// Rules 8 and 12.
    Close(Box<ClosePlan>),
    /// A second failover so soon waits for a person.
    Hold {
        /// The term that is not closed.
        term: Term,
        /// When the last one was closed.
        last_failover_wall_ms: i64,
    },
    /// Rule 13: the leader key is the old writer's again.
    TakeLeaderKey {
        /// Compare.
        leader_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Rule 13: the successor has not opened; name the next.
    NameNext {
        /// The member.
        to: MemberName,
        /// Its Patroni lease.
        member_lease: i64,
        /// Compare; 0 is absent.
        leader_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
    },
}

impl Action {
    /// Whether the decision rests on etcd's state in a way that a watched, possibly late view cannot carry.
    pub fn needs_fresh_read(&self) -> bool {
        !matches!(self, Self::RestartPatroni | Self::OpenGate | Self::ShutGateAndKill)
    }
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
}

/// A promotion takes 0.05-0.2 s (`facts/baseline.md` 5.2); it is looked at this often.
const PROMOTION_POLL_MS: u64 = 15;
/// Rule 9a: how long an attestation waits for a CLOSE before PostgreSQL is started again on the spot. Longer than a
/// failover takes (0.5 s), shorter than Patroni's own recovery would cost a user's patience.
const ATTESTATION_PATIENCE_MS: u64 = 4_000;

/// Decides what a database member does now.
pub fn decide(cluster: &Cluster, local: &Local<'_>, memory: &mut Memory) -> Decision {
    let mut decision = Decision::default();
    if local.patroni_hung && matches!(local.postgres, Postgres::Running { .. }) {
        decision.actions.push(Action::RestartPatroni);
    }
    if local.class != Class::Quorum {
        return decision;
    }
    if cluster.fences.contains_key(local.me) && matches!(local.postgres, Postgres::Running { .. }) {
        decision.actions.push(Action::KillFenced);
    }
    let Some(term) = term_in_force(cluster) else {
        *memory = Memory::default();
        open_first(cluster, local, &mut decision);
        return decision;
    };
    match &term.value.reign {
        Reign::Open { holder, .. } if holder == local.me => {
            as_writer(cluster, local, term, memory, &mut decision)
        }
        Reign::Open { holder, .. } => as_standby(cluster, local, term, holder, memory, &mut decision),
        Reign::Closed { holder, .. } => while_closed(cluster, local, term, holder, memory, &mut decision),
    }
    decision
}

/// The term record, unless it is older than the arming: a record from before says only how high terms have been.
pub fn term_in_force(cluster: &Cluster) -> Option<&Revised<TermRecord>> {
    let mode = cluster.mode.as_ref()?;
    cluster.term.as_ref().filter(|term| term.mod_revision > mode.mod_revision)
}

fn open_first(cluster: &Cluster, local: &Local<'_>, decision: &mut Decision) {
    let is_leader = cluster.leader_key.as_ref().is_some_and(|leader| leader.value == *local.me);
    let is_primary = local.postgres == Postgres::Running { in_recovery: Some(false) };
    if !is_leader || !is_primary || cluster.unreadable.keys().any(|key| key.ends_with("/term")) {
        return;
    }
    let promised = cluster.promises.values().map(|promise| promise.value.term);
    let on_disk = local.phase.map(Phase::term);
    let recorded = cluster.term.as_ref().map(|term| term.value.term);
    let highest = promised.chain(on_disk).chain(recorded).max().unwrap_or(Term(0));
    decision.actions.push(Action::OpenFirst {
        term: highest.next(),
        term_mod_revision: cluster.term.as_ref().map_or(0, |term| term.mod_revision),
    });
}

fn as_writer(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let number = term.value.term;
    if local.phase.is_some_and(|phase| phase.term() < number) {
        decision.actions.push(Action::ForgetPhase);
    }
    if local.source.installed && (local.source.source.is_some() || !local.source.cut.is_empty()) {
        decision.actions.push(Action::Follow { address: None });
    }
    let Reign::Open { incarnation, session, writable, .. } = term.value.reign else { return };
    let Some(own) = local.own else {
        decision.waits.push("our own session is not known to be alive".into());
        return;
    };
    if (session, incarnation) != (own.session, own.incarnation) {
        decision.actions.push(Action::KeepTerm {
            record: open_record(&term.value, local.me, own, writable),
            term_mod_revision: term.mod_revision,
        });
        return;
    }
    match local.postgres {
        Postgres::Gone => after_stop(cluster, local, term, memory, decision),
        Postgres::Running { in_recovery: Some(false) } => {
            memory.attested_since_ms = None;
            memory.attestation_withdrawn = false;
            if let Some(found) = cluster.attestation.as_ref().filter(|found| found.value.term == number) {
                decision.actions.push(Action::WithdrawAttestation {
                    attestation_mod_revision: found.mod_revision,
                    term_mod_revision: term.mod_revision,
                });
            }
            if local.gate_shut && !cluster.attested() {
                decision.actions.push(Action::OpenGate);
            }
            if !writable {
                decision.actions.push(Action::SayWritable {
                    record: open_record(&term.value, local.me, own, true),
                    term_mod_revision: term.mod_revision,
                });
            }
            let Some(sync) = &cluster.sync else { return };
            match floor::begin(
                cluster.floor.as_ref().map(|f| &f.value),
                sync,
                local.setting,
                local.me,
                number,
            ) {
                Ok(begun) => decision.actions.push(Action::KeepFloor(begun)),
                Err(floor::NotYet::Unchanged) => {}
                Err(why) => decision.waits.push(format!("floor record: {why}")),
            }
        }
        // On its way out of recovery: poolers wait for the word.
        Postgres::Running { .. } | Postgres::Unknown if !writable => {
            decision.again_in_ms = Some(PROMOTION_POLL_MS)
        }
        Postgres::Running { .. } | Postgres::Unknown => {}
    }
}

fn open_record(old: &TermRecord, me: &MemberName, own: OwnSession, writable: bool) -> TermRecord {
    let OwnSession { session, incarnation } = own;
    TermRecord { reign: Reign::Open { holder: me.clone(), incarnation, session, writable }, ..old.clone() }
}

/// Rules 9 and 9a.
fn after_stop(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let number = term.value.term;
    if let Some(found) = cluster.attestation.as_ref().filter(|found| found.value.term == number) {
        let since_ms = *memory.attested_since_ms.get_or_insert(local.now.boottime_ms);
        if local.now.boottime_ms.saturating_sub(since_ms) >= ATTESTATION_PATIENCE_MS {
            memory.attestation_withdrawn = true;
            decision.actions.push(Action::WithdrawAttestation {
                attestation_mod_revision: found.mod_revision,
                term_mod_revision: term.mod_revision,
            });
        } else {
            decision.waits.push("attested; the standbys close the term".into());
            decision.again_in_ms = Some(ATTESTATION_PATIENCE_MS);
        }
        return;
    }
    memory.attested_since_ms = None;
    if memory.attestation_withdrawn {
        if local.gate_shut {
            decision.actions.push(Action::OpenGate);
        }
        decision.waits.push("Patroni starts PostgreSQL: nobody could take the term up".into());
        return;
    }
    let Some(seen) = &local.after_stop else { return };
    let streaming = members_that(cluster, |facts| facts.streaming == Some(true));
    let eligible = members_that(cluster, |facts| facts.eligible == Some(true));
    let in_force = match (&cluster.floor, &cluster.sync) {
        (Some(floor), Some(sync)) if floor.value.term == number => {
            in_force::configurations(&floor.value, sync, &cluster.sync_history, local.me).ok()
        }
        _ => None,
    };
    let leader_is_us = cluster.leader_key.as_ref().is_some_and(|leader| leader.value == *local.me);
    let clean = matches!(seen.control, ControlState::ShutDown { .. });
    let verdict = attest::decide(&Stopped {
        processes_gone: seen.processes_gone,
        gate_shut: local.gate_shut,
        // Patroni gives the lock up only after it stopped PostgreSQL for a switchover; with the lock in hand it restarts.
        by_order: clean && leader_is_us,
        control: &seen.control,
        in_force: in_force.as_deref(),
        streaming: &streaming,
        eligible: &eligible,
    });
    match verdict {
        attest::Verdict::Attest(stop) => decision.actions.push(Action::Attest { term: number, stop }),
        attest::Verdict::ShutAndKill => decision.actions.push(Action::ShutGateAndKill),
        attest::Verdict::RestartInPlace(why) => {
            decision.waits.push(format!("Patroni starts PostgreSQL: {why}"));
            // Shut for an attestation that does not come: nobody else would open it.
            if local.gate_shut {
                decision.actions.push(Action::OpenGate);
            }
        }
    }
}

fn members_that(
    cluster: &Cluster,
    wanted: impl Fn(&holdfast_types::record::MemberFacts) -> bool,
) -> BTreeSet<MemberName> {
    let alive = |facts: &holdfast_types::record::MemberFacts| cluster.agent_alive(&facts.host);
    cluster
        .facts
        .iter()
        .filter(|(member, facts)| wanted(facts) && alive(facts) && !cluster.fences.contains_key(*member))
        .map(|(member, _)| member.clone())
        .collect()
}

fn as_standby(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    writer: &MemberName,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let number = term.value.term;
    memory.attested_since_ms = None;
    if local.accepts_writes() {
        decision.actions.push(Action::KillDeposed);
        return;
    }
    if local.gate_shut {
        decision.actions.push(Action::OpenGate);
    }
    if local.phase.is_some_and(|phase| phase.term() < number) {
        decision.actions.push(Action::ForgetPhase);
        return;
    }
    let ours = cluster.promises.get(local.me).filter(|promise| promise.value.term == number);
    let source = detach::replication_source(Some(&term.value), local.me, local.phase, ours.is_some());
    let address = source.and_then(|source| cluster.address(source)).map(|(address, _)| address.to_owned());
    let unknown_address = source.is_some() && address.is_none();
    if !unknown_address
        && (local.source.source != address || (source.is_some() && !local.source.cut.is_empty()))
    {
        decision.actions.push(Action::Follow { address });
    }
    let verdict = detach::may_promise(&detach::View {
        me: local.me,
        term: Some(&term.value),
        leader_key: cluster.leader_key.as_ref().map(|leader| &leader.value),
        attested: cluster.attested(),
        session_present: cluster.writers_session_present(),
        silent_ms: local.suspicion.silent_ms,
        probes: &local.suspicion.probes,
        grant_in_force: false,
        up_long_enough: local.uptime_ms >= local.timings.write_lease_ms(),
        barred: cluster.fences.contains_key(local.me),
        suspect_after_ms: local.timings.suspect_after_ms(),
    });
    let promised = ours.is_some() && matches!(local.phase, Some(Phase::Promised { .. }));
    match verdict {
        Ok(term) if !promised => {
            decision.actions.push(Action::Promise { term, writer: writer.clone() });
            return;
        }
        Ok(_) => {}
        Err(why) => withdraw(cluster, local, term, why, decision),
    }
    close(cluster, local, term, memory, decision);
}

/// Rule 7: a promise that has lost its reason is taken back, if the writer is provably in office.
fn withdraw(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    why: detach::NotNow,
    decision: &mut Decision,
) {
    let bound = local.phase.is_some()
        || cluster.promises.get(local.me).is_some_and(|p| p.value.term == term.value.term);
    if !bound || why != detach::NotNow::NothingWrong {
        return;
    }
    let Reign::Open { session, .. } = term.value.reign else { return };
    decision.actions.push(Action::WithdrawPromise {
        promise_mod_revision: cluster
            .promises
            .get(local.me)
            .filter(|promise| promise.value.term == term.value.term)
            .map_or(0, |promise| promise.mod_revision),
        term_mod_revision: term.mod_revision,
        writers_session: session,
    });
}

#[cfg(test)]
mod tests;
