//! What a load balancer is told that asks this host for its writer or for a replica, and when a command that follows the
//! writer is run again.
//!
//! Patroni's `GET /primary` says 200 from a candidate that still waits in its hook (`facts/baseline.md` 5.2), and from a
//! primary whose Patroni is cut off. Here the writer of a term is up only once the term is written to, and for as long as its
//! lease lasts; leases exclude each other, so two hosts are never up at once. Where no term is in force (modes `observe` and
//! `disarmed`, and armed until the first term is open) Patroni's leader key and PostgreSQL's own state are all there is.
//! It asks nobody: what is not known is down. Called by the agent's HTTP side for each question.

use holdfast_types::record::{Reign, TermRecord};
use holdfast_types::{Lsn, MemberName, Mode, Term};

use crate::cluster::Cluster;
use crate::lease::Fence;
use crate::member::{Postgres, term_in_force};

/// What is known of the instance at the moment of the question; nothing is looked up for it.
#[derive(Debug, Clone)]
pub struct View<'v> {
    /// Ourselves.
    pub me: &'v MemberName,
    /// The cluster as the watch shows it, or showed it last.
    pub cluster: &'v Cluster,
    /// For how long etcd has not been heard, in milliseconds; `None` while it is.
    pub silent_ms: Option<u64>,
    /// How old the last look at the instance is, in milliseconds; `None` before the first.
    pub look_age_ms: Option<u64>,
    /// A look that is older says nothing any more.
    pub look_age_ms_max: u64,
    /// What was heard from etcd before a longer silence says nothing any more of how far replicas are.
    pub silence_ms_max: u64,
    /// `CLOCK_BOOTTIME` in milliseconds.
    pub now_ms: u64,
    /// Our PostgreSQL.
    pub postgres: Postgres,
    /// The postmaster that runs has been seen out of recovery: it never goes back, so one that does not answer at the moment
    /// is still no standby.
    pub left_recovery: bool,
    /// Our Patroni runs and answers.
    pub patroni_answers: bool,
    /// Whether our walreceiver streams.
    pub streaming: Option<bool>,
    /// How far our standby has replayed.
    pub replayed: Option<Lsn>,
    /// The fence that was set last.
    pub fence: Option<Fence>,
}

/// Why this host is to be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The texts are the meaning.
pub enum Up {
    #[error("this member is the writer of term {0}")]
    WriterOf(Term),
    #[error(
        "this member is the last writer that etcd has forgotten, and goes on until a person arms the cluster again"
    )]
    Kept,
    #[error("this member has Patroni's leader key, and no term is in force (mode {0})")]
    Leader(Mode),
    #[error("this member is a standby that streams")]
    Replica,
    #[error("this member is a standby that streams, {lag_bytes} bytes behind")]
    ReplicaWithin { lag_bytes: u64 },
}

/// Why it is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The texts are the meaning.
pub enum Down {
    #[error("nothing was heard from etcd since this agent has started")]
    NeverHeard,
    #[error("etcd has not been heard for {silent_ms} ms")]
    Silent { silent_ms: u64 },
    #[error("etcd is not heard, and Patroni does not run here or does not answer")]
    SilentWithoutPatroni,
    #[error("this instance was not looked at for {} ms", age_ms.map_or_else(|| "any".into(), |ms| ms.to_string()))]
    OldLook { age_ms: Option<u64> },
    #[error("the mode or term record cannot be read; upgrade this host")]
    Unreadable,
    #[error("term {0} is closed, and nobody writes until the next one is open")]
    Closed(Term),
    #[error("{writer} is the writer of term {term}")]
    Another { writer: MemberName, term: Term },
    #[error("this member is being promoted in term {0}")]
    NotPromoted(Term),
    #[error("this member has stopped as the writer of term {0}")]
    Stopped(Term),
    #[error("this member is fenced")]
    Fenced,
    #[error("the lease of this member in term {0} is not valid")]
    NoLease(Term),
    #[error("the port of this member's PostgreSQL is closed, or closes")]
    PortClosed,
    #[error("Patroni has no leader")]
    NoLeader,
    #[error("{0} has Patroni's leader key")]
    AnotherLeads(MemberName),
    #[error("PostgreSQL is in recovery")]
    InRecovery,
    #[error("PostgreSQL is not in recovery")]
    NotInRecovery,
    #[error("PostgreSQL does not run")]
    Gone,
    #[error("the state of PostgreSQL is not known")]
    Unknown,
    #[error("its walreceiver does not stream, or that is not known")]
    NotStreaming,
    #[error("Patroni's key of this member is not there")]
    NoMember,
    #[error("it is tagged noloadbalance")]
    NoLoadBalance,
    #[error("its lag is not known")]
    LagUnknown,
    #[error("it is {lag_bytes} bytes behind, more than {max_bytes}")]
    Lags { lag_bytes: u64, max_bytes: u64 },
}

/// Who the writer is, by the records alone, for whoever reads the answer.
pub fn writer_of(cluster: &Cluster) -> Option<(&MemberName, Option<Term>)> {
    match regime(cluster).ok()? {
        Regime::Term(record) => match &record.reign {
            Reign::Open { holder, writable: true, .. } if !cluster.attested() => {
                Some((holder, Some(record.term)))
            }
            Reign::Open { .. } | Reign::Closed { .. } => None,
        },
        Regime::Patroni(_) => cluster.leader_key.as_ref().map(|leader| (&leader.value, None)),
    }
}

/// Whether writes belong here.
pub fn writer(view: &View<'_>) -> Result<Up, Down> {
    was_seen(view)?;
    if view.fence == Some(Fence::Kept) {
        return is_out_of_recovery(view).map(|()| Up::Kept);
    }
    match regime(view.cluster)? {
        Regime::Term(record) => writer_of_term(view, record),
        Regime::Patroni(mode) => leader(view, mode),
    }
}

/// Whether reads belong here: a standby that streams and is at most so many bytes behind, where a bound is given. What counts
/// is what it has replayed, because that is what a reader sees.
pub fn replica(view: &View<'_>, max_lag_bytes: Option<u64>) -> Result<Up, Down> {
    was_seen(view)?;
    if let Some(silent_ms) = view.silent_ms.filter(|silent_ms| *silent_ms > view.silence_ms_max) {
        return Err(Down::Silent { silent_ms });
    }
    match view.postgres {
        Postgres::Running { in_recovery: Some(true) } => {}
        Postgres::Running { in_recovery: Some(false) } => return Err(Down::NotInRecovery),
        Postgres::Gone => return Err(Down::Gone),
        Postgres::Running { in_recovery: None } | Postgres::Unknown => return Err(Down::Unknown),
    }
    if view.cluster.fenced(view.me) {
        return Err(Down::Fenced);
    }
    match view.cluster.members.get(view.me) {
        None => return Err(Down::NoMember),
        Some(member) if member.noloadbalance => return Err(Down::NoLoadBalance),
        Some(_) => {}
    }
    if view.streaming != Some(true) {
        return Err(Down::NotStreaming);
    }
    let Some(max_bytes) = max_lag_bytes else { return Ok(Up::Replica) };
    let (Some(written), Some(replayed)) = (view.cluster.leader_optime, view.replayed) else {
        return Err(Down::LagUnknown);
    };
    // What Patroni published is older than what a standby has replayed as often as not.
    let lag_bytes = written.0.saturating_sub(replayed.0);
    if lag_bytes <= max_bytes {
        Ok(Up::ReplicaWithin { lag_bytes })
    } else {
        Err(Down::Lags { lag_bytes, max_bytes })
    }
}

/// Milliseconds until a command that failed so often in a row is run again: 1 s, doubled each time, at most a minute.
pub fn retry_after_ms(failures: u32) -> u64 {
    const FIRST_MS: u64 = 1_000;
    const LONGEST_MS: u64 = 60_000;
    (FIRST_MS << failures.saturating_sub(1).min(6)).min(LONGEST_MS)
}

/// By what the writer is known.
enum Regime<'c> {
    Term(&'c TermRecord),
    Patroni(Mode),
}

fn regime(cluster: &Cluster) -> Result<Regime<'_>, Down> {
    let mode = cluster.known_mode().ok_or(Down::Unreadable)?;
    if mode != Mode::Armed {
        return Ok(Regime::Patroni(mode));
    }
    if cluster.term.is_none() && cluster.cannot_tell_terms() {
        return Err(Down::Unreadable);
    }
    // Armed, and the first term is not open yet: nobody may notice the arming.
    Ok(term_in_force(cluster).map_or(Regime::Patroni(mode), |term| Regime::Term(&term.value)))
}

/// The bounds on what was seen last.
fn was_seen(view: &View<'_>) -> Result<(), Down> {
    if view.cluster.revision == 0 {
        return Err(Down::NeverHeard);
    }
    match view.look_age_ms {
        Some(age_ms) if age_ms <= view.look_age_ms_max => Ok(()),
        age_ms => Err(Down::OldLook { age_ms }),
    }
}

fn writer_of_term(view: &View<'_>, record: &TermRecord) -> Result<Up, Down> {
    let term = record.term;
    match &record.reign {
        Reign::Closed { .. } => return Err(Down::Closed(term)),
        Reign::Open { holder, .. } if holder != view.me => {
            return Err(Down::Another { writer: holder.clone(), term });
        }
        Reign::Open { writable: false, .. } => return Err(Down::NotPromoted(term)),
        Reign::Open { .. } => {}
    }
    if view.cluster.attested() {
        return Err(Down::Stopped(term));
    }
    if view.cluster.fenced(view.me) {
        return Err(Down::Fenced);
    }
    is_out_of_recovery(view)?;
    match view.fence {
        // Without etcd too: the lease then comes from the standbys.
        Some(Fence::Until { term: of, deadline_ms }) if of == term && deadline_ms > view.now_ms => {
            Ok(Up::WriterOf(term))
        }
        // Rule 24: nobody closes the term while a person has suspended automatic action.
        Some(Fence::Paused) => Ok(Up::WriterOf(term)),
        _ => Err(Down::NoLease(term)),
    }
}

/// Without etcd the key says no more than that nobody else was leader when it was last heard. Patroni itself goes on then (in
/// its failsafe mode) or ends its primary, and a load balancer that asked Patroni would see the same.
fn leader(view: &View<'_>, mode: Mode) -> Result<Up, Down> {
    match &view.cluster.leader_key {
        None => return Err(Down::NoLeader),
        Some(leader) if leader.value != *view.me => return Err(Down::AnotherLeads(leader.value.clone())),
        Some(_) => {}
    }
    if view.silent_ms.is_some() && !view.patroni_answers {
        return Err(Down::SilentWithoutPatroni);
    }
    // Armed by what this host remembers, whatever etcd says.
    if matches!(view.fence, Some(Fence::Expiring | Fence::Closed | Fence::Ended)) {
        return Err(Down::PortClosed);
    }
    is_out_of_recovery(view).map(|()| Up::Leader(mode))
}

fn is_out_of_recovery(view: &View<'_>) -> Result<(), Down> {
    match view.postgres {
        Postgres::Running { in_recovery: Some(false) } => Ok(()),
        Postgres::Running { in_recovery: None } if view.left_recovery => Ok(()),
        Postgres::Running { in_recovery: Some(true) } => Err(Down::InRecovery),
        Postgres::Gone => Err(Down::Gone),
        Postgres::Running { in_recovery: None } | Postgres::Unknown => Err(Down::Unknown),
    }
}

#[cfg(test)]
mod tests;
