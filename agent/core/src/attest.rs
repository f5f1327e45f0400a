//! Rules 9 and 9a: whether a writer whose PostgreSQL has gone gives its term away, or starts again on the spot.
//!
//! Called by the agent of the writer when its postmaster has died. It never attests what may still be alive.

use std::collections::BTreeSet;

use holdfast_types::record::StopKind;
use holdfast_types::{Configuration, MemberName, Position};

/// What `pg_controldata` says of the cluster's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlState {
    /// "in production": it was killed or has crashed.
    InProduction,
    /// "shut down", with the end of the shutdown checkpoint record.
    ShutDown {
        /// The end of its WAL.
        end: Position,
    },
    /// The disk does not answer. Only of a PostgreSQL that this agent has ended because it hung, while it was a primary:
    /// that is what "in production" would say.
    NotRead,
    /// Anything else: recovery, starting, unreadable.
    Other(String),
}

/// The writer's view of itself after its postmaster went.
#[derive(Debug, Clone)]
pub struct Stopped<'o> {
    /// Every process of the instance is gone, by the cgroup's own list, or cannot run any more: the kernel holds it, it will
    /// end before its next instruction, and its port is closed.
    pub processes_gone: bool,
    /// Our gate refuses every start.
    pub gate_shut: bool,
    /// Patroni was told to restart or stop PostgreSQL: it knows what it is doing.
    pub by_order: bool,
    /// The node is fenced: its PostgreSQL must not start on the spot, so the term is given away whoever can follow.
    pub must_go: bool,
    /// What the control file says.
    pub control: &'o ControlState,
    /// Every configuration in force, or `None` when that is unknown.
    pub in_force: Option<&'o [Configuration]>,
    /// Members whose last facts say alive and streaming, and whose agents answered just now.
    pub streaming: &'o BTreeSet<MemberName>,
    /// Members that may lead.
    pub eligible: &'o BTreeSet<MemberName>,
}

/// For how long a stream that broke off still counts (rule 9a speaks of the *last* facts). Standbys lose the stream
/// because the writer is gone: one that said so at once would take from it, in the moment of its crash, the grounds on
/// which it gives its term away. Longer than a writer needs to decide, shorter than anybody waits for a restart.
const STREAM_LOSS_MS: u64 = 2_000;

/// What a standby publishes of its stream. `lost_for_ms` is the time since a stream that it had was first seen broken.
pub fn streaming_to_publish(seen: Option<bool>, lost_for_ms: Option<u64>) -> Option<bool> {
    match (seen, lost_for_ms) {
        (Some(false), Some(lost_for_ms)) if lost_for_ms < STREAM_LOSS_MS => Some(true),
        _ => seen,
    }
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Write the attestation.
    Attest(StopKind),
    /// PostgreSQL was shut down and nothing of it is left: shut the gate, so that nothing starts, then look again. Its
    /// Patroni lives on: it may be answering the person who ordered the switchover.
    Shut,
    /// First shut the gate and kill Patroni together with what is left of PostgreSQL, then look again.
    ShutAndKill,
    /// Leave it to Patroni: it starts PostgreSQL again under the same term.
    RestartInPlace(&'static str),
}

/// Who could take the term up.
#[derive(Debug, Clone, Copy)]
pub struct Followers<'o> {
    /// Every configuration in force, or `None` when that is unknown.
    pub in_force: Option<&'o [Configuration]>,
    /// Members whose last facts say alive and streaming.
    pub streaming: &'o BTreeSet<MemberName>,
    /// Members that may lead.
    pub eligible: &'o BTreeSet<MemberName>,
}

impl Followers<'_> {
    /// Rule 9a: whether somebody can; or why not.
    pub fn can_follow(&self) -> Result<(), &'static str> {
        let Some(in_force) = self.in_force else {
            return Err("the synchronous configurations in force are unknown");
        };
        // A term given away that nobody can take up would turn a restart of seconds into an outage.
        if in_force.is_empty() || !in_force.iter().all(|one| one.is_closed_by(self.streaming)) {
            return Err("too few synchronous standbys stream to take over");
        }
        if self.eligible.intersection(self.streaming).next().is_none() {
            return Err("no streaming standby may lead");
        }
        Ok(())
    }
}

/// Decides what a writer does whose postmaster has gone.
pub fn decide(stopped: &Stopped<'_>) -> Verdict {
    if stopped.by_order {
        return Verdict::RestartInPlace("Patroni stops or restarts PostgreSQL by order");
    }
    let kind = match stopped.control {
        ControlState::InProduction | ControlState::NotRead => StopKind::Stopped,
        ControlState::ShutDown { end } => StopKind::Clean { end: *end },
        ControlState::Other(_) => {
            return Verdict::RestartInPlace("pg_control says neither \"in production\" nor \"shut down\"");
        }
    };
    // Once the gate has been shut for it, the decision stands: the standbys stop streaming *because* the writer is gone,
    // so looking at them again would take it back every time.
    if kind == StopKind::Stopped && !stopped.gate_shut && !stopped.must_go {
        let followers = Followers {
            in_force: stopped.in_force,
            streaming: stopped.streaming,
            eligible: stopped.eligible,
        };
        if let Err(why) = followers.can_follow() {
            return Verdict::RestartInPlace(why);
        }
    }
    match (&kind, stopped.gate_shut, stopped.processes_gone) {
        (_, true, true) => Verdict::Attest(kind),
        (StopKind::Clean { .. }, false, true) => Verdict::Shut,
        _ => Verdict::ShutAndKill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lasting, names};

    fn judge<'o>(change: impl FnOnce(&mut Stopped<'o>)) -> Verdict {
        let in_force = lasting([Configuration { members: names(&["b", "c"]), quorum: 1 }]);
        let mut stopped = Stopped {
            processes_gone: true,
            gate_shut: true,
            by_order: false,
            must_go: false,
            control: &ControlState::InProduction,
            in_force: Some(in_force),
            streaming: lasting(names(&["b", "c"])),
            eligible: lasting(names(&["c"])),
        };
        change(&mut stopped);
        decide(&stopped)
    }

    #[test]
    fn a_crash_with_two_streaming_standbys_is_attested() {
        assert_eq!(judge(|_| ()), Verdict::Attest(StopKind::Stopped));
    }

    #[test]
    fn what_may_be_alive_is_killed_first() {
        assert_eq!(judge(|s| s.processes_gone = false), Verdict::ShutAndKill);
        assert_eq!(judge(|s| s.gate_shut = false), Verdict::ShutAndKill);
    }

    #[test]
    fn a_term_that_nobody_can_take_up_is_kept() {
        let one = names(&["b"]);
        assert!(matches!(judge(|s| (s.gate_shut, s.streaming) = (false, &one)), Verdict::RestartInPlace(_)));
        let nobody = names(&[]);
        assert!(matches!(
            judge(|s| (s.gate_shut, s.eligible) = (false, &nobody)),
            Verdict::RestartInPlace(_)
        ));
        assert!(matches!(judge(|s| (s.gate_shut, s.in_force) = (false, None)), Verdict::RestartInPlace(_)));
        assert!(matches!(judge(|s| s.by_order = true), Verdict::RestartInPlace(_)));
        let fenced = judge(|s| (s.gate_shut, s.must_go, s.eligible) = (false, true, &nobody));
        assert_eq!(fenced, Verdict::ShutAndKill, "a fenced writer does not start on the spot");
        let other = ControlState::Other("in crash recovery".into());
        assert!(matches!(judge(|s| s.control = &other), Verdict::RestartInPlace(_)));
    }

    #[test]
    fn one_that_was_ended_on_a_disk_that_does_not_answer_is_a_crash() {
        let control = ControlState::NotRead;
        assert_eq!(judge(|s| s.control = &control), Verdict::Attest(StopKind::Stopped));
        assert_eq!(
            judge(|s| (s.control, s.processes_gone) = (&control, false)),
            Verdict::ShutAndKill,
            "some of it may still run"
        );
    }

    #[test]
    fn standbys_that_stop_streaming_because_the_writer_is_gone_do_not_take_the_decision_back() {
        let nobody = names(&[]);
        let verdict = judge(|s| (s.streaming, s.eligible) = (&nobody, &nobody));
        assert_eq!(verdict, Verdict::Attest(StopKind::Stopped));
    }

    #[test]
    fn a_stream_that_has_just_broken_off_still_counts() {
        assert_eq!(streaming_to_publish(Some(false), Some(STREAM_LOSS_MS - 1)), Some(true));
        assert_eq!(streaming_to_publish(Some(false), Some(STREAM_LOSS_MS)), Some(false));
        assert_eq!(
            streaming_to_publish(Some(false), None),
            Some(false),
            "it never had one, or is itself stopped"
        );
        assert_eq!(streaming_to_publish(None, Some(0)), None, "unknown stays unknown");
        assert_eq!(streaming_to_publish(Some(true), None), Some(true));
    }

    #[test]
    fn a_clean_shutdown_needs_no_standby() {
        let clean = ControlState::ShutDown { end: at(1, 5) };
        let nobody = names(&[]);
        let verdict = judge(|s| (s.control, s.streaming) = (&clean, &nobody));
        assert_eq!(verdict, Verdict::Attest(StopKind::Clean { end: at(1, 5) }));
        assert_eq!(judge(|s| (s.control, s.gate_shut) = (&clean, false)), Verdict::Shut);
        let starting = judge(|s| (s.control, s.processes_gone) = (&clean, false));
        assert_eq!(starting, Verdict::ShutAndKill, "it had passed the gate before that was shut");
    }
}
