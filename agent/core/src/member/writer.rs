//! What the holder of the open term does: keeps its record and its floor, or gives the term away, when its PostgreSQL is
//! gone (rules 1, 9, 9a and 23) or when nobody is there to be promoted (rule 10).

use std::collections::BTreeSet;

use holdfast_types::record::{Attestation, MemberFacts, Reign, Step, StopKind, TermRecord};
use holdfast_types::{Configuration, MemberName, Term};

use super::{
    Action, Decision, Local, Memory, Postgres, closing, come_back, lasts_ms, open_record, term_in_force,
};
use crate::attest::{self, ControlState, Followers, Stopped};
use crate::close::Revised;
use crate::cluster::Cluster;
use crate::hung::Pulse;
use crate::{floor, in_force, planned};

/// A promotion takes 0.05-0.2 s (`facts/baseline.md` 5.2); it is looked at this often.
pub(super) const PROMOTION_POLL_MS: u64 = 15;
/// Rule 9a: how long an attestation waits for a CLOSE before PostgreSQL is started again on the spot. Longer than a
/// failover takes (0.5 s), shorter than Patroni's own recovery would cost a user's patience.
pub(super) const ATTESTATION_PATIENCE_MS: u64 = 4_000;
/// How often it is asked again who can follow a writer that has crashed and has not been started yet: often within the
/// time for which a stream that broke off still counts (2 s).
const FOLLOWERS_AGAIN_MS: u64 = 300;

pub(super) fn decide(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let number = term.value.term;
    if !cluster.attested() {
        memory.attested_since_ms = None;
    }
    if local.phase.is_some_and(|phase| phase.term() < number) {
        decision.actions.push(Action::ForgetPhase);
    }
    if local.network.installed && (local.network.source.is_some() || !local.network.cut.is_empty()) {
        decision.actions.push(Action::Follow { source: None });
    }
    let Reign::Open { writable, .. } = term.value.reign else { return };
    let Some(own) = local.own else {
        decision.waits.push("our own session is not known to be alive".into());
        return;
    };
    let is_primary = local.postgres == Postgres::Running { in_recovery: Some(false) };
    let left_over = come_back::is_left_over(cluster, local, memory, decision);
    if cluster.given_back() && !is_primary {
        return after_giving_back(cluster, local, term, left_over, memory, decision);
    }
    if let Some(keep) = keep_term(cluster, local) {
        decision.actions.push(keep);
        return;
    }
    if ends_on(cluster, local, term) {
        decision.actions.push(Action::ShutGateAndKill);
        return;
    }
    if end_hung(cluster, local, term, memory, decision) {
        return;
    }
    match local.postgres {
        Postgres::Gone => after_stop(cluster, local, term, memory, decision),
        Postgres::Running { in_recovery: Some(false) } => {
            if withdrawn(cluster, term, decision) {
                // The transaction moves the term record; the rest is decided on what it leaves.
                return;
            }
            in_office(cluster, local, term, memory, decision);
            if !writable {
                decision.actions.push(Action::SayWritable {
                    record: open_record(&term.value, local.me, own, true),
                    term_mod_revision: term.mod_revision,
                });
            }
        }
        Postgres::Running { in_recovery: Some(true) } if !writable && stale_word(cluster, number) => {
            // Of an earlier start of ours, and under its name it closes nothing; but no hook passes while it stands.
            withdrawn(cluster, term, decision);
        }
        Postgres::Running { .. } if left_over => {
            decision.actions.extend(come_back::name_me(cluster, local, term));
        }
        Postgres::Running { in_recovery: Some(true) } if !writable && local.hooks.can_give_back(number) => {
            decision.actions.push(Action::Attest { term: number, stop: StopKind::Relinquished });
        }
        // On its way out of recovery: poolers wait for the word.
        Postgres::Running { .. } | Postgres::Unknown if !writable => {
            decision.again_in_ms = Some(PROMOTION_POLL_MS)
        }
        Postgres::Running { .. } | Postgres::Unknown => {}
    }
}

/// Takes our attestation of the open term back, if one stands.
pub(super) fn withdrawn(cluster: &Cluster, term: &Revised<TermRecord>, decision: &mut Decision) -> bool {
    let Some(found) = cluster.attestation.as_ref().filter(|found| found.value.term == term.value.term) else {
        return false;
    };
    decision.actions.push(Action::WithdrawAttestation {
        attestation_mod_revision: found.mod_revision,
        term_mod_revision: term.mod_revision,
    });
    true
}

/// Rule 10: the term was given back by a start of our agent under which the record no longer stands.
fn stale_word(cluster: &Cluster, number: Term) -> bool {
    let of_term = |word: &Attestation| word.term == number && word.stop == StopKind::Relinquished;
    cluster.attestation.as_ref().is_some_and(|found| of_term(&found.value)) && !cluster.given_back()
}

/// Rule 10: the others close the term, or we do after them. If nobody can (`/sync` has changed since), and a hook of ours
/// waits to be promoted after all, or the lock is nobody's, the word is taken back.
fn after_giving_back(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    left_over: bool,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let waited_ms = lasts_ms(&mut memory.attested_since_ms, local);
    if waited_ms < ATTESTATION_PATIENCE_MS {
        decision.again_in_ms = Some(ATTESTATION_PATIENCE_MS - waited_ms);
    } else if local.hooks.is_one_waiting() || left_over {
        withdrawn(cluster, term, decision);
        return;
    }
    decision.waits.push("the term is given back: its hook was lost before it was answered".into());
    closing::close(cluster, local, term, memory, decision);
}

/// PostgreSQL accepts writes: what a stop had shut is opened, and what changed is published.
fn in_office(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let number = term.value.term;
    memory.attestation_withdrawn = false;
    // Shut while it still stops, it has been shut for whatever is seen of the stop.
    match (local.gate_shut, planned::is_handing_over(cluster, local.me)) {
        (true, false) => decision.actions.push(Action::OpenGate),
        (false, true) => decision.actions.push(Action::ShutGate),
        (true, true) | (false, false) => {}
    }
    if matches!(term.value.reign, Reign::Open { writable: true, .. }) {
        prove(cluster, number, memory, decision);
        tell_restart(local, number, memory, decision);
    }
    let Some(sync) = &cluster.sync else { return };
    let recorded = cluster.floor.as_ref().map(|floor| &floor.value);
    match floor::begin(recorded, sync, local.setting, local.me, number, &cluster.data_uuids()) {
        Ok(begun) => decision.actions.push(Action::KeepFloor(begun)),
        Err(floor::NotYet::Unchanged) => {}
        Err(why) => decision.waits.push(format!("floor record: {why}")),
    }
}

/// The incident that brought us into office ends with a write. Once for each start of the agent: a proof whose record was
/// lost on its way is made again by the next one.
pub(super) fn prove(cluster: &Cluster, number: Term, memory: &mut Memory, decision: &mut Decision) {
    let unproved = cluster
        .events
        .iter()
        .map(|event| &event.value)
        .find(|event| event.term.next() == number && !event.steps_wall_ms.contains_key(&Step::Proved));
    if let Some(event) = unproved
        && memory.proving != Some(event.term)
    {
        memory.proving = Some(event.term);
        decision.actions.push(Action::Prove { closed: event.term });
    }
}

/// It was away and has come back in its own term: no reign has ended, and clients have waited all the same.
fn tell_restart(local: &Local<'_>, number: Term, memory: &mut Memory, decision: &mut Decision) {
    let away_in = local.away_in.filter(|term| *term == number);
    if away_in.is_some() && memory.telling != away_in {
        decision.actions.push(Action::TellRestart);
    }
    memory.telling = away_in;
}

/// Rule 9: a writer that has hung for long enough is ended like one that must go, if somebody can follow (rule 9a); what
/// comes after is that of a crash. Returns whether it is to be ended.
///
/// Only once it was promoted and known to all: before, others wait for the hook, or name the next. And only once: one
/// that nobody could follow is left to Patroni.
fn end_hung(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    memory: &Memory,
    decision: &mut Decision,
) -> bool {
    let Some(Pulse::Hung(hung)) = local.pulse else { return false };
    let is_promoted = matches!(term.value.reign, Reign::Open { writable: true, .. });
    let may_run = match local.postgres {
        Postgres::Running { in_recovery } => in_recovery != Some(true),
        Postgres::Unknown => true,
        Postgres::Gone => false,
    };
    if !hung.is_over(local.timings) || !is_promoted || !may_run || memory.attestation_withdrawn {
        return false;
    }
    let in_force = configurations(cluster, local, term.value.term, decision);
    let (streaming, eligible) = (streaming(cluster), eligible(cluster));
    let followers = Followers { in_force: in_force.as_deref(), streaming: &streaming, eligible: &eligible };
    match followers.can_follow() {
        Ok(()) => {
            decision.actions.push(Action::EndHung(hung));
            true
        }
        Err(why) => {
            decision.waits.push(format!("{hung}; it is left alone: {why}"));
            false
        }
    }
}

/// Rule 9: an earlier start of the agent was ended between the shut gate and the kill. Its judgement stands: nothing has come
/// through the gate since, and this start would have to wait for as long again to judge. One that answers is left to run.
fn ends_on(cluster: &Cluster, local: &Local<'_>, term: &Revised<TermRecord>) -> bool {
    let number = term.value.term;
    let is_attested = cluster.attestation.as_ref().is_some_and(|found| found.value.term == number);
    let answers_not = matches!(local.postgres, Postgres::Running { in_recovery: None } | Postgres::Unknown);
    local.ends_hung && local.gate_shut && !is_attested && answers_not
}

/// Every synchronous configuration in force; `None`: unknown, and `decision` says whether a read would tell.
fn configurations(
    cluster: &Cluster,
    local: &Local<'_>,
    number: Term,
    decision: &mut Decision,
) -> Option<Vec<Configuration>> {
    let floor = cluster.floor.as_ref().filter(|floor| floor.value.term == number)?;
    let found =
        in_force::configurations(&floor.value, cluster.sync.as_ref()?, &cluster.sync_history, local.me);
    decision.needs_sync_history = matches!(found, Err(in_force::Unknown::Compacted(_)));
    found.ok()
}

fn streaming(cluster: &Cluster) -> BTreeSet<MemberName> {
    members_that(cluster, |facts| facts.streaming == Some(true))
}

fn eligible(cluster: &Cluster) -> BTreeSet<MemberName> {
    members_that(cluster, |facts| facts.eligible == Some(true))
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
    if memory.attestation_withdrawn {
        if local.gate_shut {
            decision.actions.push(Action::OpenGate);
        }
        decision.waits.push("Patroni starts PostgreSQL: nobody could take the term up".into());
        return;
    }
    let Some(seen) = &local.after_stop else { return };
    let in_force = configurations(cluster, local, number, decision);
    let (streaming, eligible) = (&streaming(cluster) & &seen.answering, eligible(cluster));
    let leader_is_us = cluster.leader_key.as_ref().is_some_and(|leader| leader.value == *local.me);
    let clean = matches!(seen.control, ControlState::ShutDown { .. });
    let verdict = attest::decide(&Stopped {
        processes_gone: seen.processes_gone,
        gate_shut: local.gate_shut,
        // Patroni gives the lock up only after it stopped PostgreSQL for a switchover; with the lock in hand it restarts.
        // Unless it was told to hand over by an operation of this term.
        by_order: clean
            && leader_is_us
            && !cluster.fenced(local.me)
            && !planned::is_handing_over(cluster, local.me),
        // A person has taken it out: whether somebody can follow was asked when the order was given.
        must_go: cluster.fenced(local.me),
        control: &seen.control,
        in_force: in_force.as_deref(),
        streaming: &streaming,
        eligible: &eligible,
    });
    match verdict {
        attest::Verdict::Attest(stop) => decision.actions.push(Action::Attest { term: number, stop }),
        attest::Verdict::Shut => decision.actions.push(Action::ShutGate),
        attest::Verdict::ShutAndKill => decision.actions.push(Action::ShutGateAndKill),
        attest::Verdict::RestartInPlace(why) => {
            decision.waits.push(format!("Patroni starts PostgreSQL: {why}"));
            if matches!(seen.control, ControlState::InProduction | ControlState::NotRead) {
                decision.again_in_ms = Some(FOLLOWERS_AGAIN_MS);
            }
            // Shut for an attestation that does not come: nobody else would open it.
            if local.gate_shut {
                decision.actions.push(Action::OpenGate);
            }
        }
    }
}

/// Rule 23: our term goes on under the session and the start that we have now. Not while it is given back: a new one would
/// make the word worthless by keeping the term.
pub(super) fn keep_term(cluster: &Cluster, local: &Local<'_>) -> Option<Action> {
    let term = term_in_force(cluster).filter(|term| term.value.open_holder() == Some(local.me))?;
    let Reign::Open { incarnation, session, writable, .. } = term.value.reign else { return None };
    let is_primary = local.postgres == Postgres::Running { in_recovery: Some(false) };
    let own = local.own.filter(|own| (own.session, own.incarnation) != (session, incarnation))?;
    if cluster.given_back() && !is_primary {
        return None;
    }
    Some(Action::KeepTerm {
        record: open_record(&term.value, local.me, own, writable),
        term_mod_revision: term.mod_revision,
    })
}

/// While a person has suspended automatic action nobody closes a term: what a stop had shut for that is opened again, so
/// that Patroni or the person can start PostgreSQL. A promise is not given back: nothing would vouch for its reason.
pub(super) fn give_back(cluster: &Cluster, local: &Local<'_>, decision: &mut Decision) {
    let Some(term) = term_in_force(cluster).filter(|_| local.gate_shut) else { return };
    let holds = term.value.open_holder() == Some(local.me);
    match cluster.attestation.as_ref().filter(|found| holds && found.value.term == term.value.term) {
        Some(found) => decision.actions.push(Action::WithdrawAttestation {
            attestation_mod_revision: found.mod_revision,
            term_mod_revision: term.mod_revision,
        }),
        None => decision.actions.push(Action::OpenGate),
    }
}

fn members_that(cluster: &Cluster, wanted: impl Fn(&MemberFacts) -> bool) -> BTreeSet<MemberName> {
    let alive = |facts: &MemberFacts| cluster.agent_alive(&facts.host);
    cluster
        .facts
        .iter()
        .filter(|(member, facts)| wanted(facts) && alive(facts) && !cluster.fenced(member))
        .map(|(member, _)| member.clone())
        .collect()
}
