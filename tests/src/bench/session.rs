//! One call of the bench: brings up a lab for each system, lets them take turns, prints the table.
//!
//! All labs of a call stay up side by side and idle while another is measured: an idle lab costs a few percent of a
//! core, while freezing it would make its etcd, Patroni and agents see a fault that nobody injected.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use super::case::{Case, Mode, System};
use super::lab::Lab;
use super::plan::{Turn, turns};
use super::record::{RunRecord, append, read};
use super::run::{self, Plan};
use super::{armed, idle, summary};
use crate::checker::table;

/// What is asked of the bench.
#[derive(Debug, Args)]
pub struct Options {
    /// The case
    #[arg(long, value_enum, default_value = "host-death")]
    pub case: Case,
    /// Runs of each system
    #[arg(long, default_value_t = 10)]
    pub n: u32,
    /// The systems that take turns
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "patroni,patroni-tuned,holdfast-fast,holdfast-normal"
    )]
    pub systems: Vec<System>,
    /// How commits are replicated
    #[arg(long, value_enum, default_value = "quorum")]
    pub mode: Mode,
    /// Append one record per run to this file, and print the table of all of it
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Seed of the order and the phases; printed, random by default
    #[arg(long)]
    pub seed: Option<u64>,
    /// Use this lab, which is up already, for the one system of --systems
    #[arg(long, value_name = "LAB")]
    pub lab: Option<String>,
    /// Keep the labs up: the next call with the same systems uses them
    #[arg(long)]
    pub keep: bool,
    /// Print the checker's verdict of every run
    #[arg(long)]
    pub verbose: bool,
    /// armed-cost: pairs of an armed and a disarmed run of pgbench
    #[arg(long, default_value_t = 30)]
    pub pairs: u32,
    /// armed-cost: seconds of one run of pgbench
    #[arg(long, default_value_t = 15)]
    pub pgbench_seconds: u32,
    /// idle: seconds of the measurement
    #[arg(long, default_value_t = 60)]
    pub idle_seconds: u64,
}

/// Runs it.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let case = options.case;
    eprintln!("bench: case {}, {} commit, seed {seed}", case.name(), options.mode.name());
    let mut labs = BTreeMap::new();
    let measured = async {
        for system in &options.systems {
            let lab = lab_of(options, *system).await?;
            labs.insert(*system, lab.clone());
            if system.has_agents() {
                lab.require_armed().await?;
            }
        }
        match case {
            Case::ArmedCost => armed::run(options, &labs, seed).await,
            Case::Idle => idle::run(options, &labs).await,
            _ => faults(options, &labs, seed).await,
        }
    }
    .await;
    if !options.keep && options.lab.is_none() {
        for lab in labs.values() {
            if let Err(error) = lab.down().await {
                eprintln!("bench: {error:#}");
            }
        }
    }
    measured
}

async fn lab_of(options: &Options, system: System) -> anyhow::Result<Lab> {
    match (&options.lab, options.systems.as_slice()) {
        (Some(name), [_]) => Lab::existing(name).await,
        (Some(_), _) => bail!("--lab is the lab of one system: name that one with --systems"),
        (None, _) => {
            let suffix = if options.mode == Mode::Off { "_off" } else { "" };
            // Names of labs know no hyphen.
            let name = format!("b_{}{suffix}", system.name().replace('-', "_"));
            Lab::up(&name, system, options.mode).await
        }
    }
}

async fn faults(options: &Options, labs: &BTreeMap<System, Lab>, seed: u64) -> anyhow::Result<()> {
    let fault = options.case.fault().context("the case has no fault")?;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let all = turns(&options.systems, options.n, seed);
    let mut records = Vec::new();
    let mut failed = 0_u32;
    for (number, turn) in (1..).zip(&all) {
        let Turn { system, phase } = *turn;
        let Some(lab) = labs.get(&system) else { continue };
        let plan = Plan { case: options.case, fault, system, mode: options.mode, phase, seed, number };
        match Box::pin(run::run(lab, &plan, folder.path())).await {
            Ok(record) => {
                eprintln!("bench: {number} of {}: {}", all.len(), line(&record));
                if options.verbose {
                    eprint!("{}", table::render(&record.verdict));
                }
                if let Some(file) = &options.json {
                    append(file, &record)?;
                }
                records.push(record);
            }
            Err(error) => {
                failed += 1;
                eprintln!("bench: {number} of {}: {}: not measured: {error:#}", all.len(), system.name());
            }
        }
    }
    let records = options.json.as_deref().map_or(Ok(records), read)?;
    print!("{}", summary::render(&records));
    if failed > 0 {
        bail!("{failed} of {} runs could not be measured", all.len());
    }
    Ok(())
}

/// One run on one line.
fn line(record: &RunRecord) -> String {
    let gaps = record.verdict.routes.iter().filter_map(|route| {
        let gap = route.gap?;
        let open = if gap.open { "> " } else { "" };
        Some(format!("{} {open}{}", route.route, table::duration(gap.gap_us)))
    });
    let verdict = &record.verdict;
    let unclean = if verdict.is_clean() { "" } else { "; NOT CLEAN" };
    format!(
        "{} {} -> {}: gap {}; lost {} (warned {}); two writable {}; redundancy after {}{unclean}",
        record.system.name(),
        record.primary,
        record.final_writer,
        gaps.collect::<Vec<_>>().join(", "),
        verdict.lost.count,
        verdict.lost_warned.count,
        table::duration(verdict.two_writable.certain_us),
        verdict.full_redundancy_after_us.map_or_else(|| "?".into(), table::duration),
    )
}
