//! Who runs CLOSE and when (rules 8, 10 and 12), and what is mended after it (rule 13).

use std::collections::BTreeSet;

use holdfast_types::MemberName;
use holdfast_types::record::{Evidence, OverrideRecord, Reign, TermRecord};

use super::{Action, Decision, Local, Memory, Named, come_back};
use crate::close::{self, ClosePlan, OutOfOffice, Revised};
use crate::cluster::Cluster;
use crate::mutant::{Mutant, left_out};
use crate::{hold, in_force, outside, successor};

/// Rule 13: how long a named successor may take until the next is named.
pub(super) const SUCCESSOR_PATIENCE_MS: u64 = 2_000;
/// The longest time is 2 s x 2^4, Patroni's default ttl.
const SUCCESSOR_DOUBLINGS_MAX: u32 = 4;
/// Rule 8: each agent waits this much longer than the one before it, so that one of them closes alone.
pub(super) const CLOSE_RANK_DELAY_MS: u64 = 100;

pub(super) fn close(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let candidates = cluster.candidates();
    let data_uuids = cluster.data_uuids();
    let promises = cluster.binding_promises();
    let verdict = close::decide(&close::View {
        term,
        floor: cluster.floor.as_ref(),
        sync: cluster.sync.as_ref(),
        sync_history: &cluster.sync_history,
        promises: &promises,
        data_uuids: &data_uuids,
        attestation: cluster.binding_attestation(),
        outside: outside::proof(cluster),
        overriding: cluster.override_in_force(),
        session_present: cluster.writers_session_present(),
        leader_key: cluster.leader_key.as_ref(),
        failover_key: cluster.failover_key,
        config_mod_revision: cluster.config.map_or(0, |config| config.mod_revision),
        maintenance_mod_revision: cluster.maintenance.as_ref().map_or(0, |found| found.mod_revision),
        held: cluster.may_be_held(local.now.wall_ms),
        held_mod_revision: cluster.held.as_ref().map_or(0, |found| found.mod_revision),
        candidates: &candidates,
        now_wall_ms: local.now.wall_ms,
    });
    let plan = match verdict {
        Ok(plan) => plan,
        Err(close::NotYet::WriterLives | close::NotYet::AlreadyClosed) => {
            memory.close_possible_since_ms = None;
            return;
        }
        Err(why) => {
            memory.close_possible_since_ms = None;
            decision.needs_sync_history =
                matches!(why, close::NotYet::InForce(in_force::Unknown::Compacted(_)));
            decision.waits.push(format!("CLOSE: {why}"));
            return;
        }
    };
    if let Some(hold) = held(cluster, local, &plan) {
        decision.actions.extend(hold);
        decision.waits.push("CLOSE: a second failover so soon waits for a person".into());
        return;
    }
    if let Some(left_ms) = lease_may_last_ms(local, &plan) {
        decision.waits.push(format!(
            "CLOSE: the writer may have a lease for {left_ms} ms more: its session was gone before its time, or is watched \
             only now"
        ));
        decision.again_in_ms = Some(left_ms);
        return;
    }
    let since_ms = *memory.close_possible_since_ms.get_or_insert(local.now.boottime_ms);
    let delay_ms = CLOSE_RANK_DELAY_MS * rank(cluster, &plan, local.me);
    let waited_ms = local.now.boottime_ms.saturating_sub(since_ms);
    if waited_ms >= delay_ms {
        decision.actions.push(Action::Close(Box::new(plan)));
    } else {
        decision.again_in_ms = Some(delay_ms - waited_ms);
    }
}

/// Rule 19: no lease lives beside a closed term. One whose session has ended by itself is over; if somebody has revoked the
/// session, it is waited for. What proves the stop itself needs no lease to be over; one whose lock is another's sees that
/// its term is closed, and lets go.
///
/// Who does not watch the writer's renewals, or not any more (Patroni's key of it is gone after a ttl), knows only for how long
/// the session has been gone: nobody waits for longer than a lease lasts.
fn lease_may_last_ms(local: &Local<'_>, plan: &ClosePlan) -> Option<u64> {
    if !matches!(plan.out_of_office, OutOfOffice::SessionAbsent(_)) {
        return None;
    }
    let unrenewed_ms = local.suspicion.unrenewed_ms.max(local.writer_gone_ms);
    let left_ms = local.timings.lease_over_ms().saturating_sub(unrenewed_ms);
    (left_ms > 0 && !left_out(Mutant::LeaseNotAwaited)).then_some(left_ms)
}

/// `Some` when CLOSE must not go on: with the action that says so, unless it has been said.
fn held(cluster: &Cluster, local: &Local<'_>, plan: &ClosePlan) -> Option<Option<Action>> {
    let Reign::Closed { evidence, .. } = &plan.closed.reign else { return None };
    let number = plan.closed.term;
    let of_term = cluster.hold.as_ref().filter(|hold| hold.value.term == number);
    // Who takes a loss to get a writer has looked.
    let released =
        plan.override_mod_revision.is_some() || of_term.is_some_and(|hold| hold.value.released_by.is_some());
    let closed_at = |event: &Revised<holdfast_types::record::EventRecord>| {
        let step = holdfast_types::record::Step::Closed;
        event.value.steps_wall_ms.get(&step).copied().filter(|_| event.value.term < number)
    };
    let last = cluster.events.iter().filter_map(closed_at).max();
    let hold_ms = local.second_failover_hold_ms;
    if !hold::must_hold(evidence, last, local.now.wall_ms, hold_ms, released) {
        return None;
    }
    let action = Action::Hold { term: number, last_failover_wall_ms: last.unwrap_or_default() };
    Some(of_term.is_none().then_some(action))
}

/// The place of `me` among those that may run CLOSE: the promisers in the order of their names, then everybody else. For a
/// term that was given back nobody has promised: those whose agents live, and the holder last.
fn rank(cluster: &Cluster, plan: &ClosePlan, me: &MemberName) -> u64 {
    let first = match &plan.closed.reign {
        Reign::Closed {
            evidence: Evidence::Revoked { promisers, .. } | Evidence::AttestedStopped { promisers },
            ..
        } => promisers.clone(),
        Reign::Closed { evidence: Evidence::Relinquished, holder, .. } => {
            let alive = cluster.facts.iter().filter(|(_, facts)| cluster.agent_alive(&facts.host));
            alive.map(|(member, _)| member).filter(|member| *member != holder).cloned().collect()
        }
        _ => BTreeSet::new(),
    };
    first.iter().position(|member| member == me).unwrap_or(first.len()) as u64
}

/// What is done between CLOSE and OPEN: nobody follows anybody, and the leader key goes where rule 13 wants it.
pub(super) fn while_closed(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    writer: &MemberName,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    if local.accepts_writes() {
        decision.actions.push(Action::KillDeposed);
    }
    // Rule 5 (h): nobody is a source until the next OPEN.
    if local.network.source.is_some() || !local.network.installed {
        decision.actions.push(Action::Follow { source: None });
    }
    let leader_mod_revision = cluster.leader_key.as_ref().map_or(0, |leader| leader.mod_revision);
    let named = named(memory, term.mod_revision, leader_mod_revision, local.now.boottime_ms);
    memory.named = Some(named);
    // Rule 10: who gave its term back was no writer; it is one of the others.
    let given_back = term.value.was_given_back();
    let overriding = cluster.override_in_force();
    let wanted = overriding.is_some_and(|found| found.value.successor == *local.me);
    if writer == local.me && !given_back {
        // The attestation has been used: a standby may start again. A primary may not, by the term record.
        if local.gate_shut {
            decision.actions.push(Action::OpenGate);
        }
        if overriding.is_none() {
            return come_back::name_itself(cluster, local, term, named, decision);
        }
        if !wanted {
            return;
        }
    }
    if cluster.sync.as_ref().is_some_and(|sync| sync.mod_revision != term.mod_revision) {
        close(cluster, local, term, memory, decision);
        if decision.actions.iter().any(|action| matches!(action, Action::Close(_))) {
            return;
        }
    }
    if let Some(overriding) = overriding {
        decision.actions.extend(by_override(cluster, term, overriding));
        return;
    }
    match &cluster.leader_key {
        Some(leader)
            if leader.value == *writer && !given_back && !come_back::may_lead(cluster, term, named) =>
        {
            decision.actions.push(take(leader, term));
        }
        leader => {
            if let Some(left_ms) = named.left_ms(local) {
                decision.again_in_ms = Some(left_ms);
                return;
            }
            if let Some(next) = next_successor(cluster, term, leader.as_ref()) {
                decision.actions.push(next);
            } else if let Some(leader) = leader.as_ref().filter(|leader| leader.value == *writer)
                && given_back
                && !cluster.candidates().iter().any(|one| one.member == *writer && one.eligible)
            {
                // Rule 10: it keeps the lock of the term that it gave back, and its Patroni does nothing with it.
                decision.actions.push(take(leader, term));
            }
        }
    }
}

/// Rule 18: a person has named the successor, and nobody else is. The key is put for it at once, whoever has it now; the
/// old writer too may be the one, once its reign is closed: only what it lacks is the question, and that has been accepted.
fn by_override(
    cluster: &Cluster,
    term: &Revised<TermRecord>,
    overriding: &Revised<OverrideRecord>,
) -> Option<Action> {
    let leader = cluster.leader_key.as_ref();
    let successor = &overriding.value.successor;
    if leader.is_some_and(|leader| leader.value == *successor) || cluster.fenced(successor) {
        return None;
    }
    // Patroni's own spelling of the name goes into its keys.
    let (to, patroni) = cluster.members.get_key_value(successor)?;
    Some(Action::NameNext {
        to: to.clone(),
        member_lease: Some(patroni.lease).filter(|lease| *lease != 0)?,
        leader_mod_revision: leader.map_or(0, |leader| leader.mod_revision),
        term_mod_revision: term.mod_revision,
        override_mod_revision: Some(overriding.mod_revision),
    })
}

fn take(leader: &Revised<MemberName>, term: &Revised<TermRecord>) -> Action {
    Action::TakeLeaderKey { leader_mod_revision: leader.mod_revision, term_mod_revision: term.mod_revision }
}

/// Since when the present holder of the leader key has had it in this closed term.
fn named(memory: &Memory, term_mod_revision: i64, leader_mod_revision: i64, now_ms: u64) -> Named {
    let new = |earlier| Named { term_mod_revision, leader_mod_revision, since_ms: now_ms, earlier };
    match memory.named {
        Some(old) if old.term_mod_revision != term_mod_revision => new(0),
        Some(old) if old.leader_mod_revision == leader_mod_revision => old,
        Some(old) => new(old.earlier.saturating_add(1)),
        None => new(0),
    }
}

impl Named {
    /// How much of its time the present holder of the leader key has left; `None` when it is over.
    pub(super) fn left_ms(&self, local: &Local<'_>) -> Option<u64> {
        let patience_ms = SUCCESSOR_PATIENCE_MS << self.earlier.min(SUCCESSOR_DOUBLINGS_MAX);
        let waited_ms = local.now.boottime_ms.saturating_sub(self.since_ms);
        patience_ms.checked_sub(waited_ms).filter(|left_ms| *left_ms > 0)
    }
}

fn next_successor(
    cluster: &Cluster,
    term: &Revised<TermRecord>,
    leader: Option<&Revised<MemberName>>,
) -> Option<Action> {
    let Reign::Closed { floor: Some(floor), holder, .. } = &term.value.reign else { return None };
    let tried = leader.map(|leader| &leader.value);
    let others: Vec<_> = cluster
        .candidates()
        .into_iter()
        .filter(|one| one.member != *holder || term.value.was_given_back())
        .filter(|one| Some(&one.member) != tried)
        .collect();
    let next = successor::choose(&others, *floor)?;
    Some(Action::NameNext {
        to: next.member.clone(),
        member_lease: next.member_lease?,
        leader_mod_revision: leader.map_or(0, |leader| leader.mod_revision),
        term_mod_revision: term.mod_revision,
        override_mod_revision: None,
    })
}
