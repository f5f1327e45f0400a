//! The seeded simulator: many faults break nothing, one seed is one history, and rules that are left out are found.
//! `tests/README.md` says how to go further and how to replay.

use holdfast_lab::simulator::mutant::Mutant;
use holdfast_lab::simulator::operation::table;
use holdfast_lab::simulator::{Plan, run, search, search_operations};

/// Faults of the run in `tests/all`; `holdfast-lab simulate --faults 100000` goes further.
const FAULTS: u64 = 10_000;
/// A mutant that is not found within so many faults is not found.
const FAULTS_FOR_A_MUTANT: u64 = 3_000;

/// What needs a rarer thing than that many faults bring; `simulate --mutant all --faults 20000` looks for them too.
const NEEDS_MORE: [Mutant; 6] = [
    Mutant::CloseByPresentSync,
    Mutant::CloseOnWatchedView,
    Mutant::CloseWithoutSync,
    Mutant::RestartWithoutWaiting,
    Mutant::TimelineNotHeld,
    Mutant::WithdrawWithoutTransaction,
];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn many_faults_break_nothing() {
    let (tally, found) = search(1, FAULTS, None, threads(), 1);
    println!("{tally:?}");
    if let Some(first) = found.first() {
        panic!(
            "{}: {}; see: holdfast-lab simulate --replay {}",
            first.violation.promise, first.violation.text, first.plan.seed
        );
    }
    assert!(tally.faults >= FAULTS && tally.failovers > FAULTS / 20, "{tally:?}: too little happened");
}

#[test]
fn one_seed_is_one_history() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 1..=20 {
        let plan = Plan::of(seed, None);
        let (first, second) = (run(&plan, false), run(&plan, true));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        assert_eq!(second.lines.len() as u64, second.events);
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 20, "two seeds with one history");
}

#[test]
fn rules_that_are_left_out_are_found() {
    for mutant in Mutant::ALL.into_iter().filter(|mutant| !NEEDS_MORE.contains(mutant)) {
        let (tally, found) = search(1, FAULTS_FOR_A_MUTANT, Some(mutant), threads(), 1);
        let first = found.first().unwrap_or_else(|| panic!("{mutant} is not found: {tally:?}"));
        println!("{mutant}: seed {}, {}", first.plan.seed, first.violation.promise);
    }
}

/// Faults of the run with operations in `tests/all`; `holdfast-lab simulate --operations --faults 20000` goes further.
const OPERATION_FAULTS: u64 = 200;

#[test]
fn each_loss_after_each_stored_phase_ends_in_a_stated_state() {
    let cells = table::all(2, threads());
    println!("{}", table::text(&cells));
    let broken: Vec<String> = cells.iter().filter_map(table::Cell::problem).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn operations_among_faults_end_in_a_stated_state() {
    let (tally, found) = search_operations(1, OPERATION_FAULTS, None, threads(), 1);
    println!("{tally:?}");
    if let Some(first) = found.first() {
        panic!(
            "{}: {}; see: holdfast-lab simulate --operations --replay {}",
            first.violation.promise, first.violation.text, first.plan.seed
        );
    }
    assert!(tally.operations.get("done").is_some_and(|done| *done > 0), "{tally:?}: nothing was done");
}

#[test]
fn rules_of_operations_that_are_left_out_are_found() {
    for mutant in Mutant::OF_OPERATIONS {
        let (tally, found) = search_operations(1, FAULTS_FOR_A_MUTANT, Some(mutant), threads(), 1);
        let first = found.first().unwrap_or_else(|| panic!("{mutant} is not found: {tally:?}"));
        println!(
            "{mutant}: after {} faults, seed {}, {}",
            tally.faults, first.plan.seed, first.violation.promise
        );
    }
}
