//! The restarts of writers in their own term, for `events` and `watch`: how long nobody could write, and why.

use holdfast_types::record::{RestartEnd, RestartRecord};
use serde::Serialize;

use super::text;

/// One restart in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestartReport {
    /// The writer.
    pub node: String,
    /// The term, which went on.
    pub term: u64,
    /// How its PostgreSQL had ended: `crashed`, `shut_down`, or `unseen` where the agent was away too.
    pub ended: RestartEnd,
    /// Its last sign of life, RFC 3339, by the clock of its host. After `unseen` it is the last change of its WAL on disk.
    pub at: String,
    /// When it had acknowledged a write again, likewise.
    pub back: String,
    /// From the one to the other, in milliseconds.
    pub away_ms: i64,
    /// The W3C trace id.
    pub trace_id: Option<String>,
    /// Cause and effect.
    pub text: String,
}

impl RestartReport {
    /// One record.
    pub fn new(record: &RestartRecord) -> Self {
        Self {
            node: record.member.to_string(),
            term: record.term.0,
            ended: record.ended,
            at: text::moment(record.gone_wall_ms),
            back: text::moment(record.back_wall_ms),
            away_ms: record.away_ms(),
            trace_id: record.trace_id.clone(),
            text: record.text.clone(),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let seconds = self.away_ms as f64 / 1_000.0;
        format!("{}; term {} went on after {seconds:.3} s", self.text, self.term)
    }
}

/// For people; nothing where there is none.
pub fn text(restarts: &[RestartReport]) -> String {
    let line = |one: &RestartReport| {
        let trace = one.trace_id.as_deref().unwrap_or(text::UNKNOWN);
        format!("restart at {}: {}\n   trace {trace}\n", one.at, one.line())
    };
    restarts.iter().map(line).collect()
}
