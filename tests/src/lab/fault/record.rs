//! The record of each fault: one file, so that `heal` knows what is broken and a report knows since when.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{Direction, Kind, Place};
use crate::lab::files;
use crate::lab::plan::{HostPlan, Plan};

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its name in this lab.
    pub id: String,
    /// What broke.
    pub kind: Kind,
    /// Where; absent means everywhere in the regions.
    pub host: Option<String>,
    /// In which regions, where no host is named.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Which process.
    pub target: Option<String>,
    /// The other end of a cut link.
    pub peer: Option<String>,
    /// Only the packets that way.
    #[serde(default)]
    pub direction: Option<Direction>,
    /// Since when, by `CLOCK_MONOTONIC`; 0 until it is injected.
    pub at_monotonic_ns: u64,
    /// Until when; absent while it lasts.
    pub healed_at_monotonic_ns: Option<u64>,
    /// The processes that were meant.
    pub pids: Vec<i32>,
}

impl Fault {
    /// A fault that has not happened yet.
    pub fn new(kind: Kind, place: Place<'_>, target: Option<&str>, peer: Option<&HostPlan>) -> Self {
        let name = |host: &HostPlan| host.name().to_owned();
        let (host, regions) = match place {
            Place::Host(host) => (Some(host), [].as_slice()),
            Place::Regions(regions) => (None, regions),
        };
        Self {
            id: String::new(),
            kind,
            host: host.map(name),
            regions: regions.iter().map(|region| region.name.clone()).collect(),
            target: target.map(str::to_owned),
            peer: peer.map(name),
            direction: None,
            at_monotonic_ns: 0,
            healed_at_monotonic_ns: None,
            pids: Vec::new(),
        }
    }

    /// Notes that it begins now.
    pub fn begins(&mut self) {
        self.at_monotonic_ns = monotonic_ns();
    }

    /// Whether something is still broken because of it.
    pub fn lasts(&self) -> bool {
        self.healed_at_monotonic_ns.is_none() && !self.kind.is_an_instant()
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds; the same in all namespaces.
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Unix has CLOCK_MONOTONIC");
    time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs()
}

fn dir(plan: &Plan) -> PathBuf {
    plan.dir().join("faults")
}

fn file(plan: &Plan, fault: &Fault) -> PathBuf {
    dir(plan).join(format!("{}.json", fault.id))
}

/// Gives the fault the next free name.
pub fn claim(plan: &Plan, fault: &mut Fault) -> Result<()> {
    fs::create_dir_all(dir(plan)).with_context(|| dir(plan).display().to_string())?;
    let mut number = all(plan)?.len() + 1;
    loop {
        fault.id = format!("f{number}");
        let file = file(plan, fault);
        match fs::File::create_new(&file) {
            Ok(_) => return save(plan, fault),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        }
    }
}

/// Writes what is known of it.
pub fn save(plan: &Plan, fault: &Fault) -> Result<()> {
    files::write(&file(plan, fault), &serde_json::to_string_pretty(fault)?)
}

/// Removes one that did not happen.
pub fn forget(plan: &Plan, fault: &Fault) -> Result<()> {
    let file = file(plan, fault);
    fs::remove_file(&file).with_context(|| file.display().to_string())
}

/// Every fault of the lab, the oldest first.
pub fn all(plan: &Plan) -> Result<Vec<Fault>> {
    let entries = match fs::read_dir(dir(plan)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| dir(plan).display().to_string()),
    };
    let mut faults = Vec::new();
    for entry in entries.flatten() {
        let text = fs::read_to_string(entry.path()).with_context(|| entry.path().display().to_string())?;
        // A name that another command has claimed and not filled yet is no fault so far.
        if let Ok(fault) = serde_json::from_str::<Fault>(&text) {
            faults.push(fault);
        }
    }
    faults.sort_by_key(|fault: &Fault| fault.at_monotonic_ns);
    Ok(faults)
}
