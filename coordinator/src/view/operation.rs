//! Operations for people and for the planner: one observation out of a view, and the report of a journal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use holdfast_coordinator_core::observation::Observation;
use holdfast_types::MemberName;
use holdfast_types::preflight::Preflight;
use holdfast_types::record::{Drain, OperationRecord, OperationState, Wanted};
use serde::Serialize;

use super::cluster::{Asked, ClusterView};
use super::status::FORMAT;
use super::{maintenance, observation, text};

pub use super::observation::{next_number, running};

/// What a planner sees of a cluster. `told`: what the agents of members say before a planned change, where they were asked.
pub fn observe(view: &ClusterView, told: &BTreeMap<MemberName, Preflight>) -> Observation {
    observation::observe(view, told, suspended(view))
}

fn suspended(view: &ClusterView) -> Option<String> {
    if let Some(found) = maintenance::report(view) {
        return Some(format!(
            "{}; it ends with: {}",
            found.text,
            text::command("maintenance off", &view.cluster)
        ));
    }
    match view.patroni.switch("pause") {
        Some(false) => None,
        Some(true) => Some("Patroni is paused; patronictl resume ends that".into()),
        None => Some("Patroni's configuration is not known".into()),
    }
}

/// All operations that are still known, oldest first.
pub fn all(view: &ClusterView) -> Vec<&OperationRecord> {
    let mut all: Vec<&OperationRecord> = view.operations.iter().collect();
    if let Some(seen) = &view.operation
        && all.iter().all(|record| record.number != seen.body().number)
    {
        all.push(seen.body());
    }
    all.sort_by_key(|record| record.number);
    all
}

/// The operation that came of a request, if a coordinator has taken it.
pub fn of_request<'v>(view: &'v ClusterView, user: &str, id: &str) -> Option<&'v OperationRecord> {
    all(view).into_iter().find(|record| record.by == user && record.intent == id)
}

/// One operation, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperationReport {
    /// The version of the JSON.
    pub format: u64,
    /// The cluster.
    pub cluster: String,
    /// The journal, as it stands in etcd.
    pub record: OperationRecord,
    /// One line: what it is, and how it stands.
    pub text: String,
}

impl OperationReport {
    /// The report of a record.
    pub fn new(view: &ClusterView, record: &OperationRecord) -> Self {
        let cluster = view.cluster.to_string();
        Self { format: FORMAT, cluster, text: line(record), record: record.clone() }
    }

    /// All that is known, for people.
    pub fn table(&self) -> String {
        let record = &self.record;
        let mut out = format!("{}\n", self.text);
        let from = record.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let _ = writeln!(out, "asked by {}{from}: {}", record.by, record.reason);
        for finding in &record.findings {
            let _ = writeln!(out, "{finding}");
        }
        let mut last = None;
        for step in &record.steps {
            let after =
                last.map(|last: i64| format!(" (+{} ms)", step.at_wall_ms - last)).unwrap_or_default();
            let _ = writeln!(out, "{} {}{after}", text::moment(step.at_wall_ms), step.phase);
            last = Some(step.at_wall_ms);
        }
        if let Some(end) = &record.ended {
            let after = last.map(|last| format!(" (+{} ms)", end.at_wall_ms - last)).unwrap_or_default();
            let _ = writeln!(out, "{} {}{after}", text::moment(end.at_wall_ms), end.state);
            out.extend(end.next.iter().map(|next| format!("next: {next}\n")));
        }
        out
    }
}

/// What an operation is about and how it stands.
pub fn line(record: &OperationRecord) -> String {
    let way = match (&record.wanted, &record.writer, &record.successor) {
        (Wanted::Drain(Drain { node, .. }) | Wanted::Undrain { node }, _, _) => format!(" of {node}"),
        (_, Some(from), Some(to)) => format!(" from {from} to {to}"),
        _ => String::new(),
    };
    let what = format!("operation {}, {}{way}", record.number, record.wanted.name());
    match (&record.ended, &record.given_up) {
        (Some(end), _) if end.state == OperationState::Refused => format!("{what}: {}", end.text),
        (Some(end), _) => format!("{what}: {}: {}", end.state, end.text),
        (None, Some(why)) => format!("{what}: given up: {why}"),
        (None, None) => {
            let now = record.rolling.as_ref().and_then(|rolling| rolling.now.as_ref());
            let now = now.map(|now| format!(" of {now}")).unwrap_or_default();
            format!("{what}: {}{now}", record.phase)
        }
    }
}

/// `operation list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperationList {
    /// The version of the JSON.
    pub format: u64,
    /// The cluster.
    pub cluster: String,
    /// The host of the coordinator that works; absent: none does.
    pub coordinator: Option<String>,
    /// Requests that nobody has taken yet, or that cannot be read, each in one line.
    pub requests: Vec<String>,
    /// The operations, newest first.
    pub operations: Vec<OperationRecord>,
}

impl OperationList {
    /// The list of a view. `coordinator`: the host of the one that works.
    pub fn new(view: &ClusterView, coordinator: Option<String>) -> Self {
        Self {
            format: FORMAT,
            cluster: view.cluster.to_string(),
            coordinator,
            requests: view.intents.iter().map(request).collect(),
            operations: all(view).into_iter().rev().cloned().collect(),
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let coordinator = self.coordinator.as_deref().unwrap_or("none works: requests wait for one");
        let mut out = format!("+ Cluster: {}, coordinator: {coordinator}\n", self.cluster);
        let mut table = text::table(&["Number", "Operation", "Asked by", "Begun", "State"]);
        for record in &self.operations {
            let begun = record.steps.first().map_or("-".into(), |step| text::moment(step.at_wall_ms));
            let state =
                record.ended.as_ref().map_or_else(|| record.phase.to_string(), |end| end.state.to_string());
            table.add_row([
                record.number.to_string(),
                record.wanted.name().to_owned(),
                record.by.clone(),
                begun,
                state,
            ]);
        }
        let _ = writeln!(out, "{table}");
        out.extend(self.requests.iter().map(|request| format!("request {request}\n")));
        out
    }
}

fn request(asked: &Asked) -> String {
    let name = format!("{} of {}", asked.id, asked.user);
    match &asked.intent {
        Ok(intent) => format!("{name}: {} ({})", intent.body.wanted.name(), intent.body.reason),
        Err(problem) => format!("{name} is left where it is: {problem}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{Built, db};
    use holdfast_types::{Mode, Term};

    #[test]
    fn a_healthy_cluster_is_observed_as_one() {
        let view = Built::healthy().view();
        let seen = observe(&view, &BTreeMap::new());
        assert_eq!(seen.writer(), Some((Term(4), &db(1))));
        assert_eq!((seen.mode, &seen.suspended), (Some(Mode::Armed), &None));
        assert!(seen.members[&db(2)].synchronous && seen.members[&db(2)].agent_alive);
        assert!(seen.unreadable.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_absent() {
        let mut built = Built::healthy();
        built.raw(&built.keys.mode(), b"{}");
        built.raw(&built.keys.fence(&db(2)), b"{}");
        let seen = observe(&built.view(), &BTreeMap::new());
        assert_eq!((seen.mode, seen.unreadable.len()), (None, 2));
    }

    #[test]
    fn numbers_go_on_and_a_request_that_cannot_be_read_is_shown() {
        let mut built = Built::healthy();
        assert_eq!(next_number(&built.view()), 1);
        let record = br#"{"format":1,"min_reader":1,"number":3,"operation":"switchover","by":"operator/ann",
            "intent":"i1","reason":"x","coordinator":"backup1","phase":"pause"}"#;
        built.raw(&built.keys.operation(), record);
        built.raw(
            &built.keys.intent("operator/bob", "b1"),
            br#"{"format":1,"min_reader":1,"operation":"fence"}"#,
        );
        let view = built.view();
        assert_eq!((next_number(&view), running(&view).is_some()), (4, true));
        assert!(of_request(&view, "operator/ann", "i1").is_some());
        let list = OperationList::new(&view, None);
        assert!(list.requests[0].contains("b1 of operator/bob is left where it is"), "{list:?}");
        assert!(list.table().contains("none works"));
    }
}
