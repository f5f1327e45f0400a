//! `events` and `history`: the incidents and fences that the agents recorded, and Patroni's own list of timelines.

use std::collections::BTreeMap;
use std::fmt::Write;

use holdfast_types::record::{AuditRecord, EventRecord, OutsideRecord, Step, TermRecord};
use holdfast_types::{MemberName, Term};
use serde::Serialize;

use super::cluster::ClusterView;
use super::fenced::{self, FencedReport};
use super::restarts::{self, RestartReport};
use super::status::FORMAT;
use super::text;
use super::would::{self, WouldReport};

/// One incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventReport {
    /// Its number, one more for each.
    pub id: u64,
    /// When its first step was, RFC 3339.
    pub at: Option<String>,
    /// The term that it ended.
    pub term: u64,
    /// The writer that was lost.
    pub from: String,
    /// The writer that followed; absent while it is open.
    pub to: Option<String>,
    /// `timeline:LSN` that the new reign began with.
    pub floor: Option<String>,
    /// From the first sign to the proving write, in milliseconds; absent while it is open.
    pub write_gap_ms: Option<i64>,
    /// The W3C trace id.
    pub trace_id: Option<String>,
    /// What each step took.
    pub steps: Vec<StepReport>,
    /// Cause and effect.
    pub text: String,
    /// How the command that follows the writer went, by host; absent where none has run.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub route_commands: BTreeMap<String, String>,
}

/// One step of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// Which.
    pub step: Step,
    /// When, RFC 3339, by the clock of the host that took it.
    pub at: String,
    /// Since the first step, in milliseconds. Hosts' clocks differ, so it may be off by as much.
    pub after_ms: i64,
    /// Since the step before it.
    pub took_ms: i64,
}

/// One order of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrderReport {
    /// Its number, one more for each.
    pub id: u64,
    /// When, RFC 3339, by the clock of the host that the command ran on.
    pub at: String,
    /// The verb.
    pub verb: String,
    /// The member, for verbs that have one.
    pub node: Option<String>,
    /// Who: identity from the certificate.
    pub by: String,
    /// The host that the command ran on.
    pub from: String,
    /// Why.
    pub reason: String,
    /// The loss that was accepted, in words; absent for verbs that cause none.
    pub accepted: Option<String>,
}

/// What a fence device said to one peer, when that asked last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutsideReport {
    /// The member whose agent asked.
    pub asked_by: String,
    /// When it began, RFC 3339, by its clock.
    pub at: String,
    /// The whole record: the device, the host, what came of it, each answer.
    #[serde(flatten)]
    pub record: OutsideRecord,
    /// All of it in one line.
    pub text: String,
}

/// `events` as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventsReport {
    /// The version of the JSON.
    pub format: u64,
    /// `region/namespace/scope`.
    pub cluster: String,
    /// Newest first.
    pub events: Vec<EventReport>,
    /// Writers that were away and came back in their own term, newest first.
    pub restarts: Vec<RestartReport>,
    /// What the layers of the fence have done, newest first.
    pub fences: Vec<FencedReport>,
    /// The orders that people gave, newest first.
    pub orders: Vec<OrderReport>,
    /// What fence devices have said, by the member that asked: the last time of each.
    pub outside: Vec<OutsideReport>,
    /// What the members' agents would have done in mode observe, newest first.
    pub would: Vec<WouldReport>,
}

/// `history` as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryReport {
    /// The version of the JSON.
    pub format: u64,
    /// `region/namespace/scope`.
    pub cluster: String,
    /// Patroni's list of timelines.
    pub timelines: Vec<TimelineReport>,
    /// The terms that the last events ended, and the present one.
    pub terms: Vec<TermLine>,
}

/// One timeline that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // The columns of patronictl history.
pub struct TimelineReport {
    pub timeline: u32,
    pub lsn: String,
    pub reason: String,
    pub at: Option<String>,
    pub new_leader: Option<String>,
}

/// One term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TermLine {
    /// Its number.
    pub term: u64,
    /// Its writer.
    pub writer: String,
    /// When it ended, RFC 3339; absent for the present one.
    pub ended_at: Option<String>,
    /// What it ended with: cause and effect, or `open`.
    pub end: String,
}

impl EventReport {
    /// One recorded incident.
    pub fn new(event: &EventRecord) -> Self {
        let first = event.steps_wall_ms.values().min().copied();
        let heard =
            event.steps_wall_ms.get(&Step::Heard).or(event.steps_wall_ms.get(&Step::Detected)).copied();
        let proved = event.steps_wall_ms.get(&Step::Proved).copied();
        Self {
            id: event.number,
            at: first.map(text::moment),
            term: event.term.0,
            from: event.from.to_string(),
            to: event.to.as_ref().map(ToString::to_string),
            floor: event.floor.as_ref().map(ToString::to_string),
            write_gap_ms: proved.zip(heard).map(|(proved, heard)| proved - heard),
            trace_id: event.trace_id.clone(),
            steps: steps(event),
            text: event.text.clone(),
            route_commands: event
                .route_commands
                .iter()
                .map(|(host, outcome)| (host.to_string(), outcome.clone()))
                .collect(),
        }
    }

    /// The steps with what each took, in one line.
    fn steps_text(&self) -> String {
        let step = |step: &StepReport| format!("{} +{}", step_word(step.step), milliseconds(step.took_ms));
        text::list(self.steps.iter().map(step))
    }
}

impl EventsReport {
    /// The events of a view, newest first, at most `limit`.
    pub fn new(view: &ClusterView, limit: usize) -> Self {
        let events = view.events.iter().rev().take(limit).map(EventReport::new).collect();
        let orders = view.audits.iter().rev().take(limit).map(OrderReport::new).collect();
        let fences = view.fenced.iter().rev().take(limit).map(FencedReport::new).collect();
        let restarts = view.restarts.iter().rev().take(limit).map(RestartReport::new).collect();
        let would = would::all(view).into_iter().take(limit).collect();
        let outside = |(asker, record): (&MemberName, &OutsideRecord)| OutsideReport {
            asked_by: asker.to_string(),
            at: text::moment(record.began_wall_ms),
            text: format!("term {}: {record}", record.term),
            record: record.clone(),
        };
        let outside = view.outside.iter().map(outside).collect();
        Self {
            format: FORMAT,
            cluster: view.cluster.to_string(),
            events,
            restarts,
            fences,
            orders,
            outside,
            would,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        self.incidents()
            + &restarts::text(&self.restarts)
            + &fenced::text(&self.fences)
            + &self.orders()
            + &self.devices()
            + &would::text(&self.would, usize::MAX)
    }

    fn devices(&self) -> String {
        let line = |one: &OutsideReport| format!("{} asked at {}: {}\n", one.asked_by, one.at, one.text);
        self.outside.iter().map(line).collect()
    }

    fn orders(&self) -> String {
        if self.orders.is_empty() {
            return String::new();
        }
        let mut table = text::table(&["Order", "At", "Node", "By", "From", "Reason"]);
        for order in &self.orders {
            let node = order.node.clone().unwrap_or_else(|| "-".into());
            let accepted =
                order.accepted.as_ref().map(|loss| format!("; accepted: {loss}")).unwrap_or_default();
            let reason = format!("{}{accepted}", order.reason);
            table.add_row([&order.verb, &order.at, &node, &order.by, &order.from, &reason]);
        }
        format!("{table}\n")
    }

    fn incidents(&self) -> String {
        if self.events.is_empty() {
            return "no incident has been recorded\n".into();
        }
        let mut table = text::table(&["Id", "At", "Term", "From", "To", "Write gap"]);
        for event in &self.events {
            table.add_row([
                event.id.to_string(),
                event.at.clone().unwrap_or_else(|| text::UNKNOWN.into()),
                event.term.to_string(),
                event.from.clone(),
                event.to.clone().unwrap_or_else(|| "open".into()),
                event.write_gap_ms.map_or("open".into(), milliseconds),
            ]);
        }
        let mut out = format!("{table}\n");
        for event in &self.events {
            let trace = event.trace_id.as_deref().unwrap_or(text::UNKNOWN);
            let _ =
                writeln!(out, "{}: {}\n   {}\n   trace {trace}", event.id, event.text, event.steps_text());
            for (host, outcome) in &event.route_commands {
                let _ = writeln!(out, "   route command of {host}: {outcome}");
            }
        }
        out
    }
}

impl OrderReport {
    fn new(order: &AuditRecord) -> Self {
        Self {
            id: order.number,
            at: text::moment(order.at_wall_ms),
            verb: order.verb.clone(),
            node: order.node.as_ref().map(ToString::to_string),
            by: order.by.clone(),
            from: order.from.clone(),
            reason: order.reason.clone(),
            accepted: order.accepted.clone(),
        }
    }
}

impl HistoryReport {
    /// Timelines and terms of a view.
    pub fn new(view: &ClusterView) -> Self {
        let timeline = |end: &super::patroni::TimelineEnd| TimelineReport {
            timeline: end.timeline.0,
            lsn: end.lsn.to_string(),
            reason: end.reason.clone(),
            at: end.at.clone(),
            new_leader: end.leader.clone(),
        };
        let ended = |event: &EventRecord| TermLine {
            term: event.term.0,
            writer: event.from.to_string(),
            ended_at: event.steps_wall_ms.get(&Step::Closed).copied().map(text::moment),
            end: event.text.clone(),
        };
        let mut terms: Vec<TermLine> = view.events.iter().map(ended).collect();
        if let Some((term, writer)) = view.term.as_ref().map(|term| term.body()).and_then(open) {
            let end = match view.reign() {
                Some(_) => "open".into(),
                None => format!("open, not in force: older than mode {}", view.mode()),
            };
            terms.push(TermLine { term: term.0, writer: writer.to_string(), ended_at: None, end });
        }
        Self {
            format: FORMAT,
            cluster: view.cluster.to_string(),
            timelines: view.patroni.history.iter().map(timeline).collect(),
            terms,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let mut timelines = text::table(&["TL", "LSN", "Reason", "Timestamp", "New Leader"]);
        for line in &self.timelines {
            let (at, leader) = (or_dash(&line.at), or_dash(&line.new_leader));
            timelines.add_row([line.timeline.to_string(), line.lsn.clone(), line.reason.clone(), at, leader]);
        }
        let mut terms = text::table(&["Term", "Writer", "Ended", "How"]);
        for line in &self.terms {
            terms.add_row([
                line.term.to_string(),
                line.writer.clone(),
                or_dash(&line.ended_at),
                line.end.clone(),
            ]);
        }
        format!("{timelines}\n{terms}\n")
    }
}

fn open(record: &TermRecord) -> Option<(Term, &MemberName)> {
    Some((record.term, record.open_holder()?))
}

/// The steps in the order of time; clocks of two hosts may tell two of them the other way round.
fn steps(event: &EventRecord) -> Vec<StepReport> {
    let mut in_time: Vec<(i64, Step)> = event.steps_wall_ms.iter().map(|(step, at)| (*at, *step)).collect();
    in_time.sort_unstable();
    let first = in_time.first().map_or(0, |(at, _)| *at);
    let mut before = first;
    let report = |(at, step): (i64, Step)| {
        let took_ms = at - std::mem::replace(&mut before, at);
        StepReport { step, at: text::moment(at), after_ms: at - first, took_ms }
    };
    in_time.into_iter().map(report).collect()
}

fn step_word(step: Step) -> &'static str {
    match step {
        Step::Heard => "last heard",
        Step::Detected => "detected",
        Step::Promised => "promised",
        Step::Closed => "closed",
        Step::Opened => "opened",
        Step::Promoted => "promoted",
        Step::Routed => "routed",
        Step::Proved => "proved",
    }
}

fn milliseconds(count: i64) -> String {
    format!("{:.3} s", count as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;

    fn built() -> Built {
        let mut built = Built::healthy();
        built.event(1, Some(2));
        built.event(2, None);
        built
    }

    #[test]
    fn the_gap_is_from_the_first_sign_to_the_proving_write() {
        let report = EventsReport::new(&built().view(), 10);
        assert_eq!(report.events.iter().map(|event| event.id).collect::<Vec<_>>(), [2, 1]);
        let done = &report.events[1];
        assert_eq!((done.write_gap_ms, done.to.as_deref()), (Some(1_420), Some("db2")));
        assert_eq!(report.events[0].write_gap_ms, None, "it is still open");
        let text = report.text();
        assert!(text.contains("detected +0.000 s, promised +0.900 s, closed +0.050 s"), "{text}");
        assert!(text.contains("1.420 s") && text.contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{text}");
        assert_eq!(EventsReport::new(&built().view(), 1).events.len(), 1);
    }

    #[test]
    fn a_restart_in_place_is_told_beside_the_incidents() {
        let mut built = built();
        built.restart(1_700_000_000_000, 4_250);
        let report = EventsReport::new(&built.view(), 10);
        assert_eq!(report.restarts.len(), 1);
        assert_eq!((report.restarts[0].node.as_str(), report.restarts[0].away_ms), ("db1", 4_250));
        let text = report.text();
        assert!(
            text.contains("PostgreSQL of db1 crashed") && text.contains("went on after 4.250 s"),
            "{text}"
        );
    }

    #[test]
    fn orders_are_told_newest_first_with_their_reason() {
        let mut built = built();
        built.audit(0, "fence", "bad disk");
        built.audit(1, "unfence", "new disk");
        let report = EventsReport::new(&built.view(), 10);
        let verbs: Vec<&str> = report.orders.iter().map(|order| order.verb.as_str()).collect();
        assert_eq!(verbs, ["unfence", "fence"]);
        let text = report.text();
        assert!(text.contains("| holdfast://operator/ann | console | new disk |"), "{text}");
    }

    #[test]
    fn history_joins_timelines_and_terms() {
        let report = HistoryReport::new(&built().view());
        assert_eq!(report.timelines[0].lsn, "0/4000000");
        let terms: Vec<(u64, &str)> =
            report.terms.iter().map(|line| (line.term, line.writer.as_str())).collect();
        assert_eq!(terms, [(4, "db1"), (5, "db1"), (4, "db1")]);
        assert!(report.text().contains("no recovery target specified"));
        let mut disarmed = built();
        disarmed.mode(holdfast_types::Mode::Disarmed);
        let last = HistoryReport::new(&disarmed.view()).terms.pop().unwrap();
        assert_eq!(last.end, "open, not in force: older than mode disarmed");
    }

    #[test]
    fn an_empty_ring_says_so() {
        let report = EventsReport::new(&Built::healthy().view(), 10);
        assert_eq!(report.text(), "no incident has been recorded\n");
    }
}
