//! One PgBouncer of this host: holds its clients when the writer is lost, or for a planned operation, and sends them to the
//! next.
//!
//! The order is measured (`facts/baseline.md` 5.1): PAUSE, and at the same time refuse and close every connection to the
//! lost writer, because PAUSE holds new statements back at once and ends only when the old ones have; on the new term the
//! target, RELOAD, RESUME. Nothing stands between the end of PAUSE, or RESUME, and the word of it in etcd.

mod admin;
mod console;
mod hold;
mod look;
mod report;
pub mod seen;
mod target;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use holdfast_agent_core::planned;
use holdfast_agent_core::route::{self, Route};
use holdfast_host::{clock, durable, nftables, sockets};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{PhaseDone, RouteRecord};
use holdfast_types::{Mode, Term};
use tokio::sync::{oneshot, watch};

use crate::config::{Config, Pooler};
use crate::disk::Disk;
use crate::local_disarm;
use crate::telemetry::Telemetry;
use crate::world::{Mirror, World};
use admin::{Admin, unless};
use look::Look;
use seen::Seen;

/// What failed is tried again after this.
const RETRY: Duration = Duration::from_millis(200);
/// The route is looked at this often when nothing changes.
const TICK: Duration = Duration::from_secs(10);

/// The task of one PgBouncer.
pub struct Router {
    pooler: Pooler,
    /// `host.name`, as operations call it.
    full_name: String,
    admin: Admin,
    config: Arc<Config>,
    keys: ClusterKeys,
    world: Arc<World>,
    refuse: nftables::Refuse,
    /// Whom the packet filter refuses; absent until this start has written it.
    refused: Option<Vec<(String, u16)>>,
    applied: Option<Route>,
    disk: Disk,
    /// A person's order to this host alone.
    order: local_disarm::Reader,
    /// Clients may be paused, or a writer refused, by this start of the agent or by an earlier one: kept on disk before it is
    /// done, so that whoever comes after us lets go of it.
    held: bool,
    term: Option<Term>,
    held_at: Option<SystemTime>,
    /// What was seen of planned operations.
    planned: planned::Seen,
    /// Clients are held for one, until then at the latest.
    held_until_ms: Option<u64>,
    /// The last answer to a phase of one.
    done: Option<PhaseDone>,
    /// The proof that a phase asks for.
    proof: Option<(u64, oneshot::Receiver<PhaseDone>)>,
    /// What stands in etcd of us, by this start.
    reported: Option<RouteRecord>,
    /// The term in which clients were last sent to its writer.
    routed: Option<Term>,
    /// The target file was replaced and may not be on disk yet.
    unsynced: bool,
    telemetry: Telemetry,
    seen: Arc<Seen>,
}

impl Router {
    /// Prepares the task.
    pub fn new(pooler: Pooler, config: Arc<Config>, world: Arc<World>, telemetry: Telemetry) -> Self {
        let seen = Arc::new(Seen::new(&pooler, &config, Arc::clone(&world)));
        let held = held_file(&config, &pooler).exists();
        Self {
            full_name: format!("{}.{}", config.host, pooler.name),
            admin: Admin::new(&pooler),
            keys: ClusterKeys::new(&pooler.cluster),
            refuse: nftables::Refuse::new(&pooler.name),
            refused: None,
            disk: Disk::default(),
            order: local_disarm::Reader::default(),
            held,
            pooler,
            config,
            world,
            applied: None,
            term: None,
            held_at: None,
            planned: planned::Seen::default(),
            held_until_ms: None,
            done: None,
            proof: None,
            reported: None,
            routed: None,
            unsynced: false,
            telemetry,
            seen,
        }
    }

    /// What is known of it, for whoever asks.
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    /// Runs until the runtime ends.
    pub async fn run(mut self) {
        tokio::spawn(Look::new(Arc::clone(&self.seen), Arc::clone(&self.world)).run());
        let seen = Arc::clone(&self.seen);
        let mut changes = self.world.changes();
        loop {
            changes.mark_unchanged();
            let again = match self.once(&changes).await {
                Ok(again) => again,
                Err(error) => {
                    tracing::warn!(pooler = self.pooler.name, "{error:#}; tried again");
                    RETRY
                }
            };
            self.seen.apply(self.applied.as_ref());
            tokio::select! {
                _ = changes.changed() => {}
                () = seen.anew.notified() => {
                    // It was not paused by anybody, and reads the target file as it starts.
                    if matches!(self.applied, Some(Route::Hold { .. })) {
                        self.applied = None;
                    }
                }
                done = proved(&mut self.proof) => self.done = done.or(self.done.take()),
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// One look, and what it asks for. Returns when to look again at the latest.
    async fn once(&mut self, changes: &watch::Receiver<Mirror>) -> Result<Duration> {
        let (cluster, connected) = self.world.watched(&self.keys);
        let stands_aside = self.order.stands(&self.config.state_dir).await;
        let is_free = matches!(cluster.known_mode(), Some(Mode::Observe | Mode::Disarmed));
        let now_ms = clock::boottime_ms();
        if stands_aside || connected && is_free {
            self.seen.want(None, stands_aside, now_ms);
            return self.release().await.map(|()| TICK);
        }
        if !connected {
            return self.let_go_in_time(now_ms).await;
        }
        self.planned.look(&cluster, &self.full_name, now_ms);
        let held = self.planned.held(&cluster, &self.full_name, now_ms);
        let wanted = route::decide_held(&cluster, self.term, held.is_some());
        self.seen.want(Some(&wanted), false, now_ms);
        if wanted != Route::Leave && self.applied.as_ref() != Some(&wanted) {
            match (&wanted, held) {
                (Route::Hold { term, lost: None }, Some(held)) => {
                    if !self.hold_for(*term, held, changes.clone()).await? {
                        return Ok(Duration::ZERO);
                    }
                }
                _ => self.apply(&wanted).await?,
            }
            self.note(&wanted, &cluster);
            self.applied = Some(wanted);
        }
        self.answer(&cluster, now_ms);
        self.report().await?;
        self.tidy().await?;
        let until_ms = held.map(|held| held.until_ms.saturating_sub(now_ms));
        Ok(until_ms.map_or(TICK, |until_ms| TICK.min(Duration::from_millis(until_ms))))
    }

    /// No longer armed, or disarmed on this host: nobody is refused, nobody waits; the target stays as it is, for whoever routes from now on.
    async fn release(&mut self) -> Result<()> {
        if self.applied.is_none() && !self.held {
            return Ok(());
        }
        self.refuse_only(Vec::new()).await?;
        self.admin.resume().await?;
        self.keep_held(false).await?;
        (self.applied, self.held_at, self.held_until_ms, self.reported) = (None, None, None, None);
        tracing::info!(pooler = self.pooler.name, "armed no longer, or not on this host: clients are let go");
        Ok(())
    }

    async fn apply(&mut self, route: &Route) -> Result<()> {
        match route {
            Route::Leave => Ok(()),
            Route::Hold { term, lost } => {
                self.term = Some(*term);
                self.held_until_ms = None;
                self.keep_held(true).await?;
                if lost.is_some() {
                    self.refused = None;
                }
                let pause = async { unless("already", self.admin.commands(&["PAUSE"]).await) };
                tokio::try_join!(self.leave(lost.as_ref()), pause)?;
                if let Some(lost) = lost {
                    self.refused = Some(vec![lost.clone()]);
                }
                tracing::warn!(
                    pooler = self.pooler.name,
                    term = term.0,
                    ?lost,
                    "clients wait: there is no writer"
                );
                Ok(())
            }
            Route::To { term, writer, address } => {
                self.term = Some(*term);
                self.held_until_ms = None;
                // Whom we refuse beside the writer costs its clients nothing: that is taken away when they have been let go.
                if self.refused.as_ref().is_none_or(|refused| refused.contains(address)) {
                    self.refuse_only(Vec::new()).await?;
                }
                self.write_target(target::text(&address.0, address.1)).await?;
                self.admin.reload_and_resume().await?;
                tracing::info!(pooler = self.pooler.name, term = term.0, %writer, "clients are sent to the writer");
                Ok(())
            }
        }
    }

    /// What was put off until clients were let go.
    async fn tidy(&mut self) -> Result<()> {
        if !matches!(self.applied, Some(Route::To { .. })) {
            return Ok(());
        }
        if self.refused.as_ref().is_none_or(|refused| !refused.is_empty()) {
            self.refuse_only(Vec::new()).await?;
        }
        if self.unsynced {
            let path = self.pooler.target_file.clone();
            self.disk.write(move || durable::sync(&path)).await.with_context(|| self.at())?;
            self.unsynced = false;
        }
        self.keep_held(false).await
    }

    async fn refuse_only(&mut self, whom: Vec<(String, u16)>) -> Result<()> {
        self.refuse.only(&whom).await.context("refusing nobody but a lost writer")?;
        self.refused = Some(whom);
        Ok(())
    }

    /// Refuses the lost writer and closes the connections to it.
    async fn leave(&self, lost: Option<&(String, u16)>) -> Result<()> {
        let Some((address, port)) = lost else { return Ok(()) };
        self.refuse.only(&[(address.clone(), *port)]).await.context("refusing the lost writer")?;
        sockets::destroy(address, *port).await.context("closing connections to the lost writer")?;
        Ok(())
    }

    async fn keep_held(&mut self, held: bool) -> Result<()> {
        if self.held != held {
            let file = held_file(&self.config, &self.pooler);
            let at = file.display().to_string();
            self.disk.keep(file, held.then(Vec::new)).await.context(at)?;
            self.held = held;
        }
        Ok(())
    }

    async fn write_target(&mut self, text: String) -> Result<()> {
        let path = self.pooler.target_file.clone();
        let replaced = self.disk.write(move || target::replace(&path, text.as_bytes())).await;
        self.unsynced |= replaced.with_context(|| self.at())?;
        Ok(())
    }

    fn at(&self) -> String {
        format!("the target file {}", self.pooler.target_file.display())
    }
}

/// The answer of a proof, once it is there; without one it waits for ever.
async fn proved(proof: &mut Option<(u64, oneshot::Receiver<PhaseDone>)>) -> Option<PhaseDone> {
    match proof {
        Some((_, receiver)) => {
            let done = receiver.await.ok();
            *proof = None;
            done
        }
        None => std::future::pending().await,
    }
}

fn held_file(config: &Config, pooler: &Pooler) -> PathBuf {
    config.state_dir.join(format!("pooler-{}.held", pooler.name))
}
