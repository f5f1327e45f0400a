//! The fences that agents tell of, for `events` and `watch`: who was fenced, by which layer, why, what was verified.

use std::fmt::Write;

use holdfast_types::record::{FenceCause, FenceLayer, FencedRecord};
use serde::Serialize;

use super::text;

/// One fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FencedReport {
    /// Who was fenced.
    pub node: String,
    /// Whose agent tells it.
    pub told_by: String,
    /// The term whose writer was fenced; absent for a node that held none.
    pub term: Option<u64>,
    /// `kernel`, `guard`, `agent`, `gate`, `standbys`, `outside` or `person`.
    pub layer: FenceLayer,
    /// Why.
    pub cause: FenceCause,
    /// When it was due or begun, RFC 3339, by the clock of the teller's host.
    pub due: Option<String>,
    /// When it was verified, likewise.
    pub at: String,
    /// From the one to the other, in milliseconds.
    pub took_ms: Option<u64>,
    /// How often, for a port that closed and opened again.
    pub times: u64,
    /// What was seen afterwards.
    pub verified: String,
    /// Commits of the term that ended with a warning on that node until then; absent where they are not counted.
    pub warned_in_term: Option<u64>,
    /// The W3C trace id of the incident, if there is one.
    pub trace_id: Option<String>,
}

impl FencedReport {
    /// One record.
    pub fn new(record: &FencedRecord) -> Self {
        Self {
            node: record.node.to_string(),
            told_by: record.told_by.to_string(),
            term: record.term.map(|term| term.0),
            layer: record.layer,
            cause: record.cause.clone(),
            due: record.due_wall_ms.map(text::moment),
            at: text::moment(record.done_wall_ms),
            took_ms: record.took_ms,
            times: record.times,
            verified: record.verified.clone(),
            warned_in_term: record.warned_in_term,
            trace_id: record.trace_id.clone(),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let mut line =
            format!("{} was fenced by {}, because {}: {}", self.node, self.by(), self.why(), self.verified);
        if self.times > 1 {
            let _ = write!(line, " ({} times)", self.times);
        }
        if let Some(warned) = self.warned_in_term.filter(|warned| *warned > 0) {
            let _ = write!(line, "; {warned} commits had ended with a warning, not replicated");
        }
        line
    }

    fn by(&self) -> &'static str {
        match self.layer {
            FenceLayer::Kernel => "the kernel's dead-man",
            FenceLayer::Guard => "the guard",
            FenceLayer::Agent => "its agent",
            FenceLayer::Gate => "its start gate",
            FenceLayer::Standbys => "its standbys",
            FenceLayer::Outside => "a device outside",
            FenceLayer::Person => "a person",
        }
    }

    fn why(&self) -> String {
        match &self.cause {
            FenceCause::LeaseOver => "its write lease was over".into(),
            FenceCause::Deposed => "the term was another's".into(),
            FenceCause::Hung => "its PostgreSQL, or the disk under it, hung".into(),
            FenceCause::Stopped => "its PostgreSQL had stopped".into(),
            FenceCause::Closed { evidence } => format!("its term was closed: {evidence}"),
            FenceCause::Ordered { by, text } => format!("{by} ordered it: {text}"),
        }
    }
}

/// A table, with one line below it for each; empty when there is nothing.
pub fn text(fences: &[FencedReport]) -> String {
    if fences.is_empty() {
        return String::new();
    }
    let mut table = text::table(&["Fenced", "At", "Term", "By", "Took"]);
    for fence in fences {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        table.add_row([
            fence.node.clone(),
            fence.at.clone(),
            or_dash(fence.term.map(|term| term.to_string())),
            fence.by().to_owned(),
            or_dash(fence.took_ms.map(|took_ms| format!("{took_ms} ms"))),
        ]);
    }
    let mut out = format!("{table}\n");
    for fence in fences {
        let _ = writeln!(out, "{}", fence.line());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::events::EventsReport;
    use crate::view::testing::{Built, built::NOW_WALL_MS, db};
    use holdfast_types::Term;

    fn record(number: u64, layer: FenceLayer, cause: FenceCause) -> FencedRecord {
        FencedRecord {
            number,
            node: db(1),
            told_by: db(1),
            term: Some(Term(4)),
            layer,
            cause,
            verified: "the last process of Patroni and PostgreSQL was gone 17.3 ms after the deadline".into(),
            due_wall_ms: Some(NOW_WALL_MS - 18),
            done_wall_ms: NOW_WALL_MS - i64::try_from(number).unwrap(),
            took_ms: Some(18),
            times: 1,
            warned_in_term: Some(2),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        }
    }

    #[test]
    fn fences_are_told_newest_first_with_layer_reason_and_proof() {
        let mut built = Built::healthy();
        let ordered = FenceCause::Ordered { by: "holdfast://operator/ann".into(), text: "bad disk".into() };
        let records =
            [record(0, FenceLayer::Guard, FenceCause::LeaseOver), record(1, FenceLayer::Agent, ordered)];
        for one in records {
            let key = built.keys.fenced(&db(1), one.number);
            built.record(&key, one);
        }
        let report = EventsReport::new(&built.view(), 10);
        let layers: Vec<FenceLayer> = report.fences.iter().map(|fence| fence.layer).collect();
        assert_eq!(layers, [FenceLayer::Guard, FenceLayer::Agent]);
        let text = report.text();
        for words in [
            "| db1    |",
            "| the guard | 18 ms |",
            "db1 was fenced by the guard, because its write lease was over: the last process",
            "17.3 ms after the deadline; 2 commits had ended with a warning, not replicated",
            "by its agent, because holdfast://operator/ann ordered it: bad disk",
        ] {
            assert!(text.contains(words), "{words} is missing in {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["fences"][0]["layer"], &json["fences"][0]["took_ms"]),
            (&"guard".into(), &18.into())
        );
        assert_eq!(json["fences"][1]["cause"]["text"], "bad disk");
    }
}
