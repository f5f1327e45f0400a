//! Everything that one run consists of: the hosts with what lies on their disks and in their kernels, etcd, the network,
//! and what is being checked. It decides nothing; the programs that live in it do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::rc::{Rc, Weak};

use holdfast_agent_core::detach::Phase;
use holdfast_types::keys::ClusterKeys;
use holdfast_types::{ClusterId, HostName, MemberName, Mode, Namespace, Profile, RegionName, Scope, Timings};

use super::agent::Agent;
use super::checker::Checker;
use super::etcd::Etcd;
use super::executor::{Executor, ProcessId, ms};
use super::fault::Fault;
use super::history::History;
use super::ladder::{DeadMan, Guard};
use super::mutant::Mutant;
use super::operation::{self, Outside};
use super::patroni::Patroni;
use super::postgres::{DataDir, Postmaster};

/// The place of etcd in the network, beside the hosts' numbers.
pub const ETCD: usize = usize::MAX;

/// A run's world, shared by all of its tasks.
pub type Sim = Rc<World>;

/// What a seed chooses before anything happens.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Seed of every delay.
    pub seed: u64,
    /// Database members.
    pub members: usize,
    /// Patroni's `synchronous_node_count`.
    pub sync_wanted: usize,
    /// Holdfast's timings.
    pub timings: Timings,
    /// Patroni's `ttl`.
    pub ttl_ms: u64,
    /// Patroni's `loop_wait`.
    pub loop_wait_ms: u64,
    /// `second_failover_hold_ms`; a person ends each hold after some seconds.
    pub hold_ms: u64,
    /// `wal_sender_timeout`.
    pub wal_sender_timeout_ms: u64,
    /// The agents wait for a processor every other step.
    pub starved: bool,
    /// How much faster each host's clock runs, in thousandths; at most what the timings allow.
    pub drift_per_mille: Vec<i64>,
    /// The rule that is left out of the shell, if any.
    pub mutant: Option<Mutant>,
    /// Coordinators and poolers, in a run with operations.
    pub operations: Option<operation::Setup>,
}

impl Setup {
    /// The setup of a seed.
    pub fn of(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5e70);
        let members = if random.u8(0..10) < 6 { 3 } else { 4 };
        let profile = if random.bool() { Profile::Fast } else { Profile::Normal };
        Self {
            seed,
            members,
            sync_wanted: if members > 3 && random.bool() { 2 } else { 1 },
            timings: Timings::of(profile),
            ttl_ms: 20_000,
            loop_wait_ms: [1_000, 2_000, 5_000][random.usize(0..3)],
            hold_ms: if random.u8(0..4) == 0 { 600_000 } else { 0 },
            wal_sender_timeout_ms: [2_000, 6_000, 30_000][random.usize(0..3)],
            starved: random.u8(0..3) == 0,
            drift_per_mille: (0..members).map(|_| random.i64(-5..=5)).collect(),
            mutant,
            operations: None,
        }
    }
}

/// A program that a host's supervisor starts again when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// `holdfast-agent`.
    Agent,
    /// Patroni.
    Patroni,
}

/// The agent's state directory: it survives everything but the loss of its disk.
#[derive(Debug, Clone, Default)]
pub struct StateDir {
    /// Starts of the agent.
    pub incarnation: u64,
    /// What the gates go by.
    pub remembered: Remembered,
    /// `promise.json`.
    pub phase: Option<Phase>,
}

/// See `agent/src/gate/remembered.rs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The last mode that was seen.
    pub mode: Mode,
    /// Why the member is fenced.
    pub fenced: Option<String>,
    /// The gate is shut.
    pub attesting: bool,
}

/// The kernel's table of an instance: gone after a boot, kept over restarts of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The table is there.
    pub installed: bool,
    /// Replication is open towards this host.
    pub source: Option<usize>,
    /// These hosts are cut off, both ways.
    pub cut: BTreeSet<usize>,
}

/// One database host.
pub struct Host {
    /// Its number.
    pub index: usize,
    /// Its member's name.
    pub member: MemberName,
    /// Its name.
    pub name: HostName,
    /// The address of its PostgreSQL.
    pub address: String,
    /// It has power.
    pub powered: Cell<bool>,
    /// How often it booted: its boot id.
    pub boots: Cell<u64>,
    /// The state directory.
    pub state_dir: RefCell<StateDir>,
    /// The state directory takes no writes.
    pub disk_full: Cell<bool>,
    /// `/run/holdfast/session`: lease and boot.
    pub kept_session: Cell<Option<(i64, u64)>>,
    /// The kernel's packet filter.
    pub filter: RefCell<Filter>,
    /// The dead-man's table in the kernel.
    pub dead_man: Cell<DeadMan>,
    /// The guard that runs.
    pub guard: RefCell<Option<Rc<Guard>>>,
    /// The highest term that a guard of this boot has heard of.
    pub guards_term: Cell<u64>,
    /// The guard has started, and has not been told anything since.
    pub unguarded: Cell<bool>,
    /// Its session was ended by a person's order, before its time.
    pub session_revoked: Cell<bool>,
    /// The last thaw of the whole host.
    pub thawed_us: Cell<u64>,
    /// PGDATA.
    pub data: RefCell<DataDir>,
    /// The postmaster that runs.
    pub postgres: RefCell<Option<Rc<Postmaster>>>,
    /// The Patroni that runs.
    pub patroni: RefCell<Option<Rc<Patroni>>>,
    /// The agent that runs.
    pub agent: RefCell<Option<Rc<Agent>>>,
    /// The supervisor.
    pub init: Cell<Option<ProcessId>>,
    /// Programs that are not started before this time.
    pub held_down_us: [Cell<u64>; 2],
    /// The agent is ended at this step from now.
    pub crash_in: Cell<Option<u32>>,
    /// WAL takes so much longer to this host.
    pub lag_us: Cell<u64>,
    /// PostgreSQL runs in single-user mode.
    pub single_user: Cell<bool>,
    /// All processes are stopped.
    pub frozen: Cell<bool>,
    drift_per_mille: i64,
}

/// See the module.
pub struct World {
    /// Time.
    pub executor: Rc<Executor>,
    /// The source of every delay.
    pub random: RefCell<fastrand::Rng>,
    /// What the seed chose.
    pub setup: Setup,
    /// Which cluster.
    pub cluster: ClusterId,
    /// Keys of the cluster.
    pub keys: ClusterKeys,
    /// The region.
    pub region: RegionName,
    /// etcd.
    pub etcd: Etcd,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The hosts beside them, in a run with operations.
    pub outside: Outside,
    /// Directed links that let nothing through.
    pub links_cut: RefCell<BTreeSet<(usize, usize)>>,
    /// Extra delay of the watches of a host.
    pub watch_delay_us: RefCell<Vec<u64>>,
    /// Hosts that lose half of etcd's answers.
    pub answers_lost: RefCell<BTreeSet<usize>>,
    /// Hosts whose requests to etcd arrive twice.
    pub duplicates: RefCell<BTreeSet<usize>>,
    /// Extra delay of etcd's answers to a host.
    pub answers_late_us: RefCell<Vec<u64>>,
    /// So long after its decision a CLOSE is sent.
    pub close_late_us: Cell<u64>,
    /// Until when clients write much.
    pub busy_until_us: Cell<u64>,
    /// Faults that wait for their moment.
    pub waiting_faults: RefCell<Vec<Fault>>,
    /// This world, for what is on its way in it.
    pub myself: Weak<World>,
    /// What happened.
    pub history: History,
    /// What must hold.
    pub checker: Checker,
    numbers: Cell<u64>,
}

impl World {
    /// A world in which nothing runs yet.
    pub fn new(setup: Setup, keep_history: bool) -> Sim {
        let executor = Rc::new(Executor::default());
        let region = RegionName::new("r1").expect("a plain name");
        let cluster = ClusterId {
            region: region.clone(),
            namespace: Namespace::new("service").expect("a plain name"),
            scope: Scope::new("main").expect("a plain name"),
        };
        let hosts = (0..setup.members).map(|index| Host::new(index, &setup)).collect();
        let outside = Outside::new(setup.seed, setup.members, setup.operations.as_ref());
        let places = setup.members + outside.places.len();
        Rc::new_cyclic(|myself| Self {
            etcd: Etcd::new(&executor),
            random: RefCell::new(fastrand::Rng::with_seed(setup.seed)),
            keys: ClusterKeys::new(&cluster),
            cluster,
            region,
            hosts,
            outside,
            links_cut: RefCell::default(),
            watch_delay_us: RefCell::new(vec![0; places]),
            answers_lost: RefCell::default(),
            duplicates: RefCell::default(),
            answers_late_us: RefCell::new(vec![0; places]),
            close_late_us: Cell::new(0),
            busy_until_us: Cell::new(0),
            waiting_faults: RefCell::default(),
            myself: Weak::clone(myself),
            history: History::new(keep_history),
            checker: Checker::default(),
            numbers: Cell::new(0),
            executor,
            setup,
        })
    }

    /// Whether a rule is left out.
    pub fn is_mutant(&self, mutant: Mutant) -> bool {
        self.setup.mutant == Some(mutant)
    }

    /// A number that was never given before.
    pub fn next_number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// A number between the two, both included.
    pub fn random(&self, from: u64, to: u64) -> u64 {
        self.random.borrow_mut().u64(from..=to)
    }

    /// Waits between the two, in microseconds.
    pub async fn pause(&self, from_us: u64, to_us: u64) {
        let for_us = self.random(from_us, to_us);
        self.executor.sleep(for_us).await;
    }

    /// Notes what happens.
    pub fn say(&self, who: &dyn Display, what: &dyn Display) {
        self.history.say(self.executor.now_us(), who, what);
    }

    /// The host of a member.
    pub fn host_of(&self, member: &MemberName) -> Option<&Host> {
        self.hosts.iter().find(|host| host.member == *member)
    }

    /// The host with an address.
    pub fn host_at(&self, address: &str) -> Option<usize> {
        self.hosts.iter().position(|host| host.address == address)
    }

    /// Whether packets get from one place to another.
    pub fn link(&self, from: usize, to: usize) -> bool {
        let up = |place: usize| match self.hosts.get(place) {
            Some(host) => host.powered.get(),
            None => place == ETCD || self.place(place).is_some_and(|place| place.powered.get()),
        };
        up(from) && up(to) && !self.links_cut.borrow().contains(&(from, to))
    }

    /// Whether packets get both ways.
    pub fn connected(&self, a: usize, b: usize) -> bool {
        self.link(a, b) && self.link(b, a)
    }

    /// Whether a packet between two PostgreSQLs gets through: the link, and the tables of both hosts.
    pub fn replication_passes(&self, from: usize, to: usize) -> bool {
        let cut = |at: usize, other: usize| self.hosts[at].filter.borrow().cut.contains(&other);
        self.link(from, to) && !cut(from, to) && !cut(to, from)
    }

    /// Whether the table of `standby` lets it begin to receive from `source`.
    pub fn may_follow(&self, standby: usize, source: usize) -> bool {
        let filter = self.hosts[standby].filter.borrow();
        !filter.installed || filter.source == Some(source)
    }

    /// Whether such a packet passes the dead-man of the server at its one end, too.
    pub fn postgres_passes(&self, from: usize, to: usize, server: usize) -> bool {
        self.replication_passes(from, to) && self.port_open(server)
    }

    /// How long one packet takes.
    pub fn latency_us(&self) -> u64 {
        // Now and then one is held up, so that a later one overtakes it.
        if self.random(0, 50) == 0 { self.random(ms(2), ms(30)) } else { self.random(80, 900) }
    }
}

impl Host {
    fn new(index: usize, setup: &Setup) -> Self {
        let letter = char::from(b'a' + u8::try_from(index).expect("a handful of hosts"));
        Self {
            index,
            member: MemberName::new(letter).expect("a letter is a name"),
            name: HostName::new(format!("host-{letter}")).expect("a plain name"),
            address: format!("10.0.0.{}", index + 1),
            powered: Cell::new(false),
            boots: Cell::new(0),
            state_dir: RefCell::default(),
            disk_full: Cell::new(false),
            kept_session: Cell::new(None),
            filter: RefCell::default(),
            dead_man: Cell::default(),
            guard: RefCell::default(),
            guards_term: Cell::new(0),
            unguarded: Cell::new(true),
            session_revoked: Cell::new(false),
            thawed_us: Cell::new(0),
            data: RefCell::new(DataDir::new(index == 0)),
            postgres: RefCell::default(),
            patroni: RefCell::default(),
            agent: RefCell::default(),
            init: Cell::new(None),
            held_down_us: [Cell::new(0), Cell::new(0)],
            crash_in: Cell::new(None),
            lag_us: Cell::new(0),
            single_user: Cell::new(false),
            frozen: Cell::new(false),
            drift_per_mille: setup.drift_per_mille[index],
        }
    }

    /// This host's `CLOCK_BOOTTIME` in milliseconds. It starts high enough that differences never go below zero.
    pub fn clock_ms(&self, now_us: u64) -> u64 {
        let now_us = i64::try_from(now_us).expect("a run lasts minutes");
        let drifted_us = now_us + now_us * self.drift_per_mille / 1_000;
        1_000_000 + u64::try_from(drifted_us / 1_000).expect("a drift of thousandths turns no time back")
    }

    /// So many milliseconds of this host's clock, in simulated microseconds, rounded up.
    pub fn real_us(&self, ms_here: u64) -> u64 {
        let per_mille = u64::try_from(1_000 + self.drift_per_mille).expect("a drift of thousandths");
        ms(ms_here) * 1_000 / per_mille + 1
    }

    /// Every process that lives here.
    pub fn processes(&self) -> Vec<ProcessId> {
        let agent = self.agent.borrow().as_ref().map(|agent| agent.process);
        let patroni = self.patroni.borrow().as_ref().map(|patroni| patroni.process);
        let postgres = self.postgres.borrow().as_ref().map(|postmaster| postmaster.process);
        let guard = self.guard.borrow().as_ref().map(|guard| guard.process);
        [self.init.get(), agent, patroni, postgres, guard].into_iter().flatten().collect()
    }

    /// The postmaster, if one runs.
    pub fn postmaster(&self) -> Option<Rc<Postmaster>> {
        self.postgres.borrow().clone()
    }
}
