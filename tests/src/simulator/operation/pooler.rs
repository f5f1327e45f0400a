//! The agent of a pooler: `agent/src/pooler/*.rs`, step by step, around the real decisions, and the PgBouncer beside it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use holdfast_agent_core::planned::{self, Duty, Held, Seen};
use holdfast_agent_core::route::{self, Route};
use holdfast_store::{StoreError, Write};
use holdfast_types::record::{FORMAT, OperationPhase, PhaseDone, RouteRecord, SessionRecord, Stored};
use holdfast_types::{Incarnation, Mode, Term, keys};

use super::{Place, clock_ms};
use crate::simulator::etcd::{Client, Mirror};
use crate::simulator::executor::{ProcessId, Signal, ms, wait};
use crate::simulator::mutant::Mutant;
use crate::simulator::postgres::commit;
use crate::simulator::world::Sim;

const RETRY_US: u64 = ms(200);
const TICK_US: u64 = ms(10_000);
const CALL_DEADLINE_US: u64 = ms(1_000);
const WRITE_DEADLINE_US: u64 = ms(5_000);
/// Its name, behind that of its host.
const NAME: &str = "a";

/// A PgBouncer: it outlives the agent.
#[derive(Default)]
pub struct Bouncer {
    /// Since when its clients wait.
    pub paused_us: Cell<Option<u64>>,
    /// They wait for a planned operation, and not because there is no writer.
    pub for_operation: Cell<bool>,
    /// To which host it sends them.
    pub target: Cell<Option<usize>>,
    /// A client's transaction is open until then: a PAUSE waits for it.
    pub busy_until_us: Cell<u64>,
}

impl Bouncer {
    /// Lets clients go.
    pub fn resume(&self) {
        self.paused_us.set(None);
        self.for_operation.set(false);
    }

    fn pause(&self, now_us: u64, for_operation: bool) {
        self.paused_us.set(self.paused_us.get().or(Some(now_us)));
        self.for_operation.set(for_operation);
    }
}

struct Router {
    world: Sim,
    at: usize,
    process: ProcessId,
    client: Client,
    mirror: Rc<Mirror>,
    proved: Rc<Signal>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    applied: Option<Route>,
    term: Option<Term>,
    planned: Seen,
    held_until_ms: Option<u64>,
    done: Option<PhaseDone>,
    proof: Option<u64>,
    reported: Option<RouteRecord>,
}

/// Starts the agent of a host.
pub(super) fn start(world: &Sim, at: usize) -> ProcessId {
    let process = world.executor.process();
    let number = world.outside.places[at].number;
    let router = Rc::new(Router {
        world: Rc::clone(world),
        at,
        process,
        client: Client::new(world, number, CALL_DEADLINE_US),
        mirror: Mirror::start(world, number, process),
        proved: Signal::new(&world.executor),
        state: RefCell::default(),
    });
    router.say(&"starts");
    world.executor.spawn(process, Rc::clone(&router).keep_session());
    world.executor.spawn(process, router.run());
    process
}

impl Router {
    fn place(&self) -> &Place {
        &self.world.outside.places[self.at]
    }

    fn bouncer(&self) -> &Bouncer {
        &self.place().bouncer
    }

    fn full_name(&self) -> String {
        format!("{}.{NAME}", self.place().name)
    }

    fn say(&self, what: &dyn std::fmt::Display) {
        self.world.say(&self.place().name, what);
    }

    async fn keep_session(self: Rc<Self>) {
        let timings = &self.world.setup.timings;
        let renew_us = ms(timings.renew_interval_ms());
        let record = SessionRecord {
            host: self.place().name.clone(),
            boot_id: "1".into(),
            incarnation: Incarnation(self.world.next_number()),
            grpc: String::new(),
            version: String::new(),
            reads_format: FORMAT,
        };
        let (key, value) =
            (keys::session(&self.world.region, &self.place().name), Stored::new(record).encode());
        loop {
            if let Ok(lease) = self.client.grant(timings.session_ttl_s()).await {
                let put = Write::Put { key: key.clone(), value: value.clone(), lease };
                let _ = self.client.transact(Vec::new(), vec![put]).await;
                while !matches!(self.client.keep_alive(lease).await, Err(StoreError::LeaseNotFound { .. })) {
                    self.world.executor.sleep(renew_us).await;
                }
            }
            self.world.executor.sleep(renew_us).await;
        }
    }

    async fn run(self: Rc<Self>) {
        loop {
            let (told, proved) = (self.mirror.told.count(), self.proved.count());
            let again_us = self.once().await.unwrap_or(RETRY_US);
            let signals = [(&self.mirror.told, told), (&self.proved, proved)];
            wait(&self.world.executor, again_us, &signals).await;
        }
    }

    async fn once(self: &Rc<Self>) -> Result<u64, StoreError> {
        let (cluster, connected) = (self.mirror.cluster(), self.mirror.connected.get());
        if connected && matches!(cluster.known_mode(), Some(Mode::Observe | Mode::Disarmed)) {
            return Ok(TICK_US);
        }
        let (now_ms, name) = (clock_ms(&self.world), self.full_name());
        if !connected {
            return Ok(self.let_go_in_time(now_ms).await);
        }
        let (held, wanted, applied) = {
            let mut state = self.state.borrow_mut();
            state.planned.look(&cluster, &name, now_ms);
            let held = self.held(&state.planned, &cluster, now_ms);
            let wanted = route::decide_held(&cluster, state.term, held.is_some());
            (held, wanted, state.applied.clone())
        };
        if wanted != Route::Leave && applied.as_ref() != Some(&wanted) {
            match (&wanted, held) {
                (Route::Hold { term, lost: None }, Some(held)) => {
                    if !self.hold_for(*term, held).await {
                        return Ok(0);
                    }
                }
                _ => self.apply(&wanted).await,
            }
            self.state.borrow_mut().applied = Some(wanted);
        }
        self.answer(&cluster, now_ms);
        self.report().await?;
        let until_us = held.map(|held| ms(held.until_ms.saturating_sub(now_ms)));
        Ok(until_us.map_or(TICK_US, |until_us| TICK_US.min(until_us)))
    }

    fn held(
        &self,
        planned: &Seen,
        cluster: &holdfast_agent_core::cluster::Cluster,
        now_ms: u64,
    ) -> Option<Held> {
        // Without the rule the clock stands still for a pause.
        let for_ever = self.world.is_mutant(Mutant::PoolerNeverResumes);
        let held = planned.held(cluster, &self.full_name(), if for_ever { 0 } else { now_ms })?;
        Some(Held { until_ms: if for_ever { now_ms + 3_600_000 } else { held.until_ms }, ..held })
    }

    async fn hold_for(&self, term: Term, held: Held) -> bool {
        {
            let mut state = self.state.borrow_mut();
            (state.term, state.held_until_ms) = (Some(term), Some(held.until_ms));
            state.applied = None;
        }
        self.world.pause(200, ms(3)).await;
        self.say(&"PAUSE for an operation");
        self.bouncer().pause(self.world.executor.now_us(), true);
        let ends_us = self.world.executor.now_us() + self.world.random(200, ms(30));
        let operation = held.operation;
        let why = loop {
            let now_us = self.world.executor.now_us();
            let busy_us = self.bouncer().busy_until_us.get();
            if now_us >= ends_us.max(busy_us) {
                break None;
            }
            let told = self.mirror.told.count();
            let (cluster, now_ms) = (self.mirror.cluster(), clock_ms(&self.world));
            let still = self.held(&self.state.borrow().planned, &cluster, now_ms);
            let is_over = still.is_none_or(|still| still.operation != operation);
            if now_ms >= held.until_ms || self.mirror.connected.get() && is_over {
                break Some("a transaction was still open when the clients were to be let go".to_owned());
            }
            let left_us = ms(held.until_ms.saturating_sub(now_ms)).min(ends_us.max(busy_us) - now_us);
            wait(&self.world.executor, left_us.max(1), &[(&self.mirror.told, told)]).await;
        };
        let mut state = self.state.borrow_mut();
        match why {
            None => {
                let phase = OperationPhase::Pause;
                state.done = Some(PhaseDone { operation, phase, problem: None, remark: None });
                true
            }
            Some(why) => {
                self.world.say(&self.place().name, &format_args!("clients do not wait: {why}"));
                state.planned.give_up(operation, why);
                false
            }
        }
    }

    async fn let_go_in_time(&self, now_ms: u64) -> u64 {
        let Some(until_ms) = self.state.borrow().held_until_ms else { return TICK_US };
        if now_ms < until_ms {
            return TICK_US.min(ms(until_ms - now_ms));
        }
        self.world.pause(200, ms(3)).await;
        self.say(&"RESUME: etcd is not heard, and they have waited for long enough");
        self.bouncer().resume();
        let mut state = self.state.borrow_mut();
        (state.applied, state.held_until_ms, state.reported) = (None, None, None);
        TICK_US
    }

    async fn apply(&self, route: &Route) {
        self.world.pause(200, ms(4)).await;
        match route {
            Route::Leave => {}
            Route::Hold { term, lost } => {
                {
                    let mut state = self.state.borrow_mut();
                    (state.term, state.held_until_ms) = (Some(*term), None);
                }
                self.say(&format_args!("PAUSE: no writer in term {term}, {lost:?} is lost"));
                self.bouncer().pause(self.world.executor.now_us(), false);
            }
            Route::To { term, writer, .. } => {
                {
                    let mut state = self.state.borrow_mut();
                    (state.term, state.held_until_ms) = (Some(*term), None);
                }
                self.say(&format_args!("RESUME: to {writer} in term {term}"));
                self.bouncer().target.set(self.world.host_of(writer).map(|host| host.index));
                self.bouncer().resume();
            }
        }
    }

    fn answer(self: &Rc<Self>, cluster: &holdfast_agent_core::cluster::Cluster, now_ms: u64) {
        let name = self.full_name();
        let mut state = self.state.borrow_mut();
        if let Some(not_held) = state.planned.why_not_held(cluster, &name, now_ms) {
            state.done = Some(not_held);
        }
        match planned::duty(cluster, &name, state.applied.as_ref(), state.done.as_ref()) {
            Some(duty @ Duty::Release { .. }) => {
                let (operation, phase) = duty.place();
                state.done = Some(PhaseDone { operation, phase, problem: None, remark: None });
            }
            Some(Duty::Verify { operation, .. }) if state.proof != Some(operation) => {
                state.proof = Some(operation);
                self.world.executor.spawn(self.process, Rc::clone(self).prove(operation));
            }
            Some(Duty::Verify { .. }) | None => {}
        }
    }

    async fn prove(self: Rc<Self>, operation: u64) {
        let until_us = self.world.executor.now_us() + WRITE_DEADLINE_US;
        let problem = loop {
            self.world.pause(ms(1), ms(50)).await;
            let target = self.bouncer().target.get().filter(|_| self.bouncer().paused_us.get().is_none());
            let writes = |host: usize| {
                let primary = self.world.hosts[host].postmaster().is_some_and(|one| one.is_primary());
                primary && self.world.port_open(host) && self.world.connected(self.place().number, host)
            };
            if target.is_some_and(writes) {
                break None;
            }
            if self.world.executor.now_us() >= until_us {
                break Some("no write goes through it".to_owned());
            }
        };
        let mut state = self.state.borrow_mut();
        state.proof = None;
        state.done = Some(PhaseDone { operation, phase: OperationPhase::Verify, problem, remark: None });
        drop(state);
        self.proved.raise();
    }

    async fn report(&self) -> Result<(), StoreError> {
        let record = {
            let state = self.state.borrow();
            let (term, target) = match &state.applied {
                Some(Route::To { term, writer, .. }) => (*term, Some(writer.clone())),
                Some(Route::Hold { term, .. }) => (*term, None),
                Some(Route::Leave) | None => return Ok(()),
            };
            let record = RouteRecord { term, paused: target.is_none(), target, done: state.done.clone() };
            if state.reported.as_ref() == Some(&record) {
                return Ok(());
            }
            record
        };
        let key = self.world.keys.route(&self.place().name, NAME);
        let write = Write::put(key, Stored::new(record.clone()).encode());
        self.client.transact(Vec::new(), vec![write]).await?;
        self.state.borrow_mut().reported = Some(record);
        Ok(())
    }
}

/// Clients of a pooler: they write through it whenever they do not wait.
pub(super) async fn clients(world: Sim, number: usize) {
    let place = world.place(number).expect("it is one of the places");
    loop {
        let for_us = world.outside.random(ms(10), ms(80));
        world.executor.sleep(for_us).await;
        let target = place.bouncer.target.get().filter(|_| place.bouncer.paused_us.get().is_none());
        if let Some(target) = target.filter(|host| place.powered.get() && world.connected(number, *host)) {
            world.commit(target, commit::Client { route: commit::Route::Tcp, waits: true });
        }
    }
}
