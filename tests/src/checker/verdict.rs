//! The verdict over one run: a pure function over the recording and the rows of the final leader.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::gap::{self, Gap};
use super::record::{Attempt, NodeState, Outcome, Recording, RouteKind};
use super::rows::RowSet;
use super::writers::{self, Overlap};
use super::{record, redundancy};

/// Version of the JSON form.
pub const FORMAT: u32 = 1;

/// As many rows as this are named in the verdict; all are counted.
const EXAMPLES_MAX: usize = 10;

/// The key of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowKey {
    /// The client.
    pub client: u32,
    /// Its number.
    pub seq: u64,
    /// When the attempt ended.
    pub end_us: u64,
}

/// Rows of one kind: how many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<RowKey>,
}

/// Attempts by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Plain acknowledgements.
    pub acknowledged: u64,
    /// Acknowledgements with the warning.
    pub warned: u64,
    /// Refused.
    pub refused: u64,
    /// Unknown.
    pub unknown: u64,
    /// Those of the unknown whose row is there.
    pub unknown_present: u64,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteVerdict {
    /// Its name.
    pub route: String,
    /// Its kind.
    pub kind: RouteKind,
    /// Its attempts.
    pub counts: Counts,
    /// The longest gap; not for sockets, which are idle while their host is no writer.
    pub gap: Option<Gap>,
    /// Refused and unknown attempts by SQLSTATE (or `connect`, `closed`, `deadline`).
    pub errors: BTreeMap<String, u64>,
    /// The most refused and unknown attempts of any one of its clients. A client has one statement in flight at a time,
    /// so more than one of them failed that was begun after the fault. Absent in records of earlier builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_of_one_client_max: Option<u64>,
}

/// Everything that can be said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// [`FORMAT`].
    pub format: u32,
    /// The run.
    pub run: String,
    /// All attempts.
    pub counts: Counts,
    /// Rows of plain acknowledgements that the final leader does not have.
    pub lost: Rows,
    /// The same for acknowledgements with the warning.
    pub lost_warned: Rows,
    /// Rows that are there though the client was told that they are not.
    pub appeared_though_refused: Rows,
    /// Time for which two nodes said that they accept writes.
    pub two_writable: Overlap,
    /// Time for which two nodes acknowledged plainly over their sockets.
    pub two_acknowledging: Overlap,
    /// Hosts that said that they accept writes, at any time; empty in records of earlier builds.
    #[serde(default)]
    pub writable_hosts: BTreeSet<String>,
    /// By route.
    pub routes: Vec<RouteVerdict>,
    /// Microseconds from the fault until redundancy was back for good; absent when it was not, or without a fault.
    pub full_redundancy_after_us: Option<u64>,
}

impl Verdict {
    /// No acknowledged row lost, none out of nothing, never two nodes that acknowledged.
    pub fn is_clean(&self) -> bool {
        self.lost.count == 0
            && self.appeared_though_refused.count == 0
            && self.two_acknowledging.certain_us == 0
    }
}

/// Judges one run. `fault_us` is the moment just before the fault was injected.
pub fn judge(recording: &Recording, rows: &RowSet, fault_us: Option<u64>) -> Verdict {
    let mut counts = Counts::default();
    let (mut lost, mut lost_warned, mut appeared) = (Rows::default(), Rows::default(), Rows::default());
    for attempt in &recording.attempts {
        let present = rows.contains(&(attempt.client, attempt.seq));
        counts.add(attempt, present);
        match (&attempt.outcome, present) {
            (Outcome::Acknowledged, false) => lost.add(attempt),
            (Outcome::Warned, false) => lost_warned.add(attempt),
            (Outcome::Refused { .. }, true) => appeared.add(attempt),
            _ => {}
        }
    }
    Verdict {
        format: FORMAT,
        run: recording.run.clone(),
        counts,
        lost,
        lost_warned,
        appeared_though_refused: appeared,
        two_writable: writers::two_writable(&recording.probes),
        two_acknowledging: writers::two_acknowledging(&over_sockets(recording), &recording.probes),
        writable_hosts: writable_hosts(recording),
        routes: by_route(recording, rows, fault_us),
        full_redundancy_after_us: fault_us.and_then(|at| redundancy::back_after_us(&recording.probes, at)),
    }
}

impl Counts {
    fn add(&mut self, attempt: &Attempt, present: bool) {
        match attempt.outcome {
            Outcome::Acknowledged => self.acknowledged += 1,
            Outcome::Warned => self.warned += 1,
            Outcome::Refused { .. } => self.refused += 1,
            Outcome::Unknown { .. } => {
                self.unknown += 1;
                self.unknown_present += u64::from(present);
            }
        }
    }
}

impl Rows {
    fn add(&mut self, attempt: &Attempt) {
        self.count += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(RowKey { client: attempt.client, seq: attempt.seq, end_us: attempt.end_us });
        }
    }
}

fn over_sockets(recording: &Recording) -> Vec<(&str, &Attempt)> {
    let clients = recording.clients_by_number();
    let host_of = |attempt: &Attempt| {
        let client = clients.get(&attempt.client)?;
        (client.kind == RouteKind::Socket).then_some(client.host.as_deref()).flatten()
    };
    recording.attempts.iter().filter_map(|attempt| Some((host_of(attempt)?, attempt))).collect()
}

fn writable_hosts(recording: &Recording) -> BTreeSet<String> {
    let writable = recording.probes.iter().filter(|probe| probe.state == NodeState::Writable);
    writable.map(|probe| probe.host.clone()).collect()
}

fn by_route(recording: &Recording, rows: &RowSet, fault_us: Option<u64>) -> Vec<RouteVerdict> {
    let clients = recording.clients_by_number();
    let mut attempts: BTreeMap<(RouteKind, &str), Vec<&Attempt>> = BTreeMap::new();
    for client in &recording.clients {
        attempts.entry((client.kind, &client.route)).or_default();
    }
    for attempt in &recording.attempts {
        if let Some(client) = clients.get(&attempt.client) {
            attempts.entry((client.kind, &client.route)).or_default().push(attempt);
        }
    }
    attempts
        .into_iter()
        .map(|((kind, route), attempts)| {
            let mut counts = Counts::default();
            let mut errors = BTreeMap::new();
            let mut by_client: BTreeMap<u32, u64> = BTreeMap::new();
            let mut acknowledged_us = Vec::new();
            for attempt in attempts {
                counts.add(attempt, rows.contains(&(attempt.client, attempt.seq)));
                match &attempt.outcome {
                    record::Outcome::Acknowledged => acknowledged_us.push(attempt.end_us),
                    Outcome::Refused { reason } | Outcome::Unknown { reason } => {
                        *errors.entry(reason.clone()).or_default() += 1;
                        *by_client.entry(attempt.client).or_default() += 1;
                    }
                    Outcome::Warned => {}
                }
            }
            let end_us = recording.told_us.unwrap_or(recording.end_us);
            let gap = (kind != RouteKind::Socket)
                .then(|| gap::longest(&acknowledged_us, fault_us, recording.begin_us, end_us));
            let errors_of_one_client_max = Some(by_client.into_values().max().unwrap_or(0));
            RouteVerdict { route: route.to_owned(), kind, counts, gap, errors, errors_of_one_client_max }
        })
        .collect()
}

#[cfg(test)]
mod tests;
