//! What is missing until `arm` would be carried out.

use serde::Serialize;

use crate::view::arming::{self, Blocker};
use crate::view::cluster::ClusterView;
use crate::view::status::FORMAT;

/// What is missing, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The version of the JSON.
    pub format: u64,
    /// `region/namespace/scope`.
    pub cluster: String,
    /// What `arm` would be refused for; empty: nothing is missing.
    pub missing: Vec<Blocker>,
    /// What is not covered or not known.
    pub notes: Vec<String>,
}

impl CheckReport {
    /// Looks.
    pub fn new(view: &ClusterView) -> Self {
        let check = arming::check(view);
        let cluster = view.cluster.to_string();
        Self { format: FORMAT, cluster, missing: check.blockers, notes: check.warnings }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut lines = match self.missing.len() {
            0 => vec![format!("{}: nothing is missing, it may be armed", self.cluster)],
            count => vec![format!("{}: {count} missing; arm is refused until then", self.cluster)],
        };
        for (number, blocker) in (1_usize..).zip(&self.missing) {
            lines.push(format!("{number}. {}\n   {}", blocker.problem, blocker.fix));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;

    #[test]
    fn it_is_the_list_of_arm() {
        let mut built = Built::unarmed();
        assert_eq!(CheckReport::new(&built.view()).missing, []);
        assert!(CheckReport::new(&built.view()).text().contains("nothing is missing"));
        built.remove_session(3);
        let report = CheckReport::new(&built.view());
        assert_eq!(report.missing, arming::check(&built.view()).blockers);
        assert!(
            report.text().contains("1. the agent of db3 has no live session\n   start"),
            "{}",
            report.text()
        );
    }
}
