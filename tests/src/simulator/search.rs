//! Many runs: one seed after the other until enough faults were done or something is broken.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::checker::Violation;
use super::mutant::Mutant;
use super::run::{Outcome, Plan, run};

/// What was done, over all runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Faults.
    pub faults: u64,
    /// Events.
    pub events: u64,
    /// Commits that a standby acknowledged.
    pub commits: u64,
    /// Commits while nobody was waited for: not promised.
    pub commits_alone: u64,
    /// Commits with `synchronous_commit=local`.
    pub commits_local: u64,
    /// Those that an earlier writer acknowledged after OPEN, where nothing is promised.
    pub commits_local_late: u64,
    /// The longest time after OPEN at which one of those was.
    pub local_window_ms: u64,
    /// Terms opened after a CLOSE.
    pub failovers: u64,
    /// Operations, by how they ended.
    pub operations: BTreeMap<String, u64>,
    /// The longest time for which a pooler kept its clients for one.
    pub longest_pause_ms: u64,
    /// How often Patroni obeyed the order of an operation that had ended: nothing takes an order back yet.
    pub late_orders: u64,
    /// Simulated seconds.
    pub simulated_s: u64,
}

impl Tally {
    fn add(&mut self, plan: &Plan, outcome: &Outcome) {
        self.runs += 1;
        self.faults += plan.count() as u64;
        self.events += outcome.events;
        self.commits += outcome.commits.0;
        self.commits_alone += outcome.commits.1;
        self.commits_local += outcome.local_commits.0;
        self.commits_local_late += outcome.local_commits.1;
        self.local_window_ms = self.local_window_ms.max(outcome.local_window_us / 1_000);
        self.failovers += outcome.failovers;
        for ended in &outcome.operations {
            *self.operations.entry(ended.state.to_string()).or_default() += 1;
        }
        self.late_orders += outcome.late_orders;
        self.longest_pause_ms = self.longest_pause_ms.max(outcome.longest_pause_us / 1_000);
        self.simulated_s += outcome.simulated_us / 1_000_000;
    }
}

/// A seed that breaks something.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its plan.
    pub plan: Plan,
    /// What it breaks.
    pub violation: Violation,
}

/// Runs seeds from `seed` on until `faults` faults were done, or until `stop_at` violations were found. The seeds that
/// are run do not depend on the number of threads but at the end.
pub fn search(
    seed: u64,
    faults: u64,
    mutant: Option<Mutant>,
    threads: usize,
    stop_at: usize,
) -> (Tally, Vec<Found>) {
    search_plans(Plan::of, seed, faults, mutant, threads, stop_at)
}

/// The same in runs with operations.
pub fn search_operations(
    seed: u64,
    faults: u64,
    mutant: Option<Mutant>,
    threads: usize,
    stop_at: usize,
) -> (Tally, Vec<Found>) {
    search_plans(Plan::with_operations, seed, faults, mutant, threads, stop_at)
}

fn search_plans(
    plan_of: fn(u64, Option<Mutant>) -> Plan,
    seed: u64,
    faults: u64,
    mutant: Option<Mutant>,
    threads: usize,
    stop_at: usize,
) -> (Tally, Vec<Found>) {
    let (next, done) = (AtomicU64::new(seed), AtomicU64::new(0));
    let (enough, results) = (AtomicBool::new(false), Mutex::new((Tally::default(), Vec::new())));
    let work = || {
        while !enough.load(Ordering::Relaxed) {
            let plan = plan_of(next.fetch_add(1, Ordering::Relaxed), mutant);
            let begun = done.fetch_add(plan.count() as u64, Ordering::Relaxed);
            if begun >= faults {
                return;
            }
            let outcome = run(&plan, false);
            let mut results = results.lock().expect("nobody panics while counting");
            results.0.add(&plan, &outcome);
            if let Some(violation) = outcome.violation {
                results.1.push(Found { plan, violation });
                if results.1.len() >= stop_at {
                    enough.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    let (tally, mut found) = results.into_inner().expect("nobody panics while counting");
    found.sort_by_key(|one| one.plan.seed);
    (tally, found)
}
