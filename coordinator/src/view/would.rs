//! What the agents of an observing cluster would have done, for `status` and `events`. Decides only the order and how
//! much is shown; the agents wrote it, and nothing rests on it.

use holdfast_types::MemberName;
use holdfast_types::record::WouldLine;
use serde::Serialize;

use super::cluster::ClusterView;
use super::text;

/// One thing that an agent would have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WouldReport {
    /// Whose agent.
    pub member: String,
    /// When, RFC 3339, by the clock of its host.
    pub at: String,
    /// What, as it stands after the words "would have".
    pub text: String,
}

/// All that is recorded, newest first.
pub fn all(view: &ClusterView) -> Vec<WouldReport> {
    let mut lines: Vec<_> = view
        .would
        .iter()
        .flat_map(|(member, would)| would.lines.iter().map(move |line| (member, line)))
        .collect();
    // Stable: what was decided in one moment keeps its order.
    lines.sort_by_key(|(_, line)| std::cmp::Reverse(line.at_wall_ms));
    let report = |(member, line): (&MemberName, &WouldLine)| WouldReport {
        member: member.to_string(),
        at: text::moment(line.at_wall_ms),
        text: line.text.clone(),
    };
    lines.into_iter().map(report).collect()
}

/// A table of the newest `limit`; empty when there is nothing.
pub fn text(lines: &[WouldReport], limit: usize) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut table = text::table(&["Member", "At", "Would have"]);
    for line in lines.iter().take(limit) {
        table.add_row([&line.member, &line.at, &line.text]);
    }
    let more = match lines.len().saturating_sub(limit) {
        0 => String::new(),
        more => format!("{more} older ones: holdfast events\n"),
    };
    format!("would have, in mode observe:\n{table}\n{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::events::EventsReport;
    use crate::view::status::StatusReport;
    use crate::view::testing::Built;
    use holdfast_types::Mode;

    #[test]
    fn an_observing_cluster_shows_what_would_have_been_done() {
        let mut built = Built::unarmed();
        built.would(1, &["open the first term"]);
        built.would(2, &["left the writer of term 4", "closed term 4"]);
        let report = StatusReport::new(&built.view(), None);
        let texts: Vec<&str> = report.would.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts[0], "closed term 4", "newest first");
        assert_eq!(texts.len(), 3);
        let text = report.text();
        assert!(text.contains("would have, in mode observe:"), "{text}");
        assert!(text.contains("| db2    | 2026-11-23T23:59:51.000Z | closed term 4"), "{text}");
        assert!(EventsReport::new(&built.view(), 10).text().contains("closed term 4"));
        assert_eq!(EventsReport::new(&built.view(), 1).would.len(), 1);
        built.mode(Mode::Armed);
        let armed = StatusReport::new(&built.view(), None);
        assert!(!armed.text().contains("would have, in mode"), "it acts now");
        assert_eq!(armed.would.len(), 3, "programs get it with its moments");
    }

    #[test]
    fn the_oldest_lines_are_counted_when_there_are_many() {
        let line = |n: i64| WouldReport { member: "db1".into(), at: text::moment(n), text: n.to_string() };
        let shown = text(&(0..5).map(line).collect::<Vec<_>>(), 3);
        assert!(shown.ends_with("2 older ones: holdfast events\n"), "{shown}");
        assert_eq!(text(&[], 3), "");
    }
}
