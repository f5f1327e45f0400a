//! What Patroni does to its PostgreSQL: starts it again after a crash, rewinds it, makes it follow, promotes or demotes it.

use std::cell::Cell;
use std::rc::Rc;

use holdfast_agent_core::cluster::Cluster;
use holdfast_types::MemberName;

use super::{DcsError, Patroni};
use crate::simulator::agent;
use crate::simulator::executor::{Signal, ms, wait};
use crate::simulator::postgres::{Control, Postmaster, SyncNames};
use crate::simulator::world::Sim;

/// PostgreSQL in single-user mode, for as long as Patroni waits for it.
struct SingleUser(Sim, usize);

impl SingleUser {
    fn start(world: &Sim, host: usize) -> Self {
        world.hosts[host].single_user.set(true);
        Self(Rc::clone(world), host)
    }
}

impl Drop for SingleUser {
    fn drop(&mut self) {
        self.0.hosts[self.1].single_user.set(false);
    }
}

impl Patroni {
    /// PostgreSQL does not run: `recover`, or `clone` when there are no data.
    pub(super) async fn without_postgres(self: &Rc<Self>, cluster: &Cluster) -> Result<(), DcsError> {
        let leader = cluster.leader_key.as_ref().map(|leader| leader.value.clone());
        if !self.here().data.borrow().whole {
            if let Some(leader) = leader.filter(|leader| leader != self.me()) {
                self.copy_from(&leader, "takes a base backup from", (ms(1_500), ms(4_000))).await;
            }
            return Ok(());
        }
        if std::mem::take(&mut self.state.borrow_mut().recovering) && self.has_lock() {
            // "removed leader key after trying and failing to start postgres"
            return self.release().await;
        }
        let holds = self.has_lock() && self.update_lock().await?;
        let (control, standby_signal) = {
            let data = self.here().data.borrow();
            (data.control, data.standby_signal)
        };
        let crashed = matches!(control, Control::InProduction | Control::ShutDown);
        if holds && crashed && self.state.borrow().was_primary && !standby_signal {
            self.say(&"starts the primary after its failure");
            self.state.borrow_mut().recovering = true;
            self.start().await;
            return Ok(());
        }
        // The first start of the first primary.
        if leader.is_none() && control == Control::ShutDown && !standby_signal && cluster.sync.is_none() {
            self.start().await;
            return Ok(());
        }
        if control == Control::InProduction {
            self.crash_recovery().await;
        }
        if !holds {
            let other = leader.filter(|leader| leader != self.me());
            if let Some(leader) = &other
                && self.must_rewind(leader)
            {
                self.copy_from(leader, "rewinds from", (ms(400), ms(1_500))).await;
                return Ok(());
            }
            self.here().data.borrow_mut().source = other.and_then(|one| self.number_of(&one));
        } else {
            self.here().data.borrow_mut().source = None;
        }
        {
            let mut data = self.here().data.borrow_mut();
            if !data.standby_signal {
                data.control = Control::InRecovery;
            }
            (data.standby_signal, data.sync_names) = (true, SyncNames::Empty);
        }
        self.state.borrow_mut().recovering = true;
        self.start().await;
        Ok(())
    }

    /// In single-user mode, which the start gate lets pass; it ends with a checkpoint that no standby ever receives.
    async fn crash_recovery(&self) {
        self.say(&"recovers from the crash in single-user mode");
        let _running = SingleUser::start(&self.world, self.host);
        self.world.pause(ms(200), ms(900)).await;
        let checkpoint = self.world.next_number();
        let mut data = self.here().data.borrow_mut();
        data.wal.push(checkpoint);
        (data.control, data.redo) = (Control::ShutDown, data.wal.len());
    }

    async fn start(&self) {
        let standby = self.here().data.borrow().standby_signal;
        if agent::may_start(&self.world, self.host, standby).await && self.here().postmaster().is_none() {
            self.world.start_postgres(self.host);
        } else {
            self.say(&"PostgreSQL is kept from starting");
        }
    }

    fn number_of(&self, member: &MemberName) -> Option<usize> {
        self.world.host_of(member).map(|host| host.index)
    }

    /// Whether our history left the leader's: by the numbers of timelines, with the leader running as a primary.
    fn must_rewind(&self, leader: &MemberName) -> bool {
        let Some(leader) = self.world.host_of(leader) else { return false };
        let runs = leader.postmaster().is_some_and(|one| one.is_primary());
        if !runs || !self.world.connected(self.host, leader.index) {
            return false;
        }
        let (ours, theirs) = (self.here().data.borrow(), leader.data.borrow());
        !theirs.serves(ours.timeline, ours.wal.len(), theirs.wal.len())
    }

    /// `pg_rewind` or a base backup: over PostgreSQL's port, in some time; a crash in between leaves no usable data.
    async fn copy_from(&self, leader: &MemberName, what: &str, (from_us, to_us): (u64, u64)) {
        let Some(source) = self.number_of(leader) else { return };
        let reaches = || {
            let passes = self.world.postgres_passes(self.host, source, source)
                && self.world.postgres_passes(source, self.host, source);
            let running = self.world.hosts[source].postmaster();
            let answers =
                |one: &Rc<Postmaster>| one.is_primary() && !self.world.executor.is_frozen(one.process);
            passes && self.world.may_follow(self.host, source) && running.as_ref().is_some_and(answers)
        };
        if !reaches() {
            return;
        }
        self.say(&format_args!("{what} {leader}"));
        self.here().data.borrow_mut().whole = false;
        self.world.pause(from_us, to_us).await;
        if reaches() {
            let copied = self.world.hosts[source].data.borrow().clone();
            let mut data = self.here().data.borrow_mut();
            data.copy_from(&copied);
            data.source = Some(source);
        }
    }

    /// Not the leader: a primary steps down, a standby streams from the leader.
    pub(super) async fn follow(&self, leader: Option<&MemberName>) {
        let Some(postmaster) = self.here().postmaster() else { return };
        if postmaster.is_primary() {
            return self.demote("another has the lock, or it is not the healthiest").await;
        }
        let Some(leader) = leader else { return };
        if self.must_rewind(leader) {
            self.say(&"stops its PostgreSQL to rewind it");
            self.world.end_postgres(self.host, true);
            self.copy_from(leader, "rewinds from", (ms(400), ms(1_500))).await;
            return;
        }
        let source = self.number_of(leader);
        let changed = std::mem::replace(&mut self.here().data.borrow_mut().source, source) != source;
        if changed {
            postmaster.changed.raise();
        }
    }

    /// `immediate`: no checkpoint, nobody is waited for.
    pub(super) async fn demote(&self, why: &str) {
        self.say(&format_args!("demotes itself: {why}"));
        self.state.borrow_mut().is_leader = false;
        self.world.pause(ms(5), ms(80)).await;
        self.world.end_postgres(self.host, false);
        let mut data = self.here().data.borrow_mut();
        // It starts again as a standby, whatever comes.
        self.state.borrow_mut().was_primary = false;
        data.source = None;
    }

    pub(super) fn is_promoting(&self) -> bool {
        self.hook.borrow().is_some() || self.state.borrow().promotes
    }

    /// The loop goes on while the hook runs; a lost lock ends the hook, but not a promotion that has begun.
    pub(super) async fn watch_over_promotion(self: &Rc<Self>) -> Result<(), DcsError> {
        if self.has_lock() && self.update_lock().await? {
            return Ok(());
        }
        if self.state.borrow().promotes {
            return Ok(());
        }
        if let Some(hook) = self.hook.borrow_mut().take() {
            self.say(&"has lost the lock before it promoted");
            self.world.executor.end(hook);
        }
        Ok(())
    }

    /// The setting first, from the cached `/sync`; then the hook; then the promotion, without another look at the lock.
    pub(super) async fn begin_promotion(self: &Rc<Self>, cluster: &Cluster) {
        if let Some(sync) = &cluster.sync {
            let mut names = sync.sync_standby.clone();
            names.extend(sync.leader.clone());
            let mut count = names.len().saturating_sub(sync.quorum + 1);
            if !names.remove(self.me()) {
                count += 1;
            }
            self.set_sync_names(names, count).await;
        }
        let hook = self.world.executor.process();
        *self.hook.borrow_mut() = Some(hook);
        let (passed, answered) = (Rc::new(Cell::new(None)), Signal::new(&self.world.executor));
        let (world, host) = (Rc::clone(&self.world), self.host);
        let (slot, signal) = (Rc::clone(&passed), Rc::clone(&answered));
        self.world.executor.spawn(hook, async move {
            slot.set(Some(agent::promotion_hook(&world, host).await));
            signal.raise();
        });
        let patroni = Rc::clone(self);
        self.world.executor.spawn(self.process, async move {
            while passed.get().is_none() {
                wait(&patroni.world.executor, ms(5_000), &[(&answered, 0)]).await;
                if *patroni.hook.borrow() != Some(hook) {
                    return;
                }
            }
            patroni.after_hook(passed.get() == Some(true)).await;
        });
    }

    async fn after_hook(&self, passed: bool) {
        self.hook.borrow_mut().take();
        if !passed {
            let _ = self.release().await;
            return;
        }
        self.state.borrow_mut().promotes = true;
        let Some(postmaster) = self.here().postmaster() else {
            self.state.borrow_mut().promotes = false;
            return;
        };
        self.world.pause(ms(20), ms(150)).await;
        let number = postmaster.number;
        let (world, host) = (Rc::clone(&self.world), self.host);
        let promoted = Rc::clone(&postmaster);
        // PostgreSQL does it; Patroni only waits for it.
        self.world.executor.spawn(postmaster.process, async move {
            while promoted.live.borrow().replayed < world.hosts[host].data.borrow().wal.len() {
                world.executor.sleep(ms(2)).await;
            }
            world.promoted(host, &promoted);
        });
        for _ in 0..200 {
            self.world.executor.sleep(ms(50)).await;
            let running = self.here().postmaster().filter(|one| one.number == number);
            if running.is_none_or(|one| one.is_primary()) {
                break;
            }
        }
        let mut state = self.state.borrow_mut();
        (state.promotes, state.was_primary) = (false, true);
    }
}
