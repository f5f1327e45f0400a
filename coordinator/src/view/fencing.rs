//! What stands in the way of keeping a node out, and of letting it in again.
//!
//! Letting in is the dangerous one: a node whose data went beyond the fork must not stream, serve or be promoted before
//! it was rewound. What cannot be known here is refused, with the reason.

use holdfast_types::record::FenceReason;
use holdfast_types::{Class, MemberName, Mode, Position, Timeline};

use super::arming::Check;
use super::cluster::ClusterView;
use super::text;

/// Whether a member may be fenced. `accept_outage`: its writes may stop.
pub fn check_fence(view: &ClusterView, member: &MemberName, accept_outage: bool) -> Check {
    let mut check = Check::default();
    let writer = view.writer().map(|(_, writer)| writer).or(view.patroni.leader.as_ref());
    if writer == Some(member) {
        if accept_outage {
            check.warn(format!(
                "{member} is the present writer: writes stop until another member has taken over"
            ));
        } else {
            check.block(
                format!(
                    "{member} is the present writer: fencing it stops all writes until a failover has ended"
                ),
                "switch over first; or say --accept-outage --yes if its writes must stop now",
            );
        }
    }
    if view.mode() != Mode::Armed {
        check.warn(format!(
            "mode {}: the fence is recorded, but acted on only once the cluster is armed",
            view.mode()
        ));
    }
    let counts = view.patroni.class() != Some(Class::Off);
    let floor = view.floor.as_ref().filter(|_| counts).map(|floor| floor.body());
    if let Some(configuration) =
        floor.map(|floor| &floor.configuration).filter(|c| c.members.contains(member))
    {
        let others = configuration.members.iter().filter(|other| *other != member && is_alive(view, other));
        if others.count() <= configuration.quorum {
            check
                .warn("with it out, the loss of the writer cannot be proved until Patroni has changed /sync");
        }
    }
    check
}

fn is_alive(view: &ClusterView, member: &MemberName) -> bool {
    view.agent_alive(member) == Some(true) && !view.fences.contains_key(member)
}

/// Whether a fenced member may come back. `position` is where its data end, by its own agent's eyes if it was asked;
/// Patroni's key is taken otherwise.
pub fn check_unfence(view: &ClusterView, member: &MemberName, position: Option<Position>) -> Check {
    let mut check = Check::default();
    if view.writer().is_some_and(|(_, writer)| writer == member) {
        check.block(
            format!("{member} still holds the open term"),
            "wait until the term is closed: the fence has not done its work yet",
        );
    }
    if view.agent_alive(member) != Some(true) {
        check.block(
            format!("the agent of {member} is not alive, so nobody there would keep the rules"),
            format!("start holdfast-agent on the host of {member}"),
        );
    }
    if view.mode() == Mode::Armed && view.writer().is_none() {
        check.block(
            "no term is open, so there is no history to compare with",
            text::command("status", &view.cluster),
        );
    }
    let patroni = view.patroni.members.get(member);
    let position = position.or_else(|| patroni.and_then(|member| member.position()));
    let streams = patroni.is_some_and(|member| member.replication_state.as_deref() == Some("streaming"));
    match position {
        None => check.block(
            format!("where the data of {member} end is unknown: its PostgreSQL does not run and nobody says"),
            format!(
                "read it with pg_controldata on its host; patronictl reinit {} {member} is always safe",
                view.cluster.scope
            ),
        ),
        Some(position) => fork(view, member, position, streams, &mut check),
    }
    check
}

/// Compares the end of the data with the history of the present leader.
fn fork(view: &ClusterView, member: &MemberName, position: Position, streams: bool, check: &mut Check) {
    let rewind =
        format!("patronictl reinit {} {member}, or a rewind, then unfence again", view.cluster.scope);
    let leader = view.patroni.leader.as_ref().and_then(|leader| view.patroni.members.get(leader));
    let Some(present) = leader.and_then(|leader| leader.timeline).map(Timeline) else {
        let fix = "wait until Patroni's leader has published its timeline: patronictl list";
        return check.block("the timeline of the present leader is unknown", fix);
    };
    let deposed = view.fences.get(member).map(|fence| &fence.body().why);
    if position.timeline == present {
        // A deposed writer on the leader's own timeline has either been rewound and streams, or the leader has not
        // published its new timeline yet.
        if matches!(deposed, Some(FenceReason::Deposed { .. })) && !streams {
            check.block(
                format!(
                    "{member} was the writer and does not stream; its end {position} may be beyond the fork"
                ),
                rewind,
            );
        }
    } else if position.timeline > present {
        check.block(
            format!("{member} is on timeline {}, the leader on {}", position.timeline.0, present.0),
            rewind,
        );
    } else {
        match view.patroni.history.iter().find(|end| end.timeline == position.timeline) {
            None => check.block(
                format!("Patroni's history does not say where timeline {} ended", position.timeline.0),
                rewind,
            ),
            Some(end) if position.lsn > end.lsn => {
                let beyond = text::bytes(position.lsn.0 - end.lsn.0);
                check.block(
                    format!(
                        "the data of {member} end at {position}, {beyond} beyond the fork at {}",
                        end.lsn
                    ),
                    rewind,
                );
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{Built, built::position, db};
    use serde_json::json;

    fn problems(check: &Check) -> Vec<&str> {
        check.blockers.iter().map(|blocker| blocker.problem.as_str()).collect()
    }

    #[test]
    fn the_writer_is_fenced_only_by_someone_who_accepts_the_outage() {
        let view = Built::healthy().view();
        assert_eq!(check_fence(&view, &db(1), false).blockers.len(), 1);
        let accepted = check_fence(&view, &db(1), true);
        assert_eq!((accepted.blockers.len(), accepted.warnings.len()), (0, 1));
        assert_eq!(check_fence(&view, &db(4), false), Check::default());
        let standby = check_fence(&view, &db(2), false);
        assert!(standby.warnings[0].contains("cannot be proved"), "{standby:?}");
    }

    #[test]
    fn unarmed_the_leader_counts_as_the_writer() {
        let check = check_fence(&Built::unarmed().view(), &db(1), false);
        assert_eq!(check.blockers.len(), 1);
        assert!(check.warnings[0].contains("mode observe"), "{check:?}");
    }

    #[test]
    fn a_streaming_standby_comes_back() {
        let mut built = Built::healthy();
        built.fence(4);
        assert_eq!(check_unfence(&built.view(), &db(4), None), Check::default());
    }

    #[test]
    fn the_holder_and_a_member_without_an_agent_stay_out() {
        let mut built = Built::healthy();
        built.fence(1);
        built.remove_session(1);
        let check = check_unfence(&built.view(), &db(1), None);
        assert_eq!(problems(&check)[0], "db1 still holds the open term");
        assert!(problems(&check)[1].contains("not alive"), "{check:?}");
    }

    #[test]
    fn an_unknown_position_is_refused() {
        let mut built = Built::healthy();
        built.fence(3);
        built
            .patroni_member(3, json!({"state": "stopped", "xlog_location": null, "replication_state": null}));
        let check = check_unfence(&built.view(), &db(3), None);
        assert!(problems(&check)[0].contains("unknown"), "{check:?}");
        let asked = check_unfence(&built.view(), &db(3), Some(position(1, 0x0400_0000)));
        assert_eq!(asked, Check::default(), "timeline 1 ended there: before the fork");
    }

    #[test]
    fn data_beyond_the_fork_are_refused() {
        let mut built = Built::healthy();
        built.fence_deposed(3, 3);
        let check = check_unfence(&built.view(), &db(3), Some(position(1, 0x0400_0000 + 40_960)));
        assert_eq!(
            problems(&check),
            ["the data of db3 end at 1:0/400A000, 40 KiB beyond the fork at 0/4000000"]
        );
        let newer = check_unfence(&built.view(), &db(3), Some(position(3, 1)));
        assert_eq!(problems(&newer), ["db3 is on timeline 3, the leader on 2"]);
    }

    #[test]
    fn a_deposed_writer_on_the_leaders_timeline_must_stream() {
        let mut built = Built::healthy();
        built.fence_deposed(3, 3);
        assert_eq!(check_unfence(&built.view(), &db(3), None), Check::default());
        built.patroni_member(3, json!({"replication_state": null}));
        assert!(problems(&check_unfence(&built.view(), &db(3), None))[0].contains("may be beyond the fork"));
    }
}
