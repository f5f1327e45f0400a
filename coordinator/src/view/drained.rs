//! How `status`, `list` and `doctor` tell of drained nodes.

use serde::Serialize;

use super::cluster::ClusterView;
use super::text;

/// A drained member, or a drained pooler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrainedReport {
    /// The member, or the pooler by `host.name`.
    pub node: String,
    /// Who; absent when the mark cannot be read.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// All of it in one line.
    pub text: String,
}

/// All of them, in the order of their names.
pub fn all(view: &ClusterView) -> Vec<DrainedReport> {
    let report = |(node, mark): (&String, &Option<holdfast_types::record::DrainedRecord>)| {
        let since = mark.as_ref().map(|mark| text::moment(mark.since_wall_ms));
        let text = match (mark, &since) {
            (Some(mark), Some(since)) => {
                format!("{node} is drained by {} since {since}: {}", mark.by, mark.reason)
            }
            _ => format!("{node} is drained, by a mark that this build cannot read"),
        };
        DrainedReport {
            node: node.clone(),
            by: mark.as_ref().map(|mark| mark.by.clone()),
            reason: mark.as_ref().map(|mark| mark.reason.clone()),
            since,
            text,
        }
    };
    view.drained.iter().map(report).collect()
}

/// Whether a member, or a pooler by `host.name`, is drained.
pub fn is_drained(view: &ClusterView, node: &str) -> bool {
    view.drained.keys().any(|name| name.eq_ignore_ascii_case(node))
}

/// What is at risk by each: cause, effect, the command that ends it.
pub fn findings(view: &ClusterView) -> Vec<(String, &'static str, String)> {
    let finding = |report: DrainedReport| {
        let effect = match view.routes.contains_key(&report.node) {
            true => "it is left alone, and clients are to use another pooler",
            false => "it may be stopped at any time, and is no candidate",
        };
        let next = text::order(&format!("undrain {}", report.node), &view.cluster);
        (report.text, effect, next)
    };
    all(view).into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use crate::view::status::StatusReport;
    use crate::view::testing::Built;

    #[test]
    fn a_drained_member_is_told_of_with_who_why_and_since_when() {
        let mut built = Built::healthy();
        let mark = br#"{"format":1,"min_reader":1,"by":"operator/ann","reason":"kernel","since_wall_ms":0,"operation":3}"#;
        built.raw(&built.keys.drained("db2"), mark);
        built.raw(&built.keys.drained("pool1.a"), b"{}");
        let report = StatusReport::new(&built.view(), None);
        let text = report.text();
        assert!(!report.healthy && report.drained.len() == 2);
        assert!(text.contains("db2 is drained by operator/ann since 1970-01-01T00:00:00"), "{text}");
        assert!(text.contains("holdfast undrain db2 --reason WHY"), "{text}");
        assert!(text.contains("pool1.a is drained, by a mark that this build cannot read"), "{text}");
        let row = text.lines().find(|line| line.contains("| db2")).unwrap();
        assert!(row.contains("drained"), "{row}");
    }
}
