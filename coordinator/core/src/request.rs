//! A request is taken: it becomes an operation that begins, or one that has ended at once, with the reason.

use holdfast_types::HostName;
use holdfast_types::record::{
    IntentRecord, OperationEnd, OperationPhase, OperationRecord, OperationState, OperationStep, Wanted,
};

use crate::check::Check;
use crate::observation::Observation;
use crate::step::{self, Step};
use crate::{drain, restart, switchover};

/// A request, and who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The etcd user under whose name it stands.
    pub user: String,
    /// The last part of its key.
    pub id: String,
    /// What is wanted.
    pub intent: IntentRecord,
}

/// Who takes it, and when.
#[derive(Debug, Clone, Copy)]
pub struct Taker<'t> {
    /// The coordinator's host.
    pub host: &'t HostName,
    /// The number of the new operation.
    pub number: u64,
    /// The coordinator's wall clock, milliseconds since 1970.
    pub now_wall_ms: i64,
}

/// What becomes of a request. All records of one answer are stored in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It runs.
    Begins(Box<OperationRecord>),
    /// It is over before it began.
    Ends(Box<OperationRecord>),
    /// It stops another one.
    Stops {
        /// The other one, as it goes on.
        other: Box<OperationRecord>,
        /// What was asked.
        request: Box<OperationRecord>,
    },
}

/// Decides about a request. `running`: the operation that has not ended, if there is one.
pub fn take(
    request: &Request,
    running: Option<&OperationRecord>,
    seen: &Observation,
    by: Taker<'_>,
) -> Taken {
    let mut record = draft(request, by);
    if request.intent.until_wall_ms.is_some_and(|until| until < by.now_wall_ms) {
        return refuse(record, by, "it was to be begun earlier than any coordinator saw it");
    }
    let wanted = &request.intent.wanted;
    match wanted {
        Wanted::Cancel { number } => return cancel(record, *number, running, by),
        Wanted::Undrain { node } => {
            let (state, text) = drain::undrain(seen, node);
            // The mark stands under the name that it was put by.
            if let Some(node) = seen.drained.keys().find(|name| name.eq_ignore_ascii_case(node)) {
                record.wanted = Wanted::Undrain { node: node.clone() };
            }
            record.ended = Some(end(state, text, by));
            return Taken::Ends(Box::new(record));
        }
        Wanted::Switchover(_) | Wanted::Drain(_) | Wanted::Restart(_) => {}
    }
    if let Some(running) = running {
        let (number, name) = (running.number, running.wanted.name());
        return refuse(record, by, &format!("operation {number} ({name}) runs: one at a time"));
    }
    let (check, way) = plan(wanted, seen);
    record.findings = check.lines();
    let Some(way) = way else {
        let first = check.blockers.first().map_or("nothing fits", |one| one.problem.as_str());
        return refuse(record, by, first);
    };
    match way {
        Way::HandOver(plan) => {
            plan.fill(&mut record);
            Taken::Begins(Box::new(record))
        }
        Way::Rolling(plan) => rolling(record, plan, seen, by),
        Way::AtOnce(text) => {
            record.ended = Some(end(OperationState::Done, text, by));
            Taken::Ends(Box::new(record))
        }
    }
}

fn rolling(mut record: OperationRecord, plan: restart::Plan, seen: &Observation, by: Taker<'_>) -> Taken {
    let Some((phase, rolling)) = plan.first(seen) else {
        let text = "nobody was restarted: Patroni reports no pending restart";
        record.ended = Some(end(OperationState::Done, text, by));
        return Taken::Ends(Box::new(record));
    };
    (record.phase, record.steps[0].phase) = (phase, phase);
    (record.term, record.writer) = (Some(plan.term), Some(plan.writer));
    record.rolling = Some(rolling);
    if let Some(plan) = plan.hand_over {
        plan.fill(&mut record);
    }
    Taken::Begins(Box::new(record))
}

/// How a request that nothing stands in the way of is carried out.
enum Way {
    /// The writer hands over.
    HandOver(switchover::Plan),
    /// One member after the other.
    Rolling(restart::Plan),
    /// It is done with its being taken.
    AtOnce(String),
}

fn plan(wanted: &Wanted, seen: &Observation) -> (Check, Option<Way>) {
    match wanted {
        Wanted::Switchover(wanted) => {
            let (check, plan) = switchover::check(seen, wanted);
            (check, plan.map(Way::HandOver))
        }
        Wanted::Drain(wanted) => {
            let (check, plan) = drain::check(seen, wanted);
            let way = |plan| match plan {
                drain::Plan::HandOver(plan) => Way::HandOver(plan),
                drain::Plan::Mark => Way::AtOnce(drain::drained_text(&wanted.node)),
            };
            (check, plan.map(way))
        }
        Wanted::Restart(wanted) => {
            let (check, plan) = restart::check(seen, wanted);
            (check, plan.map(Way::Rolling))
        }
        Wanted::Undrain { .. } | Wanted::Cancel { .. } => (Check::default(), None),
    }
}

fn draft(request: &Request, by: Taker<'_>) -> OperationRecord {
    let phase = OperationPhase::Prepare;
    OperationRecord {
        number: by.number,
        wanted: request.intent.wanted.clone(),
        by: request.user.clone(),
        intent: request.id.clone(),
        from: request.intent.from.clone(),
        reason: request.intent.reason.clone(),
        coordinator: by.host.clone(),
        term: None,
        writer: None,
        successor: None,
        poolers: Vec::new(),
        rolling: None,
        phase,
        steps: vec![OperationStep { phase, at_wall_ms: by.now_wall_ms }],
        findings: Vec::new(),
        given_up: None,
        traceparent: None,
        ended: None,
    }
}

fn end(state: OperationState, text: impl Into<String>, by: Taker<'_>) -> OperationEnd {
    OperationEnd { state, text: text.into(), next: None, at_wall_ms: by.now_wall_ms }
}

fn refuse(mut record: OperationRecord, by: Taker<'_>, why: &str) -> Taken {
    record.ended = Some(end(OperationState::Refused, format!("refused, nothing was changed: {why}"), by));
    Taken::Ends(Box::new(record))
}

fn cancel(
    mut record: OperationRecord,
    number: u64,
    running: Option<&OperationRecord>,
    by: Taker<'_>,
) -> Taken {
    let Some(running) = running.filter(|running| running.number == number) else {
        return refuse(record, by, &format!("no operation {number} runs"));
    };
    let why = format!("cancelled by {} ({})", record.by, record.reason);
    let step = match running.phase {
        OperationPhase::Restart | OperationPhase::Rejoin => {
            let Some(rolling) = restart::cancelled(running, &why) else {
                return refuse(record, by, &format!("operation {number} stops already after this member"));
            };
            let other = OperationRecord { rolling: Some(rolling), ..running.clone() };
            let text = format!("operation {number} stops after this member");
            record.ended = Some(end(OperationState::Done, text, by));
            return Taken::Stops { other: Box::new(other), request: Box::new(record) };
        }
        // No pooler holds anybody back yet.
        OperationPhase::Prepare => restart::given_up(running, &why),
        OperationPhase::Pause => Step::GiveUp(why),
        OperationPhase::Release => {
            return refuse(record, by, &format!("operation {number} has been given up already"));
        }
        OperationPhase::HandOver | OperationPhase::Verify | OperationPhase::Settle => {
            let text =
                format!("operation {number} is past the point of no return: it hands over or has done so");
            return refuse(record, by, &text);
        }
    };
    let Some(other) = step::after(running, step, by.host, by.now_wall_ms) else {
        return refuse(record, by, "nothing would change");
    };
    record.ended = Some(end(OperationState::Done, format!("operation {number} is stopped"), by));
    Taken::Stops { other: Box::new(other), request: Box::new(record) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{coordinator, healthy, name, request, running, taker};
    use holdfast_types::Mode;
    use holdfast_types::record::Switchover;

    #[test]
    fn a_request_begins_or_says_why_not() {
        let host = coordinator();
        let asked = request(Wanted::Switchover(Switchover::default()));
        let Taken::Begins(record) = take(&asked, None, &healthy(), taker(&host)) else { panic!() };
        assert_eq!((record.number, record.successor.clone()), (7, Some(name("db2"))));
        assert_eq!((record.phase, record.poolers.len()), (OperationPhase::Prepare, 2));
        let observing = Observation { mode: Some(Mode::Observe), ..healthy() };
        let Taken::Ends(record) = take(&asked, None, &observing, taker(&host)) else { panic!() };
        assert_eq!(record.ended.unwrap().state, OperationState::Refused);
        assert!(record.findings[0].contains("holdfast arm"), "{:?}", record.findings);
    }

    #[test]
    fn one_at_a_time_and_not_later_than_was_asked() {
        let host = coordinator();
        let asked = request(Wanted::Switchover(Switchover::default()));
        let other = running(OperationPhase::Prepare);
        let Taken::Ends(record) = take(&asked, Some(&other), &healthy(), taker(&host)) else { panic!() };
        assert!(record.ended.unwrap().text.contains("operation 3 (switchover) runs"));
        let mut late = asked;
        late.intent.until_wall_ms = Some(999);
        assert!(matches!(take(&late, None, &healthy(), taker(&host)), Taken::Ends(_)));
    }

    #[test]
    fn a_cancel_works_until_the_writer_hands_over() {
        let host = coordinator();
        let asked = request(Wanted::Cancel { number: 3 });
        let stops = |phase| match take(&asked, Some(&running(phase)), &healthy(), taker(&host)) {
            Taken::Stops { other, request } => {
                assert_eq!(request.ended.unwrap().state, OperationState::Done);
                Some((other.phase, other.ended.is_some()))
            }
            Taken::Ends(_) => None,
            Taken::Begins(_) => panic!("a cancel does not run"),
        };
        assert_eq!(stops(OperationPhase::Prepare), Some((OperationPhase::Prepare, true)));
        assert_eq!(stops(OperationPhase::Pause), Some((OperationPhase::Release, false)));
        for late in [OperationPhase::HandOver, OperationPhase::Verify, OperationPhase::Settle] {
            assert_eq!(stops(late), None);
        }
        let another = request(Wanted::Cancel { number: 4 });
        let found = running(OperationPhase::Pause);
        assert!(matches!(take(&another, Some(&found), &healthy(), taker(&host)), Taken::Ends(_)));
    }
}
