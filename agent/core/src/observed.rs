//! What an observing agent keeps of an incident: each unplanned end of a reign that it saw, and whatever it would have done.
//!
//! One [`Observer`] goes along with the decisions of mode `observe`. It decides when an incident begins, what belongs to it and
//! when it is over; it decides nothing about the cluster, reads no clock and writes nothing. Who gave the lock up for a
//! switchover has had no incident. An agent that has lost sight of etcd has not seen how a reign ended, and says nothing.

use holdfast_types::record::{OBSERVED_LINES_MAX, ObservedReason, ObservedRecord, Reign, WouldLine};
use holdfast_types::{ClusterId, MemberName, SessionId};

use crate::close::LeaderKey;
use crate::cluster::Cluster;
use crate::member::{Action, Postgres, term_in_force};
use crate::observe;

/// For how long a request for a switchover that has been seen explains the end of a reign, in milliseconds: it stands until
/// Patroni's candidate has the lock, and this is for what is seen late.
const PLANNED_MS: i64 = 10_000;

/// What an agent saw and decided in one round of its loop.
#[derive(Debug, Clone)]
pub struct Look<'l> {
    /// The cluster as it was considered: as if it were armed.
    pub cluster: &'l Cluster,
    /// Our member.
    pub me: &'l MemberName,
    /// Which cluster.
    pub id: &'l ClusterId,
    /// What would be done.
    pub actions: &'l [Action],
    /// The same in words, as far as they are worth saying.
    pub would: &'l [String],
    /// What is waited for.
    pub waits: &'l [String],
    /// Our own PostgreSQL.
    pub postgres: Postgres,
    /// The writer's last sign of life that this host had: wall clock, milliseconds since 1970.
    pub last_sign_wall_ms: Option<i64>,
    /// Our wall clock, milliseconds since 1970.
    pub now_wall_ms: i64,
}

/// Goes along with the decisions of one member.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    /// Who reigns in the imagined term, and the session of its host.
    reign: Option<(MemberName, SessionId)>,
    /// When a request for a switchover was seen last.
    planned_wall_ms: Option<i64>,
    open: Option<Open>,
}

#[derive(Debug, Clone)]
struct Open {
    record: ObservedRecord,
    /// The record is worth keeping, and is on disk.
    kept: bool,
    /// No switchover looks like this.
    unplanned: bool,
}

impl Observer {
    /// The agent does not observe, or has lost sight of etcd: what it does not see in between it cannot tell.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes note of a round. Returns the incident if there is something new of it to keep; the record before it with the same
    /// `noticed_wall_ms` is replaced.
    pub fn look(&mut self, look: &Look<'_>) -> Option<ObservedRecord> {
        if look.cluster.failover_key {
            self.planned_wall_ms = Some(look.now_wall_ms);
        }
        let reign = reign(look.cluster);
        // While an incident is open, and in the round in which the lock moves, it is the writer before that counts.
        let (writer, session) = self.reign.clone().or_else(|| reign.clone())?;
        let reason = reason(look, &writer, session);
        let opened = reason.filter(|_| self.open.is_none()).map(|reason| begin(look, &writer, reason));
        let mut open = match (self.open.take(), opened) {
            (Some(open), _) => open,
            (None, Some(record)) => Open { record, kept: false, unplanned: false },
            (None, None) => {
                self.reign = reign;
                return None;
            }
        };
        let before = open.record.clone();
        go_on(&mut open.record, look, reason);
        let is_over = end(&mut open.record, look);
        open.unplanned |= is_unplanned(look, open.record.reason);
        let ordered = self.planned_wall_ms.is_some_and(|at| look.now_wall_ms - at <= PLANNED_MS);
        let planned = ordered && !open.unplanned;
        let moved = open.record.next.as_ref().is_some_and(|next| *next != writer);
        let keep = !planned && (!open.record.would.is_empty() || moved);
        let is_new = !open.kept || is_over || has_grown(&before, &open.record);
        open.kept |= keep;
        let record = (keep && is_new).then(|| open.record.clone());
        (self.open, self.reign) = if is_over { (None, reign) } else { (Some(open), Some((writer, session))) };
        record
    }
}

/// A request for a switchover may stand for hours before its time. It stops PostgreSQL cleanly, and no session ends by it.
fn is_unplanned(look: &Look<'_>, reason: ObservedReason) -> bool {
    let kills = |action: &Action| matches!(action, Action::ShutGateAndKill | Action::EndHung(_));
    !matches!(reason, ObservedReason::LockLost | ObservedReason::PostmasterGone)
        || look.actions.iter().any(kills)
}

/// What is worth a write to the disk. The rest (what is waited for, a writer beside a hung Patroni that writes on) is written
/// with that, at the latest when the incident is over.
fn has_grown(before: &ObservedRecord, after: &ObservedRecord) -> bool {
    let of = |record: &ObservedRecord| {
        let moments = (record.would_close_wall_ms, record.led_wall_ms, record.writable_wall_ms);
        (record.reason, record.would.len(), record.next.clone(), moments)
    };
    of(before) != of(after)
}

/// Who reigns in the imagined term.
fn reign(cluster: &Cluster) -> Option<(MemberName, SessionId)> {
    match &term_in_force(cluster)?.value.reign {
        Reign::Open { holder, session, .. } => Some((holder.clone(), *session)),
        Reign::Closed { .. } => None,
    }
}

/// By what the end of the writer's reign is noticed in this round; `None`: nothing is wrong.
fn reason(look: &Look<'_>, writer: &MemberName, session: SessionId) -> Option<ObservedReason> {
    let is_ours = writer == look.me;
    let of_action = |action: &Action| match action {
        Action::EndHung(_) if is_ours => Some(ObservedReason::PostgresHung),
        Action::ShutGate | Action::ShutGateAndKill | Action::Attest { .. } if is_ours => {
            Some(ObservedReason::PostmasterGone)
        }
        Action::RestartPatroni if is_ours => Some(ObservedReason::PatroniHung),
        Action::Promise { .. } | Action::Close(_) | Action::GiveLock(_) => Some(gone(look.cluster, session)),
        _ => None,
    };
    let by_action = look.actions.iter().filter_map(of_action).max();
    let leads = look.cluster.leader_key.as_ref().map(|leader| &leader.value);
    let moved = leads.is_some_and(|leads| leads != writer);
    by_action.or_else(|| moved.then(|| gone(look.cluster, session)))
}

/// What a host sees of a writer on another one that is gone.
fn gone(cluster: &Cluster, session: SessionId) -> ObservedReason {
    if cluster.attestation.is_some() {
        return ObservedReason::PostmasterGone;
    }
    if cluster.sessions.contains_key(&session) {
        ObservedReason::LockLost
    } else {
        ObservedReason::SessionGone
    }
}

fn begin(look: &Look<'_>, writer: &MemberName, reason: ObservedReason) -> ObservedRecord {
    ObservedRecord {
        namespace: look.id.namespace.clone(),
        scope: look.id.scope.clone(),
        member: look.me.clone(),
        writer: writer.clone(),
        noticed_wall_ms: look.now_wall_ms,
        reason,
        last_sign_wall_ms: look.last_sign_wall_ms,
        would: Vec::new(),
        waits: Vec::new(),
        would_close_wall_ms: None,
        would_name: None,
        next: None,
        led_wall_ms: None,
        writable_wall_ms: None,
    }
}

fn go_on(record: &mut ObservedRecord, look: &Look<'_>, reason: Option<ObservedReason>) {
    record.reason = record.reason.max(reason.unwrap_or(record.reason));
    let leads = look.cluster.leader_key.as_ref().map(|leader| &leader.value);
    let has_lock = leads.is_none_or(|leads| *leads == record.writer);
    let writes_on = record.writer == *look.me && has_lock && accepts_writes(look);
    if record.reason == ObservedReason::PatroniHung && writes_on {
        // PostgreSQL beside a hung Patroni writes on.
        record.last_sign_wall_ms = Some(look.now_wall_ms);
    }
    for text in look.would {
        let is_said = record.would.iter().any(|line| line.text == *text);
        if !is_said && record.would.len() < OBSERVED_LINES_MAX {
            record.would.push(WouldLine { at_wall_ms: look.now_wall_ms, text: text.clone() });
        }
    }
    if record.would_close_wall_ms.is_none() {
        for action in look.actions {
            let to = match action {
                Action::Close(plan) => match &plan.leader_key {
                    LeaderKey::Give { to, .. } => Some(to.clone()),
                    LeaderKey::Delete | LeaderKey::Leave => None,
                },
                Action::GiveLock(plan) => Some(plan.to.clone()),
                _ => continue,
            };
            (record.would_close_wall_ms, record.would_name) = (Some(look.now_wall_ms), to);
        }
    }
    if record.would_close_wall_ms.is_none() && !look.waits.is_empty() {
        record.waits = look.waits.to_vec();
    }
}

fn accepts_writes(look: &Look<'_>) -> bool {
    look.postgres == Postgres::Running { in_recovery: Some(false) }
}

/// Notes who leads instead. Returns whether this host has nothing more to see of the incident.
fn end(record: &mut ObservedRecord, look: &Look<'_>) -> bool {
    let Some(leads) = look.cluster.leader_key.as_ref().map(|leader| &leader.value) else { return false };
    let (is_us, goes_on) = (leads == look.me, *leads == record.writer);
    let is_calm = look.cluster.writers_session_present()
        && look.cluster.attestation.is_none()
        && !look.actions.iter().any(observe::is_worth_saying);
    // The lock of a writer that is gone stays its own for a while: it says something once that writer is back.
    let is_back = if is_us { accepts_writes(look) } else { is_calm };
    if goes_on && !is_back {
        return false;
    }
    if record.next.as_ref() != Some(leads) {
        (record.next, record.led_wall_ms) = (Some(leads.clone()), Some(look.now_wall_ms));
        record.writable_wall_ms = None;
    }
    if is_us && accepts_writes(look) && record.writable_wall_ms.is_none() {
        record.writable_wall_ms = Some(look.now_wall_ms);
    }
    let is_seen = !is_us || record.writable_wall_ms.is_some();
    is_seen && (!goes_on || is_calm)
}

#[cfg(test)]
mod tests;
