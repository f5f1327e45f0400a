//! What must hold in every run, looked at from outside: every acknowledgement, every change of the term record, every
//! server that begins to accept writes. The programs of the run know nothing of it. What concerns leases is in [`lease`].

mod evidence;
mod lease;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

use holdfast_agent_core::cluster::Cluster;
use holdfast_types::record::{Reign, TermRecord};
use holdfast_types::{MemberName, Position, Term};

use crate::simulator::fault::Moment;
use crate::simulator::postgres::commit::Told;
use crate::simulator::world::World;
use evidence::SyncWatch;
use lease::LeaseWatch;

/// What was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// I1: an acknowledged write is not in the history of a later writer.
    AcknowledgedWriteLost,
    /// The same of a commit that waited for nobody, because `/sync` named nobody: nothing may be promoted then.
    AloneWriteLost,
    /// I2: after OPEN, an earlier writer acknowledged what the new history lacks.
    SecondWriter,
    /// I2, of a commit that waited for nobody.
    SecondWriterAlone,
    /// I2, of a commit with `synchronous_commit=local`, although the old writer's session was gone and its host is guarded.
    SecondWriterLocal,
    /// I2: a term was closed because the writer's session was gone, and the writer's lease was not over.
    LeaseBesideClosed,
    /// I6: etcd alone was away, and the writer stopped, changed or made its clients wait.
    StoppedWithoutEtcd,
    /// A writer whose lease had not run out was shut.
    ShutInsideLease,
    /// Rules 5 and 8: a term was closed on promises that are too few, or that name less than their members have.
    WeakEvidence,
    /// A term went back, or has two holders.
    Terms,
    /// A term was opened by a node that lacks what the floor names.
    BelowTheFloor,
    /// A standby streams from a server that has another history under the same timeline.
    Diverged,
    /// The cluster did not come back after everything was healed.
    Liveness,
    /// An agent acts without end.
    BusyLoop,
    /// I13: an operation has not ended.
    Unended,
    /// I13: an operation has ended in a state that is not so.
    WrongEnd,
    /// The journal of an operation went back.
    Journal,
    /// A pooler kept its clients for an operation for longer than it may.
    PausedTooLong,
    /// I10: Patroni was ordered to hand over by an operation that does not.
    StrayOrder,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AcknowledgedWriteLost => "I1: an acknowledged write is lost",
            Self::AloneWriteLost => "I1: a write that was acknowledged without a standby is lost",
            Self::SecondWriter => "I2: a second writer acknowledged",
            Self::SecondWriterAlone => "I2: a second writer acknowledged without a standby",
            Self::SecondWriterLocal => "I2: a second writer acknowledged a local commit",
            Self::LeaseBesideClosed => "I2: a lease lives beside a closed term",
            Self::StoppedWithoutEtcd => "I6: a healthy writer stopped because etcd was away",
            Self::ShutInsideLease => "lease: a writer was shut before its lease was over",
            Self::WeakEvidence => "evidence: a term was closed on too little",
            Self::Terms => "terms: one went back or has two holders",
            Self::BelowTheFloor => "floor: a term was opened below it",
            Self::Diverged => "one timeline with two histories",
            Self::Liveness => "liveness: the cluster does not come back",
            Self::BusyLoop => "an agent acts without end",
            Self::Unended => "I13: an operation does not end",
            Self::WrongEnd => "I13: an operation ended in a state that is not so",
            Self::Journal => "operations: the journal went back",
            Self::PausedTooLong => "operations: clients were kept for longer than promised",
            Self::StrayOrder => "I10: an order of an operation that does not hand over",
        })
    }
}

/// One broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// When, in simulated microseconds.
    pub at_us: u64,
    /// What was seen.
    pub text: String,
}

/// See the module.
#[derive(Default)]
pub struct Checker {
    acknowledged: RefCell<Vec<Told>>,
    alone: Cell<u64>,
    lease: LeaseWatch,
    sync_values: SyncWatch,
    promised: Cell<i64>,
    term: RefCell<Option<(i64, TermRecord)>>,
    holders: RefCell<BTreeMap<Term, MemberName>>,
    violation: RefCell<Option<Violation>>,
    failovers: Cell<u64>,
    /// Actions of each agent in the present ten seconds.
    actions: RefCell<BTreeMap<usize, (u64, u32)>>,
}

/// An agent that acts more often than this within ten seconds does not rest on anything that changed. The shell itself
/// slows down after a dozen rounds in a row.
const ACTIONS_MAX: u32 = 250;
const ACTIONS_WINDOW_US: u64 = 10_000_000;

impl Checker {
    /// The first violation, if there was one.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.borrow().clone()
    }

    /// Commits that were acknowledged with a standby, and those that were without.
    pub fn commits(&self) -> (u64, u64) {
        (self.acknowledged.borrow().len() as u64 - self.alone.get(), self.alone.get())
    }

    /// Terms that were opened after the first.
    pub fn failovers(&self) -> u64 {
        self.failovers.get()
    }

    /// The first violation of a run is the one that counts.
    pub fn broken(&self, world: &World, promise: Promise, text: String) {
        if self.violation.borrow().is_none() {
            world.say(&"CHECKER", &format_args!("{promise}: {text}"));
            *self.violation.borrow_mut() = Some(Violation { promise, at_us: world.executor.now_us(), text });
        }
    }

    /// An agent did something.
    pub fn acted(&self, world: &World, host: usize) {
        let now_us = world.executor.now_us();
        let mut actions = self.actions.borrow_mut();
        let (since_us, count) = actions.entry(host).or_insert((now_us, 0));
        if now_us - *since_us > ACTIONS_WINDOW_US {
            (*since_us, *count) = (now_us, 0);
        }
        *count += 1;
        if *count > ACTIONS_MAX {
            let text = format!("{} acted {count} times in ten seconds", world.hosts[host].member);
            drop(actions);
            self.broken(world, Promise::BusyLoop, text);
        }
    }

    /// A client has been told that its commit is done.
    pub fn told(&self, world: &World, told: Told) {
        if !told.client.waits {
            return self.told_local(world, told);
        }
        self.acknowledged(world, told);
    }

    fn acknowledged(&self, world: &World, ack: Told) {
        let Told { host, write, protected, .. } = ack;
        self.served(world, host);
        self.acknowledged.borrow_mut().push(ack);
        if !protected {
            self.alone.set(self.alone.get() + 1);
        }
        let term = self.term.borrow();
        let Some((_, TermRecord { term, reign: Reign::Open { holder, .. }, .. })) = &*term else { return };
        let Some(writer) = world.host_of(holder).filter(|writer| writer.index != host) else { return };
        if !has(world, writer.index, &ack) {
            let text = format!(
                "write {write} of {}, acknowledged while term {term} is {holder}'s, who lacks it",
                world.hosts[host].member
            );
            let promise = if protected { Promise::SecondWriter } else { Promise::SecondWriterAlone };
            self.broken(world, promise, text);
        }
    }

    /// A server begins to accept writes: it must have everything that was acknowledged, unless its term is over.
    pub fn accepts_writes(&self, world: &World, host: usize) {
        let holds = self.term.borrow().as_ref().is_some_and(|(_, term)| {
            term.open_holder().is_none_or(|holder| *holder == world.hosts[host].member)
        });
        if holds {
            self.check_history(world, host, "begins to accept writes");
        }
    }

    /// Everything that was acknowledged is in the history of this host.
    pub fn check_history(&self, world: &World, host: usize, when: &str) {
        let acknowledged = self.acknowledged.borrow();
        let lost: Vec<_> = acknowledged.iter().filter(|ack| !has(world, host, ack)).collect();
        let first = lost.iter().find(|ack| ack.protected).or(lost.first());
        if let Some(first) = first {
            let text = format!(
                "{} {when} at {} without {} acknowledged writes; the first is {} of {}, ending at {}",
                world.hosts[host].member,
                world.hosts[host].data.borrow().end(),
                lost.len(),
                first.write,
                world.hosts[first.host].member,
                crate::simulator::postgres::lsn(first.length)
            );
            let promise =
                if first.protected { Promise::AcknowledgedWriteLost } else { Promise::AloneWriteLost };
            self.broken(world, promise, text);
        }
    }

    /// A standby takes WAL from another history.
    pub fn diverged(&self, world: &World, standby: usize, source: usize) {
        let (standby, source) = (&world.hosts[standby].member, &world.hosts[source].member);
        self.broken(world, Promise::Diverged, format!("{standby} streams from {source}"));
    }

    /// etcd has changed.
    pub fn saw(&self, world: &World, cluster: &Cluster) {
        let promised = cluster.promises.values().map(|promise| promise.mod_revision).max().unwrap_or(0);
        if self.promised.replace(promised) < promised {
            world.moment(Moment::Promised);
        }
        self.saw_sync(world, cluster);
        self.note_sync(cluster);
        let Some(now) = &cluster.term else { return };
        let before = {
            let mut term = self.term.borrow_mut();
            if term.as_ref().is_some_and(|(revision, _)| *revision == now.mod_revision) {
                return;
            }
            term.replace((now.mod_revision, now.value.clone())).map(|(_, before)| before)
        };
        world.say(&"term", &describe(&now.value));
        self.term_changed(world, cluster, before.as_ref(), &now.value);
        world.moment(match now.value.reign {
            Reign::Open { .. } => Moment::Opened,
            Reign::Closed { .. } => Moment::Closed,
        });
        let number = now.value.term;
        if before.as_ref().is_some_and(|before| before.term > number) {
            self.broken(world, Promise::Terms, format!("term {number} after a higher one"));
        }
        let Some(holder) = now.value.open_holder() else { return };
        let first = self.holders.borrow_mut().insert(number, holder.clone());
        if first.as_ref().is_some_and(|first| first != holder) {
            self.broken(world, Promise::Terms, format!("term {number} has a second holder, {holder}"));
        }
        let Some(TermRecord { reign: Reign::Closed { floor, .. }, .. }) = &before else { return };
        self.failovers.set(self.failovers.get() + 1);
        let Some(opener) = world.host_of(holder) else { return };
        let end = opener.data.borrow().end();
        if let Some(floor) = floor.filter(|floor: &Position| end < *floor) {
            let text = format!("{holder} opened term {number} at {end}, the floor is {floor}");
            self.broken(world, Promise::BelowTheFloor, text);
        }
        self.check_history(world, opener.index, "opens a term");
    }
}

fn has(world: &World, host: usize, ack: &Told) -> bool {
    world.hosts[host].data.borrow().wal.get(ack.length - 1) == Some(&ack.write)
}

/// A term record in one line.
pub fn describe(record: &TermRecord) -> String {
    match &record.reign {
        Reign::Open { holder, incarnation, session, writable, .. } => format!(
            "term {} OPEN, {holder} (start {}, session {session}{})",
            record.term,
            incarnation.0,
            if *writable { ", writable" } else { "" }
        ),
        Reign::Closed { holder, floor, evidence, successor, .. } => format!(
            "term {} CLOSED, {holder}; floor {}; {evidence}; the key is for {}",
            record.term,
            floor.map_or_else(|| "none".to_owned(), |floor| floor.to_string()),
            successor.as_ref().map_or("nobody", MemberName::as_str)
        ),
    }
}
