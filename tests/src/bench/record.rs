//! The records of a bench, appended to a file as JSON lines, so that a long table can be gathered over hours and over
//! several files.
//!
//! It decides what a line is; it judges nothing. A line of a kind or a format that is not known is an error: a table over
//! a part of a file would be worth nothing.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::armed::Pair;
use super::case::{Case, Mode, System};
use super::idle::Footprint;
use super::stalls::Stall;
use super::writes::RaftWrites;
use crate::checker::verdict::Verdict;

/// Version of the records.
pub const FORMAT: u32 = 1;

/// One run of one case against one system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// When, RFC 3339.
    pub at: String,
    /// The seed of the whole call.
    pub seed: u64,
    /// Number of the run in the call.
    pub number: u32,
    /// The case.
    pub case: Case,
    /// The system.
    pub system: System,
    /// The mode.
    pub mode: Mode,
    /// Random wait between "everything is steady" and the fault.
    pub phase_ms: u64,
    /// Host of the primary that got the fault.
    pub primary: String,
    /// Host of the final writer.
    pub final_writer: String,
    /// How long `holdfast-lab fault` took.
    pub injection_ms: u64,
    /// For how long the fault was held; absent when nothing had to be healed.
    pub held_ms: Option<u64>,
    /// Whether every route acknowledged again while the fault was held.
    pub routes_returned: bool,
    /// Microseconds from the heal (or the fault, if nothing was healed) to full redundancy.
    pub full_redundancy_after_heal_us: Option<u64>,
    /// Set when redundancy was not back within so many seconds after the heal: the bench stopped waiting then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy_missed_s: Option<u64>,
    /// Microseconds from the last heal of the script (etcd's return, say) to an acknowledgement on every route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_after_mending_us: Option<u64>,
    /// Which stall it was, of the case `stalls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<Stall>,
    /// What the checker says.
    pub verdict: Verdict,
}

/// Appends one record.
pub fn append(path: &Path, record: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(record)?;
    line.push('\n');
    let what = || format!("cannot append to {}", path.display());
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(what)?;
    file.write_all(line.as_bytes()).with_context(what)
}

/// A run that gave no record: it counts, or a system that never comes back would leave no trace in the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unmeasured {
    /// [`FORMAT`].
    pub format: u32,
    /// The case.
    pub case: Case,
    /// The system.
    pub system: System,
    /// The mode.
    pub mode: Mode,
    /// Seed of the call.
    pub seed: u64,
    /// Number of the run in the call.
    pub number: u32,
    /// Why.
    pub not_measured: String,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    /// Runs of the cases with a fault.
    pub runs: Vec<RunRecord>,
    /// Runs of them that could not be measured.
    pub unmeasured: Vec<Unmeasured>,
    /// Pairs of `armed-cost`.
    pub pairs: Vec<Pair>,
    /// Processes of `idle`.
    pub footprints: Vec<Footprint>,
    /// Writes to etcd of `idle`.
    pub writes: Vec<RaftWrites>,
}

impl RunRecord {
    /// Whether somebody else was the writer for a moment, or is it now.
    pub fn role_changed(&self) -> bool {
        self.primary != self.final_writer
            || self.verdict.writable_hosts.iter().any(|host| *host != self.primary)
    }

    /// The longest gap that a client of any route but the sockets saw, in microseconds.
    pub fn longest_gap_us(&self) -> u64 {
        self.verdict.routes.iter().filter_map(|route| route.gap).map(|gap| gap.gap_us).max().unwrap_or(0)
    }

    /// Whether all promises of the class were kept: nothing acknowledged lost, nothing out of nothing, never two that
    /// acknowledge. An asynchronous cluster may lose what the lost writer alone had; with a writer that was only hung
    /// nothing was lost with it.
    pub fn is_clean(&self) -> bool {
        if self.mode == Mode::Quorum || self.case == Case::PatroniHung {
            return self.verdict.is_clean();
        }
        self.verdict.appeared_though_refused.count == 0 && self.verdict.two_acknowledging.certain_us == 0
    }
}

impl Records {
    /// Reads all records of these files.
    pub fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Self> {
        let mut records = Self::default();
        for file in files {
            let path = file.as_ref();
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                records.add(line).with_context(|| format!("{}, line {}", path.display(), at + 1))?;
            }
        }
        Ok(records)
    }

    /// One line; its kind is known by the field that only that kind has.
    fn add(&mut self, line: &str) -> anyhow::Result<()> {
        let value: serde_json::Value = serde_json::from_str(line)?;
        if value.get("format").and_then(serde_json::Value::as_u64) != Some(u64::from(FORMAT)) {
            bail!("not a record of format {FORMAT}");
        }
        let has = |field: &str| value.get(field).is_some();
        if has("verdict") {
            self.runs.push(serde_json::from_value(value)?);
        } else if has("not_measured") {
            self.unmeasured.push(serde_json::from_value(value)?);
        } else if has("armed_first") {
            self.pairs.push(serde_json::from_value(value)?);
        } else if has("pss_mb") {
            self.footprints.push(serde_json::from_value(value)?);
        } else if has("raft_entries") {
            self.writes.push(serde_json::from_value(value)?);
        } else {
            bail!("not a record of a bench");
        }
        Ok(())
    }

    /// The runs of systems with agents that did not keep what they promise, or whose redundancy did not come back in
    /// time, each with its reason.
    pub fn unclean(&self) -> Vec<String> {
        let agents = self.runs.iter().filter(|run| run.system.has_agents());
        let reasons = agents.filter_map(|run| {
            let name = format!("run {} (seed {}) of {}", run.number, run.seed, run.system.name());
            match run.redundancy_missed_s {
                _ if !run.is_clean() => Some(format!("{name} was NOT CLEAN")),
                Some(seconds) => Some(format!("{name}: redundancy was not back {seconds} s after the heal")),
                None => None,
            }
        });
        reasons.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    #[test]
    fn records_of_every_kind_come_back_from_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let written = run(Case::HostDeath, System::Patroni, 5);
        append(&one, &written).unwrap();
        let unmeasured = Unmeasured {
            format: FORMAT,
            case: Case::LinkCut,
            system: System::HoldfastFast,
            mode: Mode::Off,
            seed: 1,
            number: 2,
            not_measured: "the clients failed".into(),
        };
        append(&other, &unmeasured).unwrap();
        append(&other, &super::super::testing::pair(99.0, 100.0)).unwrap();
        append(&other, &super::super::testing::footprint("agent", 7.0, 0.05)).unwrap();
        append(&other, &super::super::testing::writes(1, 0)).unwrap();
        let records = Records::read(&[one, other]).unwrap();
        assert_eq!((records.runs, records.unmeasured), (vec![written], vec![unmeasured]));
        assert_eq!((records.pairs.len(), records.footprints.len(), records.writes.len()), (1, 1, 1));
    }

    #[test]
    fn a_line_that_is_not_known_is_an_error_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records");
        for line in
            ["{\"format\":2}", "{\"format\":1,\"case\":\"idle\"}", "{", "{\"format\":1,\"verdict\":{}}"]
        {
            std::fs::write(&file, format!("\n{line}\n")).unwrap();
            let error = format!("{:#}", Records::read(&[&file]).unwrap_err());
            assert!(error.contains("records, line 2"), "{error}");
        }
        assert!(Records::read(&[folder.path().join("absent")]).is_err());
    }

    #[test]
    fn records_of_earlier_builds_are_read() {
        let mut value = serde_json::to_value(run(Case::HostDeath, System::Patroni, 5)).unwrap();
        value["verdict"].as_object_mut().unwrap().remove("writable_hosts");
        for route in value["verdict"]["routes"].as_array_mut().unwrap() {
            route.as_object_mut().unwrap().remove("errors_of_one_client_max");
        }
        let mut records = Records::default();
        records.add(&value.to_string()).unwrap();
        assert_eq!(records.runs[0].redundancy_missed_s, None);
        assert_eq!(records.runs[0].verdict.routes[0].errors_of_one_client_max, None);
    }

    #[test]
    fn only_systems_with_agents_and_their_promises_make_a_call_unclean() {
        let mut lost = run(Case::HostDeath, System::Patroni, 5);
        lost.verdict.lost.count = 1;
        assert!(!lost.is_clean());
        let mut records = Records { runs: vec![lost.clone()], ..Records::default() };
        assert!(records.unclean().is_empty(), "Patroni promises less");
        lost.system = System::HoldfastFast;
        records.runs.push(lost.clone());
        assert_eq!(records.unclean(), ["run 1 (seed 1) of holdfast-fast was NOT CLEAN"]);
        // What an asynchronous writer had alone dies with its host, but not with a hung Patroni.
        lost.mode = Mode::Off;
        assert!(lost.is_clean());
        lost.case = Case::PatroniHung;
        assert!(!lost.is_clean());
        let mut late = run(Case::HostDeath, System::HoldfastFast, 5);
        late.redundancy_missed_s = Some(180);
        let late = Records { runs: vec![late], ..Records::default() };
        assert!(late.unclean()[0].contains("redundancy was not back 180 s after the heal"));
    }
}
