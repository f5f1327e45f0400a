//! What fences a writer without its agent: the kernel's dead-man, and the guard, a process of its own.
//!
//! Both hold a deadline by the host's clock and need nobody at it. `agent/src/act/fence.rs` (here [`super::agent`]'s
//! `fence`) says what the deadline is; `agent/host/src/nftables/dead_man.rs` and `agent/guard/src/server/duty.rs` are
//! what this stands for.

use std::cell::Cell;
use std::rc::Rc;

use super::executor::{ProcessId, Signal, ms, wait};
use super::mutant::Mutant;
use super::world::{Host, Sim, World};

/// The kernel's timers, and `nft`, know no shorter timeout.
pub const TIMEOUT_MIN_MS: u64 = 20;
/// A guard that has ended is started again within this time.
const GUARD_RESTART_US: u64 = ms(50);

/// Whether PostgreSQL's TCP port lets anything through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// There is no table: nothing of ours is in the way.
    Absent,
    /// Nothing passes.
    Closed,
    /// Everything passes, for a while.
    Open,
}

/// The table of the dead-man: gone after a boot and a flush, kept over restarts of the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeadMan {
    /// The table is there.
    pub present: bool,
    /// The element's end, by the host's clock.
    pub until_ms: u64,
    /// Until when the agent meant it to be open when it last set it.
    pub meant_until_ms: u64,
}

/// What the guard does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is owed.
    #[default]
    Idle,
    /// A deadline is in force.
    Armed,
    /// It has passed.
    Killing,
    /// Nobody is left.
    Killed,
}

/// The guard's duty, and its proof.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Duty {
    /// What is done now.
    pub phase: Phase,
    /// The highest term heard of.
    pub term: u64,
    /// The deadline, by the host's clock, the grace included.
    pub deadline_ms: u64,
    /// The last kill: the term, the deadline, and when nobody was left.
    pub proof: Option<(u64, u64, u64)>,
}

/// One start of the guard.
pub struct Guard {
    /// Its process.
    pub process: ProcessId,
    /// What it owes.
    pub duty: Cell<Duty>,
    told: Rc<Signal>,
}

/// Why the guard did not do what it was told.
pub enum NotDone {
    /// It did not answer in time.
    Silent,
    /// It does not run.
    Gone,
    /// The deadline has passed, the word is of an old term, or it came too late.
    Refused,
}

impl Host {
    /// Whether the dead-man lets anything through to PostgreSQL's port now.
    pub fn door(&self, now_us: u64) -> Door {
        let dead_man = self.dead_man.get();
        match dead_man.present {
            false => Door::Absent,
            true if self.clock_ms(now_us) < dead_man.until_ms => Door::Open,
            true => Door::Closed,
        }
    }
}

impl World {
    /// Whether the dead-man of a host lets packets to and from its PostgreSQL through.
    pub fn port_open(&self, host: usize) -> bool {
        self.hosts[host].door(self.executor.now_us()) != Door::Closed
    }

    /// Starts the guard. It guards nothing until the agent's next word; what it knows of a former one is the term.
    pub fn start_guard(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        let term = here.guards_term.get();
        let guard = Rc::new(Guard {
            process: self.executor.process(),
            duty: Cell::new(Duty { term, ..Duty::default() }),
            told: Signal::new(&self.executor),
        });
        here.unguarded.set(true);
        if here.frozen.get() {
            self.executor.freeze(guard.process);
        }
        *here.guard.borrow_mut() = Some(Rc::clone(&guard));
        self.executor.spawn(guard.process, watch(Rc::clone(self), host, guard));
    }

    /// `kill -9` of the guard; its supervisor starts it again.
    pub fn end_guard(self: &Rc<Self>, host: usize) {
        let Some(guard) = self.hosts[host].guard.borrow_mut().take() else { return };
        self.executor.end(guard.process);
        self.hosts[host].unguarded.set(true);
        let (world, boots) = (Rc::clone(self), self.hosts[host].boots.get());
        let delay_us = self.random(ms(5), GUARD_RESTART_US);
        self.executor.after(delay_us, move || {
            let here = &world.hosts[host];
            if here.powered.get() && here.boots.get() == boots && here.guard.borrow().is_none() {
                world.start_guard(host);
            }
        });
    }
}

impl Guard {
    /// The agent's word: the writer of this term may live until the deadline.
    pub fn extend(&self, world: &World, host: usize, term: u64, deadline_ms: u64) -> Result<(), NotDone> {
        let now_ms = self.admit(world, host, term)?;
        if deadline_ms <= now_ms {
            return Err(NotDone::Refused);
        }
        self.duty.set(Duty { phase: Phase::Armed, term, deadline_ms, ..self.duty.get() });
        self.follow(world, host, term);
        Ok(())
    }

    /// The duty is over.
    pub fn release(&self, world: &World, host: usize) -> Result<(), NotDone> {
        let term = self.duty.get().term;
        self.admit(world, host, term)?;
        self.duty.set(Duty { phase: Phase::Idle, ..self.duty.get() });
        self.follow(world, host, term);
        Ok(())
    }

    fn follow(&self, world: &World, host: usize, term: u64) {
        world.hosts[host].guards_term.set(term);
        world.hosts[host].unguarded.set(false);
        self.told.raise();
    }

    fn admit(&self, world: &World, host: usize, term: u64) -> Result<u64, NotDone> {
        if !world.executor.lives(self.process) {
            return Err(NotDone::Gone);
        }
        if world.executor.is_frozen(self.process) {
            return Err(NotDone::Silent);
        }
        let (duty, now_ms) = (self.duty.get(), world.hosts[host].clock_ms(world.executor.now_us()));
        let due = duty.phase == Phase::Armed && duty.deadline_ms <= now_ms;
        if due || duty.phase == Phase::Killing || term < duty.term {
            return Err(NotDone::Refused);
        }
        Ok(now_ms)
    }
}

/// The guard's loop: kills what is due.
async fn watch(world: Sim, host: usize, guard: Rc<Guard>) {
    loop {
        let told = guard.told.count();
        let (duty, here) = (guard.duty.get(), &world.hosts[host]);
        let now_ms = here.clock_ms(world.executor.now_us());
        let left_ms = duty.deadline_ms.saturating_sub(now_ms);
        if duty.phase != Phase::Armed || world.is_mutant(Mutant::GuardNeverKills) {
            wait(&world.executor, ms(60_000), &[(&guard.told, told)]).await;
        } else if left_ms > 0 {
            wait(&world.executor, here.real_us(left_ms), &[(&guard.told, told)]).await;
        } else {
            guard.duty.set(Duty { phase: Phase::Killing, ..duty });
            world.say(
                &format_args!("{}.guard", here.member),
                &format_args!("the deadline of term {} has passed", duty.term),
            );
            // A killed cgroup of a dozen processes is empty after 15-26 ms.
            world.pause(ms(1), ms(26)).await;
            world.end_instance(host);
            let proof = Some((duty.term, duty.deadline_ms, here.clock_ms(world.executor.now_us())));
            guard.duty.set(Duty { phase: Phase::Killed, proof, ..guard.duty.get() });
        }
    }
}
