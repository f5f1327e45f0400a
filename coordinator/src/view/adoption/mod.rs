//! The way in and the way out, as steps that a person takes: each with its place, its exact text, and whether it is done
//! already. Decides what is needed and in which order, from what etcd and the agents say; changes nothing, and nobody runs the
//! steps but people. What stands in the way of arming is [`super::arming`]'s list, here as there. Called by `cli/adopt`.

mod adopt;
mod check;
mod etcd;
mod files;
mod remove;

use holdfast_types::record::MemberFacts;
use holdfast_types::{HostName, MemberName};
use serde::{Serialize, Serializer};

use super::arming::Blocker;
use super::cluster::ClusterView;
use super::status::FORMAT;

pub use adopt::plan as adopt;
pub use check::CheckReport;
pub use remove::plan as remove;

/// The role that the agent logs in as.
const ROLE: &str = "holdfast";
/// What Patroni starts in the place of `postgres`.
const GATE: &str = "/usr/lib/holdfast/postgres";
/// Where the packages put the agent.
const AGENT: &str = "/usr/bin/holdfast-agent";

/// Whether a step has been taken, by what can be seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It is so.
    Yes,
    /// It is not.
    No,
    /// Nobody here can see it.
    Unknown,
}

impl From<bool> for Done {
    fn from(done: bool) -> Self {
        if done { Self::Yes } else { Self::No }
    }
}

impl Serialize for Done {
    /// `true`, `false` or `"unknown"`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Yes => serializer.serialize_bool(true),
            Self::No => serializer.serialize_bool(false),
            Self::Unknown => serializer.serialize_str("unknown"),
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its place in the order, from 1.
    pub number: usize,
    /// Where it is taken.
    #[serde(rename = "where")]
    pub place: String,
    /// What it does and why, one sentence.
    pub what: String,
    /// The commands or the lines of a file, to be copied.
    pub text: String,
    /// Whether it has been taken.
    pub done: Done,
}

/// A way in or out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanReport {
    /// The version of the JSON.
    pub format: u64,
    /// `adopt` or `remove`.
    pub plan: &'static str,
    /// `region/namespace/scope`.
    pub cluster: String,
    /// Why `arm` would be refused whatever is done here.
    pub refused: Vec<Blocker>,
    /// What to know before.
    pub notes: Vec<String>,
    /// The steps, in their order.
    pub steps: Vec<Step>,
}

impl PlanReport {
    fn new(plan: &'static str, view: &ClusterView) -> Self {
        let cluster = view.cluster.to_string();
        Self { format: FORMAT, plan, cluster, refused: Vec::new(), notes: Vec::new(), steps: Vec::new() }
    }

    fn step(
        &mut self,
        place: impl Into<String>,
        what: impl Into<String>,
        text: impl Into<String>,
        done: impl Into<Done>,
    ) {
        let number = self.steps.len() + 1;
        let (place, what, text, done) = (place.into(), what.into(), text.into(), done.into());
        self.steps.push(Step { number, place, what, text, done });
    }

    fn count(&self, done: Done) -> usize {
        self.steps.iter().filter(|step| step.done == done).count()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut lines = vec![format!(
            "{} {}: {} steps, {} there already, {} to do, {} that cannot be seen from here. Nothing is changed by this command.",
            self.plan,
            self.cluster,
            self.steps.len(),
            self.count(Done::Yes),
            self.count(Done::No),
            self.count(Done::Unknown)
        )];
        for blocker in &self.refused {
            lines.push(format!("arm is refused: {}\n    {}", blocker.problem, blocker.fix));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        for step in &self.steps {
            let done = match step.done {
                Done::Yes => " (there already)",
                Done::No => "",
                Done::Unknown => " (look there)",
            };
            lines.push(format!("\n{}. {}: {}{done}", step.number, step.place, step.what));
            lines.extend(step.text.lines().map(|line| format!("    {line}").trim_end().to_owned()));
        }
        lines.join("\n") + "\n"
    }
}

/// A command of Patroni's, ready for a host's own file.
fn patronictl(file: &str, rest: &str) -> String {
    format!("patronictl -c {file} {rest}")
}

/// Patroni's file on the host of a member, by what its agent has told; else that of another host.
fn file_of(view: &ClusterView, member: &MemberName) -> String {
    view.facts.get(member).and_then(told_file).unwrap_or_else(|| any_file(view))
}

/// Patroni's file of a host that has told it; else the usual place.
fn any_file(view: &ClusterView) -> String {
    view.facts.values().find_map(told_file).unwrap_or_else(|| "/etc/patroni/config.yml".into())
}

fn told_file(facts: &MemberFacts) -> Option<String> {
    Some(facts.setup.as_ref()?.file.as_ref()?.path.clone())
}

/// The host of a member: told by its agent, or of the member's name, as it mostly is.
fn host_of(view: &ClusterView, member: &MemberName) -> Option<HostName> {
    let told = view.facts.get(member).map(|facts| facts.host.clone());
    told.or_else(|| HostName::new(member.as_str()).ok())
}

/// Whether everybody who is a member has it, by what their agents tell.
fn all_members(view: &ClusterView, has: impl Fn(&MemberName) -> Option<bool>) -> Done {
    let members = view.patroni.members.keys();
    let said: Vec<Option<bool>> = members.map(has).collect();
    if said.is_empty() || said.contains(&None) {
        return if said.contains(&Some(false)) { Done::No } else { Done::Unknown };
    }
    Done::from(!said.contains(&Some(false)))
}
