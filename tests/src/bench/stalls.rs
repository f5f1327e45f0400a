//! Stalls: for how long a host, a link, etcd or a disk may stand still before somebody takes the writer's place.
//!
//! It makes the runs of the case `stalls` (each an ordinary run with a fixed hold) and the table of them: what a stall of a
//! length costs the clients, and how often it moved the writer. It judges nothing: `judge` does.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::case::System;
use super::record::RunRecord;
use super::script::{Hold, Place, Script, Step, What, When};
use super::statistics::{median, sorted};

/// The lengths, in milliseconds.
pub const LENGTHS_MS: [u64; 7] = [200, 500, 1_000, 2_000, 3_000, 5_000, 10_000];
/// So many members of etcd stand still at once: all of the lab's.
const ETCD_MEMBERS: usize = 3;

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thing {
    /// Every process of the primary's host.
    Host,
    /// The primary's link.
    Network,
    /// Every member of etcd.
    Etcd,
    /// The file system of the primary's data directory.
    Fsync,
}

/// One stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stall {
    /// What.
    pub of: Thing,
    /// For how long, in milliseconds.
    pub length_ms: u64,
}

impl Stall {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let things = [Thing::Host, Thing::Network, Thing::Etcd, Thing::Fsync];
        things.into_iter().flat_map(|of| LENGTHS_MS.map(|length_ms| Self { of, length_ms })).collect()
    }

    /// What is done.
    pub fn script(self) -> Script {
        let hold = Hold::Fixed(Duration::from_millis(self.length_ms));
        let single = |kind| Script::single(Place::Primary, kind, None, true, hold);
        match self.of {
            Thing::Host => single("freeze"),
            Thing::Network => single("link-cut"),
            Thing::Fsync => single("disk-hang"),
            Thing::Etcd => {
                let stop = |number| Step {
                    when: When::After(Duration::ZERO),
                    what: What::Break {
                        place: Place::Etcd(number),
                        kind: "stop",
                        target: Some("etcd"),
                        lasts: true,
                    },
                };
                Script { steps: (0..ETCD_MEMBERS).map(stop).collect(), hold }
            }
        }
    }
}

/// The table, a row for each thing and length, two columns for each system: changes of role, and the longest gap.
pub fn render(runs: &[&RunRecord]) -> String {
    let mut groups: BTreeMap<Stall, BTreeMap<System, Vec<&RunRecord>>> = BTreeMap::new();
    for run in runs {
        if let Some(stall) = run.stall {
            groups.entry(stall).or_default().entry(run.system).or_default().push(run);
        }
    }
    let mut systems: Vec<System> = runs.iter().map(|run| run.system).collect();
    systems.sort_unstable();
    systems.dedup();
    let mut header = vec!["stall of".to_owned(), "s".to_owned()];
    header.extend(
        systems.iter().map(|system| format!("{}\nrole changes / gap s median (max) / lost", system.name())),
    );
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for (stall, by_system) in &groups {
        let of = stall.of.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let mut row = vec![of, format!("{:.1}", super::summary::seconds(stall.length_ms * 1000))];
        row.extend(
            systems.iter().map(|system| by_system.get(system).map_or_else(String::new, |runs| cell(runs))),
        );
        table.add_row(row);
    }
    format!("stalls\n{table}\n")
}

fn cell(runs: &[&RunRecord]) -> String {
    let moved = runs.iter().filter(|run| run.role_changed()).count();
    let gaps = sorted(runs.iter().map(|run| super::summary::seconds(run.longest_gap_us())).collect());
    let lost: u64 = runs.iter().map(|run| run.verdict.lost.count).sum();
    let both = median(&gaps).zip(gaps.last()).map(|(median, most)| format!("{median:.2} ({most:.2})"));
    format!("{moved} of {} / {} / {lost}", runs.len(), both.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::case::Case;
    use super::super::testing::run;
    use super::*;

    #[test]
    fn every_length_of_every_thing_has_a_row() {
        let all = Stall::all();
        assert_eq!(all.len(), 28);
        assert!(all.iter().all(|stall| stall.script().heals()));
        let of = |system, stall| RunRecord { stall: Some(stall), ..run(Case::Stalls, system, 2_500) };
        let runs: Vec<RunRecord> = all
            .iter()
            .flat_map(|stall| [System::HoldfastFast, System::HoldfastNormal].map(|system| of(system, *stall)))
            .collect();
        let text = render(&runs.iter().collect::<Vec<_>>());
        let row = text.lines().find(|line| line.contains("fsync") && line.contains(" 10.0 ")).unwrap();
        assert_eq!(row.matches("1 of 1 / 2.50 (2.50) / 0").count(), 2, "{row}");
    }
}
