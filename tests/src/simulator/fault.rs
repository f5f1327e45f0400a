//! What goes wrong: the kinds of faults, how a seed plans them, how each is done to a world and healed.

use std::fmt;
use std::rc::Rc;

use holdfast_store::{Store, Write};

use super::executor::{ProcessId, ms};
use super::world::{ETCD, Filter, Host, Program, Sim, World};

/// Clients write more for so long after a fault: what is on its way then is what may be lost.
const BUSY_US: u64 = ms(10_000);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are the meaning; `act` says how each is done.
pub enum Kind {
    PowerCycle,
    HostFreeze,
    LockTaken,
    SessionLost,
    LinksCut,
    LinksCutOutwards,
    LinksCutInwards,
    PeersCut,
    PeerCut,
    PeerCutOneWay,
    EtcdCut,
    EtcdCutOneWay,
    EtcdDown,
    EtcdSlow,
    AnswersLost,
    WatchLate,
    AgentKill,
    AgentKillAtStep,
    AgentLosesRun,
    AgentDown,
    AgentFreeze,
    PatroniKill,
    PatroniFreeze,
    PatroniDown,
    PostmasterKill,
    PostgresFreeze,
    PostgresRestart,
    NftFlush,
    Reinit,
    DiskFull,
    StandbyLags,
    Pause,
}

const KINDS: [Kind; 32] = [
    Kind::PowerCycle,
    Kind::HostFreeze,
    Kind::LockTaken,
    Kind::SessionLost,
    Kind::LinksCut,
    Kind::LinksCutOutwards,
    Kind::LinksCutInwards,
    Kind::PeersCut,
    Kind::PeerCut,
    Kind::PeerCutOneWay,
    Kind::EtcdCut,
    Kind::EtcdCutOneWay,
    Kind::EtcdDown,
    Kind::EtcdSlow,
    Kind::AnswersLost,
    Kind::WatchLate,
    Kind::AgentKill,
    Kind::AgentKillAtStep,
    Kind::AgentLosesRun,
    Kind::AgentDown,
    Kind::AgentFreeze,
    Kind::PatroniKill,
    Kind::PatroniFreeze,
    Kind::PatroniDown,
    Kind::PostmasterKill,
    Kind::PostgresFreeze,
    Kind::PostgresRestart,
    Kind::NftFlush,
    Kind::Reinit,
    Kind::DiskFull,
    Kind::StandbyLags,
    Kind::Pause,
];

/// Kinds of which a failover is made; a seed chooses one of them as often as one of all.
const HARD: [Kind; 8] = [
    Kind::PowerCycle,
    Kind::HostFreeze,
    Kind::LockTaken,
    Kind::SessionLost,
    Kind::LinksCut,
    Kind::PeersCut,
    Kind::PostmasterKill,
    Kind::StandbyLags,
];

/// A moment of a failover at which a fault can be done, instead of at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A promise is in etcd.
    Promised,
    /// A term is closed.
    Closed,
    /// A term is open that was not.
    Opened,
}

/// To whom it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Whoever accepts writes then.
    Writer,
    /// Whoever has Patroni's lock then.
    LockHolder,
    /// A host by its number.
    Host(usize),
}

/// One planned fault.
#[derive(Debug, Clone)]
pub struct Fault {
    /// After the cluster is armed and healthy.
    pub at_us: u64,
    /// What.
    pub kind: Kind,
    /// Not at once, but shortly after this has happened next.
    pub upon: Option<Moment>,
    /// To whom.
    pub target: Target,
    /// The other end of a link.
    pub peer: usize,
    /// Until it is healed.
    pub for_us: u64,
    /// At which step from then on.
    pub count: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |us: u64| us as f64 / 1e6;
        write!(f, "{:?} of ", self.kind)?;
        match self.target {
            Target::Writer => f.write_str("the writer")?,
            Target::LockHolder => f.write_str("the lock's holder")?,
            Target::Host(host) => write!(f, "host {host}")?,
        }
        match self.kind {
            Kind::PeerCut | Kind::PeerCutOneWay => write!(f, " and host {}", self.peer)?,
            Kind::AgentKillAtStep => write!(f, ", step {}", self.count)?,
            _ => {}
        }
        if let Some(moment) = self.upon {
            write!(f, ", once {moment:?} after {:.3} s", seconds(self.at_us))?;
        } else {
            write!(f, " at {:.3} s", seconds(self.at_us))?;
        }
        write!(f, ", for {:.3} s", seconds(self.for_us))
    }
}

/// The faults of a seed. Each run has a few kinds of its own, so that they meet; others come close upon the first, often on
/// the same host, or in the middle of the failover that it causes.
pub fn plan(seed: u64, members: usize, faults: usize) -> Vec<Fault> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0xfa17);
    if random.u8(0..10) < 2 {
        return pattern(&mut random, members);
    }
    let kinds: Vec<Kind> = (0..random.usize(2..7)).map(|_| kind(&mut random)).collect();
    // In some runs one thing after the other, in others all at once.
    let together_of_ten = [3, 6, 10][random.usize(0..3)];
    let mut planned: Vec<Fault> = Vec::new();
    let mut at_us = ms(500);
    while planned.len() < faults {
        planned.push(one(&mut random, &kinds, at_us, members));
        while planned.len() < faults && random.u8(0..10) < together_of_ten {
            let mut next = one(&mut random, &kinds, at_us, members);
            if random.u8(0..10) < 4 {
                let moments = [Moment::Promised, Moment::Closed, Moment::Opened];
                next.upon = Some(moments[random.usize(0..3)]);
            } else {
                let within_ms = [200, 3_000, 10_000][random.usize(0..3)];
                next.at_us += random.u64(0..=ms(within_ms));
            }
            if random.u8(0..10) < 3 {
                next.target = planned[planned.len() - 1].target;
            }
            planned.push(next);
        }
        at_us += random.u64(ms(1_000)..=ms(14_000));
    }
    planned
}

/// A fault of a trace: when it begins, from and to, and how long it lasts, in milliseconds.
type Step = (Kind, Target, (u64, u64), (u64, u64));

/// The traces that break weaker rules, at random times: what a rule is for must come up more often than by chance.
fn pattern(random: &mut fastrand::Rng, members: usize) -> Vec<Fault> {
    let (one_host, other) = (Target::Host(1), Target::Host(2));
    let steps: &[Step] = match random.u8(0..4) {
        // Patroni's resolver: the standby that has the write goes, then the writer.
        0 => &[
            (Kind::StandbyLags, other, (400, 600), (20_000, 40_000)),
            (Kind::PowerCycle, one_host, (1_000, 3_000), (12_000, 30_000)),
            (Kind::PowerCycle, Target::Writer, (3_000, 14_000), (20_000, 40_000)),
        ],
        // A writer without the lock writes on while its standbys leave it.
        1 => &[
            (Kind::StandbyLags, other, (400, 600), (200, 3_000)),
            (Kind::LockTaken, Target::Writer, (600, 4_000), (100, 3_000)),
        ],
        // A session that ends and comes back while the promises are made.
        2 => &[
            (Kind::PostgresFreeze, Target::Writer, (500, 700), (2_500, 12_000)),
            (Kind::SessionLost, Target::Writer, (500, 1_000), (1_000, 5_000)),
        ],
        // A writer cut off from its standbys changes `/sync` while its reign is closed.
        _ => &[
            (Kind::PeersCut, Target::Writer, (500, 1_000), (30_000, 40_000)),
            (Kind::EtcdSlow, Target::Host(0), (500, 1_000), (30_000, 40_000)),
            (Kind::SessionLost, Target::Writer, (500, 12_000), (20_000, 40_000)),
        ],
    };
    steps
        .iter()
        .map(|(kind, target, (at_from, at_to), (for_from, for_to))| Fault {
            at_us: random.u64(ms(*at_from)..=ms(*at_to)),
            kind: *kind,
            upon: None,
            target: *target,
            peer: random.usize(0..members),
            for_us: random.u64(ms(*for_from)..=ms(*for_to)),
            count: random.u32(0..30),
        })
        .collect()
}

fn kind(random: &mut fastrand::Rng) -> Kind {
    if random.bool() { HARD[random.usize(0..HARD.len())] } else { KINDS[random.usize(0..KINDS.len())] }
}

fn one(random: &mut fastrand::Rng, kinds: &[Kind], at_us: u64, members: usize) -> Fault {
    let host = random.usize(0..members);
    let lasts_ms = [1_500, 8_000, 12_000, 40_000][random.usize(0..4)];
    Fault {
        at_us,
        kind: kinds[random.usize(0..kinds.len())],
        upon: None,
        target: match random.u8(0..10) {
            0..5 => Target::Writer,
            5 => Target::LockHolder,
            _ => Target::Host(host),
        },
        peer: random.usize(0..members),
        for_us: random.u64(ms(100)..=ms(lasts_ms)),
        count: random.u32(0..30),
    }
}

impl World {
    fn writer(&self) -> usize {
        let runs = |host: &&Host| host.postmaster().is_some_and(|postmaster| postmaster.is_primary());
        let term = self.truth().term.clone();
        let holder = term.and_then(|term| self.host_of(term.value.holder()).map(|host| host.index));
        self.hosts.iter().find(runs).map(|host| host.index).or(holder).unwrap_or(0)
    }

    /// Does a fault now, or keeps it for its moment.
    pub fn schedule(self: &Rc<Self>, fault: Fault) {
        match fault.upon {
            Some(_) => self.waiting_faults.borrow_mut().push(fault),
            None => self.inject(&fault),
        }
    }

    /// A moment has come: what waited for it is done within the next milliseconds.
    pub fn moment(&self, moment: Moment) {
        let mut waiting = self.waiting_faults.borrow_mut();
        let (due, rest): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|fault| fault.upon == Some(moment));
        *waiting = rest;
        for fault in due {
            let Some(world) = self.myself.upgrade() else { continue };
            let within_ms = [1, 10, 120][self.random.borrow_mut().usize(0..3)];
            let delay_us = self.random(0, ms(within_ms));
            self.executor.after(delay_us, move || world.inject(&fault));
        }
    }

    /// Does a fault, and heals it when its time is over.
    fn inject(self: &Rc<Self>, fault: &Fault) {
        let host = match fault.target {
            Target::Writer => self.writer(),
            Target::LockHolder => {
                let leader = self.truth().leader_key.clone();
                leader.and_then(|leader| self.host_of(&leader.value)).map_or(0, |host| host.index)
            }
            Target::Host(host) => host,
        };
        self.say(&"FAULT", &format_args!("{fault} ({})", self.hosts[host].member));
        self.busy_until_us.set(self.executor.now_us() + BUSY_US);
        self.act(fault, host);
        let (world, kind, peer) = (Rc::clone(self), fault.kind, fault.peer);
        self.executor.after(fault.for_us, move || world.heal(kind, host, peer));
    }

    fn act(self: &Rc<Self>, fault: &Fault, host: usize) {
        let here = &self.hosts[host];
        match fault.kind {
            Kind::PowerCycle => self.power_off(host),
            Kind::HostFreeze => {
                here.frozen.set(true);
                here.processes().into_iter().for_each(|process| self.executor.freeze(process));
            }
            // As if a ttl had passed in which it was not heard.
            Kind::LockTaken => {
                if let Some(process) = frozen_by(fault.kind, here) {
                    self.executor.freeze(process);
                }
                if let Some(patroni) = self.truth().members.get(&here.member) {
                    let lease = patroni.lease;
                    let _ = self.apply(|store| store.revoke(lease));
                }
            }
            Kind::SessionLost => {
                self.end_agent(host);
                self.hold_down(host, Program::Agent, fault.for_us);
                let session = here.kept_session.get();
                if let Some((lease, _)) = session {
                    let _ = self.apply(|store| store.revoke(lease));
                }
            }
            Kind::LinksCut
            | Kind::LinksCutOutwards
            | Kind::LinksCutInwards
            | Kind::PeersCut
            | Kind::PeerCut
            | Kind::PeerCutOneWay
            | Kind::EtcdCut
            | Kind::EtcdCutOneWay => {
                let cut = self.links_of(fault.kind, host, fault.peer);
                self.links_cut.borrow_mut().extend(cut);
            }
            Kind::EtcdDown => self.etcd.up.set(false),
            Kind::EtcdSlow => self.etcd.slow_us.set(ms(50 + 30 * u64::from(fault.count))),
            Kind::AnswersLost => drop(self.answers_lost.borrow_mut().insert(host)),
            Kind::WatchLate => self.watch_delay_us.borrow_mut()[host] = fault.for_us / 3,
            Kind::AgentKill => self.end_agent(host),
            Kind::AgentKillAtStep => here.crash_in.set(Some(fault.count)),
            Kind::AgentLosesRun => {
                self.end_agent(host);
                here.kept_session.set(None);
            }
            Kind::AgentDown => {
                self.end_agent(host);
                self.hold_down(host, Program::Agent, fault.for_us);
            }
            Kind::PatroniKill => self.end_patroni(host),
            Kind::PatroniDown => {
                self.end_patroni(host);
                self.hold_down(host, Program::Patroni, fault.for_us);
            }
            Kind::AgentFreeze | Kind::PatroniFreeze | Kind::PostgresFreeze => {
                if let Some(process) = frozen_by(fault.kind, here) {
                    self.executor.freeze(process);
                }
            }
            Kind::PostmasterKill => self.end_postgres(host, false),
            Kind::PostgresRestart => self.end_postgres(host, true),
            Kind::NftFlush => *here.filter.borrow_mut() = Filter::default(),
            Kind::Reinit => self.lose_data(host),
            Kind::DiskFull => here.disk_full.set(true),
            Kind::StandbyLags => here.lag_us.set(ms(5 + 300 * u64::from(fault.count))),
            Kind::Pause => self.put_config(true),
        }
    }

    fn heal(self: &Rc<Self>, kind: Kind, host: usize, peer: usize) {
        let here = &self.hosts[host];
        match kind {
            Kind::PowerCycle => self.power_on(host),
            Kind::HostFreeze => {
                here.frozen.set(false);
                here.processes().into_iter().for_each(|process| self.executor.thaw(process));
            }
            Kind::EtcdDown => self.etcd.up.set(true),
            Kind::EtcdSlow => self.etcd.slow_us.set(0),
            Kind::AnswersLost => drop(self.answers_lost.borrow_mut().remove(&host)),
            Kind::WatchLate => self.watch_delay_us.borrow_mut()[host] = 0,
            Kind::AgentKillAtStep => here.crash_in.set(None),
            Kind::AgentFreeze | Kind::PatroniFreeze | Kind::PostgresFreeze | Kind::LockTaken => {
                if let Some(process) = frozen_by(kind, here).filter(|_| !here.frozen.get()) {
                    self.executor.thaw(process);
                }
            }
            Kind::DiskFull => here.disk_full.set(false),
            Kind::StandbyLags => here.lag_us.set(0),
            Kind::Pause => self.put_config(false),
            _ => {
                for link in self.links_of(kind, host, peer) {
                    self.links_cut.borrow_mut().remove(&link);
                }
            }
        }
    }

    /// Ends every fault that still lasts.
    pub fn heal_all(self: &Rc<Self>) {
        self.say(&"FAULT", &"everything is healed");
        self.waiting_faults.borrow_mut().clear();
        self.links_cut.borrow_mut().clear();
        self.answers_lost.borrow_mut().clear();
        self.etcd.up.set(true);
        self.etcd.slow_us.set(0);
        self.watch_delay_us.borrow_mut().fill(0);
        for host in &self.hosts {
            host.crash_in.set(None);
            host.disk_full.set(false);
            host.lag_us.set(0);
            host.frozen.set(false);
            host.processes().into_iter().for_each(|process| self.executor.thaw(process));
            for program in &host.held_down_us {
                program.set(0);
            }
            self.power_on(host.index);
        }
        self.put_config(false);
    }

    fn links_of(&self, kind: Kind, host: usize, peer: usize) -> Vec<(usize, usize)> {
        let others = || (0..self.hosts.len()).chain([ETCD]).filter(move |other| *other != host);
        let outwards = || others().map(move |other| (host, other));
        let inwards = || others().map(move |other| (other, host));
        match kind {
            Kind::LinksCut => outwards().chain(inwards()).collect(),
            Kind::LinksCutOutwards => outwards().collect(),
            Kind::LinksCutInwards => inwards().collect(),
            Kind::PeersCut => outwards().chain(inwards()).filter(|(a, b)| *a != ETCD && *b != ETCD).collect(),
            Kind::PeerCut if peer != host => vec![(host, peer), (peer, host)],
            Kind::PeerCutOneWay if peer != host => vec![(host, peer)],
            Kind::EtcdCut => vec![(host, ETCD), (ETCD, host)],
            Kind::EtcdCutOneWay => vec![(ETCD, host)],
            _ => Vec::new(),
        }
    }

    fn hold_down(&self, host: usize, program: Program, for_us: u64) {
        self.hosts[host].held_down_us[program as usize].set(self.executor.now_us() + for_us);
    }

    /// A standby's data are thrown away, as `patronictl reinit` does; Patroni refuses it for whoever has the lock.
    fn lose_data(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        if self.truth().leader_key.as_ref().is_some_and(|leader| leader.value == here.member) {
            return;
        }
        if self.writer() == host || here.postmaster().is_some_and(|postmaster| postmaster.is_primary()) {
            return;
        }
        self.end_postgres(host, true);
        *here.data.borrow_mut() = super::postgres::DataDir::new(false);
    }

    /// Patroni's dynamic configuration, written by a person.
    pub fn put_config(&self, paused: bool) {
        let (ttl, wait) = (self.setup.ttl_ms / 1_000, self.setup.loop_wait_ms / 1_000);
        let value = format!(r#"{{"ttl":{ttl},"loop_wait":{wait},"pause":{paused},"failsafe_mode":true}}"#);
        let present = self.truth().config.map(|config| config.paused);
        if present != Some(paused) {
            self.order(Write::put(self.keys.patroni_config(), value));
        }
    }

    /// A person's order: it arrives.
    pub fn order(&self, write: Write) {
        let txn = holdfast_store::Txn { writes: vec![write], ..Default::default() };
        self.apply(|store| store.txn(txn)).expect("a write without a lease is never refused");
    }

    fn power_off(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        if !here.powered.replace(false) {
            return;
        }
        self.end_agent(host);
        self.end_instance(host);
        if let Some(init) = here.init.take() {
            self.executor.end(init);
        }
        *here.filter.borrow_mut() = Filter::default();
        here.kept_session.set(None);
        here.crash_in.set(None);
        here.frozen.set(false);
    }

    /// Boots a host: replication is denied first, where the cluster was armed.
    pub fn power_on(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        if here.powered.replace(true) {
            return;
        }
        here.boots.set(here.boots.get() + 1);
        let init = self.executor.process();
        here.init.set(Some(init));
        self.executor.spawn(init, supervise(Rc::clone(self), host));
    }
}

fn frozen_by(kind: Kind, host: &Host) -> Option<ProcessId> {
    match kind {
        Kind::AgentFreeze => host.agent.borrow().as_ref().map(|agent| agent.process),
        Kind::PatroniFreeze | Kind::LockTaken => {
            host.patroni.borrow().as_ref().map(|patroni| patroni.process)
        }
        _ => host.postmaster().map(|postmaster| postmaster.process),
    }
}

/// The init of a host: `boot-deny` before everything else, then it starts what is not running.
async fn supervise(world: Sim, host: usize) {
    let here = &world.hosts[host];
    world.pause(ms(200), ms(900)).await;
    let armed = here.state_dir.borrow().remembered.mode == holdfast_types::Mode::Armed;
    let forgets = world.is_mutant(super::mutant::Mutant::PromiseForgottenAtBoot);
    if armed && !forgets {
        *here.filter.borrow_mut() = Filter { installed: true, ..Filter::default() };
    }
    loop {
        let now_us = world.executor.now_us();
        let due = |program: Program| now_us >= here.held_down_us[program as usize].get();
        if here.agent.borrow().is_none() && due(Program::Agent) {
            world.pause(ms(50), ms(600)).await;
            world.start_agent(host);
        }
        if here.patroni.borrow().is_none() && due(Program::Patroni) {
            world.pause(ms(50), ms(600)).await;
            world.start_patroni(host);
        }
        world.pause(ms(100), ms(400)).await;
    }
}
