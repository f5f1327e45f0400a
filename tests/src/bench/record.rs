//! One record per run, appended to a file as a JSON line, so that a long table can be gathered over hours.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::case::{Case, Mode, System};
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

/// Reads all run records of a file. Lines of other measurements (`armed-cost`, `idle`) are passed over.
pub fn read(path: &Path) -> anyhow::Result<Vec<RunRecord>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut records = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, line {}", path.display(), at + 1);
        let value: serde_json::Value = serde_json::from_str(line).with_context(place)?;
        if value.get("format").and_then(serde_json::Value::as_u64) != Some(u64::from(FORMAT)) {
            bail!("{}: not a record of format {FORMAT}", place());
        }
        if value.get("verdict").is_some() {
            records.push(serde_json::from_value(value).with_context(place)?);
        }
    }
    Ok(records)
}
