//! `holdfast-lab simulate`: searches, replays, and the table of mutants.

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::Table;
use serde_json::{Value, json};

use super::mutant::Mutant;
use super::operation::table;
use super::run::{Plan, run, shorten};
use super::search::{Found, search, search_operations};

/// Histories are cut to the part before the violation: this many lines.
const LINES_SHOWN: usize = 400;

/// What `simulate` is told.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many faults to do
    #[arg(long, default_value_t = 10_000)]
    faults: u64,
    /// Run one seed, shorten it if it breaks something, and print its history
    #[arg(long, conflicts_with_all = ["seed", "faults"])]
    replay: Option<u64>,
    /// With --replay: the whole history, and all faults
    #[arg(long, requires = "replay")]
    whole: bool,
    /// Leave a rule out: its name, or "all" for a table of how many faults each takes to be found
    #[arg(long)]
    mutant: Option<String>,
    /// Play operations too, with coordinators and poolers
    #[arg(long)]
    operations: bool,
    /// A table: each stored phase of a switchover, each loss right after it, and how it ends
    #[arg(long, conflicts_with_all = ["faults", "replay", "mutant"])]
    table: bool,
    /// Threads; the default is one for each processor
    #[arg(long)]
    threads: Option<usize>,
    /// Go on until so many seeds have broken something
    #[arg(long, default_value_t = 1)]
    stop_at: usize,
}

/// Does it. The summary goes to standard output; a violation is an error.
pub fn simulate(arguments: &Arguments) -> Result<()> {
    let threads = arguments
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(std::num::NonZero::get))
        .unwrap_or(1);
    if arguments.table {
        return table(arguments.seed, threads);
    }
    if arguments.mutant.as_deref() == Some("all") {
        return mutants(arguments, threads);
    }
    let mutant =
        arguments.mutant.as_deref().map(str::parse::<Mutant>).transpose().map_err(anyhow::Error::msg)?;
    if let Some(seed) = arguments.replay {
        return replay(&plan_of(seed, mutant, arguments.operations), arguments.whole);
    }
    let began = std::time::Instant::now();
    let look = if with_operations(mutant, arguments.operations) { search_operations } else { search };
    let (tally, found) = look(arguments.seed, arguments.faults, mutant, threads, arguments.stop_at);
    let broken: Vec<Value> = found.iter().map(summary).collect();
    let report = json!({
        "first_seed": arguments.seed, "mutant": mutant.map(|mutant| mutant.to_string()), "did": tally,
        "violations": broken, "seconds": began.elapsed().as_secs_f64(),
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    if let Some(first) = found.first() {
        show(&shorten(&first.plan, first.violation.promise), false);
        bail!(
            "{}: {}; again with: holdfast-lab simulate --replay {}{}",
            first.violation.promise,
            first.violation.text,
            first.plan.seed,
            if first.plan.operations.is_some() { " --operations" } else { "" }
        );
    }
    Ok(())
}

fn with_operations(mutant: Option<Mutant>, asked: bool) -> bool {
    asked || mutant.is_some_and(Mutant::is_of_operations)
}

fn plan_of(seed: u64, mutant: Option<Mutant>, asked: bool) -> Plan {
    if with_operations(mutant, asked) { Plan::with_operations(seed, mutant) } else { Plan::of(seed, mutant) }
}

fn table(seed: u64, threads: usize) -> Result<()> {
    let cells = table::all(seed, threads);
    println!("{}", table::text(&cells));
    let broken: Vec<String> = cells.iter().filter_map(table::Cell::problem).collect();
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("\n")) }
}

fn summary(found: &Found) -> Value {
    json!({
        "seed": found.plan.seed,
        "promise": found.violation.promise.to_string(),
        "at_s": found.violation.at_us as f64 / 1e6,
        "text": found.violation.text,
    })
}

fn replay(plan: &Plan, whole: bool) -> Result<()> {
    let outcome = run(plan, false);
    let shortest = match &outcome.violation {
        Some(violation) if !whole => shorten(plan, violation.promise),
        _ => plan.clone(),
    };
    show(&shortest, whole);
    match outcome.violation {
        Some(violation) => bail!("{}: {}", violation.promise, violation.text),
        None => Ok(()),
    }
}

/// The setup, the faults and the history of a plan, on standard error.
fn show(plan: &Plan, whole: bool) {
    let setup = plan.setup();
    eprintln!(
        "seed {}: {} members, {} synchronous, loop_wait {} ms, session {} ms, clocks off by {:?} per mille",
        plan.seed,
        setup.members,
        setup.sync_wanted,
        setup.loop_wait_ms,
        setup.timings.session_ttl_ms(),
        setup.drift_per_mille
    );
    for fault in &plan.faults {
        eprintln!("  fault: {fault}");
    }
    if let Some(course) = &plan.operations {
        eprintln!("  {:?}", course.setup);
        course.requests.iter().for_each(|request| eprintln!("  request: {request:?}"));
        course.losses.iter().for_each(|planned| eprintln!("  loss: {planned}"));
    }
    let outcome = run(plan, true);
    let begin = if whole {
        0
    } else {
        outcome.lines.iter().position(|line| line.contains("the faults begin")).unwrap_or(0)
    };
    let lines = &outcome.lines[begin..];
    let broken = lines.iter().position(|line| line.contains("CHECKER"));
    let lines = broken.map_or(lines, |at| &lines[..=at]);
    let skipped = if whole { 0 } else { lines.len().saturating_sub(LINES_SHOWN) };
    if skipped > 0 {
        eprintln!("  ... {skipped} lines");
    }
    for line in &lines[skipped..] {
        eprintln!("{line}");
    }
}

fn mutants(arguments: &Arguments, threads: usize) -> Result<()> {
    let mut table = Table::new();
    table.set_header(["rule left out", "found after faults", "seed", "by"]);
    let mut missed = Vec::new();
    for mutant in Mutant::ALL.into_iter().chain(Mutant::OF_OPERATIONS) {
        let look = if mutant.is_of_operations() { search_operations } else { search };
        let (tally, found) = look(arguments.seed, arguments.faults, Some(mutant), threads, 1);
        let row = match found.first() {
            Some(one) => {
                let by = one.violation.promise.to_string();
                [mutant.to_string(), tally.faults.to_string(), one.plan.seed.to_string(), by]
            }
            None => {
                missed.push(mutant.to_string());
                [mutant.to_string(), format!("not in {}", tally.faults), String::new(), String::new()]
            }
        };
        // The whole table takes minutes: whoever waits sees how far it has come.
        eprintln!("{}", row.join("  "));
        table.add_row(row);
    }
    println!("{table}");
    if missed.is_empty() { Ok(()) } else { bail!("not found: {}", missed.join(", ")) }
}
