//! What a person is told before writes are given up for a writer (rules 11 and 18): what stands in the way, what would be
//! lost, and who could still acknowledge. Called by `failover`, and by `status` for the name of the remedy.

use holdfast_types::record::{Evidence, Reign, TermRecord};
use holdfast_types::{Class, MemberName, Mode, Position};

use super::arming::Check;
use super::cluster::ClusterView;
use super::{maintenance, text};

/// What would be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The end of what is known to have been acknowledged or written.
    pub known_end: Option<Position>,
    /// Where the successor's data end.
    pub position: Option<Position>,
    /// Nothing is lost, and that is certain.
    pub none: bool,
    /// All of it in words.
    pub text: String,
}

/// What would be lost if `member` followed now; `asked` is where its data end, by its own agent, if that was asked.
pub fn loss(view: &ClusterView, member: &MemberName, asked: Option<Position>) -> Loss {
    let position = view.promise_of(member).map(|promise| promise.position).or(asked);
    let (known_end, exact) = match view.reign().map(|term| &term.reign) {
        Some(Reign::Closed { floor, evidence, .. }) => {
            (*floor, floor.is_some() && !matches!(evidence, Evidence::Override { .. }))
        }
        _ => (known_end(view), false),
    };
    let says = match (position, known_end) {
        (Some(position), Some(end)) if position >= end && exact => {
            format!("nothing: {member} ends at {position}, and what was acknowledged ends at {end}")
        }
        (Some(position), Some(end)) if position >= end => format!(
            "nothing that is known of: {member} ends at {position}; what the writer acknowledged after {end} is not known"
        ),
        (Some(position), Some(end)) => {
            let bytes = match position.timeline == end.timeline {
                true => text::bytes(end.lsn.0 - position.lsn.0),
                false => format!("what timeline {} holds", end.timeline.0),
            };
            let more = if exact { "" } else { " at least; what was acknowledged after that is not known" };
            format!("{bytes} of WAL, from {position}, where {member} ends, to {end}{more}")
        }
        (None, _) => format!("not known: nobody says where the data of {member} end"),
        (_, None) => "not known: there is no floor record of the term".to_owned(),
    };
    let none = exact && position.zip(known_end).is_some_and(|(position, end)| position >= end);
    Loss { known_end, position, none, text: says }
}

/// Of an open term: its floor record, every promise, and what Patroni published last of its leader.
fn known_end(view: &ClusterView) -> Option<Position> {
    let term = view.reign()?.term;
    let floor = view.floor.as_ref().map(|floor| floor.body()).filter(|floor| floor.term == term);
    let promises = view.promises.iter().filter(|(_, promise)| promise.term == term);
    let known = promises.map(|(_, promise)| promise.position).chain(floor.map(|floor| floor.floor)).max()?;
    let leader = view.patroni.leader_lsn.map(|lsn| Position { lsn, ..known });
    Some(leader.map_or(known, |leader| leader.max(known)))
}

/// Whether `member` may be made the writer by a person's order. `accepted`: with the loss.
pub fn check(view: &ClusterView, member: &MemberName, loss: &Loss, accepted: bool) -> Check {
    let mut check = Check::default();
    if view.mode() != Mode::Armed || view.patroni.class() != Some(Class::Quorum) {
        let problem = "only an armed cluster of class quorum holds a promotion back";
        check.block(problem, format!("patronictl failover {} --candidate {member}", view.cluster.scope));
    }
    if view.patroni.switch("pause") == Some(true) {
        check.block("Patroni is paused: nobody would act on the order", "patronictl resume");
    }
    if let Some(report) = maintenance::report(view) {
        let fix = text::order("maintenance off", &view.cluster);
        check.block(format!("{}: nobody would act on the order", report.text), fix);
    }
    match view.reign() {
        None => check
            .block("no term is in force, so there is none to end", text::order("arm --wait", &view.cluster)),
        Some(term) => {
            writer(view, term, member, &mut check);
            needed(view, term, member, &mut check);
        }
    }
    successor(view, member, &mut check);
    check.warn(format!("lost would be {}", loss.text));
    if !accepted && !loss.none {
        let fix = "say --accept-data-loss, once nothing that has more can be brought back";
        check.block(format!("acknowledged writes may be lost: {}", loss.text), fix);
    }
    check
}

/// The writer must be out of office already: an override drops the count and the floor, never the stop.
fn writer(view: &ClusterView, term: &TermRecord, member: &MemberName, check: &mut Check) {
    let Reign::Open { holder, .. } = &term.reign else { return };
    if holder == member {
        let fix = "wait for it, or name another member";
        return check.block(format!("{member} is the writer whose term {} would end", term.term), fix);
    }
    let attested = view.attestations.iter().any(|word| word.term == term.term);
    let moved = view.patroni.leader.as_ref().is_some_and(|leader| leader != holder);
    if view.agent_alive(holder) == Some(true) && !attested && !moved {
        check.block(
            format!("{holder} is the writer, and its agent lives"),
            format!(
                "patronictl switchover {} loses nothing; or {}",
                view.cluster.scope,
                text::order(&format!("fence {holder} --accept-outage"), &view.cluster)
            ),
        );
    }
    let counted = view.floor.as_ref().map(|floor| floor.body().configuration.members.clone());
    let may_follow = |other: &MemberName| view.promise_of(other).is_none() && other != member;
    let bound = text::list(counted.into_iter().flatten().filter(|other| may_follow(other)));
    if bound != "-" && !view.outside.values().any(|found| found.proves(term)) {
        check.warn(format!(
            "{bound} did not say that it has left {holder}: if both still run somewhere, they go on acknowledging what \
             is lost afterwards. Make sure that the host of {holder} is off"
        ));
    }
}

/// Nobody should lose anything where it can be had without.
fn needed(view: &ClusterView, term: &TermRecord, member: &MemberName, check: &mut Check) {
    let status = text::command("status --watch 1", &view.cluster);
    match &term.reign {
        Reign::Closed { floor: Some(floor), holder, .. } => {
            if let Some(whole) = view.members().into_iter().find(|other| {
                other != member && other != holder && can_lead(view, other) && reaches(view, other, *floor)
            }) {
                let problem =
                    format!("{whole} has everything that was acknowledged, and can follow by itself");
                check.block(problem, format!("wait for it, or name it: {status}"));
            }
        }
        Reign::Closed { .. } => {}
        Reign::Open { .. } => {
            let floor = view.floor.as_ref().map(|floor| floor.body()).filter(|floor| floor.term == term.term);
            let Some(floor) = floor else { return };
            let left = floor.configuration.members.iter().filter(|other| view.promise_of(other).is_some());
            let reached = view.members().iter().any(|other| reaches(view, other, floor.floor));
            if left.count() > floor.configuration.quorum && reached {
                let fix = match view.hold_in_force() {
                    Some(_) => text::order("hold end", &view.cluster),
                    None => status,
                };
                check.block(format!("the end of term {} can be proved without a loss", term.term), fix);
            }
        }
    }
}

fn reaches(view: &ClusterView, member: &MemberName, floor: Position) -> bool {
    view.promise_of(member).is_some_and(|promise| promise.position >= floor)
}

fn can_lead(view: &ClusterView, member: &MemberName) -> bool {
    let eligible = view.facts.get(member).is_some_and(|facts| facts.eligible == Some(true));
    eligible && view.agent_alive(member) == Some(true) && !view.fences.contains_key(member)
}

fn successor(view: &ClusterView, member: &MemberName, check: &mut Check) {
    if view.fences.contains_key(member) {
        let fix = text::command(&format!("unfence {member} --dry-run"), &view.cluster);
        check.block(format!("{member} is fenced"), fix);
    }
    if view.agent_alive(member) != Some(true) {
        check.block(
            format!("the agent of {member} is not alive, so its promotion would be refused"),
            format!("start holdfast-agent on the host of {member}"),
        );
    }
    match view.patroni.members.get(member) {
        None => check
            .block(format!("Patroni of {member} is gone"), format!("start Patroni on the host of {member}")),
        Some(patroni) if patroni.state.as_deref() != Some("running") => {
            let state = patroni.state.as_deref().unwrap_or(text::UNKNOWN);
            check.block(format!("{member} is {state}, not running"), text::command("list", &view.cluster));
        }
        Some(patroni) => {
            let tags: Vec<&str> = ["nofailover", "nosync", "nostream"]
                .into_iter()
                .filter(|tag| patroni.tags.get(*tag).is_some_and(|value| value.as_bool() == Some(true)))
                .collect();
            if !tags.is_empty() {
                check.warn(format!("{member} is tagged {}", text::list(tags)));
            }
        }
    }
}

/// Who has everything that was acknowledged in the closed term, and is kept from leading by a tag of its Patroni alone: nothing is
/// lost once that is taken away. `None` while somebody else can follow with everything.
pub fn kept_by_a_tag(view: &ClusterView) -> Option<(MemberName, &'static str)> {
    let Reign::Closed { floor: Some(floor), holder, .. } = &view.reign()?.reign else { return None };
    let members = view.members();
    let mut whole = members.iter().filter(|member| *member != holder && reaches(view, member, *floor));
    if whole.clone().any(|member| can_lead(view, member)) {
        return None;
    }
    whole.find_map(|member| {
        let patroni = view.patroni.members.get(member)?;
        let is_well = view.agent_alive(member) == Some(true)
            && patroni.state.as_deref() == Some("running")
            && !view.fences.contains_key(member);
        let tag = patroni.not_to_lead()?;
        is_well.then(|| (member.clone(), tag))
    })
}

/// The members that a tag keeps from leading, with its name.
pub fn tagged_not_to_lead(view: &ClusterView) -> impl Iterator<Item = (&MemberName, &'static str)> {
    view.patroni.members.iter().filter_map(|(member, patroni)| Some((member, patroni.not_to_lead()?)))
}

/// Who would lose the least, for the remedy that `status` names; of two at the same position one that acknowledges.
pub fn least_loss(view: &ClusterView) -> Option<MemberName> {
    let holder = view.reign()?.holder().clone();
    let end = |member: &MemberName| {
        let patroni = view.patroni.members.get(member).and_then(|patroni| patroni.position());
        view.promise_of(member).map(|promise| promise.position).or(patroni)
    };
    let mut able: Vec<MemberName> =
        view.members().into_iter().filter(|member| *member != holder && can_lead(view, member)).collect();
    let counted = view.floor.as_ref().map(|floor| &floor.body().configuration.members);
    let counts = |member: &MemberName| counted.is_some_and(|members| members.contains(member));
    able.sort_by_key(|member| (end(member), counts(member)));
    able.pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{Built, db};

    /// db1 and db2 are dead; db3 has left the writer, db4 too.
    fn lost() -> Built {
        let mut built = Built::healthy();
        for gone in [1, 2] {
            built.remove_session(gone);
        }
        built.promise(3, 4);
        built.promise(4, 4);
        built
    }

    fn problems(built: &Built, n: u8, accepted: bool) -> Vec<String> {
        let view = built.view();
        let check = check(&view, &db(n), &loss(&view, &db(n), None), accepted);
        check.blockers.into_iter().map(|blocker| blocker.problem).collect()
    }

    #[test]
    fn a_loss_is_stated_and_must_be_accepted() {
        let built = lost();
        let found = problems(&built, 3, false);
        assert!(found.len() == 1 && found[0].contains("may be lost: nothing that is known of"), "{found:?}");
        assert_eq!(problems(&built, 3, true), Vec::<String>::new());
        let view = built.view();
        let check = check(&view, &db(3), &loss(&view, &db(3), None), true);
        assert!(
            check.warnings[0].starts_with("db2 did not say that it has left db1"),
            "{:?}",
            check.warnings
        );
        assert_eq!(least_loss(&view), Some(db(3)), "db4 is as far, but acknowledges nothing");
    }

    #[test]
    fn what_is_behind_the_floor_of_a_closed_term_is_counted() {
        let mut built = Built::healthy();
        built.closed(4, 1);
        built.remove_session(1);
        let behind = crate::view::testing::built::position(2, 0x0500_0000);
        let view = built.view();
        let lost = loss(&view, &db(4), Some(behind));
        assert!(!lost.none && lost.text.starts_with("96 B of WAL, from 2:0/5000000"), "{}", lost.text);
        assert!(loss(&view, &db(4), Some(crate::view::testing::built::position(2, 0x0500_0060))).none);
        assert!(loss(&view, &db(4), None).text.starts_with("not known"));
        built.promise(2, 4);
        let found = problems(&built, 4, true);
        assert!(found.len() == 1 && found[0].starts_with("db2 has everything"), "{found:?}");
    }

    #[test]
    fn a_writer_that_lives_or_can_be_followed_is_not_overridden() {
        let found = problems(&Built::healthy(), 3, true);
        assert_eq!(found, ["db1 is the writer, and its agent lives"]);
        assert!(problems(&lost(), 1, true)[0].starts_with("db1 is the writer whose term 4 would end"));
        let mut provable = lost();
        provable.promise(2, 4);
        assert_eq!(problems(&provable, 3, true), ["the end of term 4 can be proved without a loss"]);
        let dead = problems(&lost(), 2, true);
        assert!(dead.iter().any(|one| one.starts_with("the agent of db2 is not alive")), "{dead:?}");
        let mut fenced = lost();
        fenced.fence(3);
        assert_eq!(problems(&fenced, 3, true), ["db3 is fenced"]);
        let mut suspended = lost();
        suspended.maintenance(crate::view::testing::built::NOW_WALL_MS + 60_000);
        assert!(problems(&suspended, 3, true)[0].contains("nobody would act on the order"));
    }
}
