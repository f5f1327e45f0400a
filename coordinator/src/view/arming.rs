//! What stands in the way of arming, and whether arming has arrived.

use std::collections::BTreeMap;

pub use holdfast_coordinator_core::check::{Blocker, Check};
use holdfast_types::record::FORMAT as RECORD_FORMAT;
use holdfast_types::{Class, MemberName, Mode};

use super::cluster::ClusterView;
use super::{class, local_disarm, maintenance, overriding, setup, text, unsupported};

/// Whether a cluster may be armed.
pub fn check(view: &ClusterView) -> Check {
    let mut check = Check::default();
    settings(view, &mut check);
    for fault in setup::faults(view) {
        check.block(format!("{}: {}", fault.cause, fault.effect), fault.remedy);
    }
    for (problem, fix) in unsupported::refusals(view) {
        check.block(problem, fix);
    }
    check.warnings.extend(setup::unknown(view));
    check.warnings.extend(setup::notes(view));
    check.warnings.extend(unsupported::warnings(view));
    for (cause, effect, next) in local_disarm::findings(view) {
        check.block(format!("{cause}: {effect}"), next);
    }
    members(view, &mut check);
    match &view.patroni.leader {
        None => check.block("Patroni has no leader", "wait until it has one: patronictl list"),
        Some(leader) if view.fences.contains_key(leader) => {
            let fix = text::order(&format!("unfence {leader}"), &view.cluster);
            check.block(format!("the present leader {leader} is fenced"), fix);
        }
        Some(_) => {}
    }
    if let Some(report) = maintenance::report(view).filter(|_| view.mode() != Mode::Armed) {
        let fix = text::order("maintenance off", &view.cluster);
        check.block(format!("{}: no term would be opened", report.text), fix);
    }
    for problem in &view.problems {
        check.block(problem.clone(), "nothing is armed over a record that cannot be read");
    }
    check
}

fn settings(view: &ClusterView, check: &mut Check) {
    let patroni = &view.patroni;
    match patroni.class() {
        None => check.block("Patroni's /config is absent", "check region, namespace and scope"),
        Some(Class::Quorum) => synchronous(view, check),
        // A fault of its setup.
        Some(Class::On) => {}
        Some(Class::Off) => check.warnings.extend(class::loss(patroni)),
    }
    if patroni.switch("pause") == Some(true) {
        check.block("Patroni is paused", "patronictl resume");
    }
    if patroni.config.as_ref().is_some_and(|config| config["standby_cluster"].is_object()) {
        check.block("this is a standby cluster", "arm it after its promotion");
    }
}

/// What the shape of a cluster of class `quorum` leaves open.
fn synchronous(view: &ClusterView, check: &mut Check) {
    match view.patroni.sync.as_ref().map_or(&[][..], |sync| &sync.standbys) {
        [] => check.warn("no synchronous standby counts at present: until one does, no failover can be proved"),
        [only] => check.warn(format!(
            "{only} is the only standby that counts: while it is away commits wait for nobody, and no failover can be proved"
        )),
        _ => {}
    }
    // Patroni makes such a member a synchronous standby only where the others are too few, but its position counts as any
    // other's at CLOSE.
    for (member, tag) in overriding::tagged_not_to_lead(view) {
        check.warn(format!(
            "{member} may not lead (tag {tag}): if the last writes have reached it alone, nobody follows until a person decides"
        ));
    }
}

fn members(view: &ClusterView, check: &mut Check) {
    let mut slots = BTreeMap::new();
    for member in view.patroni.members.keys() {
        let start = format!("start holdfast-agent on the host of {member}");
        match view.agent_alive(member) {
            Some(true) => {}
            Some(false) => check.block(format!("the agent of {member} has no live session"), start),
            None => check.block(format!("{member} has no agent"), start),
        }
        if let Some(other) = slots.insert(member.slot_name(), member) {
            check.block(
                format!("{other} and {member} share the replication slot {}", member.slot_name()),
                "rename one of them",
            );
        }
    }
    let written = view.written_format(RECORD_FORMAT);
    for session in view.sessions.values().filter(|session| session.reads_format < written) {
        check.block(
            format!("the agent of {} reads records up to format {}", session.host, session.reads_format),
            format!("upgrade it: this command writes format {written}"),
        );
    }
}

/// Whether arming has arrived: armed, a term open for Patroni's leader, with a floor record of that term.
pub fn arrived(view: &ClusterView) -> Result<String, String> {
    if view.mode() != Mode::Armed {
        return Err(format!("the mode is {}", view.mode()));
    }
    let Some((term, writer)) = view.writer() else {
        return Err(match (view.reign(), &view.term) {
            (Some(closed), _) => format!("term {} is closed and nobody has opened the next", closed.term),
            (None, Some(old)) => {
                format!(
                    "the leader's agent has opened no term yet; term {} is of an earlier arming",
                    old.body().term
                )
            }
            (None, None) => "the leader's agent has opened no term yet".into(),
        });
    };
    let floor = view.floor.as_ref().map(|floor| floor.body()).filter(|floor| floor.term == term);
    match floor {
        Some(floor) => Ok(format!(
            "term {term} is open for {writer}, floor {}, counting {} with quorum {}",
            floor.floor,
            text::list(&floor.configuration.members),
            floor.configuration.quorum
        )),
        None if view.patroni.class() == Some(Class::Quorum) => {
            Err(format!("term {term} is open for {writer}, without a floor record"))
        }
        None => Ok(format!(
            "term {term} is open for {writer}; {}",
            class::loss(&view.patroni).unwrap_or_else(|| "without a floor record".into())
        )),
    }
}

/// Whether every agent has seen that the cluster is no longer armed. `seen`: the mode that each member's agent saw last,
/// of those that could be asked. One that has no session and does not answer is not waited for, but named.
pub fn left(view: &ClusterView, mode: Mode, seen: &BTreeMap<MemberName, Mode>) -> Result<String, String> {
    if view.mode() != mode {
        return Err(format!("the mode is {}", view.mode()));
    }
    let (mut waits, mut unknown) = (Vec::new(), Vec::new());
    for member in view.members() {
        match (seen.get(&member), view.agent_alive(&member)) {
            (Some(seen), _) if *seen == mode => {}
            (Some(seen), _) => waits.push(format!("the agent of {member} still sees {seen}")),
            (None, Some(true)) => waits.push(format!("the agent of {member} does not answer")),
            (None, Some(false) | None) => unknown.push(member),
        }
    }
    if !waits.is_empty() {
        return Err(waits.join(", "));
    }
    let text = format!("is {mode}, seen by the agents of {}; Patroni alone decides", text::list(seen.keys()));
    Ok(match unknown.as_slice() {
        [] => text,
        silent => format!("{text}. Without a session and an answer, so not known: {}", text::list(silent)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;
    use serde_json::json;

    fn problems(change: impl FnOnce(&mut Built)) -> Vec<String> {
        let mut built = Built::unarmed();
        change(&mut built);
        check(&built.view()).blockers.into_iter().map(|blocker| blocker.problem).collect()
    }

    #[test]
    fn a_good_cluster_may_be_armed_and_the_unknown_is_said() {
        let check = check(&Built::unarmed().view());
        assert_eq!(check.blockers, []);
        assert_eq!(check.warnings, [""; 0]);
        let mut untold = Built::unarmed();
        untold.facts(3, |facts| facts.setup = None);
        assert!(self::check(&untold.view()).warnings[0].contains("patroni.yml of db3 are unknown"));
    }

    #[test]
    fn each_setting_is_named_with_its_fix() {
        let config = json!({
            "synchronous_mode": "on", "failsafe_mode": false, "pause": true, "ttl": 20,
        });
        let problems = problems(|built| built.patroni("config", &config));
        let words = ["paused", "synchronous_mode is on, not quorum: Patroni writes", "failsafe_mode is off"];
        assert_eq!(problems.len(), words.len(), "{problems:?}");
        for (problem, word) in problems.iter().zip(words) {
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn every_member_needs_a_live_agent() {
        let problems = problems(|built| {
            built.remove_session(2);
            let facts = built.keys.facts(&crate::view::testing::db(3));
            built.pairs.remove(&facts);
        });
        assert_eq!(problems, ["the agent of db2 has no live session", "db3 has no agent"]);
    }

    #[test]
    fn an_asynchronous_cluster_may_be_armed_with_a_note() {
        let mut built = Built::unarmed();
        let config = json!({"failsafe_mode": true, "postgresql": {"pre_promote": "/bin/true"}});
        built.patroni("config", &config);
        let check = check(&built.view());
        assert_eq!(check.blockers, [], "nothing is asked of a promotion there");
        assert!(check.warnings[0].contains("acknowledged writes can be lost"), "{:?}", check.warnings);
        built.mode(Mode::Armed);
        built.open(4, 1);
        let arrived = arrived(&built.view()).unwrap();
        assert!(arrived.starts_with("term 4 is open for db1; class off: acknowledged"), "{arrived}");
    }

    #[test]
    fn what_the_shape_leaves_open_is_said() {
        let mut built = Built::unarmed();
        built.patroni("sync", &json!({"leader": "db1", "quorum": 0, "sync_standby": "db2"}));
        built.patroni_member(3, json!({"tags": {"nofailover": true}}));
        let check = check(&built.view());
        assert_eq!(check.blockers, []);
        assert!(check.warnings[0].starts_with("db2 is the only standby that counts"), "{:?}", check.warnings);
        assert!(check.warnings[1].starts_with("db3 may not lead (tag nofailover)"), "{:?}", check.warnings);
        assert_eq!(check.warnings.len(), 2);
    }

    #[test]
    fn no_leader_and_a_fenced_one_refuse() {
        assert_eq!(problems(|built| built.fence(1)), ["the present leader db1 is fenced"]);
        let none = problems(|built| {
            let key = built.keys.patroni_leader();
            built.pairs.remove(&key);
        });
        assert_eq!(none, ["Patroni has no leader"]);
    }

    #[test]
    fn blockers_are_numbered() {
        let mut built = Built::unarmed();
        built.patroni("config", &json!({"synchronous_mode": "quorum", "pause": true}));
        let text = check(&built.view()).text();
        assert!(text.starts_with("blocker 1: Patroni is paused"), "{text}");
        assert!(text.contains("blocker 2: failsafe_mode is off"), "{text}");
    }

    #[test]
    fn arming_has_arrived_when_the_term_and_its_floor_are_there() {
        let mut built = Built::unarmed();
        assert!(arrived(&built.view()).unwrap_err().contains("observe"));
        built.mode(Mode::Armed);
        assert!(arrived(&built.view()).unwrap_err().contains("no term"));
        built.floor(3);
        built.open(4, 1);
        assert!(arrived(&built.view()).unwrap_err().contains("without a floor"));
        built.floor(4);
        assert!(arrived(&built.view()).unwrap().starts_with("term 4 is open for db1, floor 2:0/5000000"));
        built.stale(&built.keys.term());
        let old = arrived(&built.view()).unwrap_err();
        assert!(old.contains("no term yet; term 4 is of an earlier arming"), "{old}");
    }

    #[test]
    fn disarming_has_arrived_when_every_agent_has_seen_it() {
        let mut built = Built::healthy();
        built.mode(Mode::Disarmed);
        let names = || (1..=4).map(crate::view::testing::db);
        let mut seen: BTreeMap<_, _> = names().map(|name| (name, Mode::Disarmed)).collect();
        assert_eq!(
            left(&built.view(), Mode::Disarmed, &seen).unwrap(),
            "is disarmed, seen by the agents of db1, db2, db3, db4; Patroni alone decides"
        );
        seen.insert(crate::view::testing::db(2), Mode::Armed);
        seen.remove(&crate::view::testing::db(3));
        let waits = left(&built.view(), Mode::Disarmed, &seen).unwrap_err();
        assert_eq!(waits, "the agent of db2 still sees armed, the agent of db3 does not answer");
        seen.insert(crate::view::testing::db(2), Mode::Disarmed);
        built.remove_session(3);
        assert!(left(&built.view(), Mode::Disarmed, &seen).unwrap().ends_with("not known: db3"));
        built.mode(Mode::Armed);
        assert!(left(&built.view(), Mode::Disarmed, &seen).is_err(), "somebody armed it again");
    }
}
