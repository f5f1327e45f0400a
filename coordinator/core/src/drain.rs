//! `drain` and `undrain`: a node is made ready to be stopped by a person, and taken back.
//!
//! A writer hands over first, by the steps of a switchover. Then one record stands in etcd; what it means is the agents' matter.

use holdfast_types::record::OperationPhase::Settle;
use holdfast_types::record::OperationState::{Done, PartlyDone, Refused};
use holdfast_types::record::{Drain, DrainedRecord, OperationRecord, OperationState, Wanted};
use holdfast_types::{Class, MemberName};

use crate::check::Check;
use crate::observation::{Observation, PoolerSeen};
use crate::step::Step;
use crate::{switchover, whole};

/// How a drain that may be begun is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The node writes: it hands over first.
    HandOver(switchover::Plan),
    /// The record is all.
    Mark,
}

/// What stands in etcd beside the journal once an operation has ended; stored in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The node is drained.
    Drained(String, DrainedRecord),
    /// It no longer is.
    Undrained(String),
}

/// Checks a request; there is a plan if nothing blocks it.
pub fn check(seen: &Observation, wanted: &Drain) -> (Check, Option<Plan>) {
    let mut check = Check::default();
    if seen.is_drained(&wanted.node) {
        check.block(format!("{} is drained already", wanted.node), "holdfast status; holdfast undrain");
    }
    let member = MemberName::new(wanted.node.as_str()).ok();
    let member = member.and_then(|name| seen.members.get_key_value(&name).map(|(spelt, _)| spelt));
    let plan = match (member, seen.poolers.get(&wanted.node)) {
        (Some(member), _) => of_member(seen, wanted, member, &mut check),
        (None, Some(pooler)) => {
            of_pooler(seen, wanted, pooler, &mut check);
            Some(Plan::Mark)
        }
        (None, None) => {
            check.block(
                format!("there is neither a member nor a pooler {}", wanted.node),
                "holdfast status names both",
            );
            None
        }
    };
    let plan = plan.filter(|_| check.blockers.is_empty());
    (check, plan)
}

fn of_member(seen: &Observation, wanted: &Drain, member: &MemberName, check: &mut Check) -> Option<Plan> {
    let drained: Vec<&MemberName> =
        seen.members.keys().filter(|name| *name != member && seen.is_drained(name.as_str())).collect();
    if !wanted.beside_drained {
        for other in &drained {
            check.block(
                format!("{other} is drained already: with {member} beside it two copies may be away"),
                format!("holdfast undrain {other}, or --beside-drained"),
            );
        }
    }
    if !seen.members[member].preflight.as_ref().is_some_and(|told| told.knows("drain")) {
        check.block(
            format!("the agent of {member} does not say that it knows what drained means"),
            "holdfast doctor; an older build would still be named as successor: upgrade it",
        );
    }
    let exempt = [drained.as_slice(), &[member]].concat();
    if seen.writer().is_some_and(|(_, writer)| writer == member) {
        let (hand_over, plan) = switchover::check(seen, &wanted.switchover());
        check.blockers.extend(hand_over.blockers);
        check.warnings.extend(hand_over.warnings);
        let plan = plan?;
        if seen.class == Some(Class::Quorum) && !whole::confirms_without(seen, &plan.successor) {
            // A switchover alone may go by the old writer's return.
            check.block(
                format!("beside {} no synchronous standby is left without {member}", plan.successor),
                "bring another standby first (holdfast status)",
            );
        }
        whole::check(seen, member, &[exempt.as_slice(), &[&plan.successor]].concat(), check);
        return Some(Plan::HandOver(plan));
    }
    if wanted.to.is_some() {
        check.block(format!("{member} does not write: nobody is to follow it"), "without --to");
    }
    if let Some((_, writer)) = switchover::undisturbed(seen, check) {
        whole::check(seen, &writer, &exempt, check);
    }
    if seen.members[member].synchronous && !whole::confirms_without(seen, member) {
        check.block(
            format!("without {member} no synchronous standby would confirm commits"),
            "bring another synchronous standby first (holdfast status)",
        );
    }
    Some(Plan::Mark)
}

fn of_pooler(seen: &Observation, wanted: &Drain, pooler: &PoolerSeen, check: &mut Check) {
    let others = || seen.poolers.iter().filter(|(name, _)| **name != wanted.node);
    let drained = others().find(|(name, _)| seen.is_drained(name));
    if let Some((other, _)) = drained.filter(|_| !wanted.beside_drained) {
        check.block(
            format!("pooler {other} is drained already"),
            format!("holdfast undrain {other}, or --beside-drained"),
        );
    }
    if !others().any(|(name, one)| one.alive && !one.paused && !seen.is_drained(name)) {
        check.block(
            format!("no other pooler serves clients: those of {} would have nowhere to go", wanted.node),
            "bring another pooler first (holdfast status)",
        );
    }
    if !pooler.alive {
        check.warn(format!("the agent of pooler {} has no session", wanted.node));
    }
    if wanted.to.is_some() {
        check.block(format!("{} is a pooler: nobody is to follow it", wanted.node), "without --to");
    }
}

/// The next step of one that hands over.
pub fn step(record: &OperationRecord, wanted: &Drain, seen: &Observation, phase_ms: u64) -> Step {
    let step = switchover::step(record, &wanted.switchover(), seen, phase_ms);
    let Step::End { state, text, next } = step else { return step };
    let node = &wanted.node;
    let now = if marks(state, record) { drained_text(node) } else { format!("{node} is not drained") };
    Step::End { state, text: format!("{text}; {now}"), next }
}

/// What is true of a node once it is drained.
pub fn drained_text(node: &str) -> String {
    format!("{node} is drained until: holdfast undrain {node}")
}

/// Whether a drain that ends so leaves the node drained: it has handed over, whatever is left to do.
fn marks(state: OperationState, record: &OperationRecord) -> bool {
    state == Done || state == PartlyDone && record.phase == Settle
}

/// What becomes of a request to take a node back: its end, and the text of it.
pub fn undrain(seen: &Observation, node: &str) -> (OperationState, String) {
    if !seen.is_drained(node) {
        return (Refused, format!("refused, nothing was changed: {node} is not drained"));
    }
    let member = MemberName::new(node).ok();
    let Some((name, member)) = member.and_then(|name| seen.members.get_key_value(&name)) else {
        return (Done, format!("{node} is not drained any more"));
    };
    let writes = seen.writer().is_some_and(|(_, writer)| writer == name);
    let text = match whole::is_back(seen, name, false) {
        _ if writes => format!("{name} is not drained any more: it writes"),
        true if !member.synchronous && seen.class == Some(Class::Quorum) => {
            format!("{name} is not drained any more; it streams, and does not count for commits (yet)")
        }
        true => format!("{name} is a candidate again"),
        false => format!("{name} is not drained any more, but it does not stream yet: holdfast list"),
    };
    (Done, text)
}

/// What stands in etcd once an operation has ended so.
pub fn effect(record: &OperationRecord) -> Option<Effect> {
    let end = record.ended.as_ref()?;
    match &record.wanted {
        Wanted::Drain(wanted) if marks(end.state, record) => {
            let drained = DrainedRecord {
                by: record.by.clone(),
                reason: record.reason.clone(),
                since_wall_ms: end.at_wall_ms,
                operation: record.number,
            };
            Some(Effect::Drained(wanted.node.clone(), drained))
        }
        Wanted::Undrain { node } if end.state == Done => Some(Effect::Undrained(node.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::ReignState;
    use crate::request::{Taken, take};
    use crate::testing::{coordinator, done, drain, drained, healthy, name, reign, request, running, taker};
    use holdfast_types::record::OperationPhase;
    use holdfast_types::{Mode, Term};

    fn first_blocker(seen: &Observation, node: &str) -> String {
        let (check, plan) = check(seen, &drain(node));
        assert_eq!(plan, None, "{check:?}");
        check.blockers[0].problem.clone()
    }

    #[test]
    fn a_standby_and_a_pooler_are_marked_and_a_writer_hands_over() {
        assert_eq!(check(&healthy(), &drain("db3")).1, Some(Plan::Mark));
        assert_eq!(check(&healthy(), &drain("db4")).1, Some(Plan::Mark));
        assert_eq!(check(&healthy(), &drain("pool1.a")).1, Some(Plan::Mark));
        let Some(Plan::HandOver(plan)) = check(&healthy(), &drain("db1")).1 else { panic!() };
        assert_eq!((plan.term, plan.successor), (Term(4), name("db2")));
        let to = Drain { to: Some(name("db3")), ..drain("db1") };
        let Some(Plan::HandOver(plan)) = check(&healthy(), &to).1 else { panic!() };
        assert_eq!(plan.successor, name("db3"));
    }

    #[test]
    fn what_would_leave_too_little_is_refused() {
        assert!(first_blocker(&healthy(), "db9").contains("neither a member nor a pooler"));
        let mut seen = healthy();
        seen.drained.insert("db4".into(), Some(drained()));
        assert!(first_blocker(&seen, "db2").contains("db4 is drained already"));
        assert!(first_blocker(&seen, "db4").contains("db4 is drained already"));
        let beside = Drain { beside_drained: true, ..drain("db2") };
        assert_eq!(check(&seen, &beside).1, Some(Plan::Mark));
        seen.drained = [("db3".into(), None)].into();
        let (found, plan) = check(&seen, &beside);
        assert_eq!(plan, None, "db3 may be stopped at any time");
        assert!(found.blockers[0].problem.contains("no synchronous standby"), "{found:?}");
        let mut seen = healthy();
        seen.members.get_mut(&name("db2")).unwrap().streaming = Some(false);
        assert!(first_blocker(&seen, "db4").contains("db2 does not stream"));
        assert_eq!(check(&seen, &drain("db2")).1, Some(Plan::Mark), "who does not stream may be stopped");
        let mut seen = healthy();
        seen.members.get_mut(&name("db3")).unwrap().synchronous = false;
        assert!(first_blocker(&seen, "db2").contains("without db2"));
        assert!(first_blocker(&seen, "db1").contains("no synchronous standby"));
        seen.members.get_mut(&name("db3")).unwrap().preflight.as_mut().unwrap().operations.clear();
        assert!(first_blocker(&seen, "db3").contains("knows what drained means"));
        let off = Observation { mode: Some(Mode::Observe), ..healthy() };
        assert!(first_blocker(&off, "db3").contains("not armed"));
        let mut seen = healthy();
        seen.poolers.get_mut("pool2.a").unwrap().alive = false;
        assert!(first_blocker(&seen, "pool1.a").contains("no other pooler"));
    }

    #[test]
    fn the_mark_comes_with_the_end_of_the_operation() {
        let host = coordinator();
        let asked = request(Wanted::Drain(drain("db3")));
        let Taken::Ends(record) = take(&asked, None, &healthy(), taker(&host)) else { panic!() };
        let Some(Effect::Drained(node, mark)) = effect(&record) else { panic!("{record:?}") };
        assert_eq!((node.as_str(), mark.by.as_str(), mark.operation), ("db3", "operator/ann", 7));
        let asked = request(Wanted::Drain(drain("db1")));
        let Taken::Begins(record) = take(&asked, None, &healthy(), taker(&host)) else { panic!() };
        assert_eq!((record.successor.clone(), effect(&record)), (Some(name("db2")), None));
        let refused = request(Wanted::Drain(drain("db9")));
        let Taken::Ends(record) = take(&refused, None, &healthy(), taker(&host)) else { panic!() };
        assert_eq!((record.ended.as_ref().unwrap().state, effect(&record)), (Refused, None));
    }

    #[test]
    fn a_writer_is_drained_once_another_writes_and_not_before() {
        let ended = |phase, seen: &Observation, phase_ms| {
            let mut record = OperationRecord { wanted: Wanted::Drain(drain("db1")), ..running(phase) };
            let step = step(&record, &drain("db1"), seen, phase_ms);
            if matches!(step, Step::End { .. }) {
                record = crate::step::after(&record, step, &coordinator(), 9).unwrap();
            }
            (record.ended.as_ref().map(|end| end.state), effect(&record).is_some())
        };
        let mut seen = healthy();
        seen.members.get_mut(&name("db1")).unwrap().done = done(OperationPhase::Prepare, Some("no"));
        assert_eq!(ended(OperationPhase::Prepare, &seen, 0), (Some(OperationState::Unchanged), false));
        reign(&mut seen, 5, "db2", ReignState::Writable);
        assert_eq!(ended(OperationPhase::Settle, &seen, 0), (None, false));
        assert_eq!(ended(OperationPhase::Settle, &seen, u64::MAX), (Some(PartlyDone), true));
        for pooler in seen.poolers.values_mut() {
            pooler.done = done(OperationPhase::Verify, None);
        }
        let old = seen.members.get_mut(&name("db1")).unwrap();
        (old.streaming, old.synchronous) = (Some(true), true);
        assert_eq!(ended(OperationPhase::Settle, &seen, 0), (Some(Done), true));
        reign(&mut seen, 6, "db3", ReignState::Writable);
        assert_eq!(ended(OperationPhase::Settle, &seen, 0), (Some(OperationState::Overtaken), false));
    }

    #[test]
    fn undrain_says_whether_the_node_is_whole() {
        let mut seen = healthy();
        let host = coordinator();
        assert_eq!(undrain(&seen, "db3").0, Refused);
        seen.drained.insert("db3".into(), Some(drained()));
        assert!(undrain(&seen, "db3").1.contains("candidate again"));
        let asked = request(Wanted::Undrain { node: "db3".into() });
        let other = running(OperationPhase::Prepare);
        let Taken::Ends(record) = take(&asked, Some(&other), &seen, taker(&host)) else { panic!() };
        assert_eq!(effect(&record), Some(Effect::Undrained("db3".into())));
        seen.members.get_mut(&name("db3")).unwrap().synchronous = false;
        assert!(undrain(&seen, "db3").1.contains("does not count"));
        seen.members.get_mut(&name("db3")).unwrap().streaming = None;
        assert!(undrain(&seen, "db3").1.contains("does not stream yet"));
        seen.drained.insert("pool1.a".into(), None);
        assert_eq!(undrain(&seen, "pool1.a").0, Done);
    }
}
