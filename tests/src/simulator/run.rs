//! One run: a cluster comes up, is armed, suffers the planned faults, is healed, and must come back; then what it did is
//! judged. And the search for the fewest faults that still break it.

use std::rc::Rc;

use holdfast_store::Write;
use holdfast_types::Mode;
use holdfast_types::record::{ModeRecord, Reign, Stored};

use super::checker::{Promise, Violation};
use super::executor::ms;
use super::fault::{Fault, Kind, plan};
use super::mutant::Mutant;
use super::operation::{Course, Ended};
use super::postgres::commit::{Client, Route};
use super::world::{Setup, Sim, World};

/// A new cluster streams within this time.
const COME_UP_US: u64 = ms(90_000);
/// After everything is healed: twice Patroni's ttl for a hook that waits, one ttl for a node that was refused, and the
/// doubled patience of rule 13.
const COME_BACK_US: u64 = ms(180_000);
/// Phases that lose what they wait for are given up: two minutes in `prepare`, one in `hand over`, five in `settle`.
const OPERATIONS_END_US: u64 = ms(600_000);
/// Longer than any loss around them, and than a hand-over is waited for.
const OPERATIONS_PLAY_US: u64 = ms(95_000);
/// How often it is looked at whether a cluster is healthy.
const LOOK_US: u64 = ms(500);
/// Faults of one run, at most.
const FAULTS_MAX: u64 = 6;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Its faults.
    pub faults: Vec<Fault>,
    /// The rule that is left out.
    pub mutant: Option<Mutant>,
    /// Operations, and what is lost around them.
    pub operations: Option<Course>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64, mutant: Option<Mutant>) -> Self {
        let members = Setup::of(seed, mutant).members;
        let count = 2 + fastrand::Rng::with_seed(seed).u64(0..FAULTS_MAX - 1);
        Self { seed, faults: plan(seed, members, count as usize), mutant, operations: None }
    }

    /// The plan of a seed with operations: fewer faults of the usual kinds, and others around the operations.
    pub fn with_operations(seed: u64, mutant: Option<Mutant>) -> Self {
        let members = Setup::of(seed, mutant).members;
        let operations = Some(Course::of(seed, members, mutant));
        let count = fastrand::Rng::with_seed(seed ^ 0x0b5).usize(0..3);
        let mut faults = if count == 0 { Vec::new() } else { plan(seed, members, count) };
        // The traces have more.
        faults.truncate(count);
        Self { seed, faults, mutant, operations }
    }

    /// What the seed chooses before anything happens.
    pub fn setup(&self) -> Setup {
        let operations = self.operations.as_ref().map(|course| course.setup.clone());
        Setup { operations, ..Setup::of(self.seed, self.mutant) }
    }

    /// The same without one of its faults.
    fn without(&self, at: usize) -> Self {
        let mut shorter = self.clone();
        match at.checked_sub(self.faults.len()) {
            None => drop(shorter.faults.remove(at)),
            Some(at) => shorter.operations.iter_mut().for_each(|course| {
                course.losses.remove(at);
            }),
        }
        shorter
    }

    /// How many faults it has, of both kinds.
    pub fn count(&self) -> usize {
        self.faults.len() + self.operations.as_ref().map_or(0, |course| course.losses.len())
    }

    /// Nothing but etcd goes away, for some hosts or all: then nothing may happen (I6).
    fn is_without_etcd_only(&self) -> bool {
        let harmless = |kind| matches!(kind, Kind::EtcdDown | Kind::EtcdCut | Kind::EtcdSlow);
        self.operations.is_none() && self.faults.iter().all(|fault| harmless(fault.kind))
    }
}

/// How a run ended, and what it was made of.
#[derive(Debug)]
pub struct Outcome {
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// Of everything that happened.
    pub hash: u64,
    /// Events in the history.
    pub events: u64,
    /// Commits acknowledged by a standby, and without one.
    pub commits: (u64, u64),
    /// Commits with `synchronous_commit=local`, and those of them that an earlier writer acknowledged where nothing is
    /// promised.
    pub local_commits: (u64, u64),
    /// The longest time after OPEN at which one of those was, in microseconds.
    pub local_window_us: u64,
    /// Terms opened after a CLOSE.
    pub failovers: u64,
    /// The operations that ended.
    pub operations: Vec<Ended>,
    /// The longest time for which a pooler kept its clients for one, in microseconds.
    pub longest_pause_us: u64,
    /// How often Patroni obeyed the order of an operation that had ended.
    pub late_orders: u64,
    /// Simulated microseconds.
    pub simulated_us: u64,
    /// The history, if it was kept.
    pub lines: Vec<String>,
}

/// Runs a plan.
pub fn run(plan: &Plan, keep_history: bool) -> Outcome {
    let world = World::new(plan.setup(), keep_history);
    live_through(&world, plan);
    let outcome = Outcome {
        violation: world.checker.violation(),
        hash: world.history.hash(),
        events: world.history.count(),
        commits: world.checker.commits(),
        local_commits: world.checker.local_commits(),
        local_window_us: world.checker.local_window_us(),
        failovers: world.checker.failovers(),
        operations: world.outside.watch.ended(),
        longest_pause_us: world.outside.watch.longest_pause_us(),
        late_orders: world.outside.watch.late_orders(),
        simulated_us: world.executor.now_us(),
        lines: world.history.take_lines(),
    };
    end(&world);
    outcome
}

/// Drops the tasks, which hold the world.
fn end(world: &Sim) {
    for host in &world.hosts {
        host.agent.borrow_mut().take();
        host.patroni.borrow_mut().take();
        host.postgres.borrow_mut().take();
        host.guard.borrow_mut().take();
    }
    world.executor.clear();
}

fn live_through(world: &Sim, plan: &Plan) {
    world.run_leases();
    world.put_config(false);
    (0..world.hosts.len()).for_each(|host| world.power_on(host));
    let people = world.executor.process();
    for host in 0..world.hosts.len() {
        world.executor.spawn(people, clients(Rc::clone(world), host));
    }
    world.executor.spawn(people, operator(Rc::clone(world)));
    world.start_outside(people);
    if !until(world, COME_UP_US, |world| streams(world)) {
        return fails_to_live(world, "a new cluster does not come up");
    }
    let mode = ModeRecord { mode: Mode::Armed, by: "lab".into(), reason: "run".into(), at_wall_ms: 0 };
    world.order(Write::put(world.keys.mode(), Stored::new(mode).encode()));
    if !until(world, COME_UP_US, |world| {
        is_healthy(world) && writer(world).is_some_and(|writer| world.is_pooled(writer))
    }) {
        return fails_to_live(world, "a cluster that was armed has no term");
    }
    let begun_us = world.executor.now_us();
    world.say(&"FAULT", &"armed and healthy: the faults begin");
    if plan.is_without_etcd_only() {
        world.checker.stay_calm(world, writer(world));
    }
    let mut end_us = begun_us;
    for fault in &plan.faults {
        end_us = end_us.max(begun_us + fault.at_us + fault.for_us);
        let (later, fault) = (Rc::clone(world), fault.clone());
        world.executor.after(fault.at_us, move || later.schedule(fault));
    }
    if let Some(course) = &plan.operations {
        end_us = end_us.max(begun_us + begin_operations(world, course));
    }
    until(world, end_us + ms(1_000) - begun_us, |_| false);
    world.checker.stay_calm(world, None);
    world.heal_all();
    if !until(world, COME_BACK_US, |world| is_healthy(world)) {
        return fails_to_live(world, "after everything was healed");
    }
    if plan.operations.is_some() && !until(world, OPERATIONS_END_US, |world| come_to_rest(world)) {
        return fails_to_end(world);
    }
    if let Some(writer) = writer(world) {
        world.checker.check_history(world, writer, "is the writer at the end");
    }
}

/// Returns until when, from now on, something may begin.
fn begin_operations(world: &Sim, course: &Course) -> u64 {
    for request in &course.requests {
        let (later, wanted) = (Rc::clone(world), request.wanted.clone());
        world.executor.after(request.at_us, move || later.ask_for(wanted));
    }
    course.losses.iter().for_each(|planned| world.plan_loss(planned.clone()));
    course.begins_until_us() + OPERATIONS_PLAY_US
}

/// No operation runs any more, and clients are where they belong.
fn come_to_rest(world: &World) -> bool {
    world.operations_are_over() && writer(world).is_some_and(|writer| world.is_pooled(writer))
}

fn fails_to_end(world: &Sim) {
    if world.checker.violation().is_none() {
        let promise = if world.operations_are_over() { Promise::PausedTooLong } else { Promise::Unended };
        world.checker.broken(world, promise, world.describe_operations());
    }
}

/// Goes on until it is so, or the time is over, or something is broken.
fn until(world: &Sim, for_us: u64, so: impl Fn(&Sim) -> bool) -> bool {
    let end_us = world.executor.now_us() + for_us;
    while world.executor.now_us() < end_us && world.checker.violation().is_none() {
        let next_us = (world.executor.now_us() + LOOK_US).min(end_us);
        while world.executor.step(next_us) {
            if world.checker.violation().is_some() {
                return false;
            }
        }
        if so(world) {
            return true;
        }
    }
    false
}

fn fails_to_live(world: &Sim, when: &str) {
    if world.checker.violation().is_none() {
        let text = format!("{when}: {}", describe(world));
        world.checker.broken(world, Promise::Liveness, text);
    }
}

/// The members of the cluster commit on every server that lets them, also on one that should not.
async fn clients(world: Sim, host: usize) {
    loop {
        let busy_us = world.busy_until_us.get().saturating_sub(world.executor.now_us());
        let (from_ms, to_ms) = match busy_us {
            0 => (100, 500),
            1..7_000_000 => (20, 100),
            _ => (3, 30),
        };
        world.pause(ms(from_ms), ms(to_ms)).await;
        let route = if world.random(0, 9) < 6 { Route::Tcp } else { Route::Local };
        world.commit(host, Client { route, waits: world.random(0, 5) > 0 });
    }
}

/// A person ends each hold after some seconds.
async fn operator(world: Sim) {
    loop {
        world.pause(ms(2_000), ms(6_000)).await;
        let truth = world.truth();
        if let Some(hold) = truth.hold.as_ref().filter(|hold| hold.value.released_by.is_none()) {
            let released = Some("ann".to_owned());
            let record = holdfast_types::record::HoldRecord { released_by: released, ..hold.value.clone() };
            world.order(Write::put(world.keys.hold(), Stored::new(record).encode()));
        }
    }
}

fn writer(world: &World) -> Option<usize> {
    let truth = world.truth();
    let Reign::Open { holder, writable: true, .. } = &truth.term.as_ref()?.value.reign else { return None };
    world.host_of(holder).map(|host| host.index)
}

/// Everybody else streams from `leader`, and `/sync` names them all.
fn all_follow(world: &World, leader: usize) -> bool {
    let truth = world.truth();
    let Some(sync) = &truth.sync else { return false };
    let Some(primary) = world.hosts[leader].postmaster().filter(|one| one.is_primary()) else { return false };
    let senders = primary.live.borrow();
    world.hosts.iter().filter(|host| host.index != leader).all(|host| {
        let follows = host.postmaster().is_some_and(|one| one.live.borrow().receiver.is_some());
        follows && senders.senders.contains_key(&host.index) && sync.sync_standby.contains(&host.member)
    })
}

fn streams(world: &World) -> bool {
    let truth = world.truth();
    let leader = truth.leader_key.as_ref().and_then(|leader| world.host_of(&leader.value));
    leader.is_some_and(|leader| all_follow(world, leader.index))
}

/// One writer with a term, a floor of the present `/sync`, and everybody behind it.
fn is_healthy(world: &World) -> bool {
    let truth = world.truth();
    let Some(writer) = writer(world) else { return false };
    let leads = truth.leader_key.as_ref().is_some_and(|leader| leader.value == world.hosts[writer].member);
    let floor = match (&truth.floor, &truth.sync, &truth.term) {
        (Some(floor), Some(sync), Some(term)) => {
            floor.value.term == term.value.term && floor.value.sync_mod_revision == sync.mod_revision
        }
        _ => false,
    };
    let bound = world.hosts.iter().any(|host| host.state_dir.borrow().phase.is_some());
    leads && floor && !bound && all_follow(world, writer)
}

/// Where a cluster stands, for whoever asks why it does not come back.
fn describe(world: &World) -> String {
    let truth = world.truth();
    let term = truth
        .term
        .as_ref()
        .map_or_else(|| "no term".to_owned(), |term| super::checker::describe(&term.value));
    let leader = truth.leader_key.as_ref().map_or("nobody", |leader| leader.value.as_str()).to_owned();
    let sync = truth.sync.as_ref().map(|sync| (&sync.leader, &sync.sync_standby, sync.quorum));
    let floor = truth.floor.as_ref().map(|floor| (floor.value.term, floor.value.floor.to_string()));
    let hosts: Vec<String> = world.hosts.iter().map(|host| describe_host(world, host.index)).collect();
    format!("{term}; the lock is {leader}'s; /sync {sync:?}; floor {floor:?}; {}", hosts.join("; "))
}

fn describe_host(world: &World, host: usize) -> String {
    let here = &world.hosts[host];
    let data = here.data.borrow();
    let postgres = match here.postmaster() {
        None => "no PostgreSQL".to_owned(),
        Some(one) if one.is_primary() => "a primary".to_owned(),
        Some(one) => {
            let live = one.live.borrow();
            let source = live.receiver.map(|receiver| world.hosts[receiver.source].member.to_string());
            format!(
                "a standby, streams from {source:?}, accepts {}, replayed {}",
                live.accepts, live.replayed
            )
        }
    };
    format!(
        "{}: {postgres} at {} (whole {}, {:?}), filter {:?}, {:?}, phase {:?}",
        here.member,
        data.end(),
        data.whole,
        data.control,
        here.filter.borrow(),
        here.state_dir.borrow().remembered,
        here.state_dir.borrow().phase
    )
}

/// Leaves out one fault after the other for as long as the same promise is still broken.
pub fn shorten(plan: &Plan, promise: Promise) -> Plan {
    let mut shortest = plan.clone();
    let mut from = 0;
    while from < shortest.count() {
        let shorter = shortest.without(from);
        let broken = run(&shorter, false).violation.is_some_and(|violation| violation.promise == promise);
        if broken {
            shortest = shorter;
            from = 0;
        } else {
            from += 1;
        }
    }
    shortest
}
