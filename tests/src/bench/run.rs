//! One run: clients, a steady state, a random wait, the fault, the return of every route, the heal, full redundancy,
//! the verdict.
//!
//! It decides when the fault is injected and when a run is over. It never leaves a fault behind: whatever goes wrong
//! after the injection, the host is healed. `session` calls it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::case::{Case, Mode, System};
use super::health;
use super::lab::Lab;
use super::record::{FORMAT, RunRecord};
use super::script::{self, Hold, Played, Script};
use super::stalls::Stall;
use super::watch::{REDUNDANCY_DEADLINE, Watch};
use crate::checker::record::{Recording, Standbys};
use crate::checker::verdict::judge;
use crate::checker::{gap, monotonic_us, rows};

/// A client without a query timeout, as most are: longer than any fault is held, but bounded.
const CLIENT_DEADLINE_MS: u64 = 120_000;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The case.
    pub case: Case,
    /// What is done in it.
    pub script: Script,
    /// Which stall it is, of the case `stalls`.
    pub stall: Option<Stall>,
    /// The system.
    pub system: System,
    /// The mode.
    pub mode: Mode,
    /// Random wait before the fault.
    pub phase: Duration,
    /// Seed of the call.
    pub seed: u64,
    /// Number of the run in the call.
    pub number: u32,
}

/// Runs it. The lab is whole before and, unless this fails, after.
pub async fn run(lab: &Lab, plan: &Plan, folder: &Path) -> anyhow::Result<RunRecord> {
    let (primary, session) = health::wait_whole(lab, plan.mode).await?;
    rows::create_table(&session.client).await.context("the table of the clients")?;
    drop(session);
    let name = format!("{}-{}-{}", plan.seed, plan.number, monotonic_us());
    let recording_file = folder.join("recording");
    let mut watch = Watch::start(lab, &name, folder, &recording_file, CLIENT_DEADLINE_MS).await?;
    let wanted = watch.until_steady(plan.mode).await?;
    tokio::time::sleep(plan.phase).await;
    let played = match script::play(lab, &mut watch, &plan.script, &primary).await {
        Ok(played) => played,
        // Something may have been broken all the same.
        Err(error) => return Err(healed(lab, error.context("the fault")).await),
    };
    let outcome = hold_and_heal(&mut watch, lab, &plan.script, &played, wanted).await;
    let stopped = watch.stop().await;
    let held = match outcome {
        Ok(held) => held,
        Err(error) => return Err(healed(lab, error).await),
    };
    stopped?;
    let (final_writer, session) = health::wait_whole(lab, plan.mode).await?;
    let found = rows::read(&session.client, &name).await.context("the rows of the final writer")?;
    let recording = Recording::read(&recording_file)?;
    let verdict = judge(&recording, &found, Some(played.fault_us));
    rows::delete(&session.client, &name).await.context("the rows of the run")?;
    let after_heal = verdict.full_redundancy_after_us;
    let after_heal = after_heal.map(|us| us.saturating_sub(held.held_ms.unwrap_or(0) * 1000));
    Ok(RunRecord {
        format: FORMAT,
        at: jiff::Timestamp::now().to_string(),
        seed: plan.seed,
        number: plan.number,
        case: plan.case,
        system: plan.system,
        mode: plan.mode,
        phase_ms: u64::try_from(plan.phase.as_millis()).unwrap_or(u64::MAX),
        primary,
        final_writer,
        injection_ms: played.injection_ms,
        held_ms: held.held_ms,
        routes_returned: held.routes_returned,
        full_redundancy_after_heal_us: after_heal,
        redundancy_missed_s: held.redundancy_missed_s,
        back_after_mending_us: played.mended_us.and_then(|at| gap::back_after_us(&recording, at)),
        stall: plan.stall,
        verdict,
    })
}

/// The next run, or the person at the keyboard, must find the lab healed; the error says so if it is not.
async fn healed(lab: &Lab, error: anyhow::Error) -> anyhow::Error {
    match lab.heal_all().await {
        Ok(()) => error,
        Err(heal) => error.context(format!("the lab {} could not be healed: {heal:#}", lab.name)),
    }
}

/// How the fault went.
struct Held {
    held_ms: Option<u64>,
    routes_returned: bool,
    redundancy_missed_s: Option<u64>,
}

async fn hold_and_heal(
    watch: &mut Watch,
    lab: &Lab,
    script: &Script,
    played: &Played,
    wanted: Standbys,
) -> anyhow::Result<Held> {
    let routes_returned = hold(watch, script.hold, played.begin).await?;
    let mut held_ms = None;
    if !played.lasting.is_empty() {
        held_ms = Some((monotonic_us() - played.fault_us) / 1000);
        for id in &played.lasting {
            lab.heal(id).await.context("the heal")?;
        }
    }
    if !routes_returned {
        // They count as not returned, but the gap should have an end.
        watch.until_returned(Instant::now()).await?;
    }
    let redundant = watch.until_redundant(wanted).await?;
    let redundancy_missed_s = (!redundant).then_some(REDUNDANCY_DEADLINE.as_secs());
    Ok(Held { held_ms, routes_returned, redundancy_missed_s })
}

/// Holds the fault, and says whether every route acknowledged in the end.
async fn hold(watch: &mut Watch, hold: Hold, begin: Instant) -> anyhow::Result<bool> {
    match hold {
        Hold::Fixed(time) => loop {
            let now_us = watch.look_within(time.saturating_sub(begin.elapsed())).await?;
            if begin.elapsed() >= time {
                return Ok(watch.is_steady(now_us));
            }
        },
        Hold::UntilReturnAnd(longer) => {
            // From now on: a script may have taken its time.
            let returned = watch.until_returned(Instant::now()).await?;
            tokio::time::sleep(if returned { longer } else { Duration::ZERO }).await;
            Ok(returned)
        }
    }
}
