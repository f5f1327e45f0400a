//! The way of a switchover from phase to phase.
//!
//! Until the writer hands over nothing is changed, so whatever goes wrong ends as it began. After that the term record alone
//! says who writes. No phase lasts for ever, and clients that wait are let go by their own pooler's clock.

use holdfast_types::record::OperationPhase::{
    HandOver, Pause, Prepare, Rejoin, Release, Restart, Settle, Verify,
};
use holdfast_types::record::OperationState::{Done, Overtaken, PartlyDone, Unchanged};
use holdfast_types::record::{OperationRecord, PAUSE_MS_MAX, Switchover};
use holdfast_types::{MemberName, Mode, Term};

use crate::observation::{Observation, ReignState, word};
use crate::step::Step;
use crate::whole;

/// Beside the drain itself: a checkpoint of a gigabyte of dirty buffers takes half a minute on a slow disk.
const PREPARE_MS_MAX: u64 = 120_000;
/// Clients that wait already should not wait for a pooler that does not answer; what is left of [`PAUSE_MS_MAX`] is enough
/// to hand over.
const PAUSE_ANSWER_MS_MAX: u64 = PAUSE_MS_MAX / 2;
/// Patroni begins to hand over within its loop; PostgreSQL's shutdown can take longer, and is seen in the term record.
const HAND_OVER_MS_MAX: u64 = 60_000;
const VERIFY_MS_MAX: u64 = 15_000;
/// The old writer may have to be rewound.
const SETTLE_MS_MAX: u64 = 300_000;
const RELEASE_MS_MAX: u64 = 2 * PAUSE_MS_MAX;

/// What a running switchover is about.
struct Course<'o> {
    record: &'o OperationRecord,
    seen: &'o Observation,
    term: Term,
    writer: &'o MemberName,
    successor: &'o MemberName,
    phase_ms: u64,
}

/// Decides the next step.
pub fn step(record: &OperationRecord, wanted: &Switchover, seen: &Observation, phase_ms: u64) -> Step {
    let (Some(term), Some(writer), Some(successor)) = (record.term, &record.writer, &record.successor) else {
        return Step::end(Unchanged, "its record does not say from whom to whom");
    };
    let course = Course { record, seen, term, writer, successor, phase_ms };
    match record.phase {
        Prepare => course.prepare(wanted),
        Pause => course.pause(),
        HandOver => course.hand_over(),
        Verify => course.verify(),
        Settle => course.settle(),
        Release => course.release(),
        Restart | Rejoin => Step::end(Unchanged, "a switchover has no such phase"),
    }
}

/// Who writes now, for people.
pub fn who_writes(seen: &Observation) -> String {
    let Some(reign) = &seen.reign else { return "no term is in force".into() };
    let (term, holder) = (reign.term, &reign.holder);
    match reign.state {
        ReignState::Writable => format!("{holder} writes in term {term}"),
        ReignState::Opening => format!("term {term} is open for {holder}, which does not write yet"),
        ReignState::Stopped => format!("{holder} has stopped, and nobody follows yet in term {term}"),
        ReignState::Closed => format!("term {term} is closed, and nobody follows yet"),
    }
}

impl Course<'_> {
    /// Whether the term still is what it was when the operation began.
    fn is_as_it_was(&self) -> bool {
        self.seen.writer() == Some((self.term, self.writer))
    }

    /// Who writes now, for people.
    fn now(&self) -> String {
        who_writes(self.seen)
    }

    fn overtaken(&self) -> Step {
        Step::end_with(
            Overtaken,
            format!("something else changed the writer: {}", self.now()),
            "holdfast status",
        )
    }

    /// Why it must not go on to hand over, although nothing has been changed yet.
    fn bar(&self) -> Option<String> {
        if self.seen.mode != Some(Mode::Armed) {
            return Some("the cluster is no longer armed".into());
        }
        if let Some(why) = &self.seen.suspended {
            return Some(format!("automatic action is suspended: {why}"));
        }
        let able = self.seen.members.get(self.successor).is_some_and(|member| {
            member.agent_alive && !member.fenced && !member.disarmed_locally && member.eligible == Some(true)
        });
        (!able).then(|| format!("{} can no longer follow", self.successor))
    }

    fn own_word(&self) -> Option<Result<(), &str>> {
        let done = self.seen.members.get(self.writer).and_then(|member| member.done.as_ref());
        word(done, self.record.number, self.record.phase)
    }

    fn prepare(&self, wanted: &Switchover) -> Step {
        if !self.is_as_it_was() {
            return self.overtaken();
        }
        if let Some(why) = self.bar() {
            return Step::end(Unchanged, why);
        }
        match self.own_word() {
            Some(Ok(())) if self.record.poolers.is_empty() => Step::Go(HandOver),
            Some(Ok(())) => Step::Go(Pause),
            Some(Err(problem)) => Step::end(Unchanged, format!("{}: {problem}", self.writer)),
            None if self.phase_ms > PREPARE_MS_MAX + wanted.drain_timeout_ms => {
                Step::end(Unchanged, format!("the agent of {} has not prepared it in time", self.writer))
            }
            None => Step::Wait,
        }
    }

    fn pause(&self) -> Step {
        if !self.is_as_it_was() {
            return self.overtaken();
        }
        if let Some(why) = self.bar() {
            return Step::GiveUp(why);
        }
        let mut waits = None;
        for name in &self.record.poolers {
            match self.word_of(name) {
                Some(Ok(())) => {}
                Some(Err(problem)) => return Step::GiveUp(format!("pooler {name}: {problem}")),
                None => waits = Some(name),
            }
        }
        match waits {
            None => Step::Go(HandOver),
            Some(name) if self.phase_ms > PAUSE_ANSWER_MS_MAX => {
                Step::GiveUp(format!("pooler {name} has not held its clients back in time"))
            }
            Some(_) => Step::Wait,
        }
    }

    fn word_of(&self, pooler: &str) -> Option<Result<(), &str>> {
        let done = self.seen.poolers.get(pooler).and_then(|seen| seen.done.as_ref());
        word(done, self.record.number, self.record.phase)
    }

    /// From here on only the term record counts: what Patroni answered is a hint, and a request of it that seems to have
    /// failed may come true.
    fn hand_over(&self) -> Step {
        if self.is_as_it_was() {
            return match self.own_word() {
                Some(Err(problem)) => Step::GiveUp(format!("{}: {problem}", self.writer)),
                _ if self.phase_ms > HAND_OVER_MS_MAX => {
                    Step::GiveUp(format!("Patroni of {} has not handed over in time", self.writer))
                }
                _ => Step::Wait,
            };
        }
        match self.seen.writer() {
            Some((term, holder)) if term > self.term && holder == self.successor => Step::Go(Verify),
            // The same writer may be back in its own term, or another one.
            Some(_) => self.overtaken(),
            None if self.phase_ms > HAND_OVER_MS_MAX => {
                let text = format!("{} has handed over, but {}", self.writer, self.now());
                Step::end_with(PartlyDone, text, "holdfast status")
            }
            None => Step::Wait,
        }
    }

    /// Whether the successor still writes in the term that it opened for this.
    fn successor_writes(&self) -> bool {
        let next = |(term, holder): (Term, &MemberName)| term > self.term && holder == self.successor;
        self.seen.writer().is_some_and(next)
    }

    fn verify(&self) -> Step {
        if !self.successor_writes() {
            return self.overtaken();
        }
        let is_open = |name: &&String| self.word_of(name).is_none();
        let open = self.record.poolers.iter().any(|name| is_open(&name));
        if open && self.phase_ms <= VERIFY_MS_MAX { Step::Wait } else { Step::Go(Settle) }
    }

    fn settle(&self) -> Step {
        if !self.successor_writes() {
            return self.overtaken();
        }
        let back = whole::is_back(self.seen, self.writer, true);
        if !back && self.phase_ms <= SETTLE_MS_MAX {
            return Step::Wait;
        }
        let mut left = self.unverified();
        if !back {
            left.push(format!("{} is no standby of it yet that counts", self.writer));
        }
        let writes = format!("{}, instead of {}", self.now(), self.writer);
        if left.is_empty() {
            let remarks = self.remarks().map(|remark| format!("; {remark}")).collect::<String>();
            return Step::end(Done, format!("{writes}{remarks}"));
        }
        Step::end_with(PartlyDone, format!("{writes}; but {}", left.join("; ")), "holdfast status")
    }

    /// The poolers that have not shown that they are well.
    fn unverified(&self) -> Vec<String> {
        let look = |name: &String| {
            let done = self.seen.poolers.get(name).and_then(|seen| seen.done.as_ref());
            match word(done, self.record.number, Verify) {
                Some(Ok(())) => None,
                Some(Err(problem)) => Some(format!("pooler {name}: {problem}")),
                None => Some(format!("pooler {name} has not shown that it reaches the writer")),
            }
        };
        self.record.poolers.iter().filter_map(look).collect()
    }

    /// What is to be known of poolers that are well.
    fn remarks(&self) -> impl Iterator<Item = String> {
        self.record.poolers.iter().filter_map(|name| {
            let done = self.seen.poolers.get(name)?.done.as_ref()?;
            let remark = done.remark.as_ref().filter(|_| done.is_of(self.record.number, Verify))?;
            Some(format!("pooler {name}: {remark}"))
        })
    }

    fn release(&self) -> Step {
        let why = self.record.given_up.as_deref().unwrap_or("it was given up");
        let holds = |name: &&String| {
            let pooler = self.seen.poolers.get(*name);
            pooler.is_some_and(|pooler| pooler.alive && pooler.paused) && self.word_of(name).is_none()
        };
        let held: Vec<&str> = self.record.poolers.iter().filter(holds).map(String::as_str).collect();
        if !held.is_empty() && self.phase_ms <= RELEASE_MS_MAX {
            return Step::Wait;
        }
        if !self.is_as_it_was() {
            let text = format!("given up ({why}), and yet the writer changed: {}", self.now());
            return Step::end_with(Overtaken, text, "holdfast status");
        }
        if held.is_empty() {
            return Step::end(Unchanged, format!("{why}; {}", self.now()));
        }
        let text = format!("{why}; {}, but clients of {} seem to wait still", self.now(), held.join(", "));
        Step::end_with(PartlyDone, text, "holdfast status")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{done, healthy, name, reign, running};
    use holdfast_types::record::OperationPhase;

    fn next(phase: OperationPhase, seen: &Observation, phase_ms: u64) -> Step {
        step(&running(phase), &Switchover::default(), seen, phase_ms)
    }

    fn own(seen: &mut Observation, phase: OperationPhase, problem: Option<&str>) {
        seen.members.get_mut(&name("db1")).unwrap().done = done(phase, problem);
    }

    fn poolers(seen: &mut Observation, phase: OperationPhase, problem: Option<&str>) {
        for pooler in seen.poolers.values_mut() {
            pooler.done = done(phase, problem);
        }
    }

    fn state(step: Step) -> holdfast_types::record::OperationState {
        match step {
            Step::End { state, .. } => state,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_whole_way() {
        let mut seen = healthy();
        assert_eq!(next(Prepare, &seen, 0), Step::Wait);
        own(&mut seen, Prepare, None);
        assert_eq!(next(Prepare, &seen, 0), Step::Go(Pause));
        assert_eq!(next(Pause, &seen, 0), Step::Wait);
        poolers(&mut seen, Pause, None);
        assert_eq!(next(Pause, &seen, 0), Step::Go(HandOver));
        assert_eq!(next(HandOver, &seen, 0), Step::Wait);
        for moving in [ReignState::Stopped, ReignState::Closed] {
            reign(&mut seen, 4, "db1", moving);
            assert_eq!(next(HandOver, &seen, 0), Step::Wait);
        }
        reign(&mut seen, 5, "db2", ReignState::Opening);
        assert_eq!(next(HandOver, &seen, 0), Step::Wait);
        reign(&mut seen, 5, "db2", ReignState::Writable);
        assert_eq!(next(HandOver, &seen, 0), Step::Go(Verify));
        assert_eq!(next(Verify, &seen, 0), Step::Wait);
        poolers(&mut seen, Verify, None);
        assert_eq!(next(Verify, &seen, 0), Step::Go(Settle));
        assert_eq!(next(Settle, &seen, 0), Step::Wait);
        seen.members.get_mut(&name("db1")).unwrap().streaming = Some(true);
        assert_eq!(next(Settle, &seen, 0), Step::Wait, "it does not count yet");
        seen.members.get_mut(&name("db1")).unwrap().synchronous = true;
        assert_eq!(state(next(Settle, &seen, 0)), Done);
    }

    #[test]
    fn nothing_is_changed_by_what_fails_before_the_writer_hands_over() {
        let mut seen = healthy();
        own(&mut seen, Prepare, Some("pid 7 is idle in transaction"));
        assert_eq!(state(next(Prepare, &seen, 0)), Unchanged);
        assert_eq!(state(next(Prepare, &healthy(), PREPARE_MS_MAX * 2)), Unchanged);
        poolers(&mut seen, Pause, Some("its admin console does not answer"));
        assert!(matches!(next(Pause, &seen, 0), Step::GiveUp(why) if why.contains("admin console")));
        assert!(matches!(next(Pause, &healthy(), PAUSE_ANSWER_MS_MAX + 1), Step::GiveUp(_)));
        own(&mut seen, HandOver, Some("Patroni answers 412"));
        assert!(matches!(next(HandOver, &seen, 0), Step::GiveUp(why) if why.contains("412")));
        assert!(matches!(next(HandOver, &healthy(), HAND_OVER_MS_MAX + 1), Step::GiveUp(_)));
    }

    #[test]
    fn a_word_of_another_operation_or_phase_is_none() {
        let mut seen = healthy();
        own(&mut seen, HandOver, None);
        assert_eq!(next(Prepare, &seen, 0), Step::Wait);
        seen.members.get_mut(&name("db1")).unwrap().done.as_mut().unwrap().operation = 2;
        assert_eq!(next(HandOver, &seen, 0), Step::Wait);
    }

    #[test]
    fn who_is_disarmed_or_suspended_or_loses_its_successor_stops_in_time() {
        let mut lost = healthy();
        lost.members.get_mut(&name("db2")).unwrap().eligible = Some(false);
        let observing = Observation { mode: Some(Mode::Disarmed), ..healthy() };
        let paused = Observation { suspended: Some("Patroni is paused".into()), ..healthy() };
        for seen in [lost, observing, paused] {
            assert_eq!(state(next(Prepare, &seen, 0)), Unchanged);
            assert!(matches!(next(Pause, &seen, 0), Step::GiveUp(_)));
            assert_eq!(next(HandOver, &seen, 0), Step::Wait, "nobody can call it back");
        }
    }

    #[test]
    fn a_failover_overrides_it() {
        let mut seen = healthy();
        for (phase, term, holder, state_now) in [
            (Prepare, 4, "db1", ReignState::Closed),
            (Pause, 5, "db3", ReignState::Writable),
            (HandOver, 5, "db3", ReignState::Writable),
            (Verify, 6, "db1", ReignState::Writable),
            (Settle, 5, "db2", ReignState::Closed),
            (Release, 5, "db2", ReignState::Writable),
        ] {
            reign(&mut seen, term, holder, state_now);
            let step = next(phase, &seen, 0);
            let Step::End { state, text, .. } = step else { panic!("{phase:?}: {step:?}") };
            assert_eq!(state, Overtaken, "{phase:?}");
            assert!(text.contains(&term.to_string()), "{text}");
        }
    }

    #[test]
    fn what_is_left_to_do_is_said() {
        let mut seen = healthy();
        reign(&mut seen, 5, "db2", ReignState::Writable);
        assert_eq!(next(Verify, &seen, VERIFY_MS_MAX + 1), Step::Go(Settle));
        let Step::End { state, text, next } = next(Settle, &seen, SETTLE_MS_MAX + 1) else { panic!() };
        assert_eq!((state, next.as_deref()), (PartlyDone, Some("holdfast status")));
        assert!(text.contains("db1 is no standby") && text.contains("pool1.a"), "{text}");
        reign(&mut seen, 4, "db1", ReignState::Closed);
        assert_eq!(super::tests::state(self::next(HandOver, &seen, HAND_OVER_MS_MAX + 1)), PartlyDone);
    }

    #[test]
    fn clients_are_let_go_before_it_ends() {
        let mut seen = healthy();
        for pooler in seen.poolers.values_mut() {
            pooler.paused = true;
        }
        assert_eq!(next(Release, &seen, 0), Step::Wait);
        assert_eq!(state(next(Release, &seen, RELEASE_MS_MAX + 1)), PartlyDone);
        poolers(&mut seen, Release, None);
        assert_eq!(state(next(Release, &seen, 0)), Unchanged);
        seen.poolers.get_mut("pool1.a").unwrap().done = None;
        assert_eq!(next(Release, &seen, 0), Step::Wait);
        seen.poolers.get_mut("pool1.a").unwrap().alive = false;
        assert_eq!(
            state(next(Release, &seen, 0)),
            Unchanged,
            "who is gone holds nobody that we could let go"
        );
    }
}
