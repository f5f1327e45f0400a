//! Planned operations: the hosts beside the database's, on which coordinators and poolers live. They have lists and a random
//! source of their own, so that a run without them is what it was before there were any.
//!
//! | here | there |
//! | --- | --- |
//! | [`coordinator`] | `coordinator/src/daemon/{driver,leader}.rs`, around `holdfast-coordinator-core` and [`view`] |
//! | [`pooler`] | `agent/src/pooler/*.rs`, around `holdfast-agent-core`'s `planned` and `route` |
//! | [`super::agent`]'s `operation` | `agent/src/member/operation/*.rs` |
//! | [`watch`] | what must hold of operations |
//! | [`plan`], [`fault`] | what is asked for, and what goes wrong meanwhile |
//! | [`table`] | each stored phase, and each loss there |

mod coordinator;
mod fault;
mod plan;
mod pooler;
pub mod table;
mod view;
mod watch;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use holdfast_store::Write;
use holdfast_types::HostName;
use holdfast_types::record::{IntentRecord, Stored, Wanted};

pub use fault::{Loss, Stage, When};
pub use plan::{Course, Request};
pub use watch::{Ended, Watch};

use super::executor::{ProcessId, ms};
use super::world::{Sim, World};
use pooler::Bouncer;

/// The etcd user of whoever asks.
const USER: &str = "operator/ann";

/// What a seed chooses of the hosts beside the database's.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Hosts with a coordinator.
    pub coordinators: usize,
    /// Hosts with a pooler.
    pub poolers: usize,
    /// The writer's agent stops PostgreSQL itself; otherwise Patroni does.
    pub stops_at_once: bool,
}

/// What lives on such a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A coordinator.
    Coordinator,
    /// The agent of a pooler.
    Pooler,
}

/// A host beside the database's.
pub struct Place {
    /// Its number in the network.
    pub number: usize,
    /// Its name.
    pub name: HostName,
    /// What lives there.
    pub role: Role,
    /// It has power.
    pub powered: Cell<bool>,
    /// The program that runs there.
    pub program: Cell<Option<ProcessId>>,
    /// It is not started before this time.
    pub held_down_us: Cell<u64>,
    /// Its PgBouncer, of a pooler.
    pub bouncer: Bouncer,
    init: Cell<Option<ProcessId>>,
}

/// All of them.
pub struct Outside {
    /// Their own source of randomness.
    pub random: RefCell<fastrand::Rng>,
    /// The coordinators' hosts, then the poolers'.
    pub places: Vec<Place>,
    /// What must hold.
    pub watch: Watch,
    /// A coordinator stands still for so long before it stores something next.
    pub stalls_before_storing_us: Cell<u64>,
    /// A writer's agent stands still for so long before it gives its next order.
    pub stalls_before_ordering_us: Cell<u64>,
    waiting: RefCell<Vec<fault::Planned>>,
}

impl Outside {
    /// None, or those of a setup. `first`: the number of the first of them.
    pub fn new(seed: u64, first: usize, setup: Option<&Setup>) -> Self {
        let roles = setup.into_iter().flat_map(|setup| {
            let coordinators =
                (0..setup.coordinators).map(|at| (Role::Coordinator, format!("backup{}", at + 1)));
            coordinators.chain((0..setup.poolers).map(|at| (Role::Pooler, format!("pool{}", at + 1))))
        });
        let place = |(at, (role, name)): (usize, (Role, String))| Place {
            number: first + at,
            name: HostName::new(name).expect("a plain name"),
            role,
            powered: Cell::new(false),
            program: Cell::new(None),
            held_down_us: Cell::new(0),
            bouncer: Bouncer::default(),
            init: Cell::new(None),
        };
        Self {
            random: RefCell::new(fastrand::Rng::with_seed(seed ^ 0x0e7a)),
            places: roles.enumerate().map(place).collect(),
            watch: Watch::default(),
            stalls_before_storing_us: Cell::new(0),
            stalls_before_ordering_us: Cell::new(0),
            waiting: RefCell::default(),
        }
    }

    /// Those with a role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(move |place| place.role == role)
    }

    /// A number between the two, both included.
    pub fn random(&self, from: u64, to: u64) -> u64 {
        self.random.borrow_mut().u64(from..=to)
    }
}

impl World {
    /// The place with a number of the network.
    pub fn place(&self, number: usize) -> Option<&Place> {
        self.outside.places.get(number.checked_sub(self.hosts.len())?)
    }

    /// Boots all hosts beside the database's, and begins to look at what must hold of them.
    pub fn start_outside(self: &Rc<Self>, people: ProcessId) {
        if self.setup.operations.is_none() {
            return;
        }
        (0..self.outside.places.len()).for_each(|at| self.power_place_on(at));
        for place in self.outside.of(Role::Pooler) {
            self.executor.spawn(people, pooler::clients(Rc::clone(self), place.number));
        }
        self.executor.spawn(people, watch::look_at_poolers(Rc::clone(self)));
    }

    fn power_place_on(self: &Rc<Self>, at: usize) {
        let place = &self.outside.places[at];
        if place.powered.replace(true) {
            return;
        }
        let init = self.executor.process();
        place.init.set(Some(init));
        self.executor.spawn(init, supervise(Rc::clone(self), at));
    }

    fn power_place_off(&self, at: usize) {
        let place = &self.outside.places[at];
        if !place.powered.replace(false) {
            return;
        }
        self.end_program(at);
        if let Some(init) = place.init.take() {
            self.executor.end(init);
        }
        // PgBouncer is started anew with the host: nobody waits, its target is in a file.
        place.bouncer.resume();
    }

    fn end_program(&self, at: usize) {
        if let Some(process) = self.outside.places[at].program.take() {
            self.executor.end(process);
        }
    }

    /// A person, or a program, asks for an operation, and is gone.
    pub fn ask_for(&self, wanted: Wanted) {
        let id = format!("i{}", self.next_number());
        let until = i64::try_from(self.executor.now_us() / 1_000).expect("a run lasts minutes");
        let intent = IntentRecord {
            wanted,
            reason: "kernel".into(),
            from: None,
            until_wall_ms: Some(1_000_000 + until + 60_000),
        };
        self.say(&"person", &format_args!("asks for {:?}", intent.wanted));
        self.order(Write::put(self.keys.intent(USER, &id), Stored::new(intent).encode()));
    }
}

/// The init of such a host.
async fn supervise(world: Sim, at: usize) {
    let place = &world.outside.places[at];
    loop {
        let ms_from_to = world.outside.random(50, 500);
        world.executor.sleep(ms(ms_from_to)).await;
        let lives = place.program.get().is_some_and(|process| world.executor.lives(process));
        if !lives && world.executor.now_us() >= place.held_down_us.get() {
            place.program.set(Some(match place.role {
                Role::Coordinator => coordinator::start(&world, at),
                Role::Pooler => pooler::start(&world, at),
            }));
        }
    }
}

/// `CLOCK_BOOTTIME` of a host beside the database's, in milliseconds.
fn clock_ms(world: &World) -> u64 {
    1_000_000 + world.executor.now_us() / 1_000
}

fn wall_ms(world: &World) -> i64 {
    i64::try_from(clock_ms(world)).expect("a run lasts minutes")
}
