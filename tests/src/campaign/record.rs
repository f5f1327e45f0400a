//! The records of a campaign: one JSON line for each call, appended, so that pieces of a long campaign add up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::bench::case::System;

/// Version of the lines.
pub const FORMAT: u32 = 1;

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// `git describe` of the sources, and of the agent that was run the begin of its SHA-256: what was built last may be
    /// older than the sources.
    pub build: String,
    /// When it began, RFC 3339.
    pub at: String,
    /// The system.
    pub system: System,
    /// The seed.
    pub seed: u64,
    /// The number of its first step.
    pub from: u32,
    /// Percent of steps with two faults.
    pub doubles_percent: u32,
    /// No fault was held for longer.
    pub hold_ms_max: u32,
    /// The names of what could break, if it was not everything.
    pub kinds: Option<Vec<String>>,
    /// The steps, in order.
    pub steps: Vec<StepRecord>,
    /// What the checker says of the whole recording in the end.
    pub total: Totals,
    /// Why it ended before its count and its time; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stop>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number: seed and number give it again.
    pub number: u32,
    /// The writer before.
    pub writer: String,
    /// The writer after; absent when there was none.
    pub final_writer: Option<String>,
    /// What broke.
    pub faults: Vec<FaultRecord>,
    /// The longest gap of each route from the first fault on, in milliseconds.
    pub gaps_ms: BTreeMap<String, u64>,
    /// From the last heal until the cluster was whole, in milliseconds; absent when it was not.
    pub whole_after_ms: Option<u64>,
    /// What the checker says of this step.
    pub totals: Totals,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// Name of the blow.
    pub blow: String,
    /// The words after `holdfast-lab fault LAB`.
    pub words: Vec<String>,
    /// How long after the first one it was due, in milliseconds.
    pub after_ms: u64,
    /// For how long it was to be held, in milliseconds.
    pub hold_ms: u64,
    /// Why it could not be injected: its process may have been dead already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_injected: Option<String>,
}

/// What the checker counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Plain acknowledgements.
    pub acknowledged: u64,
    /// Attempts that were refused.
    pub refused: u64,
    /// Attempts of unknown outcome.
    pub unknown: u64,
    /// Acknowledged rows that are not there.
    pub lost: u64,
    /// The same for rows that were acknowledged with the warning.
    pub lost_warned: u64,
    /// Rows that are there though they were refused.
    pub appeared_though_refused: u64,
    /// Time in which two hosts said that they accept writes, in milliseconds.
    pub two_writable_ms: u64,
    /// Time in which two hosts acknowledged, in milliseconds.
    pub two_acknowledging_ms: u64,
}

/// Why a campaign stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// In which step.
    pub number: u32,
    /// Why.
    pub why: String,
    /// Where the logs are.
    pub evidence: PathBuf,
    /// What plays the step again.
    pub replay: String,
}

impl Totals {
    /// Adds what another step, or call, counted.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.lost += other.lost;
        self.lost_warned += other.lost_warned;
        self.appeared_though_refused += other.appeared_though_refused;
        self.two_writable_ms += other.two_writable_ms;
        self.two_acknowledging_ms += other.two_acknowledging_ms;
    }

    /// Whether a promise was broken, and which.
    pub fn broken(&self) -> Option<String> {
        let mut broken = Vec::new();
        if self.lost > 0 {
            broken.push(format!("{} acknowledged rows are lost", self.lost));
        }
        if self.appeared_though_refused > 0 {
            broken.push(format!("{} rows are there though refused", self.appeared_though_refused));
        }
        if self.two_acknowledging_ms > 0 {
            broken.push(format!("two nodes acknowledged for {} ms", self.two_acknowledging_ms));
        }
        (!broken.is_empty()).then(|| broken.join("; "))
    }
}

impl Record {
    /// How many faults were injected.
    pub fn faults(&self) -> usize {
        self.steps.iter().map(StepRecord::injected).sum()
    }
}

impl StepRecord {
    /// How many of its faults were injected.
    pub fn injected(&self) -> usize {
        self.faults.iter().filter(|fault| fault.not_injected.is_none()).count()
    }

    /// The longest gap of any route.
    pub fn gap_ms(&self) -> u64 {
        self.gaps_ms.values().copied().max().unwrap_or(0)
    }
}

/// Reads all records of these files.
pub fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for file in files {
        let path = file.as_ref();
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{}, line {}", path.display(), at + 1);
            let record: Record = serde_json::from_str(line).with_context(place)?;
            if record.format != FORMAT {
                bail!("{}: not a record of format {FORMAT}", place());
            }
            records.push(record);
        }
    }
    Ok(records)
}
