//! Commits that ended with PostgreSQL's warning that a wait for a synchronous standby was given up, for `status`. A client
//! that overlooks the warning takes such a commit for safe; this is where it is counted.

use holdfast_types::MemberName;
use holdfast_types::record::WarnedCommits;
use serde::Serialize;

use super::cluster::ClusterView;
use super::text;

/// The count of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WarnedReport {
    /// Whose server.
    pub member: String,
    /// Clients that were told of success after the warning: the wait was cancelled.
    pub answered: u64,
    /// Clients that lost their connection after the warning.
    pub cut_off: u64,
    /// Both together in the present or last reign of the member.
    pub in_term: u64,
    /// That reign.
    pub term: Option<u64>,
    /// Since when its host counts, RFC 3339.
    pub since: Option<String>,
    /// A part of the log was gone before it was read.
    pub at_least: bool,
    /// Why nothing is counted now; absent while it is.
    pub problem: Option<String>,
}

/// Of every member whose agent has looked.
pub fn all(view: &ClusterView) -> Vec<WarnedReport> {
    let counted = view.facts.iter().filter_map(|(member, facts)| Some((member, facts.warned.as_ref()?)));
    counted.map(|(member, warned)| WarnedReport::new(member, warned)).collect()
}

impl WarnedReport {
    fn new(member: &MemberName, warned: &WarnedCommits) -> Self {
        Self {
            member: member.to_string(),
            answered: warned.answered,
            cut_off: warned.cut_off,
            in_term: warned.in_term,
            term: warned.term.map(|term| term.0),
            since: (warned.since_wall_ms != 0).then(|| text::moment(warned.since_wall_ms)),
            at_least: warned.at_least,
            problem: warned.problem.clone(),
        }
    }

    /// For people; `None` when there is nothing to say. Only of the writer is it worth a line that nothing is counted.
    pub fn line(&self, is_writer: bool) -> Option<String> {
        let total = self.answered + self.cut_off;
        let since = self.since.as_deref().unwrap_or(text::UNKNOWN);
        let least = if self.at_least { "at least " } else { "" };
        let counted = (total > 0).then(|| {
            format!(
                "{}: {least}{total} commits ended with a warning, not replicated, since {since}: {} whose clients were \
                 told of success, {} whose connection ended",
                self.member, self.answered, self.cut_off
            )
        });
        let uncounted = self.problem.as_ref().filter(|_| is_writer).map(|problem| {
            format!("{}: commits that end with a warning are not counted: {problem}", self.member)
        });
        match (counted, uncounted) {
            (Some(counted), Some(uncounted)) => Some(format!("{counted}\n{uncounted}")),
            (counted, uncounted) => counted.or(uncounted),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::view::status::StatusReport;
    use crate::view::testing::Built;
    use holdfast_types::Term;
    use holdfast_types::record::WarnedCommits;

    fn text(warned: WarnedCommits) -> String {
        let mut built = Built::healthy();
        built.facts(1, |facts| facts.warned = Some(warned));
        StatusReport::new(&built.view(), None).text()
    }

    #[test]
    fn what_was_not_replicated_is_said_and_nothing_is_said_of_none() {
        let none = WarnedCommits { since_wall_ms: 1_795_478_000_000, ..WarnedCommits::default() };
        assert!(!text(none.clone()).contains("warning"));
        let some = WarnedCommits { answered: 2, cut_off: 1, in_term: 3, term: Some(Term(4)), ..none.clone() };
        let said = text(some);
        assert!(
            said.contains("\ndb1: 3 commits ended with a warning, not replicated, since 2026-"),
            "{said}"
        );
        assert!(said.contains("2 whose clients were told of success, 1 whose connection ended"), "{said}");
        let unknown = WarnedCommits { problem: Some("lc_messages is 'de'".into()), at_least: true, ..none };
        assert!(
            text(unknown).contains("\ndb1: commits that end with a warning are not counted: lc_messages")
        );
    }
}
