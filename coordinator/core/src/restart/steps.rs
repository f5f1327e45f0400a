//! The way of a restart from member to member.
//!
//! A turn is two phases: the member's agent restarts it, then it streams and counts again. Only then comes the next, so whatever
//! fails leaves at most one member away. The writer's turn is a switchover.

use holdfast_types::record::OperationPhase::{Prepare, Rejoin, Restart as Restarting, Settle};
use holdfast_types::record::OperationState::{Done, Overtaken, PartlyDone, Unchanged};
use holdfast_types::record::{OperationRecord, OperationState, Restart, Rolling};
use holdfast_types::{MemberName, Mode};

use super::preflight::turn;
use crate::observation::{Observation, word};
use crate::step::Step;
use crate::{switchover, whole};

/// Patroni waits for a standby's shutdown, which writes a restart point, and for its start: 300 s by its own default.
const RESTART_MS_MAX: u64 = 330_000;
/// It reads what it has missed, and Patroni counts it again in one of its next rounds.
const REJOIN_MS_MAX: u64 = 300_000;

/// What a running restart is about.
struct Course<'o> {
    record: &'o OperationRecord,
    rolling: &'o Rolling,
    now: &'o MemberName,
    seen: &'o Observation,
    phase_ms: u64,
}

/// Decides the next step.
pub fn step(record: &OperationRecord, wanted: &Restart, seen: &Observation, phase_ms: u64) -> Step {
    let Some((rolling, now)) = record.rolling.as_ref().and_then(|one| Some((one, one.now.as_ref()?))) else {
        return Step::end(Unchanged, "its record does not say whose turn it is");
    };
    let course = Course { record, rolling, now, seen, phase_ms };
    match record.phase {
        Restarting => course.restart(),
        Rejoin => course.rejoin(wanted),
        _ => course.of_hand_over(switchover::step(record, &wanted.switchover(), seen, phase_ms)),
    }
}

/// Whether the next step needs to know more than etcd does: the writer's turn comes.
pub fn asks(record: &OperationRecord, seen: &Observation) -> bool {
    let Some(rolling) = record.rolling.as_ref().filter(|_| record.phase == Rejoin) else { return false };
    let back = rolling.now.as_ref().is_some_and(|now| whole::is_back(seen, now, rolling.counted));
    back && rolling.cancelled.is_none() && rolling.left.first() == record.writer.as_ref()
}

/// What a person who stops it brings about before the writer hands over: a member whose turn it is has it to its end. `None`: it
/// has been stopped already.
pub fn cancelled(record: &OperationRecord, why: &str) -> Option<Rolling> {
    let rolling = record.rolling.as_ref().filter(|rolling| rolling.cancelled.is_none())?;
    Some(Rolling { cancelled: Some(why.to_owned()), ..rolling.clone() })
}

/// The end of one that is given up in the turn of a member; in that of the writer nothing of it is changed yet.
pub fn given_up(record: &OperationRecord, why: &str) -> Step {
    match &record.rolling {
        Some(rolling) => stopped(rolling, &[], why, record.phase == Restarting),
        None => Step::end(Unchanged, why),
    }
}

fn names<'m>(members: impl IntoIterator<Item = &'m MemberName>, between: &str) -> String {
    members.into_iter().map(MemberName::as_str).collect::<Vec<_>>().join(between)
}

/// `touched`: the member whose turn it is may have been restarted, or not.
fn stopped(rolling: &Rolling, back: &[&MemberName], why: &str, touched: bool) -> Step {
    let restarted: Vec<&MemberName> = rolling.restarted.iter().chain(back.iter().copied()).collect();
    let now = rolling.now.iter().filter(|now| !restarted.contains(now));
    let left: Vec<&MemberName> = now.chain(&rolling.left).collect();
    let next = format!("holdfast restart {} --reason WHY", names(left.iter().copied(), " "));
    if restarted.is_empty() && !touched {
        return Step::End { state: Unchanged, text: why.to_owned(), next: Some(next) };
    }
    let were = match restarted.is_empty() {
        true => "nobody is known to be restarted".to_owned(),
        false => format!("restarted: {}", names(restarted.iter().copied(), ", ")),
    };
    if left.is_empty() {
        return Step::end_with(PartlyDone, format!("{were}; {why}"), "holdfast status");
    }
    Step::end_with(PartlyDone, format!("{were}; not: {}: {why}", names(left, ", ")), next)
}

impl Course<'_> {
    /// Why it must not go on, if anything has come in between.
    fn disturbed(&self) -> Option<Step> {
        let writer = self.record.term.zip(self.record.writer.as_ref());
        if self.seen.writer() != writer {
            let text = format!("something else changed the writer: {}", switchover::who_writes(self.seen));
            return Some(self.ended(Overtaken, &text));
        }
        let why = match (self.seen.mode, &self.seen.suspended) {
            (Some(Mode::Armed), None) => return None,
            (Some(Mode::Armed), Some(why)) => format!("automatic action is suspended: {why}"),
            _ => "the cluster is no longer armed".to_owned(),
        };
        Some(self.stop(&why))
    }

    fn stop(&self, why: &str) -> Step {
        stopped(self.rolling, &[], why, true)
    }

    /// An end with what was done so far, and what was not.
    fn ended(&self, state: OperationState, why: &str) -> Step {
        let Step::End { text, next, .. } = self.stop(why) else { return Step::Wait };
        Step::End { state, text, next }
    }

    fn restart(&self) -> Step {
        if let Some(step) = self.disturbed() {
            return step;
        }
        let done = self.seen.members.get(self.now).and_then(|member| member.done.as_ref());
        match word(done, self.record.number, Restarting) {
            Some(Ok(())) => Step::Go(Rejoin),
            Some(Err(problem)) => self.stop(problem),
            None if self.phase_ms > RESTART_MS_MAX => {
                self.stop(&format!("the agent of {} has not restarted it in time", self.now))
            }
            None => Step::Wait,
        }
    }

    fn rejoin(&self, wanted: &Restart) -> Step {
        if let Some(step) = self.disturbed() {
            return step;
        }
        if !whole::is_back(self.seen, self.now, self.rolling.counted) {
            return match self.phase_ms > REJOIN_MS_MAX {
                true => stopped(
                    self.rolling,
                    &[self.now],
                    &format!("{} does not stream yet as it did before", self.now),
                    true,
                ),
                false => Step::Wait,
            };
        }
        if let Some(why) = &self.rolling.cancelled {
            return match self.rolling.left.is_empty() {
                true => self.all_done(&format!("; {why}, too late")),
                false => stopped(self.rolling, &[self.now], why, true),
            };
        }
        let Some((next, left)) = self.rolling.left.split_first() else { return self.all_done("") };
        let restarted = [self.rolling.restarted.as_slice(), std::slice::from_ref(self.now)].concat();
        let rolling = Box::new(turn(self.seen, next, left.to_vec(), restarted));
        if Some(next) == self.record.writer.as_ref() {
            return match switchover::check(self.seen, &wanted.switchover()) {
                (_, Some(plan)) => Step::Turn { phase: Prepare, rolling, hand_over: Some(Box::new(plan)) },
                (check, None) => {
                    let why = check.blockers.first().map_or("nobody can follow", |one| one.problem.as_str());
                    stopped(self.rolling, &[self.now], why, true)
                }
            };
        }
        let may = self.seen.members.get(next).is_some_and(|member| {
            member.agent_alive && (!member.synchronous || whole::confirms_without(self.seen, next))
        });
        match may {
            true => Step::Turn { phase: Restarting, rolling, hand_over: None },
            false if self.phase_ms <= REJOIN_MS_MAX => Step::Wait,
            false => stopped(
                self.rolling,
                &[self.now],
                &format!("without {next} commits would not be confirmed, or its agent is away"),
                true,
            ),
        }
    }

    fn all_done(&self, remark: &str) -> Step {
        let all = self.rolling.restarted.iter().chain([self.now]);
        let text = format!("restarted: {}; {}{remark}", names(all, ", "), switchover::who_writes(self.seen));
        Step::end(Done, text)
    }

    /// The writer's turn: it was restarted once it has handed over and streams.
    fn of_hand_over(&self, step: Step) -> Step {
        let Step::End { state, text, .. } = step else { return step };
        match state {
            Done => {
                self.all_done(&text.split_once("; ").map_or(String::new(), |(_, more)| format!("; {more}")))
            }
            PartlyDone if self.record.phase == Settle => stopped(self.rolling, &[self.now], &text, true),
            Unchanged => given_up(self.record, &text),
            other => self.ended(other, &text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::ReignState;
    use crate::request::{Taken, take};
    use crate::step::after;
    use crate::testing::{coordinator, done, healthy, name, reign, request, restart, taker};
    use holdfast_types::record::{OperationPhase, PhaseDone, Wanted};

    fn all() -> Restart {
        Restart { all: true, ..restart(&[]) }
    }

    fn begun() -> OperationRecord {
        let host = coordinator();
        let asked = request(Wanted::Restart(all()));
        match take(&asked, None, &healthy(), taker(&host)) {
            Taken::Begins(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    fn says(seen: &mut Observation, member: &str, phase: OperationPhase, problem: Option<&str>) {
        let word = PhaseDone { operation: 7, ..done(phase, problem).unwrap() };
        seen.members.get_mut(&name(member)).unwrap().done = Some(word);
    }

    fn next(record: &OperationRecord, seen: &Observation, phase_ms: u64) -> Option<OperationRecord> {
        after(record, crate::step::step(record, seen, phase_ms), &coordinator(), 9)
    }

    fn end(record: &OperationRecord, seen: &Observation, phase_ms: u64) -> (OperationState, String, String) {
        let ended = next(record, seen, phase_ms).unwrap().ended.unwrap();
        (ended.state, ended.text, ended.next.unwrap_or_default())
    }

    /// The record once this standby's turn has come.
    fn until(record: OperationRecord, seen: &mut Observation, member: &str) -> OperationRecord {
        let mut record = record;
        for _ in 0..20 {
            let now = record.rolling.clone().unwrap().now.unwrap();
            if now == name(member) {
                return record;
            }
            says(seen, now.as_str(), Restarting, None);
            record = next(&record, seen, 0).unwrap();
        }
        panic!("{record:?}")
    }

    #[test]
    fn one_after_the_other_and_the_writer_hands_over_last() {
        let mut seen = healthy();
        let record = begun();
        assert_eq!((record.phase, record.successor.clone()), (Restarting, None));
        assert_eq!(next(&record, &seen, 0), None);
        says(&mut seen, "db4", Restarting, None);
        let record = next(&record, &seen, 0).unwrap();
        assert_eq!(record.phase, Rejoin);
        seen.members.get_mut(&name("db4")).unwrap().streaming = None;
        assert_eq!(next(&record, &seen, 0), None, "it does not stream yet");
        seen.members.get_mut(&name("db4")).unwrap().streaming = Some(true);
        let record = next(&record, &seen, 0).unwrap();
        let rolling = record.rolling.clone().unwrap();
        assert_eq!((record.phase, rolling.now, rolling.counted), (Restarting, Some(name("db2")), true));
        says(&mut seen, "db2", Restarting, None);
        let record = next(&record, &seen, 0).unwrap();
        seen.members.get_mut(&name("db2")).unwrap().synchronous = false;
        assert_eq!(next(&record, &seen, 0), None, "it does not count yet");
        seen.members.get_mut(&name("db2")).unwrap().synchronous = true;
        let record = until(record, &mut seen, "db3");
        says(&mut seen, "db3", Restarting, None);
        let record = next(&record, &seen, 0).unwrap();
        assert!(asks(&record, &seen));
        let record = next(&record, &seen, 0).unwrap();
        assert_eq!((record.phase, record.successor.clone()), (Prepare, Some(name("db2"))));
        assert_eq!(record.poolers.len(), 2);
        says(&mut seen, "db1", Prepare, None);
        let record = next(&record, &seen, 0).unwrap();
        assert_eq!(record.phase, OperationPhase::Pause);
        let settling = OperationRecord { phase: Settle, ..record };
        reign(&mut seen, 5, "db2", ReignState::Writable);
        for pooler in seen.poolers.values_mut() {
            pooler.done = Some(PhaseDone { operation: 7, ..done(OperationPhase::Verify, None).unwrap() });
        }
        let old = seen.members.get_mut(&name("db1")).unwrap();
        (old.streaming, old.synchronous) = (Some(true), true);
        let (state, text, _) = end(&settling, &seen, 0);
        assert_eq!(state, Done);
        assert!(text.contains("db4, db2, db3, db1; db2 writes in term 5"), "{text}");
    }

    #[test]
    fn it_stops_at_the_first_failure_and_says_what_is_left() {
        let mut seen = healthy();
        let record = until(begun(), &mut seen, "db2");
        says(&mut seen, "db2", Restarting, Some("Patroni refuses (503)"));
        let (state, text, then) = end(&record, &seen, 0);
        assert_eq!(state, PartlyDone);
        assert!(text.contains("restarted: db4; not: db2, db3, db1: Patroni refuses (503)"), "{text}");
        assert_eq!(then, "holdfast restart db2 db3 db1 --reason WHY");
        says(&mut seen, "db2", Prepare, None);
        assert_eq!(end(&record, &seen, RESTART_MS_MAX + 1).0, PartlyDone);
        let rejoining = OperationRecord { phase: Rejoin, ..record };
        seen.members.get_mut(&name("db2")).unwrap().synchronous = false;
        let (_, text, then) = end(&rejoining, &seen, REJOIN_MS_MAX + 1);
        assert!(text.contains("restarted: db4, db2; not: db3, db1"), "{text}");
        assert_eq!(then, "holdfast restart db3 db1 --reason WHY");
    }

    #[test]
    fn nobody_is_restarted_without_whom_commits_would_wait() {
        let mut seen = healthy();
        let record = until(begun(), &mut seen, "db2");
        says(&mut seen, "db2", Restarting, None);
        let record = next(&record, &seen, 0).unwrap();
        seen.members.get_mut(&name("db2")).unwrap().streaming = Some(true);
        seen.drained.insert("db2".into(), None);
        assert_eq!(next(&record, &seen, 0), None, "db2 may be stopped");
        assert_eq!(end(&record, &seen, REJOIN_MS_MAX + 1).0, PartlyDone);
    }

    #[test]
    fn whatever_comes_in_between_ends_it() {
        for phase in [Restarting, Rejoin] {
            let mut seen = healthy();
            let record = OperationRecord { phase, ..begun() };
            reign(&mut seen, 5, "db3", ReignState::Writable);
            let (state, text, then) = end(&record, &seen, 0);
            assert_eq!(state, Overtaken);
            assert!(
                text.contains("db3 writes in term 5") && then.contains("db4 db2 db3 db1"),
                "{text} {then}"
            );
            let off = Observation { mode: Some(Mode::Disarmed), ..healthy() };
            assert_eq!(end(&record, &off, 0).0, PartlyDone);
        }
    }

    #[test]
    fn a_hand_over_that_does_not_come_about_leaves_the_writer_to_be_done() {
        let mut seen = healthy();
        let record = until(begun(), &mut seen, "db1");
        assert_eq!(record.phase, Prepare);
        says(&mut seen, "db1", Prepare, Some("pid 7 is idle in transaction"));
        let (state, text, then) = end(&record, &seen, 0);
        assert_eq!((state, then.as_str()), (PartlyDone, "holdfast restart db1 --reason WHY"));
        assert!(text.contains("not: db1: db1: pid 7"), "{text}");
    }

    #[test]
    fn a_cancel_lets_the_member_whose_turn_it_is_come_back() {
        let host = coordinator();
        let mut seen = healthy();
        let running = until(begun(), &mut seen, "db2");
        let asked = request(Wanted::Cancel { number: 7 });
        let Taken::Stops { other, .. } = take(&asked, Some(&running), &seen, taker(&host)) else { panic!() };
        assert_eq!(other.phase, Restarting);
        assert!(matches!(take(&asked, Some(&other), &seen, taker(&host)), Taken::Ends(_)), "once");
        says(&mut seen, "db2", Restarting, None);
        let record = next(&other, &seen, 0).unwrap();
        let (state, text, then) = end(&record, &seen, 0);
        assert_eq!(state, PartlyDone);
        assert!(text.contains("restarted: db4, db2; not: db3, db1: cancelled by operator/ann"), "{text}");
        assert_eq!(then, "holdfast restart db3 db1 --reason WHY");
        let writers = until(running, &mut seen, "db1");
        let Taken::Stops { other, .. } = take(&asked, Some(&writers), &seen, taker(&host)) else { panic!() };
        assert_eq!(other.ended.unwrap().state, PartlyDone);
    }
}
