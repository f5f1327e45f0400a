//! What goes wrong: the kinds of faults, how a seed plans them, how each is done to a world and healed.

mod act;
mod plan;

use std::fmt;
use std::rc::Rc;

use super::executor::ms;
use super::world::{Host, World};

pub use plan::plan;

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
    GuardKill,
    Duplicates,
    AnswersLate,
    /// Whoever closes a term is stopped between its decision and its transaction.
    CloseLate,
}

/// A moment of a failover at which a fault can be done, instead of at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A promise is on disk and not in etcd.
    Kept,
    /// A promise is in etcd.
    Promised,
    /// A term is closed.
    Closed,
    /// A term is open that was not, and its hook has no answer yet.
    Opened,
    /// The new writer has written `/sync`.
    SyncWritten,
    /// A member has granted the writer a lease.
    Granted,
}

/// To whom it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Whoever accepts writes then.
    Writer,
    /// Whoever has Patroni's lock then.
    LockHolder,
    /// Whoever has promised, or is about to.
    Promiser,
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
            Target::Promiser => f.write_str("a promiser")?,
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
            Target::Promiser => {
                let bound = |host: &&Host| host.powered.get() && host.state_dir.borrow().phase.is_some();
                let bound: Vec<usize> = self.hosts.iter().filter(bound).map(|host| host.index).collect();
                let one = self.random(0, bound.len().saturating_sub(1) as u64) as usize;
                bound.get(one).copied().unwrap_or(fault.peer)
            }
            Target::Host(host) => host,
        };
        self.say(&"FAULT", &format_args!("{fault} ({})", self.hosts[host].member));
        self.busy_until_us.set(self.executor.now_us() + BUSY_US);
        self.act(fault, host);
        let (world, kind, peer) = (Rc::clone(self), fault.kind, fault.peer);
        self.executor.after(fault.for_us, move || world.heal(kind, host, peer));
    }
}
