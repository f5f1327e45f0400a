//! One instance: its duty, what is killed for it, and its proof.

use std::os::fd::OwnedFd;

use super::duty::Duty;
use super::proof;
use super::say::say;
use super::target::{Look, Processes, Target};
use crate::wire::{Name, Phase, Postmaster, Refusal, State, Watchdog};

const MS: u64 = 1_000_000;

/// One instance.
#[derive(Debug)]
pub struct Instance {
    /// Which.
    pub name: Name,
    port: u16,
    target: Target,
    duty: Duty,
    file: Option<OwnedFd>,
    next_round_ns: u64,
}

impl Instance {
    /// Nothing is owed yet. `term`: the highest that a former guard had heard of.
    pub fn new(name: Name, port: u16, target: Target, term: u64, file: Option<OwnedFd>) -> Self {
        Self { name, port, target, duty: Duty::new(term), file, next_round_ns: 0 }
    }

    /// What is done now.
    pub fn phase(&self) -> Phase {
        self.duty.phase()
    }

    /// Its cgroup is another one now; everything else stays.
    pub fn register(&mut self, now_ns: u64, port: u16, target: Target) -> Result<(), Refusal> {
        self.duty.may_register(now_ns)?;
        (self.port, self.target) = (port, target);
        Ok(())
    }

    /// The agent's word.
    pub fn extend(
        &mut self,
        now_ns: u64,
        term: u64,
        deadline_ns: u64,
        postmaster: Option<i32>,
    ) -> Result<(), Refusal> {
        // An extension promises that the kill will find somebody; the deadline before stands. A postmaster that was started by
        // hand is somebody, also while Patroni's unit is stopped.
        if !self.target.is_there() && !postmaster.is_some_and(Target::is_process) {
            return Err(Refusal::CgroupGone);
        }
        let before = (self.duty.phase(), self.duty.term());
        self.duty.extend(now_ns, term, deadline_ns)?;
        let was = self.target.postmaster();
        self.target.place(postmaster);
        if self.target.postmaster() == Postmaster::Outside && was != Postmaster::Outside {
            say(format_args!("{}: postmaster {postmaster:?} is not in its cgroup", self.name.as_str()));
        }
        // The next guard needs to know that we are armed, not until when: one writing for a reign, not one a second.
        if before != (self.duty.phase(), term) {
            self.write();
        }
        Ok(())
    }

    /// The duty is over.
    pub fn release(&mut self, now_ns: u64, term: u64) -> Result<(), Refusal> {
        self.duty.release(now_ns, term)?;
        self.write();
        Ok(())
    }

    /// A person takes the duty away.
    pub fn stand_down(&mut self) {
        self.duty.stand_down();
        self.write();
    }

    /// Kills what is due, and goes on with a kill that has begun.
    pub fn turn(&mut self, now_ns: u64, processes: &Processes) {
        let begins = self.duty.is_due(now_ns);
        if begins && self.target.is_gone() {
            self.duty.lapse();
            self.write();
            let (name, term) = (self.name.as_str(), self.duty.term());
            return say(format_args!(
                "{name}: the deadline of term {term} has passed; its cgroup was removed before: nobody was left"
            ));
        }
        if begins {
            self.duty.begin_kill(now_ns);
            self.next_round_ns = now_ns;
        }
        if self.phase() != Phase::Killing || now_ns < self.next_round_ns {
            return;
        }
        let since_ns = now_ns - self.duty.last_kill().map_or(now_ns, |kill| kill.begun_ns);
        let left = self.target.kill(processes, look(since_ns));
        self.duty.saw(super::system::boottime_ns(), left);
        let slow = since_ns >= 1_000 * MS;
        self.next_round_ns = now_ns + pace_ns(since_ns);
        // Said and written after the deed: neither may keep it waiting.
        if begins {
            say(format_args!("{}: the deadline of term {} has passed", self.name.as_str(), self.duty.term()));
        }
        if begins || slow || self.phase() == Phase::Killed {
            self.write();
        }
        if let Some(kill) = self.duty.last_kill().filter(|_| self.phase() == Phase::Killed) {
            let took_ms = kill.empty_ns.unwrap_or(now_ns).saturating_sub(kill.deadline_ns) / MS;
            say(format_args!("{}: all are gone, {took_ms} ms after the deadline", self.name.as_str()));
        }
    }

    /// When it wants its next turn.
    pub fn next_ns(&self) -> Option<u64> {
        match self.phase() {
            Phase::Killing => Some(self.next_round_ns),
            _ => self.duty.deadline_ns(),
        }
    }

    /// How it stands.
    pub fn state(&self, watchdog: Watchdog) -> State {
        State {
            name: self.name,
            port: self.port,
            phase: self.phase(),
            term: self.duty.term(),
            deadline_ns: self.duty.deadline_ns().unwrap_or(0),
            postmaster: self.target.postmaster(),
            watchdog,
            last_kill: self.duty.last_kill(),
        }
    }

    /// Brings the file up to date.
    pub fn write(&self) {
        if let Some(file) = &self.file {
            proof::write(file, &self.name, self.port, &self.duty);
        }
    }
}

/// All are hastened in the first round, and every 10 ms those that were forked meanwhile, or moved in.
fn look(since_ns: u64) -> Look {
    match since_ns / MS {
        50.. => Look::Name,
        ms if ms % 10 == 0 => Look::Hasten,
        _ => Look::Quick,
    }
}

/// A killed cgroup of a dozen processes is empty after 15-26 ms (`facts/baseline.md` section 1); who is still there after a
/// second waits for a disk.
fn pace_ns(since_ns: u64) -> u64 {
    match since_ns / MS {
        0..50 => MS,
        50..1_000 => 10 * MS,
        _ => 250 * MS,
    }
}
