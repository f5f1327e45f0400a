//! One PgBouncer of this host: holds its clients when the writer is lost, and sends them to the next.
//!
//! The order is measured (`facts/baseline.md` 5.1): PAUSE, and at the same time refuse and close every connection to the
//! lost writer, because PAUSE holds new statements back at once and ends only when the old ones have; on the new term the
//! target, RELOAD, RESUME.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use holdfast_agent_core::route::{self, Route};
use holdfast_host::{durable, nftables, sockets};
use holdfast_proto::message::PoolerStatus;
use holdfast_proto::trace::TraceContext;
use holdfast_store::{Txn, Write};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{RouteRecord, Step, Stored};
use holdfast_types::{MemberName, Mode, Term};
use tokio_postgres::NoTls;

use crate::act::{incident, trace};
use crate::config::{Config, Pooler};
use crate::disk::Disk;
use crate::local_disarm;
use crate::telemetry::Telemetry;
use crate::world::World;

/// A command on the admin console takes milliseconds; PAUSE waits for server connections that are in use.
const COMMAND_DEADLINE: Duration = Duration::from_millis(1_000);
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_millis(200);
/// The route is looked at this often when nothing changes.
const TICK: Duration = Duration::from_secs(10);

/// The task of one PgBouncer.
pub struct Router {
    pooler: Pooler,
    config: Arc<Config>,
    keys: ClusterKeys,
    world: Arc<World>,
    refuse: nftables::Refuse,
    applied: Option<Route>,
    disk: Disk,
    /// A person's order to this host alone.
    order: local_disarm::Reader,
    /// Clients may be paused, or a writer refused, by this start of the agent or by an earlier one: kept on disk before it is
    /// done, so that whoever comes after us lets go of it.
    held: bool,
    term: Option<Term>,
    held_at: Option<SystemTime>,
    telemetry: Telemetry,
    seen: Arc<Mutex<PoolerStatus>>,
}

impl Router {
    /// Prepares the task.
    pub fn new(pooler: Pooler, config: Arc<Config>, world: Arc<World>, telemetry: Telemetry) -> Self {
        let seen = PoolerStatus {
            name: pooler.name.clone(),
            namespace: pooler.cluster.namespace.clone(),
            scope: pooler.cluster.scope.clone(),
            target: None,
            paused: false,
        };
        let keys = ClusterKeys::new(&pooler.cluster);
        let refuse = nftables::Refuse::new(&pooler.name);
        let held = held_file(&config, &pooler).exists();
        Self {
            disk: Disk::default(),
            order: local_disarm::Reader::default(),
            held,
            pooler,
            config,
            keys,
            world,
            refuse,
            applied: None,
            term: None,
            held_at: None,
            telemetry,
            seen: Arc::new(Mutex::new(seen)),
        }
    }

    /// Where clients are, for `status`.
    pub fn seen(&self) -> Arc<Mutex<PoolerStatus>> {
        Arc::clone(&self.seen)
    }

    /// Runs until the runtime ends.
    pub async fn run(mut self) {
        let mut changes = self.world.changes();
        loop {
            changes.mark_unchanged();
            let (cluster, connected) = self.world.watched(&self.keys);
            let stands_aside = self.order.stands(&self.config.state_dir).await;
            let wanted =
                if connected && !stands_aside { route::decide(&cluster, self.term) } else { Route::Leave };
            let mut wait = TICK;
            if wanted != Route::Leave && self.applied.as_ref() != Some(&wanted) {
                match self.apply(&wanted).await {
                    Ok(()) => {
                        self.note(&wanted, trace::of_record(&cluster));
                        self.applied = Some(wanted);
                    }
                    Err(error) => {
                        tracing::warn!(pooler = self.pooler.name, "{error:#}; tried again");
                        wait = RETRY;
                    }
                }
            }
            let is_free = matches!(cluster.known_mode(), Some(Mode::Observe | Mode::Disarmed));
            let let_go = stands_aside || connected && is_free;
            if let_go && (self.applied.is_some() || self.held) {
                match self.release().await {
                    Ok(()) => (self.applied, self.held_at) = (None, None),
                    Err(error) => {
                        tracing::warn!(pooler = self.pooler.name, "{error:#}; tried again");
                        wait = RETRY;
                    }
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// No longer armed, or disarmed on this host: nobody is refused, nobody waits; the target stays as it is, for whoever routes from now on.
    async fn release(&mut self) -> Result<()> {
        self.refuse.only(&[]).await.context("refusing nobody")?;
        self.but("not paused", "RESUME").await?;
        self.keep_held(false).await?;
        tracing::info!(pooler = self.pooler.name, "armed no longer, or not on this host: clients are let go");
        Ok(())
    }

    /// Keeps what was put in place, and records how long clients waited.
    fn note(&mut self, route: &Route, context: Option<TraceContext>) {
        let target = match route {
            Route::To { writer, .. } => Some(writer.clone()),
            Route::Hold { .. } | Route::Leave => None,
        };
        match (&target, self.held_at) {
            (Some(writer), Some(since)) => {
                let attributes =
                    [("holdfast.pooler", self.pooler.name.clone()), ("holdfast.to", writer.to_string())];
                trace::step(&self.telemetry, context, "route", since, &attributes);
                self.held_at = None;
            }
            (None, None) => self.held_at = Some(SystemTime::now()),
            _ => {}
        }
        let mut seen = self.seen.lock().expect("nobody panics while holding a route");
        seen.paused = target.is_none();
        seen.target = target;
    }

    async fn apply(&mut self, route: &Route) -> Result<()> {
        match route {
            Route::Leave => Ok(()),
            Route::Hold { term, lost } => {
                self.term = Some(*term);
                self.keep_held(true).await?;
                tokio::try_join!(self.leave(lost.as_ref()), self.but("already", "PAUSE"))?;
                tracing::warn!(
                    pooler = self.pooler.name,
                    term = term.0,
                    ?lost,
                    "clients wait: there is no writer"
                );
                self.report(*term, None).await
            }
            Route::To { term, writer, address } => {
                self.term = Some(*term);
                self.refuse.only(&[]).await.context("refusing nobody")?;
                self.write_target(target(&address.0, address.1)).await.with_context(|| self.at())?;
                self.admin("RELOAD").await?;
                self.but("not paused", "RESUME").await?;
                tracing::info!(pooler = self.pooler.name, term = term.0, %writer, "clients are sent to the writer");
                self.keep_held(false).await?;
                self.report(*term, Some(writer)).await
            }
        }
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

    async fn write_target(&self, text: String) -> std::io::Result<()> {
        let path = self.pooler.target_file.clone();
        let write = move || match durable::read_optional(&path)? {
            Some(before) if before == text.as_bytes() => Ok(()),
            _ => replace(&path, text.as_bytes()),
        };
        self.disk.write(write).await
    }

    fn at(&self) -> String {
        format!("the target file {}", self.pooler.target_file.display())
    }

    /// A command that PgBouncer refuses with this text when it is already as it should be.
    async fn but(&self, already: &str, command: &str) -> Result<()> {
        match self.admin(command).await {
            Err(error) if format!("{error:#}").contains(already) => Ok(()),
            other => other,
        }
    }

    async fn admin(&self, command: &str) -> Result<()> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.pooler.admin_socket_dir)
            .port(self.pooler.port)
            .user("pgbouncer")
            .dbname("pgbouncer")
            .connect_timeout(COMMAND_DEADLINE);
        let work = async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            client.simple_query(command).await.map(drop)
        };
        let what = || format!("{command} on the admin console of {}", self.pooler.name);
        tokio::time::timeout(COMMAND_DEADLINE, work).await.with_context(what)?.with_context(what)
    }

    /// Says in etcd where the clients are, and adds the step to the incident.
    async fn report(&self, term: Term, target: Option<&MemberName>) -> Result<()> {
        let record = RouteRecord { term, target: target.cloned(), paused: target.is_none(), done: None };
        let key = self.keys.route(&self.config.host, &self.pooler.name);
        let write = Write::put(key, Stored::new(record).encode());
        self.world.store.txn(Txn { writes: vec![write], ..Txn::default() }).await?;
        if target.is_some() {
            let (store, keys, closed) =
                (Arc::clone(&self.world.store), self.keys.clone(), Term(term.0.saturating_sub(1)));
            tokio::spawn(async move {
                if let Err(error) = incident::add_step(&store, &keys, closed, Step::Routed, |_| ()).await {
                    tracing::warn!(%error, "that clients were sent to the writer is not recorded in the incident");
                }
            });
        }
        Ok(())
    }
}

fn held_file(config: &Config, pooler: &Pooler) -> PathBuf {
    config.state_dir.join(format!("pooler-{}.held", pooler.name))
}

/// The file that PgBouncer's configuration includes: every database name goes to the writer.
fn target(address: &str, port: u16) -> String {
    format!(
        "; written by holdfast-agent, which follows the term record\n[databases]\n* = host={address} port={port}\n"
    )
}

/// Replaces the file and keeps its owner: PgBouncer reads it as its own user.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = std::fs::metadata(path).ok().map(|before| (before.uid(), before.gid()));
    durable::write_owned(path, bytes, owner)
}
