//! Whose PostgreSQL is restarted, in which order, and what stands in the way.

use holdfast_types::record::{OperationPhase, Restart, Rolling};
use holdfast_types::{MemberName, Term};

use crate::check::Check;
use crate::observation::Observation;
use crate::{switchover, whole};

/// A restart that may be begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The term in which it begins.
    pub term: Term,
    /// The writer of that term.
    pub writer: MemberName,
    /// The members, in their order; none: nothing is to be done.
    pub members: Vec<MemberName>,
    /// How the writer hands over, if nobody else is restarted before it.
    pub hand_over: Option<switchover::Plan>,
}

impl Plan {
    /// The phase that it begins with, and who has the first turn.
    pub fn first(&self, seen: &Observation) -> Option<(OperationPhase, Rolling)> {
        let (first, left) = self.members.split_first()?;
        let phase = match self.hand_over {
            Some(_) => OperationPhase::Prepare,
            None => OperationPhase::Restart,
        };
        Some((phase, turn(seen, first, left.to_vec(), Vec::new())))
    }
}

/// The turn of a member.
pub fn turn(
    seen: &Observation,
    now: &MemberName,
    left: Vec<MemberName>,
    restarted: Vec<MemberName>,
) -> Rolling {
    let counted = seen.members.get(now).is_some_and(|member| member.synchronous);
    Rolling { now: Some(now.clone()), counted, left, restarted, cancelled: None }
}

/// Checks a request; there is a plan if nothing blocks it.
pub fn check(seen: &Observation, wanted: &Restart) -> (Check, Option<Plan>) {
    let mut check = Check::default();
    let reign = switchover::undisturbed(seen, &mut check);
    let Some((term, writer)) = reign else { return (check, None) };
    let members = chosen(seen, wanted, &writer, &mut check);
    if !members.is_empty() {
        whole::check(seen, &writer, &[], &mut check);
        drained(seen, &members, &mut check);
    }
    for member in &members {
        of_member(seen, member, *member == writer, &mut check);
    }
    let mut hand_over = None;
    if members.contains(&writer) {
        // Known only when its turn comes: until then much may change. But what stands in the way now most likely will.
        let (found, plan) = switchover::check(seen, &wanted.switchover());
        let known: Vec<_> = check.blockers.clone();
        check.blockers.extend(found.blockers.into_iter().filter(|one| !known.contains(one)));
        check.warnings.extend(found.warnings);
        hand_over = plan.filter(|_| members.len() == 1);
    }
    let plan = Plan { term, writer, members, hand_over };
    let plan = check.blockers.is_empty().then_some(plan);
    (check, plan)
}

/// The members that were meant: those that count for nothing first, the writer last.
fn chosen(seen: &Observation, wanted: &Restart, writer: &MemberName, check: &mut Check) -> Vec<MemberName> {
    for name in wanted.only.iter().filter(|name| !seen.members.contains_key(name)) {
        check.block(format!("there is no member {name}"), "choose among those of: holdfast list");
    }
    let is_meant = |name: &MemberName| match wanted.only.is_empty() {
        true => wanted.all || seen.members[name].pending_restart,
        false => wanted.only.contains(name),
    };
    let mut members: Vec<MemberName> = seen.members.keys().filter(|name| is_meant(name)).cloned().collect();
    // Stable: of equals the first by name.
    members.sort_by_key(|name| (name == writer, seen.members[name].synchronous));
    members
}

fn drained(seen: &Observation, members: &[MemberName], check: &mut Check) {
    let others = seen.members.keys().filter(|name| seen.is_drained(name.as_str()));
    for name in others.filter(|name| members != std::slice::from_ref(*name)) {
        check.block(
            format!("{name} is drained: it may be stopped while another restarts"),
            format!("holdfast undrain {name}"),
        );
    }
}

fn of_member(seen: &Observation, name: &MemberName, writes: bool, check: &mut Check) {
    let member = &seen.members[name];
    if !member.preflight.as_ref().is_some_and(|told| told.knows("restart")) {
        check.block(
            format!("the agent of {name} does not say that it can restart its PostgreSQL"),
            "holdfast doctor; an older build cannot: upgrade it",
        );
    }
    if !writes && member.synchronous && !whole::confirms_without(seen, name) {
        check.block(
            format!("without {name} no synchronous standby would confirm commits"),
            "bring another synchronous standby first (holdfast status)",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{drained as mark, healthy, name, restart};

    fn members(seen: &Observation, wanted: &Restart) -> Vec<MemberName> {
        let (check, plan) = check(seen, wanted);
        plan.unwrap_or_else(|| panic!("{check:?}")).members
    }

    fn first_blocker(seen: &Observation, wanted: &Restart) -> String {
        let (check, plan) = check(seen, wanted);
        assert_eq!(plan, None, "{check:?}");
        check.blockers[0].problem.clone()
    }

    #[test]
    fn who_counts_comes_late_and_the_writer_last() {
        let all = Restart { all: true, ..restart(&[]) };
        assert_eq!(members(&healthy(), &all), ["db4", "db2", "db3", "db1"].map(name));
        assert!(members(&healthy(), &restart(&[])).is_empty(), "nobody needs one");
        let mut seen = healthy();
        for pending in ["db1", "db3"] {
            seen.members.get_mut(&name(pending)).unwrap().pending_restart = true;
        }
        assert_eq!(members(&seen, &restart(&[])), ["db3", "db1"].map(name));
        assert_eq!(members(&seen, &restart(&["db1"])), ["db1"].map(name), "as it was said");
        let alone = check(&seen, &restart(&["db1"])).1.unwrap();
        let (phase, rolling) = alone.first(&seen).unwrap();
        assert_eq!((phase, rolling.now), (OperationPhase::Prepare, Some(name("db1"))));
        let (phase, rolling) = check(&seen, &all).1.unwrap().first(&seen).unwrap();
        assert_eq!(
            (phase, rolling.now, rolling.counted),
            (OperationPhase::Restart, Some(name("db4")), false)
        );
        assert_eq!(rolling.left, ["db2", "db3", "db1"].map(name));
    }

    #[test]
    fn what_is_not_whole_is_left_alone() {
        let all = Restart { all: true, ..restart(&[]) };
        assert!(first_blocker(&healthy(), &restart(&["db9"])).contains("no member db9"));
        let mut seen = healthy();
        seen.drained.insert("db4".into(), Some(mark()));
        assert!(first_blocker(&seen, &all).contains("db4 is drained"));
        assert_eq!(
            members(&seen, &restart(&["db4"])),
            ["db4"].map(name),
            "who is drained is restarted alone"
        );
        let with = |change: fn(&mut crate::observation::MemberSeen), wanted: &Restart| {
            let mut seen = healthy();
            change(seen.members.get_mut(&name("db3")).unwrap());
            first_blocker(&seen, wanted)
        };
        assert!(with(|one| one.streaming = Some(false), &all).contains("not whole"));
        assert!(with(|one| one.synchronous = false, &restart(&["db2"])).contains("without db2"));
        assert!(with(|one| one.preflight = None, &all).contains("can restart"));
        assert!(with(|one| one.synchronous = false, &restart(&["db1"])).contains("nobody would confirm"));
    }
}
