//! One run: clients, a steady state, a random wait, the fault, the return of every route, the heal, full redundancy,
//! the verdict.
//!
//! It decides when the fault is injected and when a run is over. It never leaves a fault behind: whatever goes wrong
//! after the injection, the host is healed. `session` calls it.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::case::{Case, Fault, Hold, Mode, System};
use super::command::ClientsChild;
use super::health;
use super::lab::Lab;
use super::record::{FORMAT, RunRecord};
use super::tail::Tail;
use crate::checker::record::{Recording, Standbys};
use crate::checker::verdict::judge;
use crate::checker::{monotonic_us, rows};

/// Every route must acknowledge for so long, without a pause of more than [`PAUSE_US`], to be steady.
const STEADY_US: u64 = 2_000_000;
/// Ten missed turns of a client.
const PAUSE_US: u64 = 400_000;
const STEADY_DEADLINE: Duration = Duration::from_secs(90);
/// A route that is not back after this is recorded as not returned.
const RETURN_DEADLINE: Duration = Duration::from_secs(90);
const REDUNDANCY_DEADLINE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);
/// A client without a query timeout, as most are: longer than any fault is held, but bounded.
const CLIENT_DEADLINE_MS: u64 = 120_000;

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The case.
    pub case: Case,
    /// Its fault.
    pub fault: Fault,
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
    let (clients, mut tail) = start_clients(lab, &name, folder, &recording_file).await?;
    let mut watch = Watch { clients, tail: &mut tail };
    let wanted = watch.until_steady(plan.mode).await?;
    tokio::time::sleep(plan.phase).await;
    let fault_us = match lab.fault(plan.fault, &primary).await {
        Ok(at_us) => at_us,
        // It may have been injected all the same.
        Err(error) => return Err(healed(lab, plan.fault, &primary, error.context("the fault")).await),
    };
    let injected = Instant::now();
    let injection_ms = (monotonic_us() - fault_us) / 1000;
    let outcome = watch.fault_and_heal(lab, plan.fault, &primary, injected, fault_us, wanted).await;
    let Watch { clients, .. } = watch;
    let stopped = clients.stop().await;
    let held = match outcome {
        Ok(held) => held,
        Err(error) => return Err(healed(lab, plan.fault, &primary, error).await),
    };
    stopped?;
    let (final_writer, session) = health::wait_whole(lab, plan.mode).await?;
    let found = rows::read(&session.client, &name).await.context("the rows of the final writer")?;
    let recording = Recording::read(&recording_file)?;
    let verdict = judge(&recording, &found, Some(fault_us));
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
        injection_ms,
        held_ms: held.held_ms,
        routes_returned: held.routes_returned,
        full_redundancy_after_heal_us: after_heal,
        redundancy_missed_s: held.redundancy_missed_s,
        verdict,
    })
}

/// The next run, or the person at the keyboard, must find the lab healed; the error says so if it is not.
async fn healed(lab: &Lab, fault: Fault, primary: &str, error: anyhow::Error) -> anyhow::Error {
    if !fault.heals {
        return error;
    }
    match lab.heal(primary).await {
        Ok(()) => error,
        Err(heal) => {
            error.context(format!("{primary} of the lab {} could not be healed: {heal:#}", lab.name))
        }
    }
}

async fn start_clients(
    lab: &Lab,
    name: &str,
    folder: &Path,
    recording: &Path,
) -> anyhow::Result<(ClientsChild, Tail)> {
    let description = folder.join("describe.json");
    std::fs::write(&description, lab.describe_text().await?).context("the lab's description")?;
    let describe = crate::checker::describe::Describe::read(&description)?;
    let _ = std::fs::remove_file(recording);
    let (region, cluster, client) = lab.place(&describe)?;
    let deadline = CLIENT_DEADLINE_MS.to_string();
    let arguments: Vec<OsString> = vec![
        "--describe".into(),
        description.into(),
        "--run".into(),
        name.into(),
        "--out".into(),
        recording.into(),
        "--deadline-ms".into(),
        deadline.into(),
        "--region".into(),
        (&region.name).into(),
        "--cluster".into(),
        (&cluster.scope).into(),
        "--until-stdin-closes".into(),
    ];
    Ok((ClientsChild::start(&client.netns, &arguments)?, Tail::new(recording.to_owned())))
}

/// How the fault went.
struct Held {
    held_ms: Option<u64>,
    routes_returned: bool,
    redundancy_missed_s: Option<u64>,
}

struct Watch<'a> {
    clients: ClientsChild,
    tail: &'a mut Tail,
}

impl Watch<'_> {
    async fn look(&mut self) -> anyhow::Result<u64> {
        tokio::time::sleep(LOOK).await;
        self.tail.advance()?;
        if !self.clients.is_running() {
            bail!("the clients have ended before they were told to");
        }
        // The recorder flushes every 100 ms: what is older than two flushes is in the file.
        Ok(monotonic_us() - 200_000)
    }

    /// Waits for the steady state and returns its redundancy.
    async fn until_steady(&mut self, mode: Mode) -> anyhow::Result<Standbys> {
        let begin = Instant::now();
        while begin.elapsed() < STEADY_DEADLINE {
            let now_us = self.look().await?;
            if self.tail.all_acknowledge(now_us, STEADY_US, PAUSE_US)
                && let Some(standbys) = self.tail.standbys_of_writer(now_us.saturating_sub(1_000_000))
                && (mode == Mode::Off || standbys.sync_streaming >= 2)
            {
                return Ok(standbys);
            }
        }
        bail!("not every route acknowledges after {} s", STEADY_DEADLINE.as_secs());
    }

    async fn fault_and_heal(
        &mut self,
        lab: &Lab,
        fault: Fault,
        primary: &str,
        injected: Instant,
        fault_us: u64,
        wanted: Standbys,
    ) -> anyhow::Result<Held> {
        let routes_returned = self.hold(fault.hold, injected).await?;
        let mut held_ms = None;
        if fault.heals {
            held_ms = Some((monotonic_us() - fault_us) / 1000);
            lab.heal(primary).await.context("the heal")?;
        }
        if !routes_returned {
            // They count as not returned, but the gap should have an end.
            self.until_returned(Instant::now()).await?;
        }
        let redundant = self.until_redundant(wanted).await?;
        let redundancy_missed_s = (!redundant).then_some(REDUNDANCY_DEADLINE.as_secs());
        Ok(Held { held_ms, routes_returned, redundancy_missed_s })
    }

    /// Holds the fault, and says whether every route acknowledged in the end.
    async fn hold(&mut self, hold: Hold, injected: Instant) -> anyhow::Result<bool> {
        match hold {
            Hold::Fixed(time) => loop {
                let now_us = self.look().await?;
                if injected.elapsed() >= time {
                    return Ok(self.tail.all_acknowledge(now_us, STEADY_US, PAUSE_US));
                }
            },
            Hold::UntilReturnAnd(longer) => {
                let returned = self.until_returned(injected).await?;
                tokio::time::sleep(if returned { longer } else { Duration::ZERO }).await;
                Ok(returned)
            }
        }
    }

    /// Waits until every route acknowledges throughout a stretch that begins after the fault.
    async fn until_returned(&mut self, since: Instant) -> anyhow::Result<bool> {
        let stretch = Duration::from_micros(STEADY_US) + Duration::from_secs(1);
        while since.elapsed() < RETURN_DEADLINE {
            let now_us = self.look().await?;
            if since.elapsed() > stretch && self.tail.all_acknowledge(now_us, STEADY_US, PAUSE_US) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the redundancy of before the fault is back, and says whether it came in time: a run without it is
    /// measured, and the record says so.
    async fn until_redundant(&mut self, wanted: Standbys) -> anyhow::Result<bool> {
        let begin = Instant::now();
        let mut full_since: Option<Instant> = None;
        while begin.elapsed() < REDUNDANCY_DEADLINE {
            let now_us = self.look().await?;
            let full = self.tail.standbys_of_writer(now_us.saturating_sub(1_000_000)).is_some_and(|now| {
                now.named >= wanted.named
                    && now.sync_streaming >= wanted.sync_streaming
                    && now.streaming >= wanted.streaming
            });
            full_since = if full { full_since.or_else(|| Some(Instant::now())) } else { None };
            if full_since.is_some_and(|since| since.elapsed() > Duration::from_secs(2)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
