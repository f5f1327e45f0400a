//! `disarm --local`: what one host is told of itself, and what stands in the way of undoing it. The command line looks and
//! acts; this judges, and prints.

use std::fmt::Write as _;

use holdfast_proto::left_behind::Memory;
use holdfast_types::Mode;
use holdfast_types::record::local_disarm::RememberedMode;
use serde::Serialize;

use super::arming::Check;
use super::cluster::ClusterView;
use super::status::FORMAT;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Done,
    /// There was nothing to do.
    Nothing,
    /// Not done.
    Failed,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `record`, `guard`, `packet filter`, `fence`, `gates`.
    pub step: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was done or found.
    pub text: String,
    /// What a person does next; empty when there is nothing.
    pub next: String,
}

/// What was done on a host, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalReport {
    /// The version of the JSON.
    pub format: u64,
    /// `disarm --local`, or with `--undo`.
    pub action: &'static str,
    /// The host, by its kernel's name.
    pub host: String,
    /// The user who gave the order.
    pub by: String,
    /// Why.
    pub reason: String,
    /// `done`, `partly_done`, `would_do`, `refused`, `unchanged` or `failed`.
    pub result: &'static str,
    /// Each step, in its order.
    pub steps: Vec<Step>,
    /// What was looked at before.
    #[serde(flatten)]
    pub check: Check,
    /// One line: what is true now.
    pub text: String,
}

impl LocalReport {
    /// An order that has done nothing yet.
    pub fn new(action: &'static str, host: String, by: String, reason: String) -> Self {
        let (steps, check) = (Vec::new(), Check::default());
        Self { format: FORMAT, action, host, by, reason, result: "done", steps, check, text: String::new() }
    }

    /// Adds a step.
    pub fn add(
        &mut self,
        step: &'static str,
        outcome: Outcome,
        text: impl Into<String>,
        next: impl Into<String>,
    ) {
        let (text, next) = (text.into(), next.into());
        self.steps.push(Step { step, outcome, text, next });
    }

    /// Whether every step was done.
    pub fn is_complete(&self) -> bool {
        self.steps.iter().all(|step| step.outcome != Outcome::Failed)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for step in &self.steps {
            let word = match step.outcome {
                Outcome::Done => "done",
                Outcome::Nothing => "nothing to do",
                Outcome::Failed => "NOT DONE",
            };
            let next = if step.next.is_empty() { String::new() } else { format!("; next: {}", step.next) };
            let _ = writeln!(out, "{word}: {}: {}{next}", step.step, step.text);
        }
        let _ = writeln!(out, "{}: {}", self.host, self.text);
        out
    }
}

/// What a person should know before the host is opened.
pub fn before(memories: &[Memory]) -> Check {
    let mut check = Check::default();
    for memory in memories.iter().filter(|memory| memory.promised) {
        check.warn(format!(
            "{}: this host has promised to receive nothing more from the last writer. Opened, it may receive from it again: \
             see to it that the last writer is down, or is the one that Patroni names as leader",
            memory.cluster
        ));
    }
    check
}

/// Fences that stand against members of the host, as far as that can be read: the gates know no others either.
pub fn fences(memories: &[Memory]) -> Vec<String> {
    let why = |memory: &Memory| {
        Some(format!("{}: {}", memory.cluster, memory.remembered.as_ref()?.fenced.as_ref()?))
    };
    memories.iter().filter_map(why).collect()
}

/// What stands in the way of letting Holdfast act on this host again. Patroni may have made another the leader meanwhile,
/// which a term of before knows nothing of: only a newer order over the cluster puts that term out of force.
pub fn undo(memories: &[Memory]) -> Check {
    let mut check = Check::default();
    for memory in memories {
        match &memory.remembered {
            Some(RememberedMode { mode: Mode::Observe | Mode::Disarmed, .. }) => {}
            Some(RememberedMode { mode: Mode::Armed, .. }) => check.block(
                format!("the agent of this host has last seen {} armed, with a term of before", memory.cluster),
                "start the agent, disarm the cluster (holdfast disarm --wait --reason WHY), then undo this, then holdfast arm",
            ),
            None => check.block(
                format!("what the agent remembers of {} cannot be read", memory.cluster),
                "start the agent, which writes it again",
            ),
        }
    }
    check
}

/// The hosts of a cluster that a person has disarmed locally, as far as their agents have told: cause, effect, next command.
pub fn findings(view: &ClusterView) -> Vec<(String, String, String)> {
    let of_member = |(member, facts): (&holdfast_types::MemberName, &holdfast_types::record::MemberFacts)| {
        let record = facts.disarmed_locally()?;
        Some((
            format!(
                "{member} is disarmed on its host by {} since {} ({})",
                record.by,
                super::text::moment(record.at_wall_ms),
                record.reason
            ),
            "I2 does not hold there: nothing fences it, and Patroni alone decides on it".to_owned(),
            format!(
                "{}, then on the host {}: holdfast disarm --local --undo --reason WHY, then {}",
                super::text::order("disarm --wait", &view.cluster),
                facts.host,
                super::text::order("arm", &view.cluster)
            ),
        ))
    };
    view.facts.iter().filter_map(of_member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::record::LocalDisarm;

    fn memory(mode: Option<Mode>) -> Memory {
        let remembered = mode.map(|mode| RememberedMode { mode, fenced: None });
        Memory { cluster: "service.main".into(), remembered, promised: false }
    }

    fn standing() -> LocalDisarm {
        LocalDisarm {
            by: "root".into(),
            reason: "x".into(),
            at_wall_ms: 0,
            over_fence: false,
            bin_dir: None,
            ended: None,
        }
    }

    #[test]
    fn it_is_undone_only_where_no_term_of_before_is_in_force() {
        let blockers = |mode| undo(&[memory(mode)]).blockers;
        assert_eq!(blockers(Some(Mode::Disarmed)), []);
        assert_eq!(blockers(Some(Mode::Observe)), []);
        assert!(blockers(Some(Mode::Armed))[0].fix.contains("holdfast disarm --wait"));
        assert!(blockers(None)[0].problem.contains("cannot be read"));
        assert_eq!(undo(&[]).blockers, [], "nothing was ever armed here");
    }

    #[test]
    fn a_promise_and_a_fence_are_told_of() {
        assert_eq!(before(&[memory(Some(Mode::Armed))]).warnings, [""; 0]);
        let mut bound = memory(Some(Mode::Armed));
        bound.promised = true;
        assert!(before(&[bound.clone()]).warnings[0].contains("last writer is down"));
        bound.remembered.as_mut().unwrap().fenced = Some("by ann: disk".into());
        assert_eq!(fences(&[bound, memory(None)]), ["service.main: by ann: disk"]);
    }

    #[test]
    fn a_host_that_is_disarmed_locally_comes_first_and_keeps_the_cluster_from_being_armed() {
        use crate::view::testing::Built;
        use crate::view::{arming, findings};
        let mut built = Built::healthy();
        built.facts(2, |facts| facts.local_disarm = Some(standing()));
        let found = findings::find(&built.view(), None);
        assert!(found[0].cause.starts_with("db2 is disarmed on its host by root since 1970"), "{found:?}");
        assert!(found[0].next.contains("holdfast disarm --local --undo"), "{found:?}");
        built.mode(Mode::Disarmed);
        let check = arming::check(&built.view());
        assert!(check.blockers.iter().any(|blocker| blocker.problem.contains("db2 is disarmed on its host")));
        let end = holdfast_types::record::LocalEnd { by: "root".into(), reason: "y".into(), at_wall_ms: 1 };
        built.facts(2, |facts| facts.local_disarm = Some(LocalDisarm { ended: Some(end), ..standing() }));
        assert_eq!(super::findings(&built.view()), []);
    }

    #[test]
    fn a_certificate_that_ends_soon_is_told_of() {
        use crate::view::findings;
        use crate::view::testing::{Built, NOW_WALL_MS};
        let mut built = Built::healthy();
        let in_days = |days: i64| Some(NOW_WALL_MS / 1_000 + days * 86_400 + 60);
        built.facts(3, |facts| facts.certificate_ends_unix_s = in_days(31));
        assert_eq!(findings::find(&built.view(), None), []);
        built.facts(3, |facts| facts.certificate_ends_unix_s = in_days(29));
        let found = findings::find(&built.view(), None);
        assert_eq!(found[0].cause, "the certificate of the agent of db3 ends in 29 days");
    }

    #[test]
    fn a_step_that_failed_is_named_with_its_next_command() {
        let mut report = LocalReport::new("disarm --local", "db1".into(), "root".into(), "x".into());
        report.add("record", Outcome::Done, "kept", "");
        assert!(report.is_complete());
        report.add("guard", Outcome::Failed, "does not answer", "systemctl stop holdfast-guard");
        assert!(!report.is_complete());
        assert!(
            report.text().contains("NOT DONE: guard: does not answer; next: systemctl stop"),
            "{}",
            report.text()
        );
    }
}
