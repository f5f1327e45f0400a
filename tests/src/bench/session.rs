//! One call of the bench: brings up a lab for each system, lets them take turns, prints the table.
//!
//! All labs of a call stay up side by side and idle while another is measured: an idle lab costs a few percent of a
//! core, while freezing it would make its etcd, Patroni and agents see a fault that nobody injected.
//!
//! It decides what a call is and how it ends; a run is `run`'s. `holdfast-bench` calls it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use super::case::{Case, Mode, System};
use super::lab::{Beside, Lab};
use super::plan::{Turn, turns};
use super::record::{FORMAT, Records, RunRecord, Unmeasured, append};
use super::run::{self, Plan};
use super::script::Script;
use super::stalls::{LENGTHS_MS, Stall, Thing};
use super::{armed, idle, summary};
use crate::checker::describe::Choice;
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
    /// The cluster of that lab
    #[command(flatten)]
    pub choice: Choice,
    /// Keep the labs up: the next call with the same systems uses them
    #[arg(long)]
    pub keep: bool,
    /// Two routes more through HAProxy: one by our agents' check, one by Patroni's
    #[arg(long)]
    pub haproxy: bool,
    /// Print the checker's verdict of every run
    #[arg(long)]
    pub verbose: bool,
    /// armed-cost: pairs of an armed and a disarmed run of pgbench
    #[arg(long, default_value_t = 30)]
    pub pairs: u32,
    /// armed-cost: seconds of one run of pgbench
    #[arg(long, default_value_t = 15)]
    pub pgbench_seconds: u32,
    /// stalls: only of these; everything by default
    #[arg(long, value_enum, value_delimiter = ',')]
    pub stalls_of: Vec<Thing>,
    /// stalls: only of these lengths, in milliseconds: 200, 500, 1000, 2000, 3000, 5000, 10000; all by default
    #[arg(long, value_delimiter = ',')]
    pub stall_ms: Vec<u64>,
    /// idle: seconds of the measurement
    #[arg(long, default_value_t = 60)]
    pub idle_seconds: u64,
}

/// Runs it, prints the table, and returns what was measured in this call.
pub async fn run(options: &Options) -> anyhow::Result<Records> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let case = options.case;
    eprintln!("bench: case {}, {} commit, seed {seed}", case.name(), options.mode.name());
    if cfg!(debug_assertions) && matches!(case, Case::ArmedCost | Case::Idle) {
        eprintln!("bench: this is a debug build: the targets are those of a release build");
    }
    let mut labs = BTreeMap::new();
    let measured = measure(options, &mut labs, seed).await;
    if !options.keep && options.lab.is_none() {
        for lab in labs.values() {
            if let Err(error) = lab.down().await {
                eprintln!("bench: {error:#}");
            }
        }
    }
    let measured = measured?;
    let all = options.json.as_ref().map_or_else(|| Ok(measured.clone()), |file| Records::read(&[file]))?;
    print!("{}", summary::render(&all));
    Ok(measured)
}

async fn measure(options: &Options, labs: &mut BTreeMap<System, Lab>, seed: u64) -> anyhow::Result<Records> {
    for system in &options.systems {
        if options.case.needs_agents() && !system.has_agents() {
            bail!("{} has no agents, which {} breaks", system.name(), options.case.name());
        }
        let lab = lab_of(options, *system).await?;
        labs.insert(*system, lab.clone());
        if system.has_agents() {
            lab.require_armed().await?;
        }
    }
    match options.case {
        Case::ArmedCost => armed::run(options, labs, seed).await,
        Case::Idle => idle::run(options, labs).await,
        _ => faults(options, labs, seed).await,
    }
}

async fn lab_of(options: &Options, system: System) -> anyhow::Result<Lab> {
    match (&options.lab, options.systems.as_slice()) {
        (Some(name), [_]) => Lab::existing(name, options.choice.clone()).await,
        (Some(_), _) => bail!("--lab is the lab of one system: name that one with --systems"),
        (None, _) => {
            let with = Beside { own_disk: options.case.needs_own_disk(), haproxy: options.haproxy };
            Lab::up(&lab_name(system, options.mode, with), system, options.mode, with).await
        }
    }
}

/// Names of labs are short, and know no hyphen.
fn lab_name(system: System, mode: Mode, with: Beside) -> String {
    let letter = |is_so: bool, letter| if is_so { letter } else { "" };
    let letters =
        [letter(mode == Mode::Off, "a"), letter(with.own_disk, "d"), letter(with.haproxy, "h")].concat();
    format!("b{letters}_{}", system.name().replace('-', "_"))
}

/// What each run of a case does: the same every time, or one stall after the other.
fn scripts(options: &Options) -> anyhow::Result<Vec<(Option<Stall>, Script)>> {
    if options.case == Case::Stalls {
        let of_length =
            |stall: &Stall| options.stall_ms.is_empty() || options.stall_ms.contains(&stall.length_ms);
        let of_thing = |stall: &Stall| options.stalls_of.is_empty() || options.stalls_of.contains(&stall.of);
        let meant: Vec<Stall> =
            Stall::all().into_iter().filter(|stall| of_length(stall) && of_thing(stall)).collect();
        if meant.is_empty() {
            bail!("there is no such stall; the lengths are {LENGTHS_MS:?} ms");
        }
        return Ok(meant.into_iter().map(|stall| (Some(stall), stall.script())).collect());
    }
    Ok(vec![(None, options.case.script().context("the case has no fault")?)])
}

async fn faults(options: &Options, labs: &BTreeMap<System, Lab>, seed: u64) -> anyhow::Result<Records> {
    let scripts = scripts(options)?;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let rounds = options.n * u32::try_from(scripts.len()).context("there are few scripts")?;
    let all = turns(&options.systems, rounds, seed);
    let mut records = Records::default();
    for (number, turn) in (1_u32..).zip(&all) {
        let Turn { system, phase } = *turn;
        let (case, mode) = (options.case, options.mode);
        let Some(lab) = labs.get(&system) else { continue };
        // A round of all systems has the same script.
        let round = (number as usize - 1) / options.systems.len();
        let (stall, script) = scripts[round % scripts.len()].clone();
        let plan = Plan { case, script, stall, system, mode, phase, seed, number };
        match Box::pin(run::run(lab, &plan, folder.path())).await {
            Ok(record) => {
                eprintln!("bench: {number} of {}: {}", all.len(), line(&record));
                if options.verbose {
                    eprint!("{}", table::render(&record.verdict));
                }
                if let Some(file) = &options.json {
                    append(file, &record)?;
                }
                records.runs.push(record);
            }
            Err(error) => {
                let not_measured = format!("{error:#}");
                eprintln!(
                    "bench: {number} of {}: {}: not measured: {not_measured}",
                    all.len(),
                    system.name()
                );
                let record = Unmeasured { format: FORMAT, case, system, mode, seed, number, not_measured };
                if let Some(file) = &options.json {
                    append(file, &record)?;
                }
                records.unmeasured.push(record);
            }
        }
    }
    Ok(records)
}

/// One run on one line.
fn line(record: &RunRecord) -> String {
    let gaps = record.verdict.routes.iter().filter_map(|route| {
        let gap = route.gap?;
        let open = if gap.open { "> " } else { "" };
        Some(format!("{} {open}{}", route.route, table::duration(gap.gap_us)))
    });
    let verdict = &record.verdict;
    let unclean = if record.is_clean() { "" } else { "; NOT CLEAN" };
    let redundancy = match (record.redundancy_missed_s, verdict.full_redundancy_after_us) {
        (Some(seconds), _) => format!("NOT BACK {seconds} s after the heal"),
        (None, Some(us)) => format!("after {}", table::duration(us)),
        (None, None) => "not seen".into(),
    };
    let stall =
        record.stall.map_or_else(String::new, |stall| format!("{:?} for {} ms: ", stall.of, stall.length_ms));
    let mended = record
        .back_after_mending_us
        .map_or_else(String::new, |us| format!("; back {} after mending", table::duration(us)));
    format!(
        "{stall}{} {} -> {}: gap {}{mended}; lost {} (warned {}); two writable {}; redundancy {redundancy}{unclean}",
        record.system.name(),
        record.primary,
        record.final_writer,
        gaps.collect::<Vec<_>>().join(", "),
        verdict.lost.count,
        verdict.lost_warned.count,
        table::duration(verdict.two_writable.certain_us),
    )
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::super::testing::run;
    use super::*;

    #[test]
    fn every_lab_has_a_name_that_the_lab_takes() {
        for system in System::value_variants() {
            for mode in [Mode::Quorum, Mode::Off] {
                for (own_disk, haproxy) in [(false, false), (true, false), (true, true)] {
                    let name = lab_name(*system, mode, Beside { own_disk, haproxy });
                    crate::lab::plan::check_name(&name).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_missed_deadline_and_a_loss_are_not_passed_silently() {
        let mut record = run(Case::HostDeath, System::HoldfastFast, 3_100);
        record.verdict.full_redundancy_after_us = Some(9_000_000);
        let said = line(&record);
        assert!(said.ends_with("redundancy after 9.00 s"), "{said}");
        assert!(said.contains("gap libpq 3.10 s, pgbouncer:pool1 3.10 s"), "{said}");
        record.redundancy_missed_s = Some(180);
        record.verdict.lost.count = 2;
        let said = line(&record);
        assert!(
            said.contains("lost 2 ") && said.ends_with("NOT BACK 180 s after the heal; NOT CLEAN"),
            "{said}"
        );
    }
}
