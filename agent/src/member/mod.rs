//! One PostgreSQL instance: look, decide, act, look again.
//!
//! The loop of [`Member::run`] is the one executor of its decisions; the mode is checked there and nowhere else. What is
//! decided is in `holdfast-agent-core`; what is done is in [`crate::act`], one kind of effect a file.

mod followers;
mod gates;
mod hooks;
mod journal;
mod kept;
mod lease;
mod local_disarm;
mod look;
mod network;
mod operation;
mod places;
mod preflight;
mod pulse;
mod rest;
mod restart;
pub mod routing;
mod setup;
pub mod sql;
mod state;
mod suspect;
mod talk;
mod warned;
mod would;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context as _;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::Phase;
use holdfast_agent_core::grant;
use holdfast_agent_core::lease::Fence;
use holdfast_agent_core::member::{self as core, Action, Decision, Memory, OwnSession};
use holdfast_agent_core::observe;
use holdfast_agent_core::outside::Devices;
use holdfast_agent_core::rollback::KnownReign;
use holdfast_host::clock;
use holdfast_host::nftables;
use holdfast_proto::message::TermSeen;
use holdfast_proto::tls::Identity;
use holdfast_types::Mode;
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{Reign, TermRecord};
use tokio::sync::{Notify, watch};

use crate::act;
use crate::config::{Config, Instance};
use crate::disk::{self, Disk};
use crate::gate;
use crate::gate::remembered::{self, Remembered};
use crate::session::Held;
use crate::telemetry::Telemetry;
use crate::world::World;
pub use gates::Promotion;
use sql::Sql;
pub use state::State;

/// How often a member looks around when nothing wakes it: the end of its postmaster and every change in etcd do. What is
/// left for the tick is a Patroni that was stopped by a signal, and a packet filter that somebody flushed.
const TICK: Duration = Duration::from_millis(2_000);

/// A PostgreSQL that runs and does not stream yet is looked at more often: what its facts say decides who can follow.
const UNSETTLED_TICK: Duration = Duration::from_millis(500);
/// The watch tells of our own transaction within this time.
const AFTER_AN_ACTION: Duration = Duration::from_millis(5);
/// While a promise binds this node or a term is closed, the packet filter is looked after more often.
const BOUND_TICK: Duration = Duration::from_millis(200);

/// A read that failed is tried again after this.
const READ_AGAIN: Duration = Duration::from_millis(100);
/// Rounds of actions, one after the other, before the loop slows down to a tick.
const ACTIONS_IN_A_ROW_MAX: u32 = 12;

/// One instance of this host.
pub struct Member {
    /// Its configuration.
    pub instance: Instance,
    /// The agent's configuration.
    pub config: Arc<Config>,
    /// Its keys in etcd.
    pub keys: ClusterKeys,
    /// etcd.
    pub world: Arc<World>,
    /// Its PostgreSQL.
    pub sql: Arc<Sql>,
    /// Its table in the kernel.
    pub firewall: nftables::Table,
    /// The fence of its writer.
    pub ladder: act::fence::Ladder,
    /// Our identity.
    pub identity: Identity,
    /// Judges Patroni's certificate, where that comes from another authority than ours.
    patroni_verifier: Option<Arc<rustls::client::WebPkiServerVerifier>>,
    /// Where the steps of incidents go.
    pub telemetry: Telemetry,
    /// Its promotion hooks.
    pub hooks: hooks::Desk,
    /// What the fence devices that this host may ask are waited for.
    devices: Devices,
    /// A fence device is being asked by us.
    pub asking_outside: Arc<AtomicBool>,
    /// Wakes the loop.
    pub wake: Notify,
    /// Wakes the task that keeps the fence.
    pub fence_wake: Notify,
    /// Wakes the task that tells of restarts in place.
    pub restart_wake: Notify,
    session: watch::Receiver<Held>,
    started_ms: u64,
    /// Writes what must be durable, on a thread of its own.
    pub disk: Disk,
    state: Mutex<State>,
}

impl Member {
    /// Prepares the instance: reads what an earlier agent left on disk.
    pub fn new(
        instance: Instance,
        config: Arc<Config>,
        world: Arc<World>,
        session: watch::Receiver<Held>,
        (identity, telemetry): (Identity, Telemetry),
    ) -> anyhow::Result<Arc<Self>> {
        let folder = remembered::folder(&config.state_dir, &instance.cluster);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let remembered = Remembered::load(&config.state_dir, &instance.cluster).unwrap_or_else(|why| {
            tracing::error!(cluster = %instance.cluster, "{why}; until etcd has been read the cluster counts as armed");
            Remembered { mode: Mode::Armed, ..Remembered::default() }
        });
        // Before anything is granted by this start.
        let now_ms = clock::boottime_ms();
        let grant_ms = grant::longest_ms(remembered.grant_ms, config.timings.grant_ms(), 0);
        let granted_until_ms = now_ms + grant_ms;
        let phase = kept::load_phase(&folder)?;
        // Before anything of this start acts.
        let (local_disarm, local_problem) = match gate::local_disarm::load(&config.state_dir) {
            Ok(found) => (found, None),
            Err(problem) => (None, Some(problem)),
        };
        let received_timeline = match &phase {
            Some(Phase::Intended { received_timeline, .. }) => *received_timeline,
            Some(Phase::Positioned { promise } | Phase::Promised { promise }) => {
                Some(promise.position.timeline)
            }
            None => None,
        };
        let patroni_verifier =
            instance.patroni_ca.as_deref().map(holdfast_proto::tls::server_verifier).transpose()?;
        Ok(Arc::new(Self {
            patroni_verifier,
            keys: ClusterKeys::new(&instance.cluster),
            sql: Arc::new(Sql::new(&instance.socket_dir, instance.port, &instance.sql_role)),
            firewall: act::network::firewall(&instance),
            ladder: act::fence::Ladder::new(&config, &instance),
            devices: config.outside.iter().map(|device| (device.host.clone(), device.delay_ms)).collect(),
            identity,
            telemetry,
            hooks: hooks::Desk::default(),
            asking_outside: Arc::default(),
            wake: Notify::new(),
            fence_wake: Notify::new(),
            restart_wake: Notify::new(),
            started_ms: now_ms,
            disk: Disk::default(),
            state: Mutex::new(State {
                received_timeline,
                away: remembered.away.clone(),
                restarts: remembered.restarts,
                remembered,
                phase,
                local_disarm,
                local_problem,
                granted_until_ms,
                fences: journal::Fences::load(&folder),
                observed: Some(would::load(&folder)),
                ..State::default()
            }),
            instance,
            config,
            world,
            session,
        }))
    }

    /// Whether a user may ask about this instance: root, or the owner of the data directory (of its parent before
    /// Patroni's bootstrap has made it). A disk that does not answer lets nobody but root ask.
    pub async fn may_ask(&self, uid: u32) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let data_dir = self.instance.data_dir.clone();
        let look = move || {
            let paths = [Some(data_dir.as_path()), data_dir.parent()];
            paths.into_iter().flatten().find_map(|path| path.metadata().ok()).map(|found| found.uid())
        };
        uid == 0 || disk::look(look).await.is_ok_and(|owner| owner == Some(uid))
    }

    /// The shared state. Held for moments only, never over an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the state")
    }

    /// Our session, while it is known to be alive.
    pub fn own(&self) -> Option<OwnSession> {
        self.session.borrow().alive()
    }

    /// Runs until the runtime ends.
    pub async fn run(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self).suspect());
        tokio::spawn(Arc::clone(&self).keep_fence());
        tokio::spawn(Arc::clone(&self).feel_pulse());
        tokio::spawn(Arc::clone(&self).tell_restarts());
        tokio::spawn(Arc::clone(&self).take_part());
        let mut changes = self.world.changes();
        let mut memory = Memory::default();
        let mut eyes = look::Eyes::default();
        let mut acted_in_a_row = 0;
        loop {
            changes.mark_unchanged();
            let (acted, again) = self.once(&mut memory, &mut eyes).await;
            acted_in_a_row = if acted { acted_in_a_row + 1 } else { 0 };
            if acted_in_a_row > ACTIONS_IN_A_ROW_MAX {
                // A failover takes a handful of rounds. Whatever goes on acting for longer must not fill etcd with it.
                tokio::time::sleep(TICK).await;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = self.wake.notified() => {}
                () = eyes.postmaster_exit() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// One look, one decision, its actions. Returns whether it acted, and when to look again at the latest.
    async fn once(&self, memory: &mut Memory, eyes: &mut look::Eyes) -> (bool, Duration) {
        let (watched, connected) = self.world.watched(&self.keys);
        self.look_for_order(eyes).await;
        let looked_ms = clock::boottime_ms();
        self.look(eyes, &watched).await;
        self.state().looked_ms = Some(looked_ms);
        self.keep_fences(eyes, &watched, connected).await;
        if connected {
            self.state().term = core::term_in_force(&watched).map(|term| term_seen(&term.value));
        }
        if self.disarmed_here() {
            return (false, self.stand_aside(&watched, connected).await);
        }
        if !connected {
            self.state().observer.forget();
            self.state().waits = vec!["etcd is not heard".into()];
            return (false, TICK);
        }
        let Some(mode) = watched.known_mode() else {
            self.state().waits = vec!["the mode record cannot be read; upgrade this host".into()];
            return (false, TICK);
        };
        if let Some(why) = self.contradiction(&watched) {
            self.say_contradiction(&why);
            // What every host remembers is what a person goes on with.
            self.publish_facts(&watched).await;
            return (false, TICK);
        }
        self.state().contradiction = None;
        self.follow_records(&watched).await;
        // What the watch has shown, and nothing newer: it must never lie behind what is remembered.
        let reign = core::term_in_force(&watched).filter(|_| watched.is_armed());
        let reign = reign.map(|term| KnownReign::of(&term.value));
        let considered = self.considered(watched);
        // The second decision of a round starts from the same memory as the first: a timer that the first has set must not
        // make the second wait.
        let mut thought = memory.clone();
        let mut decision = self.decide(&considered, &mut thought, mode);
        let mut cluster = considered;
        let must_read = decision.needs_sync_history || decision.actions.iter().any(Action::needs_fresh_read);
        if must_read && mode == Mode::Armed {
            let Some(fresh) = self.read_again().await else { return (false, READ_AGAIN) };
            cluster = fresh;
            thought = memory.clone();
            decision = self.decide(&cluster, &mut thought, mode);
        }
        *memory = thought;
        decision.waits.extend(self.why_nothing_is_kept());
        // The mode is the real one: what an observing agent considers counts as armed.
        let acted = match mode {
            Mode::Armed if cluster.is_armed() => self.execute(&cluster, &decision).await,
            Mode::Observe => {
                self.record_would(&cluster, &decision).await;
                false
            }
            Mode::Armed | Mode::Disarmed => false,
        };
        // After what was decided: nothing waits for it.
        if reign.is_some() {
            self.remember(|remembered| remembered.reign = reign).await;
            self.keep_away().await;
        }
        self.publish_facts(&cluster).await;
        let tick = self.tick();
        let again = decision.again_in_ms.map_or(tick, Duration::from_millis).min(tick);
        // What was done changes what is seen: look again as soon as the watch can have told of it.
        (acted, if acted { again.min(AFTER_AN_ACTION) } else { again })
    }

    async fn publish_facts(&self, cluster: &Cluster) {
        if let Err(error) = act::facts::publish(self, cluster).await {
            tracing::debug!(%error, "facts are not published");
        }
    }

    /// A linearizable read to act on.
    async fn read_again(&self) -> Option<Cluster> {
        match self.world.read(&self.keys).await {
            // etcd may have been restored between the watch and the read.
            Ok(fresh) => Some(fresh).filter(|fresh| self.contradiction(fresh).is_none()),
            Err(error) => {
                tracing::debug!(%error, "no decision without a linearizable read");
                None
            }
        }
    }

    fn tick(&self) -> Duration {
        let state = self.state();
        let runs = matches!(state.postgres, Some(core::Postgres::Running { .. }));
        let closed = state.term.as_ref().is_some_and(|term| !term.open);
        if state.phase.is_some() || closed {
            BOUND_TICK
        } else if runs && state.streaming != Some(true) {
            UNSETTLED_TICK
        } else {
            TICK
        }
    }

    fn decide(&self, cluster: &Cluster, memory: &mut Memory, mode: Mode) -> Decision {
        let writer_gone_ms = self.writer_gone_ms(cluster);
        let left =
            (mode == Mode::Observe).then(|| observe::as_if_left(cluster, &self.instance.member)).flatten();
        let state = self.state();
        let local = core::Local {
            me: &self.instance.member,
            host: &self.config.host,
            class: self.instance.class,
            now: clock::now(),
            uptime_ms: clock::boottime_ms().saturating_sub(self.started_ms),
            own: self.own(),
            postgres: state.postgres.unwrap_or(core::Postgres::Unknown),
            started_as_primary: state.started_as_primary,
            patroni_hung: state.patroni_hung,
            pulse: state.pulse,
            after_stop: state.after_stop.clone(),
            reached: state.position,
            known_term: state.remembered.known_term(),
            writer_gone_ms,
            granted: clock::boottime_ms() < state.granted_until_ms,
            gate_shut: state.remembered.attesting,
            ends_hung: state.remembered.ends_hung,
            away_in: state.away.as_ref().map(|away| away.term),
            hooks: self.hooks.now(),
            fenced_in: matches!(state.fence, Some(Fence::Until { .. } | Fence::Closed)),
            phase: left.as_ref().map(|(phase, _)| phase).or(state.phase.as_ref()),
            suspicion: &state.suspicion,
            network: left.as_ref().map_or(&state.network, |(_, network)| network),
            setting: state.setting.as_ref(),
            devices: &self.devices,
            timings: &self.config.timings,
            second_failover_hold_ms: self.config.second_failover_hold_ms,
        };
        core::decide(cluster, &local, memory)
    }

    /// The one executor; called for an armed cluster only.
    async fn execute(&self, cluster: &Cluster, decision: &Decision) -> bool {
        {
            let mut state = self.state();
            state.waits.clone_from(&decision.waits);
            if state.ended.is_some() && state.left_alone.is_none() && !decision.waits.is_empty() {
                state.left_alone = Some(decision.waits.join("; "));
            }
            state.would.clear();
        }
        for action in &decision.actions {
            if let Err(error) = act::perform(self, cluster, action).await {
                tracing::warn!(cluster = %self.instance.cluster, action = act::describe(action), "{error:#}; looked at again");
                return false;
            }
        }
        !decision.actions.is_empty()
    }
}

fn term_seen(record: &TermRecord) -> TermSeen {
    let writable = matches!(record.reign, Reign::Open { writable: true, .. });
    let open = record.open_holder().is_some();
    TermSeen { term: record.term, holder: record.holder().clone(), open, writable }
}
