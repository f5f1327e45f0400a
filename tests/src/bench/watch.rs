//! The clients of a run while they work: whether every route acknowledges, and whether the writer has its standbys.
//!
//! It waits, bounded, and says what it saw; it injects nothing. `run` and the campaign call it.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::case::Mode;
use super::command::ClientsChild;
use super::lab::Lab;
use super::tail::Tail;
use crate::checker::monotonic_us;
use crate::checker::record::Standbys;

/// Every route must acknowledge for so long, without a pause of more than [`PAUSE_US`], to be steady.
pub const STEADY_US: u64 = 2_000_000;
/// Ten missed turns of a client.
pub const PAUSE_US: u64 = 400_000;
const STEADY_DEADLINE: Duration = Duration::from_secs(90);
/// A route that is not back after this is recorded as not returned.
const RETURN_DEADLINE: Duration = Duration::from_secs(90);
/// Redundancy that is not back after this is recorded so.
pub const REDUNDANCY_DEADLINE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);
/// Redundancy counts when it has lasted so long.
const FULL_FOR: Duration = Duration::from_secs(2);

/// The running clients, and what they have recorded so far.
pub struct Watch {
    clients: ClientsChild,
    /// What is in the recording.
    pub tail: Tail,
}

impl Watch {
    /// Starts the clients of a lab under the name of a run.
    pub async fn start(
        lab: &Lab,
        name: &str,
        folder: &Path,
        recording: &Path,
        deadline_ms: u64,
    ) -> anyhow::Result<Self> {
        let description = folder.join("describe.json");
        std::fs::write(&description, lab.describe_text().await?).context("the lab's description")?;
        let describe = crate::checker::describe::Describe::read(&description)?;
        let _ = std::fs::remove_file(recording);
        let (region, cluster, client) = lab.place(&describe)?;
        let deadline = deadline_ms.to_string();
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
        let clients = ClientsChild::start(&client.netns, &arguments)?;
        Ok(Self { clients, tail: Tail::new(recording.to_owned()) })
    }

    /// Reads on, and returns the moment up to which the recording is complete.
    pub async fn look(&mut self) -> anyhow::Result<u64> {
        self.look_within(LOOK).await
    }

    /// The same sooner.
    pub async fn look_within(&mut self, longest: Duration) -> anyhow::Result<u64> {
        tokio::time::sleep(longest.min(LOOK)).await;
        self.tail.advance()?;
        if !self.clients.is_running() {
            bail!("the clients have ended before they were told to");
        }
        // The recorder flushes every 100 ms: what is older than two flushes is in the file.
        Ok(monotonic_us() - 200_000)
    }

    /// Waits for the steady state and returns its redundancy.
    pub async fn until_steady(&mut self, mode: Mode) -> anyhow::Result<Standbys> {
        let begin = Instant::now();
        while begin.elapsed() < STEADY_DEADLINE {
            let now_us = self.look().await?;
            if self.is_steady(now_us)
                && let Some(standbys) = self.tail.standbys_of_writer(now_us.saturating_sub(1_000_000))
                && (mode == Mode::Off || standbys.sync_streaming >= 2)
            {
                return Ok(standbys);
            }
        }
        bail!("not every route acknowledges after {} s", STEADY_DEADLINE.as_secs());
    }

    /// Whether every route has acknowledged all the time for a while.
    pub fn is_steady(&self, now_us: u64) -> bool {
        self.tail.all_acknowledge(now_us, STEADY_US, PAUSE_US)
    }

    /// Waits until every route acknowledges throughout a stretch that begins after the fault.
    pub async fn until_returned(&mut self, since: Instant) -> anyhow::Result<bool> {
        let stretch = Duration::from_micros(STEADY_US) + Duration::from_secs(1);
        while since.elapsed() < RETURN_DEADLINE {
            let now_us = self.look().await?;
            if since.elapsed() > stretch && self.is_steady(now_us) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the redundancy of before the fault is back, and says whether it came in time: a run without it is
    /// measured, and the record says so.
    pub async fn until_redundant(&mut self, wanted: Standbys) -> anyhow::Result<bool> {
        let begin = Instant::now();
        let mut full_since: Option<Instant> = None;
        while begin.elapsed() < REDUNDANCY_DEADLINE {
            let now_us = self.look().await?;
            let full = self.is_redundant(now_us, wanted);
            full_since = if full { full_since.or_else(|| Some(Instant::now())) } else { None };
            if full_since.is_some_and(|since| since.elapsed() > FULL_FOR) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the writer has said within the last second that it has the standbys that are wanted.
    pub fn is_redundant(&self, now_us: u64, wanted: Standbys) -> bool {
        self.tail.standbys_of_writer(now_us.saturating_sub(1_000_000)).is_some_and(|now| {
            now.named >= wanted.named
                && now.sync_streaming >= wanted.sync_streaming
                && now.streaming >= wanted.streaming
        })
    }

    /// Ends the clients in order.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.clients.stop().await
    }
}
