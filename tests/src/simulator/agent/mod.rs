//! The shell of the agent, mirrored: the same looks, the same order of effects, the same comparisons in each transaction as
//! `agent/src`, around the *real* decisions of `holdfast-agent-core`. Whatever the agent's own files do in one line is one
//! step here, before which the process can be ended.
//!
//! | here | there |
//! | --- | --- |
//! | this file | `agent/src/member/mod.rs` |
//! | [`look`] | `agent/src/member/{followers,look,network,sql}.rs` |
//! | [`suspect`] | `agent/src/member/suspect.rs` |
//! | [`act`], [`close`], [`promise`], [`facts`], [`fence`], [`suspension`] | `agent/src/act/*.rs` |
//! | [`lease`], [`kept`] | `agent/src/member/{lease,kept}.rs` |
//! | [`gates`] | `agent/src/member/gates.rs`, `agent/src/gate/*.rs`, `agent/src/act/timeline.rs` |
//! | [`operation`] | `agent/src/member/operation/*.rs` |
//! | [`session`] | `agent/src/session.rs` |

mod act;
mod close;
mod facts;
mod fence;
mod gates;
mod kept;
mod lease;
mod look;
mod operation;
mod promise;
mod session;
mod suspect;
mod suspension;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::Phase;
use holdfast_agent_core::gone::Gone;
use holdfast_agent_core::lease::Fence;
use holdfast_agent_core::member::{
    self as core, Action, AfterStop, Decision, Memory, Network, OwnSession, Suspicion,
};
use holdfast_agent_core::outside::Devices;
use holdfast_agent_core::relinquish::Hooks;
use holdfast_agent_core::sync::AnySetting;
use holdfast_store::StoreError;
use holdfast_types::record::{MemberFacts, Reign};
use holdfast_types::{Class, Mode, Now, Position, Term, Timeline};

use super::etcd::{Client, Mirror};
use super::executor::{ProcessId, Signal, ms, wait};
use super::mutant::Mutant;
use super::world::{Host, Remembered, Sim, World};

pub use gates::{may_start, promotion_hook};

/// Devices are not simulated.
const NO_DEVICES: Devices = Devices::new();
const TICK_US: u64 = ms(2_000);
const UNSETTLED_TICK_US: u64 = ms(500);
const AFTER_AN_ACTION_US: u64 = ms(5);
const BOUND_TICK_US: u64 = ms(200);
const ACTIONS_IN_A_ROW_MAX: u32 = 12;
/// `EtcdOptions::call_deadline_ms`.
const CALL_DEADLINE_US: u64 = ms(1_000);

/// Why an effect did not happen; the next look sees what is the case.
#[derive(Debug)]
pub struct Failed(pub String);

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}
impl From<&str> for Failed {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

type Done<T = ()> = Result<T, Failed>;

/// One start of the agent.
pub struct Agent {
    /// Its process.
    pub process: ProcessId,
    world: Sim,
    host: usize,
    client: Client,
    mirror: Rc<Mirror>,
    wake: Rc<Signal>,
    started_ms: u64,
    /// The session and until when it is known to be alive, by our clock.
    held: Cell<Option<(OwnSession, u64)>>,
    /// Until when a lease lives that has no key yet.
    pending_until_ms: Cell<u64>,
    /// When the last renewal was sent that was confirmed.
    renewed_ms: Cell<Option<u64>>,
    /// Raised at every change of the session.
    session_told: Rc<Signal>,
    fence_wake: Rc<Signal>,
    /// A change of the fence is under way.
    ladder_held: Cell<bool>,
    guard_silent_until_ms: Cell<u64>,
    state: RefCell<State>,
    hooks: RefCell<Hooks>,
}

/// See `agent/src/member/mod.rs`.
#[derive(Default)]
struct State {
    remembered: Remembered,
    phase: Option<Phase>,
    network: Network,
    suspicion: Suspicion,
    suspected_at_ms: Option<u64>,
    received_timeline: Option<Timeline>,
    gone: Gone,
    granted_until_ms: u64,
    promising: bool,
    opening: Option<(Term, u64)>,
    fence: Option<Fence>,
    killed: bool,
    published: Option<MemberFacts>,
    data_uuid: Option<String>,
    postgres: Option<core::Postgres>,
    reached: Option<Position>,
    streaming: Option<bool>,
    stream_lost_ms: Option<u64>,
    started_as_primary: bool,
    after_stop: Option<AfterStop>,
    setting: Option<AnySetting>,
    patroni_hung: bool,
    patroni_alive: bool,
}

impl State {
    fn accepts_writes(&self) -> Option<bool> {
        self.postgres?.accepts_writes(self.started_as_primary)
    }
}

impl World {
    /// Starts the agent of a host.
    pub fn start_agent(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        let process = self.executor.process();
        let state_dir = here.state_dir.borrow().clone();
        let received_timeline = match &state_dir.phase {
            Some(Phase::Intended { received_timeline, .. }) => *received_timeline,
            Some(Phase::Positioned { promise } | Phase::Promised { promise }) => {
                Some(promise.position.timeline)
            }
            None => None,
        };
        let started_ms = here.clock_ms(self.executor.now_us());
        // Before anything is granted by this start. The profile of a run never changes.
        let waits = !self.is_mutant(Mutant::RestartWithoutWaiting);
        let grant_ms = if waits { self.setup.timings.grant_ms() } else { 0 };
        let agent = Rc::new(Agent {
            process,
            world: Rc::clone(self),
            host,
            client: Client::new(self, host, CALL_DEADLINE_US),
            mirror: Mirror::start(self, host, process),
            wake: Signal::new(&self.executor),
            started_ms,
            held: Cell::new(None),
            pending_until_ms: Cell::new(0),
            renewed_ms: Cell::new(None),
            session_told: Signal::new(&self.executor),
            fence_wake: Signal::new(&self.executor),
            ladder_held: Cell::new(false),
            guard_silent_until_ms: Cell::new(0),
            state: RefCell::new(State {
                remembered: state_dir.remembered,
                phase: state_dir.phase,
                received_timeline,
                granted_until_ms: started_ms + grant_ms,
                ..State::default()
            }),
            hooks: RefCell::default(),
        });
        *here.agent.borrow_mut() = Some(Rc::clone(&agent));
        self.say(&format_args!("{}.agent", here.member), &"starts");
        self.executor.spawn(process, Rc::clone(&agent).keep_session());
        self.executor.spawn(process, Rc::clone(&agent).suspect());
        self.executor.spawn(process, Rc::clone(&agent).keep_fence());
        if self.setup.operations.is_some() {
            self.executor.spawn(process, Rc::clone(&agent).take_part());
        }
        self.executor.spawn(process, agent.run());
    }

    /// `kill -9` of the agent.
    pub fn end_agent(&self, host: usize) {
        if let Some(agent) = self.hosts[host].agent.borrow_mut().take() {
            self.executor.end(agent.process);
        }
    }
}

impl Agent {
    fn here(&self) -> &Host {
        &self.world.hosts[self.host]
    }

    fn now_ms(&self) -> u64 {
        self.here().clock_ms(self.world.executor.now_us())
    }

    fn wall_ms(&self) -> i64 {
        i64::try_from(self.now_ms()).expect("a run lasts minutes")
    }

    fn say(&self, what: &dyn std::fmt::Display) {
        self.world.say(&format_args!("{}.agent", self.here().member), what);
    }

    /// Our session, while it is known to be alive.
    fn own(&self) -> Option<OwnSession> {
        self.held.get().filter(|(_, until_ms)| self.now_ms() < *until_ms).map(|(own, _)| own)
    }

    /// The place between two effects: here the process can be ended.
    async fn step(&self, what: &dyn std::fmt::Display) {
        self.say(what);
        self.may_end_here().await;
    }

    /// A step that is not worth a line.
    async fn may_end_here(&self) {
        if let Some(left) = self.here().crash_in.get() {
            self.here().crash_in.set(left.checked_sub(1));
            if left == 0 {
                self.say(&"is killed before this step");
                let (world, host) = (Rc::clone(&self.world), self.host);
                self.world.executor.after(0, move || world.end_agent(host));
                std::future::pending::<()>().await;
            }
        }
        // Now and then the processor is not there for it.
        let slow = self.world.random(0, if self.world.setup.starved { 1 } else { 15 }) == 0;
        self.world.pause(30, if slow { ms(60) } else { 400 }).await;
    }

    async fn run(self: Rc<Self>) {
        let mut memory = Memory::default();
        let mut eyes = look::Eyes::default();
        let mut acted_in_a_row = 0;
        loop {
            let told = self.mirror.told.count();
            let (acted, again_us) = self.once(&mut memory, &mut eyes).await;
            acted_in_a_row = if acted { acted_in_a_row + 1 } else { 0 };
            if acted_in_a_row > ACTIONS_IN_A_ROW_MAX {
                self.world.executor.sleep(TICK_US).await;
            }
            let woken = self.wake.count();
            let mut signals = vec![(&self.mirror.told, told), (&self.wake, woken)];
            let exited = eyes.postmaster.as_ref().map(|postmaster| Rc::clone(&postmaster.exited));
            if let Some(exited) = &exited {
                signals.push((exited, 0));
            }
            wait(&self.world.executor, again_us, &signals).await;
        }
    }

    /// One look, one decision, its actions. Returns whether it acted, and when to look again at the latest.
    async fn once(&self, memory: &mut Memory, eyes: &mut look::Eyes) -> (bool, u64) {
        let watched = self.mirror.cluster();
        self.look(eyes, &watched).await;
        if !self.mirror.connected.get() {
            return (false, TICK_US);
        }
        let Some(mode) = watched.known_mode() else { return (false, TICK_US) };
        self.follow_records(&watched).await;
        let mut cluster = (*watched).clone();
        self.mutate(&mut cluster);
        let mut thought = memory.clone();
        let mut decision = self.decide(&cluster, &mut thought);
        let must_read = decision.needs_sync_history || decision.actions.iter().any(Action::needs_fresh_read);
        let reads = !self.world.is_mutant(Mutant::CloseOnWatchedView);
        if must_read && mode == Mode::Armed && (reads || decision.needs_sync_history) {
            cluster = match self.client.cluster().await {
                Ok(fresh) => fresh,
                Err(_) => return (false, ms(100)),
            };
            self.mutate(&mut cluster);
            thought = memory.clone();
            decision = self.decide(&cluster, &mut thought);
        }
        *memory = thought;
        let acted = mode == Mode::Armed && cluster.is_armed() && self.execute(&cluster, &decision).await;
        if let Err(Failed(why)) = self.publish_facts(&cluster).await {
            self.say(&format_args!("facts are not published: {why}"));
        }
        let tick_us = self.tick_us(&cluster);
        let again_us = decision.again_in_ms.map_or(tick_us, ms).min(tick_us);
        (acted, if acted { again_us.min(AFTER_AN_ACTION_US) } else { again_us })
    }

    fn tick_us(&self, cluster: &Cluster) -> u64 {
        let state = self.state.borrow();
        let runs = matches!(state.postgres, Some(core::Postgres::Running { .. }));
        let closed =
            core::term_in_force(cluster).is_some_and(|term| matches!(term.value.reign, Reign::Closed { .. }));
        if state.phase.is_some() || closed {
            BOUND_TICK_US
        } else if runs && state.streaming != Some(true) {
            UNSETTLED_TICK_US
        } else {
            TICK_US
        }
    }

    fn decide(&self, cluster: &Cluster, memory: &mut Memory) -> Decision {
        let (now_ms, host) = (self.now_ms(), self.here());
        let writer_gone_ms = self.state.borrow_mut().gone.look(cluster, now_ms);
        let state = self.state.borrow();
        // Without the rule an agent that has just started promises at once.
        let waits = !self.world.is_mutant(Mutant::RestartWithoutWaiting);
        let up_ms = if waits { now_ms.saturating_sub(self.started_ms) } else { u64::MAX };
        core::decide(
            cluster,
            &core::Local {
                me: &host.member,
                host: &host.name,
                class: Class::Quorum,
                now: Now { boottime_ms: now_ms, wall_ms: self.wall_ms() },
                uptime_ms: up_ms,
                own: self.own(),
                postgres: state.postgres.unwrap_or(core::Postgres::Unknown),
                started_as_primary: state.started_as_primary,
                patroni_hung: state.patroni_hung,
                // Hangs of PostgreSQL are waited for here.
                pulse: None,
                after_stop: state.after_stop.clone(),
                reached: state.reached,
                known_term: Term(0),
                writer_gone_ms,
                granted: now_ms < state.granted_until_ms,
                hooks: *self.hooks.borrow(),
                gate_shut: state.remembered.attesting,
                // Hangs are waited for, and the record of a restart in place is nobody's decision.
                ends_hung: false,
                away_in: None,
                fenced_in: matches!(state.fence, Some(Fence::Until { .. } | Fence::Closed)),
                phase: state.phase.as_ref(),
                suspicion: &state.suspicion,
                network: &state.network,
                setting: state.setting.as_ref(),
                devices: &NO_DEVICES,
                timings: &self.world.setup.timings,
                second_failover_hold_ms: self.world.setup.hold_ms,
            },
            memory,
        )
    }

    async fn execute(&self, cluster: &Cluster, decision: &Decision) -> bool {
        for action in &decision.actions {
            self.world.checker.acted(&self.world, self.host);
            if let Err(Failed(why)) = self.perform(cluster, action).await {
                self.say(&format_args!("{why}; looked at again"));
                return false;
            }
        }
        !decision.actions.is_empty()
    }

    /// What a mutant makes the core believe.
    fn mutate(&self, cluster: &mut Cluster) {
        let forgets = self.world.is_mutant(Mutant::PromiseForgottenAtBoot);
        if forgets && self.now_ms().saturating_sub(self.started_ms) < 10_000 && self.here().boots.get() > 1 {
            cluster.promises.remove(&self.here().member);
            self.state.borrow_mut().phase = None;
        }
        if self.world.is_mutant(Mutant::CloseByPresentSync)
            && let (Some(floor), Some(sync)) = (&mut cluster.floor, &cluster.sync)
        {
            floor.value.configuration = sync.configuration(&self.world.hosts[0].member);
            if let Some(term) = &cluster.term {
                floor.value.configuration = sync.configuration(term.value.holder());
            }
            floor.value.sync_version = sync.version;
        }
    }
}
