//! Which builds run, and whether records may be written in a newer format.
//!
//! Two builds work side by side: the newer one goes on with the format that the older one reads, until every agent that can
//! see the cluster's records reads the newer one and a person says so. From then on the older build must not come back. The
//! formats are arguments: a test has only one build.

use std::fmt::Write;

use holdfast_types::HostName;
use holdfast_types::record::SessionRecord;
use serde::Serialize;

use super::arming::Check;
use super::cluster::{ClusterView, Seen};
use super::status::FORMAT;
use super::text;

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentBuild {
    /// Its host.
    pub host: HostName,
    /// Version of its build.
    pub version: String,
    /// The newest format that it reads.
    pub reads_format: u64,
}

/// Everything, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpgradeReport {
    /// The version of the JSON.
    pub format: u64,
    /// `region/namespace/scope`.
    pub cluster: String,
    /// The format that records have here now.
    pub written_format: u64,
    /// The newest format that this command knows.
    pub command_format: u64,
    /// Who has settled the format that records have; absent when nobody has.
    pub finalised_by: Option<String>,
    /// When, RFC 3339.
    pub finalised_at: Option<String>,
    /// The agents of the region that have a session.
    pub agents: Vec<AgentBuild>,
    /// What is in the way of writing what this command knows.
    #[serde(flatten)]
    pub check: Check,
}

impl UpgradeReport {
    /// As a command that knows formats up to `build` sees it.
    pub fn new(view: &ClusterView, build: u64) -> Self {
        let record = view.format.as_ref().map(Seen::body);
        let agent = |session: &SessionRecord| AgentBuild {
            host: session.host.clone(),
            version: session.version.clone(),
            reads_format: session.reads_format,
        };
        Self {
            format: FORMAT,
            cluster: view.cluster.to_string(),
            written_format: view.written_format(build),
            command_format: build,
            finalised_by: record.map(|record| record.by.clone()),
            finalised_at: record.map(|record| text::moment(record.at_wall_ms)),
            agents: view.sessions.values().map(agent).collect(),
            check: check(view, build),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut table = text::table(&["Host", "Version", "Reads format"]);
        for agent in &self.agents {
            table.add_row([agent.host.to_string(), agent.version.clone(), agent.reads_format.to_string()]);
        }
        let mut out = format!("{table}\n");
        let by = match (&self.finalised_by, &self.finalised_at) {
            (Some(by), Some(at)) => format!("finalised by {by} at {at}"),
            _ => "never finalised".to_owned(),
        };
        let _ = writeln!(
            out,
            "records are written in format {} ({by}); this command knows {}",
            self.written_format, self.command_format
        );
        out.push_str(&self.check.text());
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out
    }
}

/// Whether format `build` is written already, by order of a person.
pub fn is_finalised(view: &ClusterView, build: u64) -> bool {
    view.format.as_ref().is_some_and(|record| record.body().finalised == build)
}

/// What is in the way of writing format `build`.
pub fn check(view: &ClusterView, build: u64) -> Check {
    let mut check = Check::default();
    if let Some(record) = view.format.as_ref().filter(|record| record.body().finalised > build) {
        let finalised = record.body().finalised;
        check.block(
            format!("format {finalised} is written already, and this command knows only {build}"),
            "take the newer build of holdfast: there is no way back to an older format",
        );
    }
    if view.format.is_none() && view.format_revision != 0 {
        check.block("the record of the format cannot be read", "take the newer build of holdfast");
    }
    for session in view.sessions.values().filter(|session| session.reads_format < build) {
        check.block(
            format!(
                "the agent of {} (version {}) reads records up to format {}",
                session.host, session.version, session.reads_format
            ),
            format!("upgrade it to a build that reads format {build}"),
        );
    }
    for member in view.members() {
        if view.agent_alive(&member) != Some(true) {
            check.block(
                format!("the agent of {member} has no live session: nobody knows what it reads"),
                format!("start holdfast-agent on the host of {member}, or remove the member"),
            );
        }
    }
    for pooler in view.routes.keys().filter(|pooler| !view.pooler_alive(pooler)) {
        check.warn(format!(
            "the agent of pooler {pooler} has no live session: if it is of an older build it will not follow"
        ));
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;
    use holdfast_types::record::FormatRecord;

    fn finalised(built: &mut Built, format: u64) {
        let (by, reason) = ("holdfast://operator/ann".into(), "all hosts done".into());
        let key = built.keys.format();
        built.record(&key, FormatRecord { finalised: format, by, reason, at_wall_ms: 0 });
    }

    fn problems(built: &Built, build: u64) -> Vec<String> {
        check(&built.view(), build).blockers.into_iter().map(|blocker| blocker.problem).collect()
    }

    #[test]
    fn a_newer_format_waits_for_every_host_and_names_those_that_lack_it() {
        let (old, new) = (1, 2);
        let mut built = Built::healthy();
        assert_eq!(problems(&built, old), [""; 0]);
        for n in [1, 2, 4] {
            built.session_that_reads(n, new);
        }
        assert_eq!(built.view().written_format(new), old, "nothing newer before a person has said so");
        assert_eq!(problems(&built, new), ["the agent of db3 (version 0.1.0) reads records up to format 1"]);
        built.remove_session(3);
        assert_eq!(
            problems(&built, new),
            ["the agent of db3 has no live session: nobody knows what it reads"]
        );
        built.session_that_reads(3, new);
        assert_eq!(problems(&built, new), [""; 0]);
        assert!(!is_finalised(&built.view(), new));
        finalised(&mut built, new);
        let view = built.view();
        assert!(is_finalised(&view, new) && view.problems.is_empty(), "{:?}", view.problems);
        assert_eq!((view.written_format(new), view.written_format(old)), (new, old));
        assert!(problems(&built, old)[0].contains("format 2 is written already"), "no way back");
    }

    #[test]
    fn the_report_says_who_reads_what() {
        let mut built = Built::healthy();
        built.route("a", Some(1));
        let text = UpgradeReport::new(&built.view(), 1).text();
        assert!(text.contains("| db1   | 0.1.0   | 1 "), "{text}");
        assert!(text.contains("format 1 (never finalised); this command knows 1"), "{text}");
        built.remove_pooler_session();
        built.raw(&built.keys.format(), b"{}");
        let report = UpgradeReport::new(&built.view(), 1);
        assert_eq!((report.check.blockers.len(), report.check.warnings.len()), (1, 1), "{report:?}");
    }
}
