//! Class `off`: what a member does where nothing is promised (DESIGN section 4).
//!
//! There is no CLOSE: whoever Patroni lets lead opens the next term in its hook, once the last writer's lease has
//! [`expired`] or its agent has attested its stop. Here the writer keeps its term, names those who may follow, and ends itself
//! when Patroni's lock is another's; a member that may follow frees the lock of a writer that can write no more. A crash
//! with the lock in hand is left to Patroni, which starts PostgreSQL on the spot and loses nothing. Whom Patroni elects, and
//! what is lost by it, is Patroni's.

use holdfast_types::MemberName;
use holdfast_types::record::{Reign, StopKind, TermRecord};

use super::writer::{ATTESTATION_PATIENCE_MS, PROMOTION_POLL_MS, keep_term, prove, withdrawn};
use super::{Action, Decision, Local, Memory, OwnSession, Postgres, lasts_ms, open_record, term_in_force};
use crate::attest::ControlState;
use crate::close::{OutOfOffice, Revised};
use crate::cluster::Cluster;
use crate::expired::{self, NotYet};

/// A primary whose predecessor is still in office looks again this often: a grant of our own may be all that it waits for.
const LOOK_AGAIN_MS: u64 = 200;
const NOBODY_IS_CLOSE: &str = "the writer is gone and its lease is over, but no member that may follow it could lead within maximum_lag_on_failover (patronictl list)";
/// For so long Patroni may go on stopping PostgreSQL once its lock is another's: in a planned switchover it gives the lock up
/// as soon as the control file says that the shutdown is done, and its processes go after that. It answers whoever has ordered
/// the switchover when it looks a second later.
pub(super) const ORDERLY_STOP_MS: u64 = 2_000;

pub(super) fn decide(cluster: &Cluster, local: &Local<'_>, memory: &mut Memory, decision: &mut Decision) {
    match term_in_force(cluster) {
        Some(term) if term.value.open_holder() == Some(local.me) => {
            in_office(cluster, local, term, memory, decision)
        }
        term => {
            (memory.attested_since_ms, memory.another_leads_since_ms) = (None, None);
            out_of_office(cluster, local, term, decision);
        }
    }
}

fn in_office(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let Some(own) = local.own else {
        decision.waits.push("our own session is not known to be alive".into());
        return;
    };
    if let Some(keep) = keep_term(cluster, local) {
        decision.actions.push(keep);
        return;
    }
    let another_leads = cluster.leader_key.as_ref().is_some_and(|lock| lock.value != *local.me);
    if !another_leads {
        memory.another_leads_since_ms = None;
    }
    if cluster.attested() {
        return after_word(cluster, local, term, own, memory, decision);
    }
    memory.attested_since_ms = None;
    if another_leads {
        return end(local, term, memory, decision);
    }
    if local.gate_shut {
        decision.actions.push(Action::OpenGate);
    }
    let Reign::Open { writable, .. } = term.value.reign else { return };
    match local.postgres {
        Postgres::Running { in_recovery: Some(false) } if !writable => {
            decision.actions.push(Action::SayWritable {
                record: open_record(&term.value, local.me, own, true),
                term_mod_revision: term.mod_revision,
            });
            return;
        }
        // On its way out of recovery: poolers wait for the word.
        Postgres::Running { .. } | Postgres::Unknown if !writable => {
            decision.again_in_ms = Some(PROMOTION_POLL_MS);
        }
        Postgres::Running { in_recovery: Some(false) } => prove(cluster, term.value.term, memory, decision),
        Postgres::Running { .. } | Postgres::Unknown | Postgres::Gone => {}
    }
    if let Some(floor) = expired::naming(cluster, local.me, term.value.term) {
        decision.actions.push(Action::NameMembers {
            floor,
            floor_mod_revision: cluster.floor.as_ref().map_or(0, |floor| floor.mod_revision),
            term_mod_revision: term.mod_revision,
        });
    }
}

/// Patroni has given the lock to another, which waits for our end. Our own Patroni ends PostgreSQL too, and in a planned
/// switchover it is about to have done so; one that takes longer is ended with it.
fn end(local: &Local<'_>, term: &Revised<TermRecord>, memory: &mut Memory, decision: &mut Decision) {
    if local.postgres != Postgres::Gone {
        let left_ms = ORDERLY_STOP_MS.saturating_sub(lasts_ms(&mut memory.another_leads_since_ms, local));
        if left_ms == 0 {
            decision.actions.push(Action::EndDeposed);
        } else {
            decision.waits.push("Patroni's lock is another's; Patroni stops PostgreSQL".into());
            decision.again_in_ms = Some(left_ms);
        }
        return;
    }
    let Some(seen) = &local.after_stop else { return };
    let stop = match seen.control {
        ControlState::ShutDown { end } => StopKind::Clean { end },
        _ => StopKind::Stopped,
    };
    decision.actions.push(match (seen.processes_gone, local.gate_shut, &stop) {
        // No start passes any more, and nothing that had passed before is left.
        (true, true, _) => Action::Attest { term: term.value.term, stop },
        // Its Patroni may be answering the person who ordered the switchover.
        (true, false, StopKind::Clean { .. }) => Action::ShutGate,
        _ => Action::ShutGateAndKill,
    });
}

/// Our stop is attested. Whoever has the lock opens the next term; if it is ours again, or nobody's for long, we go on.
fn after_word(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    own: OwnSession,
    memory: &mut Memory,
    decision: &mut Decision,
) {
    let Some(found) = cluster.attestation.as_ref() else { return };
    let of_now = found.value.session == own.session;
    let lock = cluster.leader_key.as_ref().map(|lock| lock.value == *local.me);
    if lock == Some(false) && of_now {
        memory.attested_since_ms = None;
        decision.waits.push("attested; the next writer opens its term".into());
        return;
    }
    let waited_ms = lasts_ms(&mut memory.attested_since_ms, local);
    if lock == Some(true) || !of_now || waited_ms >= ATTESTATION_PATIENCE_MS {
        withdrawn(cluster, term, decision);
    } else {
        decision.again_in_ms = Some(ATTESTATION_PATIENCE_MS - waited_ms);
    }
}

/// The term is another's, or there is none.
fn out_of_office(
    cluster: &Cluster,
    local: &Local<'_>,
    term: Option<&Revised<TermRecord>>,
    decision: &mut Decision,
) {
    if local.gate_shut {
        // What we attested is over.
        decision.actions.push(Action::OpenGate);
    }
    let Some(lock) = &cluster.leader_key else { return };
    if cluster.cannot_tell_terms() {
        return;
    }
    if lock.value != *local.me {
        if term.is_some() && local.accepts_writes() {
            decision.actions.push(Action::KillDeposed);
        } else if let Some(term) = term {
            give_lock(cluster, local, term, lock, decision);
        }
        return;
    }
    if local.postgres != (Postgres::Running { in_recovery: Some(false) }) {
        return;
    }
    let Some(view) = view(cluster, local) else {
        decision.waits.push("our own session is not known to be alive".into());
        return;
    };
    match expired::follow(&view, lock) {
        Ok(plan) => decision.actions.push(Action::FollowPatroni(Box::new(plan))),
        Err(why) => {
            decision.waits.push(format!("the term of Patroni's leader: {why}"));
            decision.again_in_ms = Some(LOOK_AGAIN_MS);
        }
    }
}

/// The lock of a writer that is proved to be over runs out only after Patroni's ttl, and not at all while its Patroni, which
/// needs no agent, comes back and takes it again: it has the newest WAL, and wins each race. So whoever may follow gives
/// it to the one that has most. That it may follow itself is what proves it.
fn give_lock(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    lock: &Revised<MemberName>,
    decision: &mut Decision,
) {
    let is_standby = local.postgres == Postgres::Running { in_recovery: Some(true) };
    let writer = term.value.open_holder().filter(|holder| is_standby && lock.value == **holder);
    let (Some(_), Some(view)) = (writer, view(cluster, local)) else { return };
    match expired::evidence(&view, term) {
        Ok(Some(OutOfOffice::SessionAbsent(_))) => match expired::give_lock(cluster, term, lock) {
            Some(plan) => decision.actions.push(Action::GiveLock(Box::new(plan))),
            None => decision.waits.push(NOBODY_IS_CLOSE.into()),
        },
        Err(NotYet::MayHaveLease { left_ms, .. }) => decision.again_in_ms = Some(left_ms),
        Err(NotYet::Granted(_)) => decision.again_in_ms = Some(LOOK_AGAIN_MS),
        Ok(_) | Err(_) => {}
    }
}

fn view<'o>(cluster: &'o Cluster, local: &'o Local<'_>) -> Option<expired::View<'o>> {
    Some(expired::View {
        cluster,
        me: local.me,
        own: local.own?,
        known_term: local.known_term,
        gone_ms: local.writer_gone_ms,
        timings: local.timings,
        granted: local.granted,
        given_back: false,
        barred: None,
        now_wall_ms: local.now.wall_ms,
        waited_ms: 0,
        wait_ms_max: 0,
    })
}
