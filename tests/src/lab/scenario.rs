//! `run`: a named list of faults, one after the other.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::failure::{Exit, Failure};
use super::fault::{self, Fault, Order};
use super::plan::Plan;

const NAMED: [(&str, &str); 3] = [
    ("host-death", include_str!("../../scenarios/host-death.toml")),
    ("patroni-hung", include_str!("../../scenarios/patroni-hung.toml")),
    ("postmaster-kill", include_str!("../../scenarios/postmaster-kill.toml")),
];

/// A longest pause: a scenario is watched by somebody.
const PAUSE_MS_MAX: u64 = 600_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    step: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Fault(Order),
    PauseMs(u64),
    /// Ends the faults of a host, or `all`.
    Heal(String),
}

/// Runs a scenario, known by name or read from a file. Returns what it broke.
pub async fn run(plan: &Plan, scenario: &str) -> Result<Vec<Fault>> {
    let steps = load(scenario).map_err(|error| Failure::usage(format!("{error:#}")))?;
    let mut faults = Vec::new();
    for (number, step) in (1_usize..).zip(steps) {
        if let Err(error) = take(plan, step, &mut faults).await {
            if faults.is_empty() {
                return Err(error);
            }
            let text =
                format!("step {number}: {error:#}; end what is broken: holdfast-lab heal {}", plan.lab);
            return Err(Failure::with(Exit::PartlyDone, text));
        }
    }
    Ok(faults)
}

async fn take(plan: &Plan, step: Step, faults: &mut Vec<Fault>) -> Result<()> {
    match step {
        Step::Fault(order) => {
            let fault = fault::inject(plan, &order).await?;
            eprintln!("{}: {} {}", fault.id, fault.kind, fault.host.as_deref().unwrap_or("everywhere"));
            faults.push(fault);
        }
        Step::PauseMs(pause_ms) => tokio::time::sleep(Duration::from_millis(pause_ms)).await,
        Step::Heal(which) => {
            let which = (which != "all").then_some(which.as_str());
            for fault in fault::heal(plan, which).await? {
                eprintln!("{} healed", fault.id);
            }
        }
    }
    Ok(())
}

fn load(scenario: &str) -> Result<Vec<Step>> {
    let text = match NAMED.iter().find(|(name, _)| *name == scenario) {
        Some((_, text)) => (*text).to_owned(),
        None => std::fs::read_to_string(scenario).with_context(|| {
            let names = NAMED.map(|(name, _)| name).join(", ");
            format!("{scenario} is neither a named scenario ({names}) nor a readable file")
        })?,
    };
    parse(&text).with_context(|| format!("scenario {scenario}"))
}

fn parse(text: &str) -> Result<Vec<Step>> {
    let scenario: Scenario = toml::from_str(text)?;
    for step in &scenario.step {
        if matches!(step, Step::PauseMs(pause_ms) if *pause_ms > PAUSE_MS_MAX) {
            bail!("pause_ms is at most {PAUSE_MS_MAX}");
        }
    }
    Ok(scenario.step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_scenario_is_understood() {
        for (name, text) in NAMED {
            assert!(!parse(text).unwrap_or_else(|error| panic!("{name}: {error:#}")).is_empty());
        }
        assert!(parse("step = [{ pause_ms = 600001 }]").is_err());
        assert!(parse("step = [{ fault = { kind = \"earthquake\" } }]").is_err());
    }
}
