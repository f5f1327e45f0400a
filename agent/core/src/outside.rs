//! Rule 11: when a peer asks a fence device to switch a silent writer's host off, what the device's words prove, and where
//! they are evidence.
//!
//! A device proves only the stop. It takes the place of the gone session and of rule 4's silence; the floor and the quorum
//! of rule 8 stay what they are, so no failover ever waits for a device: the promises already make that nothing more is
//! acknowledged, and a device that is broken must not keep a cluster without a writer that could be proved. It is asked
//! beside them, for what they do not cover: commits that wait for no standby, on a host that only stood still.
//!
//! Called by [`crate::member::decide`] (whether to ask), by the shell's asking task ([`judge`], [`still_wanted`]) and by the
//! rules that take the word ([`proof`]). Asks nobody itself.

use std::collections::BTreeMap;

use holdfast_types::record::{DeviceAnswer, DeviceTry, OutsideRecord, OutsideState, Reign};
use holdfast_types::{HostName, MemberName, SessionId, Term};

use crate::close::Revised;
use crate::cluster::Cluster;
use crate::detach;
use crate::member::{Action, Local, term_in_force};

/// Peers ask one after the other: each waits this much longer than the one before it, which is long enough to see that
/// that one has begun (a record in etcd, some milliseconds).
pub const RANK_DELAY_MS: u64 = 1_000;
/// A peer that has not begun by then leaves it: the incident is over, or a person looks at it.
const PATIENCE_MS: u64 = 60_000;
/// How soon an order to ask that left no record is given again.
const AGAIN_MS: u64 = 2_000;

/// What a host may ask: for each other host with a device, how long it waits before it does, in milliseconds.
pub type Devices = BTreeMap<HostName, u64>;

/// A writer that this member has seen silent in its open term, carried from one decision to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Silent {
    target: Target,
    since_ms: u64,
    asked_ms: Option<u64>,
}

/// Whose host is to be switched off, and in which term it was the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The term.
    pub term: Term,
    /// Its writer.
    pub writer: MemberName,
    /// The writer's host.
    pub host: HostName,
    /// The session of the term record, which is gone.
    pub session: SessionId,
}

/// Whether this member asks its device now. `silent` is what it remembers of the writer.
pub(crate) fn decide(cluster: &Cluster, local: &Local<'_>, silent: &mut Option<Silent>) -> Option<Action> {
    let now_ms = local.now.boottime_ms;
    if let Some(target) = silent_writer(cluster, local)
        && silent.as_ref().is_none_or(|known| known.target != target)
    {
        *silent = Some(Silent { target, since_ms: now_ms, asked_ms: None });
    }
    let known = silent.as_mut()?;
    if !still_wanted(cluster, &known.target) || now_ms.saturating_sub(known.since_ms) > PATIENCE_MS {
        *silent = None;
        return None;
    }
    let configured_ms = local.devices.get(&known.target.host)?;
    let due_ms = known.since_ms + configured_ms + RANK_DELAY_MS * rank(cluster, &known.target, local.me);
    let asked_just_now = known.asked_ms.is_some_and(|asked| now_ms.saturating_sub(asked) < AGAIN_MS);
    if now_ms < due_ms || asked_just_now || is_in_hand(cluster, local, &known.target) {
        return None;
    }
    known.asked_ms = Some(now_ms);
    Some(Action::AskOutside(known.target.clone()))
}

/// When to look again, if a question is due later.
pub(crate) fn due_in_ms(cluster: &Cluster, local: &Local<'_>, silent: Option<&Silent>) -> Option<u64> {
    let known = silent.filter(|known| known.asked_ms.is_none())?;
    let configured_ms = local.devices.get(&known.target.host)?;
    let due_ms = known.since_ms + configured_ms + RANK_DELAY_MS * rank(cluster, &known.target, local.me);
    Some(due_ms.saturating_sub(local.now.boottime_ms)).filter(|left_ms| *left_ms > 0)
}

/// The holder of the open term, if by our own eyes it gives no sign of life (rule 4) and its agent has no session either.
fn silent_writer(cluster: &Cluster, local: &Local<'_>) -> Option<Target> {
    let term = term_in_force(cluster)?;
    let Reign::Open { holder, session, .. } = &term.value.reign else { return None };
    let host = &cluster.facts.get(holder)?.host;
    let heard = cluster.sessions.contains_key(session) || cluster.agent_alive(host);
    let suspicion = local.suspicion;
    let silent = detach::is_silent(suspicion.silent_ms, local.timings.suspect_after_ms(), &suspicion.probes);
    let attested = cluster.attested();
    (holder != local.me && !heard && !attested && silent).then(|| Target {
        term: term.value.term,
        writer: holder.clone(),
        host: host.clone(),
        session: *session,
    })
}

/// Whether the host may still be switched off: its agent has not come back, it has attested nothing, and nobody but its
/// successor reigns. Asked again by the shell before each attempt: a host that is back must not be shot.
pub fn still_wanted(cluster: &Cluster, target: &Target) -> bool {
    let Some(term) = term_in_force(cluster) else { return false };
    let of_its_end = match &term.value.reign {
        Reign::Open { holder, session, .. } if *holder == target.writer => {
            (term.value.term, *session) == (target.term, target.session)
        }
        Reign::Open { .. } => term.value.term == target.term.next(),
        Reign::Closed { .. } => term.value.term == target.term,
    };
    of_its_end && !cluster.agent_alive(&target.host) && !cluster.attested()
}

/// Those who could ask, in the order of their names: the members whose agents live.
fn rank(cluster: &Cluster, target: &Target, me: &MemberName) -> u64 {
    let before = cluster.facts.iter().filter(|(member, facts)| {
        *member != me && *member < me && **member != target.writer && cluster.agent_alive(&facts.host)
    });
    before.count() as u64
}

/// Whether it has been done, or somebody who can bring it to its end is doing it, or we have tried.
fn is_in_hand(cluster: &Cluster, local: &Local<'_>, target: &Target) -> bool {
    cluster.outside.iter().any(|(asker, record)| {
        let record = &record.value;
        let of_target =
            (record.term, &record.writer, record.session) == (target.term, &target.writer, target.session);
        let is_asking = || {
            let host = cluster.facts.get(asker).map(|facts| &facts.host);
            cluster
                .sessions
                .values()
                .any(|session| Some(&session.host) == host && session.incarnation == record.incarnation)
        };
        of_target
            && match record.state {
                OutsideState::Off => true,
                // Our own shell knows whether it is at it; an order whose answer was lost is given again.
                OutsideState::Asking => asker != local.me && is_asking(),
                // Another peer may have another way to the host.
                OutsideState::NotProved => asker == local.me,
            }
    })
}

/// The word of a device that the host of the open term's writer is off. It counts for the session of the term record only:
/// a host that was switched on again has another.
pub fn proof(cluster: &Cluster) -> Option<(&MemberName, &Revised<OutsideRecord>)> {
    let term = term_in_force(cluster)?;
    cluster.outside.iter().find(|(_, found)| found.value.proves(&term.value))
}

/// What the attempts have come to. Only both words together count: a device that says "done" may lie or be wired to
/// another host, and one that failed says nothing by a later "off" of which nobody knows the reason.
pub fn judge(tries: &[DeviceTry]) -> OutsideState {
    let proves = |one: &DeviceTry| {
        let done = matches!(one.off, DeviceAnswer::Exit { code: 0, .. });
        let is_off = matches!(one.status, Some(DeviceAnswer::Exit { code: 2, .. }));
        done && is_off
    };
    match tries.last() {
        Some(last) if proves(last) => OutsideState::Off,
        _ => OutsideState::NotProved,
    }
}

#[cfg(test)]
mod tests;
