//! What goes wrong around an operation: hosts and programs that are lost at a time, or right after a phase is stored.

use std::fmt;
use std::rc::Rc;

use holdfast_types::record::OperationPhase;

use super::{Place, Role};
use crate::simulator::executor::{ProcessId, ms};
use crate::simulator::fault::Fault;
use crate::simulator::world::{ETCD, World};

/// A point of an operation's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A phase is stored.
    Stored(OperationPhase),
    /// Its end is stored.
    Ended,
}

/// When something is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long after the cluster is healthy, in microseconds.
    At(u64),
    /// Right after the journal has come to this point next.
    Upon(Stage),
}

/// What is lost, and for how long.
#[derive(Debug, Clone)]
pub enum Loss {
    /// A fault of a database host, of etcd or of the network.
    Cluster(Fault),
    /// The program of a host is killed; its supervisor starts it again.
    Kill(Role, usize),
    /// The same, and it is not started again for so long.
    Down(Role, usize, u64),
    /// The program stands still.
    Freeze(Role, usize, u64),
    /// The host has no power.
    Off(Role, usize, u64),
    /// The host has no way to etcd.
    EtcdCut(Role, usize, u64),
    /// A client's transaction stays open at a pooler.
    Busy(usize, u64),
    /// Whoever stores the next phase stands still before it does.
    StallBeforeStoring(u64),
    /// The writer's agent stands still before its next order.
    StallBeforeOrdering(u64),
    /// The coordinator that works is killed, and is back after so long.
    WorkingCoordinator(u64),
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Planned {
    /// When.
    pub when: When,
    /// What.
    pub loss: Loss,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.loss {
            Loss::Cluster(fault) => write!(f, "{fault}, {:?}", self.when),
            other => write!(f, "{other:?}, {:?}", self.when),
        }
    }
}

impl World {
    /// Plans a loss.
    pub fn plan_loss(self: &Rc<Self>, planned: Planned) {
        match planned.when {
            When::At(at_us) => {
                let world = Rc::clone(self);
                self.executor.after(at_us, move || world.lose(&planned.loss));
            }
            When::Upon(_) => self.outside.waiting.borrow_mut().push(planned),
        }
    }

    /// The journal has come to a point.
    pub fn stage(&self, stage: Stage) {
        let mut waiting = self.outside.waiting.borrow_mut();
        let (due, rest): (Vec<_>, Vec<_>) =
            waiting.drain(..).partition(|planned| planned.when == When::Upon(stage));
        *waiting = rest;
        for planned in due {
            let Some(world) = self.myself.upgrade() else { continue };
            // At once, but not in the middle of the transaction that stores it.
            self.executor.after(0, move || world.lose(&planned.loss));
        }
    }

    fn place_of(&self, role: Role, at: usize) -> Option<usize> {
        let is = |place: &Place| place.role == role;
        let places = self.outside.places.iter().enumerate().filter(|(_, place)| is(place));
        places.map(|(at, _)| at).nth(at)
    }

    fn lose(self: &Rc<Self>, loss: &Loss) {
        self.say(&"FAULT", &format_args!("{loss:?}"));
        match loss {
            Loss::Cluster(fault) => self.schedule(fault.clone()),
            Loss::StallBeforeStoring(for_us) => self.outside.stalls_before_storing_us.set(*for_us),
            Loss::StallBeforeOrdering(for_us) => self.outside.stalls_before_ordering_us.set(*for_us),
            Loss::Busy(at, for_us) => {
                if let Some(at) = self.place_of(Role::Pooler, *at) {
                    let until_us = self.executor.now_us() + for_us;
                    self.outside.places[at].bouncer.busy_until_us.set(until_us);
                }
            }
            Loss::WorkingCoordinator(for_us) => {
                let works = self.truth().operation.as_ref().map(|found| found.value.coordinator.clone());
                let place = self.outside.places.iter().position(|place| Some(&place.name) == works.as_ref());
                self.lose_program(place.unwrap_or(0), *for_us);
            }
            Loss::Kill(role, at) => self.lose_at(*role, *at, |world, at| world.lose_program(at, 0)),
            Loss::Down(role, at, for_us) => {
                self.lose_at(*role, *at, |world, at| world.lose_program(at, *for_us));
            }
            Loss::Freeze(role, at, for_us) => self.lose_at(*role, *at, |world, at| {
                if let Some(process) = world.outside.places[at].program.get() {
                    world.freeze_until(process, *for_us);
                }
            }),
            Loss::Off(role, at, for_us) => self.lose_at(*role, *at, |world, at| {
                world.power_place_off(at);
                let later = Rc::clone(world);
                world.executor.after(*for_us, move || later.power_place_on(at));
            }),
            Loss::EtcdCut(role, at, for_us) => self.lose_at(*role, *at, |world, at| {
                let number = world.outside.places[at].number;
                let links = [(number, ETCD), (ETCD, number)];
                world.links_cut.borrow_mut().extend(links);
                let later = Rc::clone(world);
                world.executor.after(*for_us, move || {
                    later.links_cut.borrow_mut().retain(|link| !links.contains(link));
                });
            }),
        }
    }

    fn lose_at(self: &Rc<Self>, role: Role, at: usize, lose: impl FnOnce(&Rc<Self>, usize)) {
        if let Some(at) = self.place_of(role, at) {
            lose(self, at);
        }
    }

    fn lose_program(&self, at: usize, for_us: u64) {
        self.outside.places[at].held_down_us.set(self.executor.now_us() + for_us);
        self.end_program(at);
    }

    fn freeze_until(self: &Rc<Self>, process: ProcessId, for_us: u64) {
        self.executor.freeze(process);
        let world = Rc::clone(self);
        self.executor.after(for_us, move || world.executor.thaw(process));
    }

    /// A process stands still here.
    pub async fn freeze_for(self: &Rc<Self>, process: ProcessId, for_us: u64) {
        self.freeze_until(process, for_us);
        self.executor.sleep(1).await;
    }

    /// Ends every loss that lasts.
    pub fn heal_outside(self: &Rc<Self>) {
        self.outside.waiting.borrow_mut().clear();
        self.outside.stalls_before_storing_us.set(0);
        self.outside.stalls_before_ordering_us.set(0);
        for (at, place) in self.outside.places.iter().enumerate() {
            place.held_down_us.set(0);
            place.bouncer.busy_until_us.set(0);
            if let Some(process) = place.program.get() {
                self.executor.thaw(process);
            }
            self.power_place_on(at);
        }
    }
}

/// A time that a loss lasts, of some lengths that matter: within a pause, within a session, over a lock.
pub(super) fn lasts_us(random: &mut fastrand::Rng) -> u64 {
    let most = [1_500, 9_000, 20_000, 80_000][random.usize(0..4)];
    random.u64(ms(100)..=ms(most))
}
