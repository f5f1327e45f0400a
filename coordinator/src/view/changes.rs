//! `watch`: what changed between two moments, one line each. What only moves (positions, lag) is left out.

use serde::Serialize;

use super::cluster::ClusterView;
use super::events::EventReport;
use super::fenced::FencedReport;
use super::restarts::RestartReport;
use super::status::{MemberReport, StatusReport, TermReport};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `mode`, `maintenance`, `term`, `hold`, `member`, `route`, `event`, `fence`, `restart` or `health`.
    pub what: &'static str,
    /// One line.
    pub text: String,
}

/// Everything that changed, the cause before the effect.
pub fn between(old: &ClusterView, new: &ClusterView) -> Vec<Change> {
    let (before, now) = (StatusReport::new(old, None), StatusReport::new(new, None));
    let mut changes = Vec::new();
    let mut say = |what, text: String| changes.push(Change { what, text });
    if before.mode != now.mode {
        let by = now.mode.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let reason = now.mode.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        say("mode", format!("{} -> {}{by}{reason}", before.mode.mode, now.mode.mode));
    }
    if before.maintenance.as_ref().map(|one| &one.until) != now.maintenance.as_ref().map(|one| &one.until) {
        say("maintenance", now.maintenance.as_ref().map_or("over".into(), |one| one.text.clone()));
    }
    for event in &new.events {
        if !old.events.contains(event) {
            say("event", event_line(&EventReport::new(event)));
        }
    }
    for fenced in new.fenced.iter().filter(|fenced| !old.fenced.contains(fenced)) {
        say("fence", FencedReport::new(fenced).line());
    }
    for restart in new.restarts.iter().filter(|restart| !old.restarts.contains(restart)) {
        say("restart", RestartReport::new(restart).line());
    }
    if without_agent(&before.term) != without_agent(&now.term) {
        say("term", now.term.as_ref().map_or("the term record is gone".into(), term_line));
    }
    if before.hold != now.hold {
        say("hold", now.hold.clone().unwrap_or_else(|| "nothing is held any more".into()));
    }
    for member in &now.members {
        let known = before.members.iter().find(|known| known.member == member.member);
        for text in member_lines(known, member) {
            say("member", text);
        }
    }
    for gone in before.members.iter().filter(|old| now.members.iter().all(|new| new.member != old.member)) {
        say("member", format!("{} is gone", gone.member));
    }
    for route in now.routes.iter().filter(|route| !before.routes.contains(route)) {
        let target = route.target.as_deref().unwrap_or("nobody");
        let paused = if route.paused { ", clients wait" } else { "" };
        let gone = if route.agent == "gone" { ", as last known: its agent is gone" } else { "" };
        say("route", format!("{} -> {target} in term {}{paused}{gone}", route.pooler, route.term));
    }
    if before.headline() != now.headline() {
        say("health", now.headline());
    }
    changes
}

/// The agent's state is told with the members.
fn without_agent(term: &Option<TermReport>) -> Option<TermReport> {
    term.clone().map(|term| TermReport { session_alive: None, ..term })
}

fn term_line(term: &TermReport) -> String {
    if !term.in_force {
        return format!("{} of {} is not in force: older than the mode", term.term, term.holder);
    }
    match (&term.evidence, term.writable) {
        (Some(evidence), _) => {
            let next = term.successor.as_ref().map(|next| format!(", {next} follows")).unwrap_or_default();
            format!("{} of {} is closed ({evidence}){next}", term.term, term.holder)
        }
        (None, Some(false)) => format!("{} is open for {}, not promoted yet", term.term, term.holder),
        (None, _) => format!("{} is open for {}, writable", term.term, term.holder),
    }
}

fn event_line(event: &EventReport) -> String {
    let gap = event.write_gap_ms.map(|gap| format!(", write gap {gap} ms")).unwrap_or_default();
    let trace = event.trace_id.as_ref().map(|trace| format!(", trace {trace}")).unwrap_or_default();
    format!("{}: {}{gap}{trace}", event.id, event.text)
}

fn member_lines(known: Option<&MemberReport>, now: &MemberReport) -> Vec<String> {
    let name = &now.member;
    let Some(before) = known else { return vec![format!("{name} appears as {}", now.role)] };
    let mut lines = Vec::new();
    let mut compare = |what: &str, before: Option<&str>, now: Option<&str>| {
        if before != now {
            lines.push(format!("{name}: {what} {} -> {}", before.unwrap_or("-"), now.unwrap_or("-")));
        }
    };
    compare("role", Some(before.role), Some(now.role));
    compare("state", before.state.as_deref(), now.state.as_deref());
    compare("agent", Some(before.agent), Some(now.agent));
    compare("promise", before.promise.as_deref(), now.promise.as_deref());
    compare("fence", before.fence.as_deref(), now.fence.as_deref());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;

    fn lines(change: impl FnOnce(&mut Built)) -> Vec<String> {
        let old = Built::healthy();
        let mut new = old.clone();
        change(&mut new);
        let changes = between(&old.view(), &new.view());
        changes.into_iter().map(|change| format!("{} {}", change.what, change.text)).collect()
    }

    #[test]
    fn nothing_and_mere_movement_are_silent() {
        assert!(lines(|_| ()).is_empty());
        assert!(
            lines(|built| built.patroni_member(2, serde_json::json!({"xlog_location": 99_999_999})))
                .is_empty()
        );
    }

    #[test]
    fn a_failover_is_told_in_lines() {
        let closed = lines(|built| {
            built.remove_session(1);
            built.promise(2, 4);
            built.closed(4, 1);
        });
        assert_eq!(closed[0], "term 4 of db1 is closed (revoked by db2, db3), db2 follows");
        assert_eq!(closed[1..3], ["member db1: agent alive -> gone", "member db2: promise - -> 2:0/5000060"]);
        assert!(closed[3].starts_with("health OUTAGE: term 4 of db1 was closed"), "{closed:?}");
        let opened = lines(|built| built.opening(5, 2, false));
        assert_eq!(opened[0], "term 5 is open for db2, not promoted yet");
    }

    #[test]
    fn a_maintenance_is_told_when_it_begins() {
        let told = lines(|built| built.maintenance(crate::view::testing::NOW_WALL_MS + 60_000));
        assert!(told[0].starts_with("maintenance maintenance by holdfast://operator/ann until"), "{told:?}");
        assert!(told[1].starts_with("health AT RISK: maintenance by"), "{told:?}");
    }

    #[test]
    fn an_event_and_a_route_are_told() {
        let told = lines(|built| {
            built.event(1, Some(2));
            built.route("a", Some(1));
        });
        let event = "event 1: host of db1 died; db2 took over, write gap 1420 ms, \
                     trace 4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(told, [event, "route pool1.a -> db1 in term 4"]);
    }
}
