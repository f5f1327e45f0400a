//! `holdfast-lab model`: the check as a command.

use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::check::{self, Caught, Right};
use super::mutant::Mutant;
use super::search::Limits;
use crate::lab::failure::{Exit, Failure};

/// What is asked of the model.
#[derive(Debug, Args)]
pub struct Options {
    /// States that one search generates at most
    #[arg(long, default_value_t = 1_500_000)]
    pub states: usize,
    /// Steps from the beginning at most
    #[arg(long, default_value_t = 200)]
    pub depth: usize,
    /// How long one search may take
    #[arg(long, default_value_t = 300)]
    pub seconds: u64,
    /// One mutant by its name, all, or none
    #[arg(long, default_value = "all")]
    pub mutant: String,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // The names are the meaning.
pub enum Output {
    Table,
    Json,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The searches of the right protocol; empty when one mutant was asked for.
    pub right: Vec<Right>,
    /// The mutants.
    pub mutants: Vec<Caught>,
}

impl Report {
    /// The right protocol holds, and every mutant was caught.
    pub fn holds(&self) -> bool {
        self.right.iter().all(|row| row.wrong.is_none()) && self.mutants.iter().all(|row| row.caught)
    }
}

/// Runs the check and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let report = check(options)?;
    match options.output {
        Output::Table => print_tables(&report),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if report.holds() {
        return Ok(());
    }
    let missed = report.mutants.iter().filter(|row| !row.caught).map(|row| row.mutant.name());
    let wrong = report.right.iter().filter(|row| row.wrong.is_some()).map(|row| row.what.to_owned());
    let which: Vec<String> = wrong.chain(missed).collect();
    Err(Failure::with(Exit::Failed, format!("not as it must be: {}", which.join("; "))))
}

/// Runs the check; each search is told of on standard error when it ends.
pub fn check(options: &Options) -> anyhow::Result<Report> {
    let limits =
        Limits { states: options.states, depth: options.depth, time: Duration::from_secs(options.seconds) };
    let (with_right, mutants): (bool, Vec<Mutant>) = match options.mutant.as_str() {
        "all" => (true, Mutant::value_variants().to_vec()),
        "none" => (true, Vec::new()),
        name => {
            let known = Mutant::from_str(name, true).map_err(|_| Failure::usage(unknown(name)))?;
            (false, vec![known])
        }
    };
    let tell = |row: &Right| eprintln!("{}: {} states, {} ms", row.what, row.states, row.milliseconds);
    let right = if with_right { check::right(limits, tell) } else { Vec::new() };
    let hunted = mutants.into_iter().map(|mutant| {
        let row = check::hunt(mutant, limits);
        eprintln!("{}: {}{}", mutant.name(), row.how, if row.caught { "" } else { ": NOT CAUGHT" });
        row
    });
    Ok(Report { right, mutants: hunted.collect() })
}

fn unknown(name: &str) -> String {
    let known: Vec<String> = Mutant::value_variants().iter().map(|mutant| mutant.name()).collect();
    format!("there is no mutant {name:?}; all, none, or one of: {}", known.join(", "))
}

fn print_tables(report: &Report) {
    if !report.right.is_empty() {
        let mut table =
            new_table(["the right protocol, when", "states", "depth", "complete", "s", "verdict"]);
        for row in &report.right {
            table.add_row([
                row.what.to_owned(),
                row.states.to_string(),
                row.depth.map_or("-".to_owned(), |depth| depth.to_string()),
                if row.complete { "yes" } else { "no" }.to_owned(),
                format!("{:.1}", row.milliseconds as f64 / 1_000.0),
                row.wrong.clone().unwrap_or_else(|| "holds".to_owned()),
            ]);
        }
        println!("{table}\n");
    }
    for (title, assumptions) in [("rule", false), ("assumption", true)] {
        let mut table = new_table([
            title,
            "mutant",
            "how it was caught",
            "trace, shortened",
            "the right rules refuse step",
        ]);
        let rows: Vec<&Caught> = report.mutants.iter().filter(|row| row.assumption == assumptions).collect();
        for row in &rows {
            table.add_row([
                row.rule.to_owned(),
                format!("{}: {}", row.mutant.name(), row.sentence),
                if row.caught { row.how.clone() } else { format!("NOT CAUGHT: {}", row.how) },
                format!("{}\n=> {}", row.steps.join(", "), row.broken.unwrap_or("-")),
                row.refused.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        if !rows.is_empty() {
            println!("{table}\n");
        }
    }
}

fn new_table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if !table.is_tty() {
        table.set_width(180);
    }
    table
}
