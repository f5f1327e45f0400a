//! Evidence *expired*, for clusters of class `off`: when the next writer may open.
//!
//! Nothing is promised there, so what ends a reign is the end of the writer's lease. The writer names in its floor record
//! who may follow: every other member, with `q = 0`. Its lease then comes from its session, or, without etcd, from grants
//! of *all* that are named (the count of rule 22). So one that is named, sees the session gone, and has no grant of its own
//! running, for as long as a lease and the guard's grace last at most, knows that neither is left. One that is not named was never asked
//! and knows nothing. A planned switchover leaves the session alive: there the old writer's agent attests the stop.
//!
//! Called by the promotion hook, and by the member's decision for a primary that was promoted without it. It decides no
//! loss: that is Patroni's `maximum_lag_on_failover`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::record::{Attestation, FloorRecord, Reign, StopKind, TermRecord};
use holdfast_types::{Configuration, Lsn, MemberName, Position, SessionId, Term, Timeline, Timings};

use crate::close::{OutOfOffice, Revised};
use crate::cluster::Cluster;
use crate::member::{OwnSession, term_in_force};
use crate::mutant::{Mutant, left_out};

/// What a member sees that would follow.
#[derive(Debug, Clone)]
pub struct View<'o> {
    /// The cluster, by a linearizable read.
    pub cluster: &'o Cluster,
    /// Ourselves.
    pub me: &'o MemberName,
    /// Our session.
    pub own: OwnSession,
    /// The highest term that this host remembers.
    pub known_term: Term,
    /// For how long the session of the open term has been seen gone, by our clock, in milliseconds; 0 while it is there.
    pub gone_ms: u64,
    /// The timings in force.
    pub timings: &'o Timings,
    /// A lease that we granted to the writer has not run out, or may not have: the agent has not been up for longer.
    pub granted: bool,
    /// Our own stop is attested, or about to be: no promotion of ours passes in a term that we hold.
    pub given_back: bool,
    /// A fence record forbids that we lead.
    pub barred: Option<&'o str>,
    /// The wall clock, in milliseconds since 1970.
    pub now_wall_ms: i64,
    /// For how long the hook has been waiting, in milliseconds.
    pub waited_ms: u64,
    /// The longest wait, in milliseconds.
    pub wait_ms_max: u64,
}

/// Why nobody may follow yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// Its session renews its lease.
    #[error("the session of {0} is alive, and its agent has attested no stop")]
    WriterLives(MemberName),
    /// A session may also be gone because somebody has revoked it: then the lease by its last renewal still runs.
    #[error("the session of {writer} is gone; a lease by it may last for {left_ms} ms more")]
    MayHaveLease {
        /// The writer.
        writer: MemberName,
        /// How long it is waited for, in milliseconds.
        left_ms: u64,
    },
    /// Rule 22.
    #[error("a lease that this host may have granted to {0} has not run out")]
    Granted(MemberName),
    /// It never asked us for a grant, so that we have none says nothing.
    #[error("{0} has not named this node among those that it asks for a lease")]
    NotNamed(MemberName),
    /// Rule 24.
    #[error(
        "{0} may write without a lease since a pause or a maintenance, and has not said that it has one again; \
         if its host is certainly off: holdfast hold end"
    )]
    Held(MemberName),
    /// A newer build has written it.
    #[error("the floor record cannot be read; upgrade this host")]
    Unreadable,
}

/// The transaction that opens the next term. It compares every revision that is named, and what puts the last writer out
/// of office.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Compare; 0 is absent.
    pub term_mod_revision: i64,
    /// Compare: ours.
    pub leader_mod_revision: i64,
    /// Compare: whom the last writer asks; 0 is absent.
    pub floor_mod_revision: i64,
    /// Compare: a writer that was told of a pause since may have lifted its fence; 0 is absent.
    pub held_mod_revision: i64,
    /// Compare. `None`: no term is open, or its writer's agent is of a build that guards no lease in class `off`.
    pub out_of_office: Option<OutOfOffice>,
    /// The writer whose term ends.
    pub last: Option<(MemberName, Term)>,
    /// Write.
    pub opened: TermRecord,
    /// Write: whom we ask from now on.
    pub floor: FloorRecord,
}

/// The answer of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Exit 0: no term holds anybody back.
    Pass,
    /// Exit 0: the term is ours already.
    AlreadyOpen(Term),
    /// Run the transaction; exit 0 if it succeeds, look again if it does not.
    Open(Box<Plan>),
    /// Look again.
    Wait(String),
    /// Exit 1.
    Refuse(String),
}

/// Decides what the promotion hook answers in an armed cluster of class `off`.
pub fn decide(view: &View<'_>) -> Answer {
    if let Some(why) = view.barred {
        return Answer::Refuse(why.to_owned());
    }
    let Some(term) = term_in_force(view.cluster) else {
        return match view.cluster.cannot_tell_terms() {
            true => wait(view, "the term record cannot be read; upgrade this host".into()),
            false => Answer::Pass,
        };
    };
    let lock = view.cluster.leader_key.as_ref().filter(|key| key.value == *view.me);
    let Some(lock) = lock else { return wait(view, "Patroni's leader key is not ours".into()) };
    if let Reign::Open { holder, incarnation, session, .. } = &term.value.reign
        && holder == view.me
    {
        let kept = (*session, *incarnation) == (view.own.session, view.own.incarnation);
        return match kept && !view.given_back {
            true => Answer::AlreadyOpen(term.value.term),
            false => {
                wait(view, "the term is ours, but given away or of an earlier start of the agent".into())
            }
        };
    }
    match evidence(view, term) {
        Ok(None) if term.value.open_holder().is_some() => Answer::Pass,
        Ok(out_of_office) => Answer::Open(Box::new(plan(view, lock, out_of_office, false))),
        Err(why @ NotYet::NotNamed(_)) => Answer::Refuse(why.to_string()),
        Err(why) => match view.cluster.why_suspended(view.now_wall_ms) {
            // Nobody attests anything meanwhile, and whoever waits in the hook keeps the lock from its last holder.
            Some(suspended) => Answer::Refuse(format!("{why}; {suspended}")),
            None => wait(view, why.to_string()),
        },
    }
}

fn wait(view: &View<'_>, why: String) -> Answer {
    match view.waited_ms >= view.wait_ms_max {
        true => Answer::Refuse(format!("{why}; waited {} ms", view.waited_ms)),
        false => Answer::Wait(why),
    }
}

/// For a primary with Patroni's lock that no hook has let pass: the first term after arming, or a promotion by hand.
pub fn follow(view: &View<'_>, lock: &Revised<MemberName>) -> Result<Plan, NotYet> {
    let out_of_office = match term_in_force(view.cluster) {
        Some(term) => evidence(view, term)?,
        None => None,
    };
    Ok(plan(view, lock, out_of_office, true))
}

/// What proves that the writer of an open term can have nothing acknowledged any more. `None`: there is nobody to prove it
/// of, because the term is closed, or because its writer's agent guards no lease (a build before this rule).
pub fn evidence(view: &View<'_>, term: &Revised<TermRecord>) -> Result<Option<OutOfOffice>, NotYet> {
    let Reign::Open { holder, session, .. } = &term.value.reign else { return Ok(None) };
    if view.cluster.floor_unreadable {
        return Err(NotYet::Unreadable);
    }
    let Some(floor) = named_by(view.cluster, term.value.term) else { return Ok(None) };
    if let Some(word) = attestation(view.cluster, term, *session) {
        return Ok(Some(OutOfOffice::Attested { mod_revision: word.mod_revision }));
    }
    if view.cluster.may_be_held(view.now_wall_ms) {
        return Err(NotYet::Held(holder.clone()));
    }
    if left_out(Mutant::ExpiredNotAwaited) {
        return Ok(None);
    }
    // Booted since, its agent is about to renew the term, or to attest.
    let host = view.cluster.facts.get(holder).map(|facts| &facts.host);
    if view.cluster.sessions.contains_key(session) || host.is_some_and(|host| view.cluster.agent_alive(host))
    {
        return Err(NotYet::WriterLives(holder.clone()));
    }
    let left_ms = view.timings.grant_ms().saturating_sub(view.gone_ms);
    if left_ms > 0 {
        return Err(NotYet::MayHaveLease { writer: holder.clone(), left_ms });
    }
    if view.granted {
        return Err(NotYet::Granted(holder.clone()));
    }
    let configuration = &floor.value.configuration;
    if configuration.quorum != 0 || !configuration.members.contains(view.me) {
        return Err(NotYet::NotNamed(holder.clone()));
    }
    Ok(Some(OutOfOffice::SessionAbsent(*session)))
}

/// The transaction that gives Patroni's lock to the member that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockPlan {
    /// The writer. Compare: its session is gone.
    pub writer: MemberName,
    /// Who follows.
    pub to: MemberName,
    /// The lease of its Patroni member key, on which the lock is put. Compare.
    pub member_lease: i64,
    /// Compare.
    pub leader_mod_revision: i64,
    /// Compare.
    pub term_mod_revision: i64,
}

/// Who gets the lock of a writer that is over: of those that the writer had named, that could lead by their own agents' word
/// and are within `maximum_lag_on_failover` of what the leader published last, as Patroni's own race takes them: most
/// WAL, then `failover_priority`. A person's wish goes first. `None`: Patroni would take nobody either.
pub fn give_lock(
    cluster: &Cluster,
    term: &Revised<TermRecord>,
    lock: &Revised<MemberName>,
) -> Option<LockPlan> {
    let config = cluster.config.as_ref()?;
    let writer = term.value.open_holder()?;
    let named = &named_by(cluster, term.value.term)?.value.configuration.members;
    let end = cluster.leader_optime.unwrap_or(Lsn(0)).0;
    let candidates = cluster.members.iter().filter_map(|(member, patroni)| {
        let facts = cluster.facts.get(member)?;
        let position = patroni.position?;
        let willing = facts.eligible == Some(true) && cluster.agent_alive(&facts.host);
        let close = end.saturating_sub(position.lsn.0) <= config.maximum_lag_on_failover;
        let may = named.contains(member) && member != writer && !cluster.fenced(member) && patroni.lease != 0;
        let wanted = cluster.failover_candidate.as_ref() == Some(member);
        (willing && close && may).then_some((
            wanted,
            position,
            patroni.failover_priority,
            member,
            patroni.lease,
        ))
    });
    let order = |one: &(bool, Position, i64, &MemberName, i64)| (one.0, one.1, one.2, Reverse(one.3.clone()));
    candidates.max_by_key(order).map(|(.., to, member_lease)| LockPlan {
        writer: writer.clone(),
        to: to.clone(),
        member_lease,
        leader_mod_revision: lock.mod_revision,
        term_mod_revision: term.mod_revision,
    })
}

fn named_by(cluster: &Cluster, term: Term) -> Option<&Revised<FloorRecord>> {
    cluster.floor.as_ref().filter(|floor| floor.value.term == term)
}

/// The word of the writer's own agent, under the session that the record names.
fn attestation<'c>(
    cluster: &'c Cluster,
    term: &Revised<TermRecord>,
    session: SessionId,
) -> Option<&'c Revised<Attestation>> {
    cluster.binding_attestation().filter(|found| {
        let word = &found.value;
        (word.term, &word.holder, word.session) == (term.value.term, term.value.holder(), session)
            && word.stop != StopKind::Relinquished
    })
}

fn plan(
    view: &View<'_>,
    lock: &Revised<MemberName>,
    out_of_office: Option<OutOfOffice>,
    writable: bool,
) -> Plan {
    let cluster = view.cluster;
    let recorded = cluster.term.as_ref();
    let last = term_in_force(cluster).filter(|term| term.value.open_holder().is_some());
    // Above what anybody remembers: etcd may have forgotten (rule 25).
    let known = cluster.facts.values().map(|facts| facts.highest_term);
    let promised = cluster.promises.values().map(|promise| promise.value.term);
    let highest = known.chain(promised).chain(recorded.map(|term| term.value.term)).max();
    let term = highest.unwrap_or(Term(0)).max(view.known_term).next();
    let OwnSession { session, incarnation } = view.own;
    let reign = Reign::Open { holder: view.me.clone(), incarnation, session, writable, floor: None };
    Plan {
        term_mod_revision: recorded.map_or(0, |term| term.mod_revision),
        leader_mod_revision: lock.mod_revision,
        floor_mod_revision: cluster.floor.as_ref().map_or(0, |floor| floor.mod_revision),
        held_mod_revision: cluster.held.as_ref().map_or(0, |held| held.mod_revision),
        out_of_office,
        last: last.map(|term| (term.value.holder().clone(), term.value.term)),
        opened: TermRecord {
            term,
            reign,
            trace: None,
            timeline: recorded.and_then(|term| term.value.timeline),
        },
        floor: named(term, others(cluster, view.me)),
    }
}

/// Who may follow this member: whoever Patroni knows, and whoever has an agent that may answer. One that is away with both
/// can neither lead nor grant; it is named again when it is back.
pub fn others(cluster: &Cluster, me: &MemberName) -> BTreeSet<MemberName> {
    let answers = cluster.facts.iter().filter(|(_, facts)| cluster.agent_alive(&facts.host));
    let known = cluster.members.keys().chain(answers.map(|(member, _)| member));
    known.filter(|member| *member != me).cloned().collect()
}

/// The floor record of class `off`: whom the writer of the term asks. It asks nothing of a position.
fn named(term: Term, members: BTreeSet<MemberName>) -> FloorRecord {
    FloorRecord {
        term,
        sync_version: 0,
        sync_mod_revision: 0,
        sync_create_revision: 0,
        configuration: Configuration { members, quorum: 0 },
        data_uuids: BTreeMap::new(),
        floor: Position { timeline: Timeline(0), lsn: Lsn(0) },
    }
}

/// The record that the writer of this term has to publish; `None`: it stands.
pub fn naming(cluster: &Cluster, me: &MemberName, term: Term) -> Option<FloorRecord> {
    let wanted = named(term, others(cluster, me));
    let stands = named_by(cluster, term).is_some_and(|floor| floor.value == wanted);
    (!stands && !cluster.floor_unreadable).then_some(wanted)
}

#[cfg(test)]
mod tests;
