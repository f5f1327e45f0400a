//! Rules 8, 9, 10, 12 and 13: whether a reign has ended, and the one transaction that says so.
//!
//! Any agent of the cluster may run it. The verdict is data: the shell turns a [`ClosePlan`] into an etcd transaction
//! without making a choice of its own.

mod overriding;
mod proved;

use std::collections::BTreeMap;

use holdfast_types::record::{
    Attestation, Evidence, FloorRecord, OutsideRecord, OverrideRecord, Promise, Reign, StopKind, TermRecord,
};
use holdfast_types::{MemberName, Position, SessionId};

use crate::in_force;
use crate::mutant::{Mutant, left_out};
use crate::successor::{self, Candidate};
use crate::sync::SyncKey;
use crate::timeline;

/// A record with the revision by which a transaction can compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revised<T> {
    /// The record.
    pub value: T,
    /// etcd's `mod_revision` of its key.
    pub mod_revision: i64,
}

/// Everything that CLOSE looks at, from one linearizable read of both prefixes.
#[derive(Debug, Clone)]
pub struct View<'o> {
    /// The term record.
    pub term: &'o Revised<TermRecord>,
    /// The floor record.
    pub floor: Option<&'o Revised<FloorRecord>>,
    /// Patroni's `/sync`.
    pub sync: Option<&'o SyncKey>,
    /// Earlier values of `/sync`, from etcd's history.
    pub sync_history: &'o [SyncKey],
    /// Promises, whatever their term.
    pub promises: &'o BTreeMap<MemberName, Revised<Promise>>,
    /// The `data_uuid` that each member's own facts report now.
    pub data_uuids: &'o BTreeMap<MemberName, String>,
    /// The writer's own word.
    pub attestation: Option<&'o Revised<Attestation>>,
    /// Rule 11: the word of a fence device, and who asked it.
    pub outside: Option<(&'o MemberName, &'o Revised<OutsideRecord>)>,
    /// Rules 11 and 18: a person's order for this term.
    pub overriding: Option<&'o Revised<OverrideRecord>>,
    /// Whether the key of the writer's session exists with the session of the term record.
    pub session_present: bool,
    /// Patroni's leader key.
    pub leader_key: Option<&'o Revised<MemberName>>,
    /// Patroni's `/failover` exists.
    pub failover_key: bool,
    /// Revision of Patroni's `/config`; 0 is absent.
    pub config_mod_revision: i64,
    /// Revision of the maintenance record; 0 is absent.
    pub maintenance_mod_revision: i64,
    /// Rule 24: the writer may still be writing without a lease.
    pub held: bool,
    /// Revision of the record that says so; 0 is absent.
    pub held_mod_revision: i64,
    /// Members that could follow.
    pub candidates: &'o [Candidate],
    /// Wall clock for the record, milliseconds since 1970.
    pub now_wall_ms: i64,
}

/// Why there is no CLOSE now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// Nothing to close.
    #[error("the term is closed and /sync has not changed since")]
    AlreadyClosed,
    /// The writer was never armed, or its record is of another term.
    #[error("there is no floor record of the open term")]
    NoFloor,
    /// Patroni has no `/sync`: the cluster is not in quorum mode.
    #[error("there is no /sync key")]
    NoSync,
    /// Session alive, leader key the writer's or absent, nothing attested.
    #[error("the writer has neither attested a stop nor lost its session or lock")]
    WriterLives,
    /// Rule 24.
    #[error(
        "the writer may write without a lease since a pause or a maintenance, and has not said that it has one again; \
         if its host is certainly off: holdfast hold end"
    )]
    Held,
    /// Rule 2.
    #[error("the configurations in force are unknown: {0}")]
    InForce(#[from] in_force::Unknown),
    /// Rule 8.
    #[error("{promised} of {members} members have promised, more than {quorum} are needed")]
    Promises {
        /// `|D ∩ M|` of the first configuration that is not closed.
        promised: usize,
        /// `|M|`.
        members: usize,
        /// `q`.
        quorum: usize,
    },
    /// Rule 11: an override drops the count and the floor, not the cut between its successor and the writer.
    #[error("the override waits: {0} has not left the writer yet")]
    SuccessorFollows(MemberName),
    /// The member that has what was acknowledged has not promised.
    #[error("the best promise ends at {best}, before the floor {floor}")]
    BehindFloor {
        /// `max position(D)`.
        best: Position,
        /// `F`.
        floor: Position,
    },
}

/// How the transaction proves that the writer is no longer in office. Chosen before it is sent: etcd knows no OR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutOfOffice {
    /// Compare: no key of that session.
    SessionAbsent(SessionId),
    /// Compare: the leader key at its revision, which is another member's.
    LeaderIsAnother,
    /// Compare: the word of a fence device at its revision; the term record holds the session that it was given for.
    Outside {
        /// Who asked it.
        asker: MemberName,
        /// Revision of the record.
        mod_revision: i64,
    },
    /// Compare: the attestation at its revision.
    Attested {
        /// Revision of the attestation.
        mod_revision: i64,
    },
}

/// What happens to Patroni's leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaderKey {
    /// Put it for the successor, on the lease of its Patroni member key, and compare that lease.
    Give {
        /// The successor.
        to: MemberName,
        /// The lease.
        member_lease: i64,
    },
    /// It is the old writer's and nobody can follow yet: Patroni's own race decides, and rule 14 holds for whoever wins.
    Delete,
    /// It is another's already, or absent with nobody to give it to.
    Leave,
}

impl std::fmt::Display for LeaderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Give { to, .. } => write!(f, "given to {to}"),
            Self::Delete => write!(f, "deleted"),
            Self::Leave => write!(f, "left as it is"),
        }
    }
}

/// The CLOSE transaction as data. Compares: every revision that is named. Writes, in this order: `/sync` with its own
/// value; the CLOSED record; delete `/failover`; the leader key last, because its event wakes Patroni's loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosePlan {
    /// Compare.
    pub term_mod_revision: i64,
    /// Compare.
    pub floor_mod_revision: i64,
    /// Compare, then rewrite with its own value so that Patroni's late write from a cached version fails.
    pub sync_mod_revision: i64,
    /// Compare each.
    pub promise_mod_revisions: BTreeMap<MemberName, i64>,
    /// Compare; 0 is absent.
    pub leader_mod_revision: i64,
    /// Compare: a pause that began meanwhile keeps the term open.
    pub config_mod_revision: i64,
    /// Compare: so does a maintenance.
    pub maintenance_mod_revision: i64,
    /// Compare: the override that this rests on, or that names the successor.
    pub override_mod_revision: Option<i64>,
    /// Compare: a writer that has been told of either since may have lifted its fence.
    pub held_mod_revision: i64,
    /// Compare.
    pub out_of_office: OutOfOffice,
    /// Write.
    pub closed: TermRecord,
    /// Delete, if present.
    pub delete_failover: bool,
    /// Write, last.
    pub leader_key: LeaderKey,
}

/// Decides whether the reign has ended.
pub fn decide(view: &View<'_>) -> Result<ClosePlan, NotYet> {
    let record = &view.term.value;
    let writer = record.holder();
    let sync = view.sync.ok_or(NotYet::NoSync)?;
    if !record_can_be_closed(view.term, sync) {
        return Err(NotYet::AlreadyClosed);
    }
    let floor = view.floor.filter(|floor| floor.value.term == record.term);
    let attestation = view.attestation.filter(|found| {
        found.value.term == record.term
            && found.value.holder == *writer
            && record.open_session().is_none_or(|s| s == found.value.session)
            // A term that was given back under an earlier start of the holder's agent may be in use by now.
            && (found.value.stop != StopKind::Relinquished || record.is_given_back_by(&found.value))
    });
    let out_of_office = out_of_office(view, attestation)?;
    if view.held && attestation.is_none() && view.outside.is_none() {
        return Err(NotYet::Held);
    }
    let stop = attestation.map(|found| &found.value.stop);
    let (end, evidence, promises) = match (proved::end(view, stop, floor, sync), view.overriding) {
        (Ok(end), _) => end,
        (Err(_), Some(overriding)) => overriding::end(view, &overriding.value, floor)?,
        (Err(why), None) => return Err(why),
    };
    let is_unused = evidence == Evidence::Relinquished;
    let leader_key = leader_key(view, end, &evidence);
    let successor = match &leader_key {
        LeaderKey::Give { to, .. } => Some(to.clone()),
        LeaderKey::Delete | LeaderKey::Leave => None,
    };
    let reign = Reign::Closed {
        holder: writer.clone(),
        floor: Some(end),
        sync_version: sync.version + 1,
        evidence,
        successor,
        at_wall_ms: view.now_wall_ms,
    };
    Ok(ClosePlan {
        term_mod_revision: view.term.mod_revision,
        floor_mod_revision: view.floor.map_or(0, |floor| floor.mod_revision),
        sync_mod_revision: sync.mod_revision,
        promise_mod_revisions: promises,
        leader_mod_revision: view.leader_key.map_or(0, |key| key.mod_revision),
        config_mod_revision: view.config_mod_revision,
        maintenance_mod_revision: view.maintenance_mod_revision,
        override_mod_revision: view.overriding.map(|found| found.mod_revision),
        held_mod_revision: view.held_mod_revision,
        out_of_office,
        closed: TermRecord {
            term: record.term,
            reign,
            trace: record.trace.clone(),
            timeline: timeline::used(record.timeline, is_unused),
        },
        delete_failover: view.failover_key,
        leader_key,
    })
}

/// Where what was acknowledged ends, what says so, and the promises that it rests on with their revisions.
type End = (Position, Evidence, BTreeMap<MemberName, i64>);

/// Open, or (rule 12) closed and overtaken: CLOSE put `/sync` in its own transaction, so equal revisions mean that
/// nobody has touched it since.
fn record_can_be_closed(term: &Revised<TermRecord>, sync: &SyncKey) -> bool {
    match term.value.reign {
        Reign::Open { .. } => true,
        Reign::Closed { .. } => sync.mod_revision != term.mod_revision && !left_out(Mutant::NotClosedAgain),
    }
}

fn out_of_office(view: &View<'_>, attestation: Option<&Revised<Attestation>>) -> Result<OutOfOffice, NotYet> {
    if let Some(found) = attestation {
        return Ok(OutOfOffice::Attested { mod_revision: found.mod_revision });
    }
    if let Some((asker, found)) = view.outside {
        return Ok(OutOfOffice::Outside { asker: asker.clone(), mod_revision: found.mod_revision });
    }
    let writer = view.term.value.holder();
    if view.leader_key.is_some_and(|key| key.value != *writer) {
        return Ok(OutOfOffice::LeaderIsAnother);
    }
    match view.term.value.open_session() {
        Some(session) if !view.session_present => Ok(OutOfOffice::SessionAbsent(session)),
        // A closed reign's writer is out of office already; its leader key, if it is back, is what rule 13 deletes.
        None => Ok(OutOfOffice::LeaderIsAnother),
        Some(_) => Err(NotYet::WriterLives),
    }
}

fn leader_key(view: &View<'_>, floor: Position, evidence: &Evidence) -> LeaderKey {
    if let Some(overriding) = view.overriding {
        return overriding::to_the_named(view, &overriding.value.successor);
    }
    let writer = view.term.value.holder();
    let is_anothers = view.leader_key.is_some_and(|key| key.value != *writer);
    if is_anothers {
        return LeaderKey::Leave;
    }
    let others: Vec<Candidate> =
        view.candidates.iter().filter(|one| one.member != *writer).cloned().collect();
    match successor::choose(&others, floor) {
        Some(Candidate { member, member_lease: Some(lease), .. }) => {
            LeaderKey::Give { to: member.clone(), member_lease: *lease }
        }
        // Rule 10: its Patroni may try again, or give the lock up by itself. It is not named here, because its hook was lost
        // a moment ago; rule 13 names it if nobody else is faster.
        _ if *evidence == Evidence::Relinquished && is_eligible(view, writer) => LeaderKey::Leave,
        _ if view.leader_key.is_some() => LeaderKey::Delete,
        _ => LeaderKey::Leave,
    }
}

fn is_eligible(view: &View<'_>, member: &MemberName) -> bool {
    view.candidates.iter().any(|one| one.member == *member && one.eligible)
}

#[cfg(test)]
mod tests;
