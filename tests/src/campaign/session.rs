//! One call: a lab, the steps until a count or a time, and a record of it.
//!
//! Under Holdfast the first lost row, the first second writer and the first cluster that does not become whole end it, with
//! everything kept that explains it. Patroni alone goes on after a loss: what it loses is what is asked.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;

use super::blow::Blow;
use super::drive::{Done, Field, WHOLE_DEADLINE};
use super::record::{FORMAT, Record, StepRecord, Stop, Totals};
use super::schedule::{self, Rules};
use super::{evidence, place, report};
use crate::bench::case::System;
use crate::bench::command::{output, sibling};
use crate::bench::lab::Lab;
use crate::bench::record::append;
use crate::checker::monotonic_us;

const DEADLINE: Duration = Duration::from_secs(5);
/// A step may fail to inject: its process may be dead already. So many in a row mean that nothing can be broken here.
const BARREN_STEPS_MAX: usize = 5;
/// Enough to tell builds apart.
const SUM_LETTERS: usize = 12;

/// What is asked of a campaign.
#[derive(Debug, Args)]
pub struct Options {
    /// Seed of everything that is random; printed, random by default
    #[arg(long)]
    seed: Option<u64>,
    /// Number of the first step: with the seed it says what breaks
    #[arg(long, default_value_t = 1)]
    from: u32,
    /// End when so many faults were injected
    #[arg(long, default_value_t = 20)]
    faults: usize,
    /// End after so many minutes, whatever the number of faults
    #[arg(long, conflicts_with = "faults")]
    minutes: Option<u64>,
    /// Percent of the steps that have two faults
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=100))]
    doubles: u32,
    /// What may break, comma-separated; everything by default
    #[arg(long, value_delimiter = ',', value_parser = Blow::named)]
    kinds: Vec<&'static Blow>,
    /// No fault is held for longer, in milliseconds
    #[arg(long, default_value_t = 25_000)]
    hold_max_ms: u32,
    /// holdfast-fast (timed as in the spec quick) or patroni-tuned
    #[arg(long, value_enum, default_value = "holdfast-fast")]
    system: System,
    /// The rule that the agents leave out, or `none` (test builds only)
    #[cfg(feature = "mutants")]
    #[arg(long, default_value = "none")]
    mutant: holdfast_agent_core::mutant::LeftOut,
    /// Name of the lab
    #[arg(long, default_value = "campaign", value_parser = lab_name)]
    name: String,
    /// Leave the lab up in the end
    #[arg(long)]
    keep: bool,
    /// Append the record of this call to this file
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Where the logs of a step that went wrong are kept
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp/holdfast-campaign")]
    logs: PathBuf,
}

fn lab_name(text: &str) -> Result<String, String> {
    crate::lab::plan::check_name(text).map(|()| text.to_owned())
}

/// Runs it. The record says whether it went as it must.
pub async fn run(options: &Options) -> anyhow::Result<Record> {
    let specification = specification(options)?;
    let rules = Rules {
        doubles_percent: options.doubles,
        blows: if options.kinds.is_empty() {
            schedule::all(options.system.has_agents())
        } else {
            options.kinds.clone()
        },
        hold_ms_max: options.hold_max_ms,
    };
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut record = Record {
        format: FORMAT,
        build: build(options.system).await?,
        at: jiff::Timestamp::now().to_string(),
        system: options.system,
        seed,
        from: options.from,
        doubles_percent: options.doubles,
        hold_ms_max: options.hold_max_ms,
        kinds: (!options.kinds.is_empty())
            .then(|| options.kinds.iter().map(|blow| blow.name.to_owned()).collect()),
        steps: Vec::new(),
        total: Totals::default(),
        stopped: None,
    };
    eprintln!("campaign: {}, {}, lab {} comes up", replay(&record, record.from), record.build, options.name);
    let lab = Lab::of_text(&options.name, &specification).await?;
    let ended = tokio::select! {
        ended = steps(options, &rules, &lab, &mut record) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let down = if options.keep {
        eprintln!("campaign: the lab {0} stays up; holdfast-lab down {0}", lab.name);
        Ok(())
    } else {
        lab.down().await
    };
    ended?;
    // What was found in hours is not lost because the lab does not go down.
    if let Some(file) = &options.results {
        append(file, &record)?;
    }
    down?;
    print!("{}", report::render(std::slice::from_ref(&record)));
    Ok(record)
}

async fn steps(options: &Options, rules: &Rules, lab: &Lab, record: &mut Record) -> anyhow::Result<()> {
    let has_agents = record.system.has_agents();
    if has_agents {
        lab.require_armed().await?;
    }
    place::check(&lab.describe().await?)?;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let run = format!("{}-{}-{}", record.seed, record.from, monotonic_us());
    let mut field = Field::enter(lab.clone(), has_agents, folder.path(), &run).await?;
    let begin = Instant::now();
    for number in options.from.. {
        let over = match options.minutes {
            Some(minutes) => begin.elapsed() >= Duration::from_secs(minutes * 60),
            None => record.faults() >= options.faults,
        };
        if over {
            break;
        }
        let barren = record.steps.iter().rev().take_while(|step| step.injected() == 0).count();
        if barren >= BARREN_STEPS_MAX {
            let why = format!("nothing could be broken in {barren} steps, one after the other");
            return stop(options, &field, record, number, why).await;
        }
        let step = schedule::step(rules, record.seed, number);
        let why = match field.step(&step).await {
            Ok(Done { record: done, not_whole }) => {
                eprintln!("campaign: {}", line(&done));
                let broken = if has_agents { done.totals.broken() } else { None };
                record.steps.push(done);
                not_whole.map(|what| not_whole_text(&what)).or(broken)
            }
            Err(error) => Some(format!("the step could not be done: {error:#}")),
        };
        if let Some(why) = why {
            return stop(options, &field, record, number, why).await;
        }
    }
    let recording = field.recording.clone();
    record.total = match field.leave().await {
        Ok(total) => total,
        Err(error) => {
            let number = record.steps.last().map_or(options.from, |step| step.number);
            let why = format!("the end could not be judged: {error:#}");
            record.stopped = Some(stopped(options, lab, &recording, record, number, why).await?);
            return Ok(());
        }
    };
    if has_agents && let Some(why) = record.total.broken() {
        let number = record.steps.last().map_or(options.from, |step| step.number);
        record.stopped = Some(stopped(options, lab, &recording, record, number, why).await?);
    }
    Ok(())
}

fn not_whole_text(what: &str) -> String {
    format!("the cluster was not whole {} s after the heal: {what}", WHOLE_DEADLINE.as_secs())
}

async fn stop(
    options: &Options,
    field: &Field,
    record: &mut Record,
    number: u32,
    why: String,
) -> anyhow::Result<()> {
    for step in &record.steps {
        record.total.add(&step.totals);
    }
    record.stopped = Some(stopped(options, &field.lab, &field.recording, record, number, why).await?);
    Ok(())
}

async fn stopped(
    options: &Options,
    lab: &Lab,
    recording: &std::path::Path,
    record: &Record,
    number: u32,
    why: String,
) -> anyhow::Result<Stop> {
    let name = format!("{}-{}-{number}-{}", record.system.name(), record.seed, monotonic_us() / 1_000_000);
    let evidence = evidence::keep(lab, recording, &options.logs, &name).await?;
    let replay = replay(record, number);
    eprintln!(
        "campaign: STOPPED in step {number}: {why}\ncampaign: logs in {}; again: {replay}",
        evidence.display()
    );
    Ok(Stop { number, why, evidence, replay })
}

/// The command that plays a step again.
fn replay(record: &Record, number: u32) -> String {
    let kinds = record.kinds.as_ref().map(|kinds| format!(" --kinds {}", kinds.join(",")));
    format!(
        "holdfast-lab campaign --system {} --seed {} --from {number} --faults 1 --doubles {} --hold-max-ms {}{}",
        record.system.name(),
        record.seed,
        record.doubles_percent,
        record.hold_ms_max,
        kinds.unwrap_or_default()
    )
}

/// One step on one line.
fn line(step: &StepRecord) -> String {
    let faults: Vec<String> = step
        .faults
        .iter()
        .map(|fault| {
            let skipped = if fault.not_injected.is_some() { " (not injected)" } else { "" };
            format!("{} for {} ms at {} ms{skipped}", fault.words.join(" "), fault.hold_ms, fault.after_ms)
        })
        .collect();
    let whole = step.whole_after_ms.map_or("NOT WHOLE".to_owned(), |ms| format!("whole after {ms} ms"));
    let Totals { lost, lost_warned, two_acknowledging_ms, .. } = step.totals;
    format!(
        "step {}: {} [{} -> {}]: gap {} ms, {whole}; lost {lost} (warned {lost_warned}), two acknowledging {two_acknowledging_ms} ms",
        step.number,
        faults.join(" + "),
        step.writer,
        step.final_writer.as_deref().unwrap_or("nobody"),
        step.gap_ms(),
    )
}

/// The lab of a system, on hosts whose disks and clocks can break.
fn specification(options: &Options) -> anyhow::Result<String> {
    let of_system = match options.system {
        System::HoldfastFast => include_str!("../../specs/quick.toml"),
        System::PatroniTuned => include_str!("../../specs/patroni-tuned.toml"),
        other => bail!("a campaign runs against holdfast-fast or patroni-tuned, not {}", other.name()),
    };
    Ok(format!("{}own_disk = true\nfake_clock = true\n{of_system}", mutant(options)))
}

#[cfg(not(feature = "mutants"))]
fn mutant(_: &Options) -> &'static str {
    ""
}

/// Such a build's agents must be told; Patroni alone has none.
#[cfg(feature = "mutants")]
fn mutant(options: &Options) -> String {
    let holdfast_agent_core::mutant::LeftOut(mutant) = options.mutant;
    let name = mutant.map_or("none", holdfast_agent_core::mutant::Mutant::name);
    format!("mutant = \"{name}\"\n")
}

/// The sources as they are now, and the agent that is run.
async fn build(system: System) -> anyhow::Result<String> {
    let words = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--tags"];
    let sources = output("git", &words, DEADLINE).await.unwrap_or_else(|_| "unknown".into());
    if !system.has_agents() {
        return Ok(sources.trim().to_owned());
    }
    let agent = sibling("holdfast-agent")?.display().to_string();
    let sum = output("sha256sum", &[agent], DEADLINE).await?;
    let sum: String = sum.chars().take(SUM_LETTERS).collect();
    Ok(format!("{} agent {sum}", sources.trim()))
}
