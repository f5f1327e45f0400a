//! Rules 4 to 7: whether a standby may promise to have left the writer, and the order in which it does.
//!
//! A promise that is given too easily strips a healthy primary of its standbys; one whose steps are out of order loses
//! an acknowledged write (section 9: "position read before the cut"). So the preconditions are one function, and the
//! steps are a phase that only moves forward, persisted before each action.

use holdfast_types::record::{Promise, TermRecord};
use holdfast_types::{MemberName, Position, Term, Timeline};
use serde::{Deserialize, Serialize};

/// One probe of the writer's PostgreSQL port by a fresh connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It answered.
    Alive,
    /// Refused, reset, or no answer within the deadline.
    None,
    /// The probe itself failed here: says nothing about the writer (promise I7).
    Unknown,
}

/// What a standby knows when it asks itself whether to promise.
#[derive(Debug, Clone)]
pub struct View<'o> {
    /// Ourselves.
    pub me: &'o MemberName,
    /// The term record, by a linearizable read of this round; `None` when etcd did not answer.
    pub term: Option<&'o TermRecord>,
    /// Whose Patroni's leader key is, by the same read; absent is `None`.
    pub leader_key: Option<&'o MemberName>,
    /// The writer attests that it has stopped, in this term.
    pub attested: bool,
    /// A fence device has switched the host of the open term's writer off (rule 11).
    pub outside: bool,
    /// The writer's session key exists, by the same read.
    pub session_present: bool,
    /// For how long nothing has come from the writer, on our monotonic clock, in milliseconds.
    pub silent_ms: u64,
    /// The newest probes of the writer's PostgreSQL port, all begun after the silence did.
    pub probes: &'o [Life],
    /// A write lease that we granted has not run out (section 6).
    pub grant_in_force: bool,
    /// Our agent has been up for longer than a grant lasts.
    pub up_long_enough: bool,
    /// A fence record or a lost data directory keeps us from voting.
    pub barred: bool,
    /// How long a writer must be silent: `suspect_after_ms` of the timings.
    pub suspect_after_ms: u64,
}

/// Why a standby does not promise now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// etcd did not answer: nobody may be promoted without it.
    #[error("etcd does not answer")]
    StoreUnreachable,
    /// CLOSED already, or never opened.
    #[error("no term is open")]
    NoOpenTerm,
    /// The writer cannot leave itself.
    #[error("this node is the writer")]
    WeAreTheWriter,
    /// See [`View::barred`].
    #[error("this node may not vote")]
    Barred,
    /// See [`View::grant_in_force`].
    #[error("a write lease granted by this node has not run out")]
    Granted,
    /// What a healthy writer looks like.
    #[error("the writer's session lives, the leader key is not another's, and nothing is attested")]
    NothingWrong,
    /// The session is gone, but its PostgreSQL was heard.
    #[error("the writer's session is gone but its PostgreSQL gives signs of life")]
    SignsOfLife,
}

/// Rule 4: whether the standby may begin to leave the writer of the open term.
pub fn may_promise(view: &View<'_>) -> Result<Term, NotNow> {
    let record = view.term.ok_or(NotNow::StoreUnreachable)?;
    let writer = record.open_holder().ok_or(NotNow::NoOpenTerm)?;
    if writer == view.me {
        return Err(NotNow::WeAreTheWriter);
    }
    if view.barred {
        return Err(NotNow::Barred);
    }
    if view.grant_in_force || !view.up_long_enough {
        return Err(NotNow::Granted);
    }
    // An absent key is not enough: it is what a healthy writer looks like that has lost only etcd.
    let key_is_anothers = view.leader_key.is_some_and(|leader| leader != writer);
    if key_is_anothers || view.attested || view.outside {
        return Ok(record.term);
    }
    if view.session_present {
        return Err(NotNow::NothingWrong);
    }
    if !is_silent(view.silent_ms, view.suspect_after_ms, view.probes) {
        return Err(NotNow::SignsOfLife);
    }
    Ok(record.term)
}

/// Whether a writer gives no sign of life: silent for long enough, and the two newest probes failed.
pub fn is_silent(silent_ms: u64, suspect_after_ms: u64, probes: &[Life]) -> bool {
    let two_probes_failed =
        probes.len() >= 2 && probes.iter().rev().take(2).all(|probe| *probe == Life::None);
    silent_ms >= suspect_after_ms && two_probes_failed
}

/// How far a standby has come in leaving a writer. Stored durably before the action that it names is begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// (a) The intent is on disk: cut the network next.
    Intended {
        /// The term.
        term: Term,
        /// Its writer.
        writer: MemberName,
        /// The timeline on which WAL was received last, read before the cut: `pg_stat_wal_receiver` is empty once it has
        /// ended.
        #[serde(default)]
        received_timeline: Option<Timeline>,
    },
    /// (b) to (e) are done and the position is known: put the promise next.
    Positioned {
        /// The promise, as it will stand in etcd.
        promise: Promise,
    },
    /// (g) The promise is in etcd.
    Promised {
        /// The promise.
        promise: Promise,
    },
}

impl Phase {
    /// The term whose writer this node has left, or is leaving: it binds also when etcd has lost the promise (rule 25).
    pub fn term(&self) -> Term {
        match self {
            Self::Intended { term, .. } => *term,
            Self::Positioned { promise } | Self::Promised { promise } => promise.term,
        }
    }
}

/// What the shell saw of its own PostgreSQL and network after the last step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The cut was read back from the kernel.
    pub cut_in_place: bool,
    /// No walreceiver process, and no socket to the writer.
    pub walreceiver_gone: bool,
    /// PostgreSQL has not been restarted since it last streamed, or replay stands at the last complete record.
    pub replay_settled: bool,
    /// What it has received, read after all of the above were seen.
    pub position: Option<Position>,
}

/// The next action of a standby that leaves a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextStep {
    /// (b) Close both directions between us and the writer, for this instance's ports.
    Cut,
    /// (c) End the walreceiver.
    EndWalreceiver,
    /// (d) Replay is still moving.
    WaitForReplay,
    /// (e) Read the position now, and not earlier.
    ReadPosition,
    /// (f) Persist the position, then (g) put the promise.
    Persist(Position),
}

/// Rule 5: the order of the steps, whatever the order in which the shell observes.
pub fn next_step(progress: &Progress) -> NextStep {
    if !progress.cut_in_place {
        return NextStep::Cut;
    }
    if !progress.walreceiver_gone {
        return NextStep::EndWalreceiver;
    }
    if !progress.replay_settled {
        return NextStep::WaitForReplay;
    }
    progress.position.map_or(NextStep::ReadPosition, NextStep::Persist)
}

/// Rule 6: the one member towards which replication may be open, if any.
///
/// A node is bound if *either* its disk or etcd holds its own promise for the open term.
pub fn replication_source<'r>(
    record: Option<&'r TermRecord>,
    me: &MemberName,
    on_disk: Option<&Phase>,
    promised_in_store: bool,
) -> Option<&'r MemberName> {
    let record = record?;
    let writer = record.open_holder()?;
    let bound = promised_in_store || on_disk.is_some_and(|phase| phase.term() == record.term);
    (writer != me && !bound).then_some(writer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lasting, name};
    use holdfast_types::record::{Evidence, Reign};
    use holdfast_types::{Incarnation, SessionId};

    fn open(term: u64, holder: &str) -> TermRecord {
        let reign = Reign::Open {
            holder: name(holder),
            incarnation: Incarnation(1),
            session: SessionId(5),
            writable: true,
            floor: None,
        };
        TermRecord { term: Term(term), reign, trace: None, timeline: None }
    }

    fn closed(term: u64) -> TermRecord {
        let reign = Reign::Closed {
            holder: name("a"),
            floor: Some(at(1, 1)),
            sync_version: 1,
            evidence: Evidence::AttestedClean,
            successor: None,
            at_wall_ms: 0,
        };
        TermRecord { term: Term(term), reign, trace: None, timeline: None }
    }

    fn judge<'o>(change: impl FnOnce(&mut View<'o>)) -> Result<Term, NotNow> {
        let mut view = View {
            me: lasting(name("b")),
            term: Some(lasting(open(4, "a"))),
            leader_key: None,
            attested: false,
            outside: false,
            session_present: false,
            silent_ms: 1_000,
            probes: &[Life::Alive, Life::None, Life::None],
            grant_in_force: false,
            up_long_enough: true,
            barred: false,
            suspect_after_ms: 1_000,
        };
        change(&mut view);
        may_promise(&view)
    }

    #[test]
    fn a_dead_writer_is_left() {
        assert_eq!(judge(|_| ()), Ok(Term(4)));
    }

    #[test]
    fn the_death_of_an_agent_alone_is_no_reason() {
        assert_eq!(judge(|v| v.probes = &[Life::None, Life::Alive]), Err(NotNow::SignsOfLife));
        assert_eq!(judge(|v| v.probes = &[Life::None, Life::Unknown]), Err(NotNow::SignsOfLife));
        assert_eq!(judge(|v| v.probes = &[Life::None]), Err(NotNow::SignsOfLife));
        assert_eq!(judge(|v| v.silent_ms = 999), Err(NotNow::SignsOfLife));
    }

    #[test]
    fn an_absent_leader_key_is_no_reason() {
        assert_eq!(judge(|v| v.session_present = true), Err(NotNow::NothingWrong));
        let a = name("a");
        assert_eq!(
            judge(|v| (v.session_present, v.leader_key) = (true, Some(&a))),
            Err(NotNow::NothingWrong)
        );
    }

    #[test]
    fn anothers_lock_or_an_attested_stop_needs_no_silence() {
        let c = name("c");
        assert_eq!(
            judge(|v| (v.session_present, v.silent_ms, v.leader_key) = (true, 0, Some(&c))),
            Ok(Term(4))
        );
        assert_eq!(judge(|v| (v.session_present, v.silent_ms, v.attested) = (true, 0, true)), Ok(Term(4)));
    }

    #[test]
    fn what_bars_a_promise() {
        assert_eq!(judge(|v| v.term = None), Err(NotNow::StoreUnreachable));
        let done = closed(4);
        assert_eq!(judge(|v| v.term = Some(&done)), Err(NotNow::NoOpenTerm));
        let ours = open(4, "B");
        assert_eq!(judge(|v| v.term = Some(&ours)), Err(NotNow::WeAreTheWriter));
        assert_eq!(judge(|v| v.grant_in_force = true), Err(NotNow::Granted));
        assert_eq!(judge(|v| v.up_long_enough = false), Err(NotNow::Granted));
        assert_eq!(judge(|v| v.barred = true), Err(NotNow::Barred));
    }

    #[test]
    fn the_position_is_read_last() {
        let mut progress = Progress { position: Some(at(1, 9)), ..Progress::default() };
        assert_eq!(next_step(&progress), NextStep::Cut);
        progress.cut_in_place = true;
        assert_eq!(next_step(&progress), NextStep::EndWalreceiver);
        progress.walreceiver_gone = true;
        assert_eq!(next_step(&progress), NextStep::WaitForReplay);
        progress.replay_settled = true;
        assert_eq!(next_step(&progress), NextStep::Persist(at(1, 9)));
        progress.position = None;
        assert_eq!(next_step(&progress), NextStep::ReadPosition);
    }

    fn promise(term: u64) -> Promise {
        Promise {
            term: Term(term),
            writer: name("a"),
            position: at(1, 9),
            data_uuid: "u".into(),
            incarnation: Incarnation(1),
            heard_wall_ms: None,
            at_wall_ms: 0,
        }
    }

    #[test]
    fn a_promise_binds_from_disk_alone_or_from_the_store_alone() {
        let (record, b) = (open(4, "a"), name("b"));
        let intended = Phase::Intended { term: Term(4), writer: name("a"), received_timeline: None };
        assert_eq!(replication_source(Some(&record), &b, None, false), Some(&name("a")));
        assert_eq!(replication_source(Some(&record), &b, Some(&intended), false), None);
        assert_eq!(replication_source(Some(&record), &b, None, true), None);
        assert_eq!(replication_source(Some(&closed(4)), &b, None, false), None);
        assert_eq!(replication_source(None, &b, None, false), None);
        let of_the_last_term = Phase::Promised { promise: promise(3) };
        assert_eq!(replication_source(Some(&record), &b, Some(&of_the_last_term), false), Some(&name("a")));
    }
}
