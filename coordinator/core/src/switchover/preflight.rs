//! What stands in the way of a switchover, and who would follow.
//!
//! Nothing is found out here twice: that the successor has everything is the agents' matter (the floor, in OPEN). These
//! checks keep a switchover from being begun that would end with an outage, or with another member than the wanted one.

use holdfast_types::record::{DRAIN_TIMEOUT_MS_MAX, OperationRecord, Switchover};
use holdfast_types::{Class, MemberName, Mode, Term};

use super::facts;
use crate::check::Check;
use crate::observation::{MemberSeen, Observation, ReignState};

/// A switchover that may be begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The term that ends.
    pub term: Term,
    /// Its writer.
    pub writer: MemberName,
    /// Who follows.
    pub successor: MemberName,
    /// The poolers that take part.
    pub poolers: Vec<String>,
}

impl Plan {
    /// Puts it into the journal of the operation that hands over by it.
    pub fn fill(self, record: &mut OperationRecord) {
        record.term = Some(self.term);
        record.writer = Some(self.writer);
        record.successor = Some(self.successor);
        record.poolers = self.poolers;
    }
}

/// Checks a request; there is a plan if nothing blocks it.
pub fn check(seen: &Observation, wanted: &Switchover) -> (Check, Option<Plan>) {
    let mut check = Check::default();
    if wanted.drain_timeout_ms > DRAIN_TIMEOUT_MS_MAX {
        let most = DRAIN_TIMEOUT_MS_MAX / 1_000;
        check.block(
            format!("a drain timeout of {} s is too long", wanted.drain_timeout_ms / 1_000),
            format!("at most {most} s"),
        );
    }
    if seen.class == Some(Class::Off) {
        check.warn("class off: the writer must be over before another opens, which takes some seconds (holdfast status)");
    }
    let reign = undisturbed(seen, &mut check);
    let successor = reign.as_ref().and_then(|(_, writer)| successor(seen, wanted, writer, &mut check));
    if let (Some((_, writer)), Some(successor)) = (&reign, &successor) {
        redundancy(seen, writer, successor, &mut check);
        facts::check(seen, wanted, writer, successor, &mut check);
    }
    let poolers = reign.as_ref().map(|(_, writer)| poolers(seen, writer, &mut check)).unwrap_or_default();
    let plan = match (reign, successor) {
        (Some((term, writer)), Some(successor)) if check.blockers.is_empty() => {
            Some(Plan { term, writer, successor, poolers })
        }
        _ => None,
    };
    (check, plan)
}

/// Whether planned work may begin at all: the term that is written in, and its writer.
pub fn undisturbed(seen: &Observation, check: &mut Check) -> Option<(Term, MemberName)> {
    cluster(seen, check);
    writer(seen, check)
}

fn cluster(seen: &Observation, check: &mut Check) {
    match seen.mode {
        Some(Mode::Armed) => {}
        Some(_) => check.block(
            "the cluster is not armed: Holdfast hands nothing over",
            "holdfast arm, or without Holdfast: patronictl switchover",
        ),
        None => check.block("the mode record cannot be read", "holdfast status names it"),
    }
    for problem in &seen.unreadable {
        check.block(problem.clone(), "nothing is begun over a record that cannot be read");
    }
    if let Some(why) = &seen.suspended {
        check.block(format!("automatic action is suspended: {why}"), "end that first");
    }
    if seen.requested_of_patroni {
        check.block("Patroni has been asked for a switchover already", "patronictl flush CLUSTER switchover");
    }
}

fn writer(seen: &Observation, check: &mut Check) -> Option<(Term, MemberName)> {
    let Some(reign) = &seen.reign else {
        check.block("no term is in force", "holdfast status");
        return None;
    };
    if reign.state != ReignState::Writable {
        check.block(
            format!(
                "term {} of {} is not written in: a failover may be on its way",
                reign.term, reign.holder
            ),
            "holdfast status; wait until there is a writer",
        );
        return None;
    }
    match seen.members.get(&reign.holder) {
        Some(member) if member.agent_alive && !member.disarmed_locally => {}
        Some(member) if member.disarmed_locally => {
            let fix = format!("on its host: holdfast disarm --local --undo ({})", reign.holder);
            check.block(format!("the writer's host ({}) is disarmed locally", reign.holder), fix);
        }
        _ => check.block(
            format!("the agent of the writer {} has no session", reign.holder),
            format!("start holdfast-agent on the host of {}", reign.holder),
        ),
    }
    Some((reign.term, reign.holder.clone()))
}

/// Why a member cannot follow now; the first reason.
fn hindrance(
    seen: &Observation,
    name: &MemberName,
    member: &MemberSeen,
) -> Option<(&'static str, &'static str)> {
    let quorum = seen.class == Some(Class::Quorum);
    match member {
        _ if member.fenced => Some(("is fenced", "holdfast unfence")),
        _ if seen.is_drained(name.as_str()) => Some(("is drained", "holdfast undrain")),
        _ if member.disarmed_locally => {
            Some(("is on a host that is disarmed locally", "holdfast disarm --local --undo"))
        }
        _ if !member.agent_alive => Some(("has an agent without a session", "start its holdfast-agent")),
        _ if member.may_not_lead => {
            Some(("may not lead by Patroni's tag nofailover", "choose another with --to"))
        }
        _ if member.streaming != Some(true) => Some(("does not stream from the writer", "holdfast status")),
        _ if quorum && !member.synchronous => Some((
            "is no synchronous standby: it may not have everything",
            "choose one with --to (holdfast list)",
        )),
        _ if member.eligible != Some(true) => Some(("may not be named as successor now", "holdfast status")),
        _ => None,
    }
}

fn successor(
    seen: &Observation,
    wanted: &Switchover,
    writer: &MemberName,
    check: &mut Check,
) -> Option<MemberName> {
    if let Some(to) = &wanted.to {
        if to == writer {
            check.block(format!("{to} is the writer already"), "choose another with --to (holdfast list)");
            return None;
        }
        // Patroni's own spelling goes on.
        let Some((name, member)) = seen.members.get_key_value(to) else {
            check.block(format!("there is no member {to}"), "choose one with --to (holdfast list)");
            return None;
        };
        return match hindrance(seen, name, member) {
            Some((why, fix)) => {
                check.block(format!("{name} {why}"), fix);
                None
            }
            None => Some(name.clone()),
        };
    }
    let others = seen.members.iter().filter(|(name, _)| *name != writer);
    let able = others.filter(|(name, member)| hindrance(seen, name, member).is_none());
    // The names come in their order: of equals the first.
    let best = able.max_by(|(a, one), (b, other)| one.priority.cmp(&other.priority).then_with(|| b.cmp(a)));
    if best.is_none() {
        let why = |(name, member): (&MemberName, &MemberSeen)| {
            hindrance(seen, name, member).map(|(why, _)| format!("{name} {why}"))
        };
        let others = seen.members.iter().filter(|(name, _)| *name != writer);
        let all = others.filter_map(why).collect::<Vec<_>>().join("; ");
        check.block(format!("nobody can follow: {all}"), "holdfast status");
    }
    best.map(|(name, _)| name.clone())
}

/// Commits of the new writer need a synchronous standby at once; the old writer is one only after its own restart.
fn redundancy(seen: &Observation, writer: &MemberName, successor: &MemberName, check: &mut Check) {
    if seen.class != Some(Class::Quorum) {
        return;
    }
    let others = seen.streaming_synchronous().filter(|(name, _)| *name != successor).count();
    if others > 0 {
        return;
    }
    let text = format!(
        "beside {successor} no synchronous standby streams: nobody would confirm its commits until {writer} is back"
    );
    if seen.members.len() > 2 {
        check.block(text, "bring the other standby back first (holdfast status)");
    } else {
        check.warn(text);
    }
}

fn poolers(seen: &Observation, writer: &MemberName, check: &mut Check) -> Vec<String> {
    let mut part = Vec::new();
    for (name, pooler) in &seen.poolers {
        if !pooler.alive {
            check
                .warn(format!("pooler {name}: its agent has no session; what its clients meet is not known"));
        } else if pooler.paused || pooler.target.as_ref() != Some(writer) {
            let now = pooler.target.as_ref().map_or("nobody".to_owned(), ToString::to_string);
            check.block(
                format!("pooler {name} sends its clients to {now} and not to the writer {writer}"),
                "holdfast status; look at the agent of that host",
            );
        } else {
            part.push(name.clone());
        }
    }
    if seen.poolers.is_empty() {
        check.warn("there is no pooler of ours: clients meet the end of their connections");
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{healthy, name, reign};

    fn to(member: &str) -> Switchover {
        Switchover { to: Some(name(member)), ..Switchover::default() }
    }

    #[test]
    fn a_writer_confirms_no_commits_of_its_successor_whatever_is_left_of_the_last_reign() {
        let mut seen = healthy();
        for (member, synchronous, streaming) in [("db1", true, true), ("db3", true, false)] {
            let member = seen.members.get_mut(&name(member)).unwrap();
            (member.synchronous, member.streaming) = (synchronous, Some(streaming));
        }
        let problem = blocker(&seen, &to("db2"));
        assert!(problem.contains("beside db2 no synchronous standby streams"), "{problem}");
    }

    fn blocker(seen: &Observation, wanted: &Switchover) -> String {
        let (check, plan) = check(seen, wanted);
        assert_eq!(plan, None);
        assert_eq!(check.blockers.len(), 1, "{check:?}");
        check.blockers[0].problem.clone()
    }

    #[test]
    fn the_best_synchronous_standby_follows_or_the_one_that_was_named() {
        let plan = |seen: &Observation, wanted: &Switchover| check(seen, wanted).1.unwrap().successor;
        let mut seen = healthy();
        assert_eq!(plan(&seen, &Switchover::default()), name("db2"));
        assert_eq!(plan(&seen, &to("db3")), name("db3"));
        seen.members.get_mut(&name("db3")).unwrap().priority = 2;
        assert_eq!(plan(&seen, &Switchover::default()), name("db3"));
        seen.members.get_mut(&name("db3")).unwrap().eligible = None;
        assert_eq!(plan(&seen, &Switchover::default()), name("db2"), "not known is not able");
    }

    #[test]
    fn whoever_cannot_follow_is_refused_with_the_reason() {
        let seen = healthy();
        assert!(blocker(&seen, &to("db1")).contains("is the writer already"));
        assert!(blocker(&seen, &to("db9")).contains("no member db9"));
        assert!(blocker(&seen, &to("db4")).contains("no synchronous standby"));
        let with = |change: fn(&mut MemberSeen)| {
            let mut seen = healthy();
            change(seen.members.get_mut(&name("db2")).unwrap());
            blocker(&seen, &to("db2"))
        };
        assert!(with(|one| one.fenced = true).contains("is fenced"));
        assert!(with(|one| one.agent_alive = false).contains("without a session"));
        assert!(with(|one| one.streaming = None).contains("does not stream"));
        assert!(with(|one| one.may_not_lead = true).contains("nofailover"));
        assert!(with(|one| one.disarmed_locally = true).contains("disarmed locally"));
        let mut drained = healthy();
        drained.drained.insert("db2".into(), None);
        assert!(blocker(&drained, &to("db2")).contains("is drained"));
    }

    #[test]
    fn a_cluster_that_has_no_room_for_it_is_left_alone() {
        let default = Switchover::default();
        assert!(
            blocker(&Observation { mode: Some(Mode::Observe), ..healthy() }, &default).contains("not armed")
        );
        let damaged = Observation { unreadable: vec!["/fence/db2: damaged".into()], ..healthy() };
        assert!(blocker(&damaged, &default).contains("/fence/db2"));
        let paused = Observation { suspended: Some("Patroni is paused".into()), ..healthy() };
        assert!(blocker(&paused, &default).contains("Patroni is paused"));
        let asked = Observation { requested_of_patroni: true, ..healthy() };
        assert!(blocker(&asked, &default).contains("asked for a switchover already"));
        for state in [ReignState::Opening, ReignState::Stopped, ReignState::Closed] {
            let mut seen = healthy();
            reign(&mut seen, 4, "db1", state);
            assert!(blocker(&seen, &default).contains("not written in"));
        }
        let mut alone = healthy();
        alone.members.get_mut(&name("db3")).unwrap().streaming = Some(false);
        assert!(blocker(&alone, &default).contains("nobody would confirm"));
        let long = Switchover { drain_timeout_ms: DRAIN_TIMEOUT_MS_MAX + 1, ..default };
        assert!(blocker(&healthy(), &long).contains("too long"));
    }

    #[test]
    fn a_pooler_that_is_gone_does_not_take_part_and_one_that_strays_stops_it() {
        let mut seen = healthy();
        seen.poolers.get_mut("pool1.a").unwrap().alive = false;
        let (check, plan) = check(&seen, &Switchover::default());
        assert_eq!(plan.unwrap().poolers, ["pool2.a"]);
        assert_eq!(check.warnings.len(), 1);
        seen.poolers.get_mut("pool2.a").unwrap().target = Some(name("db3"));
        assert!(blocker(&seen, &Switchover::default()).contains("pool2.a sends its clients to db3"));
    }
}
