//! What must hold of leases: nobody acknowledges anything, also not locally, once its session is gone and the next term is
//! open; no lease lives beside a term that was closed for a lost session; etcd alone stops nobody.
//!
//! It is promised where assumption G is: the old writer's session is gone, by its own end, and its host has a guard that
//! has heard of it (`proto/PROTOCOL.md`, rule 20). Where the leader key was another's the session may live, and local
//! commits have a window; they are counted, and the longest is told.

use std::cell::Cell;

use holdfast_agent_core::cluster::Cluster;
use holdfast_types::MemberName;
use holdfast_types::record::{Reign, TermRecord};

use super::{Checker, Promise};
use crate::simulator::fault::Moment;
use crate::simulator::ladder::{Door, Phase};
use crate::simulator::postgres::commit::{Route, Told};
use crate::simulator::world::World;

/// While etcd alone is away, no client waits longer for its commit: a renewal by grants, and a stalled network packet.
const GAP_MAX_US: u64 = 3_000_000;
/// A thawed host's guard needs a moment, as its PostgreSQL does; a kill takes up to 26 ms.
const THAW_US: u64 = 100_000;

/// What is carried along.
#[derive(Default)]
pub struct LeaseWatch {
    /// Nothing may happen now: this host is the writer.
    calm: Cell<Option<usize>>,
    served_us: Cell<u64>,
    /// The present term was opened after one that was closed for a lost session.
    promised: Cell<bool>,
    opened_us: Cell<u64>,
    synced: Cell<i64>,
    local: Cell<u64>,
    local_late: Cell<u64>,
    window_us: Cell<u64>,
}

impl Checker {
    /// Commits with `synchronous_commit=local`, and those of earlier writers where nothing is promised.
    pub fn local_commits(&self) -> (u64, u64) {
        (self.lease.local.get(), self.lease.local_late.get())
    }

    /// The latest of those, after OPEN.
    pub fn local_window_us(&self) -> u64 {
        self.lease.window_us.get()
    }

    /// From now on nothing but etcd goes away; `None`: that is over.
    pub fn stay_calm(&self, world: &World, writer: Option<usize>) {
        if let Some(writer) = self.lease.calm.get() {
            self.served(world, writer);
        }
        self.lease.calm.set(writer);
        self.lease.served_us.set(world.executor.now_us());
    }

    /// A commit was acknowledged.
    pub(super) fn served(&self, world: &World, host: usize) {
        let Some(writer) = self.lease.calm.get().filter(|writer| *writer == host) else { return };
        let now_us = world.executor.now_us();
        let gap_us = now_us - self.lease.served_us.replace(now_us);
        if gap_us > GAP_MAX_US {
            let member = &world.hosts[writer].member;
            let text = format!("{member} acknowledged nothing for {} ms", gap_us / 1_000);
            self.broken(world, Promise::StoppedWithoutEtcd, text);
        }
    }

    /// A PostgreSQL has ended.
    pub fn stopped(&self, world: &World, host: usize) {
        if self.lease.calm.get() == Some(host) {
            let text = format!("{} ended", world.hosts[host].member);
            self.broken(world, Promise::StoppedWithoutEtcd, text);
        }
    }

    /// A client found the port shut.
    pub fn shut_out(&self, world: &World, host: usize) {
        let here = &world.hosts[host];
        let meant_ms = here.dead_man.get().meant_until_ms;
        if here.clock_ms(world.executor.now_us()) < meant_ms {
            let text = format!("{}, whose port was to be open until {meant_ms} ms", here.member);
            self.broken(world, Promise::ShutInsideLease, text);
        }
    }

    /// A client of `synchronous_commit=local` was told of its commit: it promises nothing but that there is one writer.
    pub(super) fn told_local(&self, world: &World, told: Told) {
        self.lease.local.set(self.lease.local.get() + 1);
        let Some(holder) = self.open_holder() else { return };
        let here = &world.hosts[told.host];
        if holder == here.member {
            return;
        }
        let late_us = world.executor.now_us() - self.lease.opened_us.get();
        if self.lease.promised.get() && is_fenced(world, told.host, told.client.route) {
            let text = format!(
                "write {} of {}, by {:?}, {} ms after {holder} opened its term",
                told.write,
                here.member,
                told.client.route,
                late_us / 1_000
            );
            return self.broken(world, Promise::SecondWriterLocal, text);
        }
        self.lease.local_late.set(self.lease.local_late.get() + 1);
        self.lease.window_us.set(self.lease.window_us.get().max(late_us));
    }

    fn open_holder(&self) -> Option<MemberName> {
        self.term.borrow().as_ref().and_then(|(_, term)| term.open_holder().cloned())
    }

    /// The term record is another.
    pub(super) fn term_changed(
        &self,
        world: &World,
        cluster: &Cluster,
        before: Option<&TermRecord>,
        now: &TermRecord,
    ) {
        if self.lease.calm.get().is_some_and(|writer| now.open_holder() != Some(&world.hosts[writer].member))
        {
            self.broken(world, Promise::StoppedWithoutEtcd, super::describe(now));
        }
        self.closed_on_evidence(world, cluster, now);
        match (before.map(|before| &before.reign), &now.reign) {
            (Some(Reign::Open { holder, session, .. }), Reign::Closed { .. }) => {
                let gone = !cluster.sessions.contains_key(session);
                self.lease.promised.set(gone);
                if let Some(writer) = world.host_of(holder).filter(|_| gone) {
                    self.lease_is_over(world, writer.index);
                }
            }
            (Some(Reign::Closed { .. }), Reign::Open { .. }) => {
                self.lease.opened_us.set(world.executor.now_us());
            }
            _ => {}
        }
    }

    /// Rule 19: whoever sees the session gone need not wait.
    fn lease_is_over(&self, world: &World, host: usize) {
        let here = &world.hosts[host];
        if here.session_revoked.get() || !here.powered.get() {
            return;
        }
        let now_us = world.executor.now_us();
        let now_ms = here.clock_ms(now_us);
        let duty = here.guard.borrow().as_ref().map(|guard| guard.duty.get());
        let guarded = duty.filter(|duty| duty.phase == Phase::Armed && duty.deadline_ms > now_ms);
        let what = match guarded {
            Some(duty) => format!("its guard would kill in {} ms", duty.deadline_ms - now_ms),
            None if here.door(now_us) == Door::Open => {
                format!("its port is open for {} ms", here.dead_man.get().until_ms - now_ms)
            }
            None => return,
        };
        self.broken(world, Promise::LeaseBesideClosed, format!("{}: {what}", here.member));
    }

    /// The new writer has written `/sync`.
    pub(super) fn saw_sync(&self, world: &World, cluster: &Cluster) {
        let Some(sync) = &cluster.sync else { return };
        if self.lease.synced.replace(sync.mod_revision) != sync.mod_revision
            && sync.leader.is_some()
            && sync.leader == self.open_holder()
        {
            world.moment(Moment::SyncWritten);
        }
    }
}

/// Whether something must have stopped this session by now: the dead-man, or the guard.
fn is_fenced(world: &World, host: usize, route: Route) -> bool {
    let here = &world.hosts[host];
    let now_us = world.executor.now_us();
    if here.session_revoked.get() {
        return false;
    }
    let guard = here.guard.borrow();
    let guard_runs = guard.as_ref().is_some_and(|guard| !world.executor.is_frozen(guard.process));
    let thawed = now_us - here.thawed_us.get() < THAW_US;
    let guarded = guard_runs && !here.unguarded.get() && !thawed;
    guarded || (route == Route::Tcp && here.dead_man.get().present)
}
