//! The table of mutants: rules left out of the agent's own decisions (`holdfast_agent_core::mutant`), each against the
//! simulator, which drives the same functions, and against a scripted scenario on real servers that the rule is for.
//!
//! It changes the mutant of a lab's agents and counts faults until something is found; what is found is said by the
//! simulator's checker and by [`trap`]. Only test builds have it; `tests/mutants` builds and calls it.

mod trap;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use comfy_table::{Table, presets};
use holdfast_agent_core::mutant::{LeftOut, Mutant, leave_out};
use serde::{Deserialize, Serialize};

use crate::bench::lab::Lab;
use crate::bench::record::append;
use crate::lab::{files, render};
use crate::scene::Scene;
use crate::simulator::search::search;
use trap::Trap;

/// What is asked of `mutants`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only these, comma-separated; `none` is the control, which nothing may find
    #[arg(long, value_delimiter = ',')]
    only: Vec<LeftOut>,
    /// Simulated faults before a mutant counts as not found; 0 leaves the simulator out
    #[arg(long, default_value_t = 10_000)]
    simulated: u64,
    /// Rounds of a scenario on real servers before a mutant counts as not found; 0 leaves the lab out
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only these scenarios, comma-separated
    #[arg(long, value_delimiter = ',')]
    by: Vec<String>,
    /// First seed of the simulator
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Append what was found to this file, and print the table of all of it
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
}

/// What was seen of one mutant by one of the two.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seen {
    mutant: String,
    /// `simulator`, or the name of the scenario.
    by: String,
    faults: u64,
    seed: Option<u64>,
    found: Option<String>,
}

/// So much is shown of what was seen; the simulator replays a seed with all of it.
const SHOWN_LETTERS: usize = 100;
/// The lab of the scenarios.
const LAB: &str = "mutants";
/// An agent that has started again promises nothing for as long as a grant may last.
const SETTLE: Duration = Duration::from_secs(8);
const HEALTHY_DEADLINE: Duration = Duration::from_secs(60);

/// Runs it and prints the table.
pub async fn run(options: &Options) -> Result<()> {
    let meant: Vec<LeftOut> = if options.only.is_empty() {
        Mutant::ALL.into_iter().map(|mutant| LeftOut(Some(mutant))).collect()
    } else {
        options.only.clone()
    };
    let mut all = Vec::new();
    for LeftOut(mutant) in &meant {
        if options.simulated > 0 {
            keep(options, &mut all, simulated(options, *mutant))?;
        }
    }
    leave_out(None);
    let mut played = Ok(());
    if options.rounds > 0 {
        let mut lab = lab().await?;
        played = on_servers(options, &meant, &mut lab, &mut all).await;
        lab.down().await?;
    }
    let shown = match &options.results {
        Some(file) => read(file)?,
        None => all,
    };
    println!("{}", render_table(&shown));
    played
}

fn keep(options: &Options, all: &mut Vec<Seen>, seen: Seen) -> Result<()> {
    eprintln!("mutants: {}", serde_json::to_string(&seen)?);
    if let Some(file) = &options.results {
        append(file, &seen)?;
    }
    all.push(seen);
    Ok(())
}

fn read(file: &PathBuf) -> Result<Vec<Seen>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn simulated(options: &Options, mutant: Option<Mutant>) -> Seen {
    leave_out(mutant);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (tally, found) = search(options.seed, options.simulated, None, threads, 1);
    let first = found.first();
    Seen {
        mutant: name(mutant).into(),
        by: "simulator".into(),
        faults: tally.faults,
        seed: first.map(|found| found.plan.seed),
        found: first.map(|found| {
            let text: String = found.violation.text.chars().take(SHOWN_LETTERS).collect();
            format!("{}: {text}", found.violation.promise)
        }),
    }
}

fn name(mutant: Option<Mutant>) -> &'static str {
    mutant.map_or("none", Mutant::name)
}

async fn lab() -> Result<Lab> {
    let specification = format!("mutant = \"none\"\n{}", include_str!("../../specs/quick.toml"));
    let lab = Lab::of_text(LAB, &specification).await?;
    lab.require_armed().await?;
    Ok(lab)
}

async fn on_servers(options: &Options, meant: &[LeftOut], lab: &mut Lab, all: &mut Vec<Seen>) -> Result<()> {
    let mut unplayed = Vec::new();
    for LeftOut(mutant) in meant {
        let is_meant = |trap: &Trap| options.by.is_empty() || options.by.iter().any(|by| by == trap.name());
        for trap in Trap::of(*mutant).into_iter().filter(is_meant) {
            let mut seen = Seen {
                mutant: name(*mutant).into(),
                by: trap.name().into(),
                faults: 0,
                seed: None,
                found: None,
            };
            for _ in 0..options.rounds {
                match play(lab, *mutant, trap).await {
                    Ok((faults, found)) => (seen.faults, seen.found) = (seen.faults + faults, found),
                    Err(why) => {
                        eprintln!("mutants: {}: {} could not be played: {why:#}", seen.mutant, seen.by);
                        unplayed.push(format!("{} by {}", seen.mutant, seen.by));
                        lab.down().await?;
                        *lab = self::lab().await?;
                    }
                }
                if seen.found.is_some() {
                    break;
                }
            }
            keep(options, all, seen)?;
        }
    }
    if unplayed.is_empty() { Ok(()) } else { bail!("could not be played: {}", unplayed.join(", ")) }
}

/// One round of a scenario, after which the lab is whole again.
async fn play(lab: &mut Lab, mutant: Option<Mutant>, trap: Trap) -> Result<(u64, Option<String>)> {
    set(lab, mutant).await?;
    let scene = Scene::enter(lab).await?;
    let (faults, found) = trap.play(&scene).await?;
    // What a mutant has broken the right rules need not be able to mend.
    if found.is_some() || mend(lab, &scene).await.is_err() {
        lab.down().await?;
        *lab = self::lab().await?;
    }
    Ok((faults, found))
}

async fn mend(lab: &Lab, scene: &Scene) -> Result<()> {
    write(lab, None)?;
    lab.heal_all().await?;
    restart_agents(lab).await?;
    scene.leave().await
}

/// Gives every agent of the lab its mutant, and waits until they have been up for long enough to promise.
async fn set(lab: &Lab, mutant: Option<Mutant>) -> Result<()> {
    write(lab, mutant)?;
    restart_agents(lab).await?;
    tokio::time::sleep(SETTLE).await;
    let scene = Scene::enter(lab).await?;
    let healthy = async || Ok(scene.status().await.is_ok_and(|status| status["healthy"] == true));
    if !scene.until(HEALTHY_DEADLINE, healthy).await? {
        eprintln!("mutants: {}: holdfast status is not healthy before the scenario", name(mutant));
    }
    Ok(())
}

fn write(lab: &Lab, mutant: Option<Mutant>) -> Result<()> {
    let plan = files::load(&lab.name)?;
    for (_, host) in plan.hosts().filter(|(_, host)| render::agent::has_agent(host.host.role)) {
        let file = host.agent_config();
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let line = |line: &str| {
            if line.starts_with("mutant = ") {
                format!("mutant = \"{}\"\n", name(mutant))
            } else {
                format!("{line}\n")
            }
        };
        std::fs::write(&file, text.lines().map(line).collect::<String>())
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

async fn restart_agents(lab: &Lab) -> Result<()> {
    let plan = files::load(&lab.name)?;
    for (_, host) in plan.hosts().filter(|(_, host)| render::agent::has_agent(host.host.role)) {
        // A host that is booting starts its agent anew by itself.
        let _ = lab.inject(&["kill", host.name(), "agent"]).await;
    }
    Ok(())
}

/// One row for each mutant and each that looked for it; several calls of the same add up.
fn render_table(all: &[Seen]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["rule left out", "of rule", "by", "faults until found", "seed", "what was seen"]);
    let mut slowest = 0;
    for seen in all {
        let rule =
            Mutant::ALL.into_iter().find(|mutant| mutant.name() == seen.mutant).map_or("", Mutant::rule);
        let faults = match &seen.found {
            Some(_) => seen.faults.to_string(),
            None => format!("not in {}", seen.faults),
        };
        if seen.by != "simulator" && seen.found.is_some() {
            slowest = slowest.max(seen.faults);
        }
        let seed = seen.seed.map(|seed| seed.to_string()).unwrap_or_default();
        let what: String = seen.found.clone().unwrap_or_default().chars().take(SHOWN_LETTERS).collect();
        table.add_row([seen.mutant.clone(), rule.into(), seen.by.clone(), faults, seed, what]);
    }
    format!(
        "{table}\nslowest on real servers: {slowest} faults; ten times that is a campaign of {}",
        slowest * 10
    )
}
