//! `agent/src/act/fence.rs`: sets the fence of a writer's own host, the kernel's dead-man and the guard.

use std::cell::Cell;

use holdfast_agent_core::lease::Fence;
use holdfast_types::Term;

use super::{Agent, Done};
use crate::simulator::executor::ms;
use crate::simulator::ladder::{DeadMan, Door, NotDone, TIMEOUT_MIN_MS};
use crate::simulator::mutant::Mutant;

/// A guard that did not answer is left alone for this long.
const SILENCE_MS: u64 = 1_000;
/// The agent waits this long for it.
const GUARD_DEADLINE_US: u64 = ms(100);
/// What `nft` puts in, until a refresh follows.
const OPENING_MS: u64 = 250;
/// A refresh that took longer than this is done again.
const LATE_MS: u64 = 50;
const ATTEMPTS: u32 = 5;

/// Why the way is not as it should be.
enum Trouble {
    Gone,
    Past,
    Busy,
}

/// Held over each change: two of them never overlap.
struct Held<'a>(&'a Cell<bool>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Agent {
    async fn hold_ladder(&self) -> Held<'_> {
        while self.ladder_held.replace(true) {
            self.world.executor.sleep(ms(1)).await;
        }
        Held(&self.ladder_held)
    }

    /// Sets what was decided.
    pub(super) async fn set_fence(&self, fence: Fence) -> Done {
        let _held = self.hold_ladder().await;
        // Unknown until it is done.
        let before = self.state.borrow_mut().fence.take();
        let stands = self.put_fence(fence, before).await?;
        self.state.borrow_mut().fence = stands;
        Ok(())
    }

    async fn put_fence(&self, fence: Fence, before: Option<Fence>) -> Done<Option<Fence>> {
        match fence {
            Fence::Expiring if matches!(before, Some(Fence::Paused | Fence::Kept)) => self.shut().await,
            Fence::Expiring => Ok(before),
            Fence::None | Fence::Paused | Fence::Kept | Fence::Closed | Fence::Ended
                if before == Some(fence) =>
            {
                Ok(before)
            }
            Fence::None | Fence::Paused | Fence::Kept => {
                self.lift().await?;
                Ok(Some(fence))
            }
            Fence::Until { term, deadline_ms } => {
                let open = self.open_until(deadline_ms, before).await;
                if !matches!(open, Ok(false)) {
                    self.extend_guard(term, deadline_ms).await;
                }
                open?;
                Ok(Some(fence))
            }
            Fence::Closed | Fence::Ended => self.shut().await,
        }
    }

    async fn shut(&self) -> Done<Option<Fence>> {
        self.arm(None).await;
        Ok(Some(Fence::Closed))
    }

    /// The kernel's part of it alone, for a term that is not ours yet.
    pub(super) async fn prepare(&self, term: Term, deadline_ms: u64) -> Done {
        let _held = self.hold_ladder().await;
        let before = self.state.borrow_mut().fence.take();
        self.open_until(deadline_ms, before).await?;
        self.state.borrow_mut().fence = Some(Fence::Until { term, deadline_ms });
        Ok(())
    }

    /// Before PostgreSQL starts as a primary: the port is closed unless a lease already holds it open. The guard here knows its
    /// processes, not a cgroup that a start makes anew, so it has nothing to be told.
    pub(super) async fn close_before_start(&self) {
        let _held = self.hold_ladder().await;
        if self.door() == Door::Absent {
            self.arm(None).await;
            self.state.borrow_mut().fence = Some(Fence::Closed);
        }
    }

    fn door(&self) -> Door {
        self.here().door(self.world.executor.now_us())
    }

    /// The guard first: it would end a writer whose fence takes long to lift. One that kills in this moment lets nobody in.
    async fn lift(&self) -> Done {
        let released = self.tell_guard(|guard| guard.release(&self.world, self.host)).await;
        if matches!(released, Err(NotDone::Refused)) {
            return Err("the guard is not released".into());
        }
        if self.door() != Door::Absent {
            self.step(&"takes the dead-man away").await;
            self.world.pause(ms(3), ms(12)).await;
            self.here().dead_man.set(DeadMan::default());
        }
        match released {
            // A guard that does not run has nothing to release.
            Ok(()) | Err(NotDone::Gone) => Ok(()),
            Err(NotDone::Silent | NotDone::Refused) => Err("the guard is not released".into()),
        }
    }

    /// Returns whether the port is open now: a deadline that has passed meanwhile opens nothing.
    async fn open_until(&self, deadline_ms: u64, before: Option<Fence>) -> Done<bool> {
        let refreshed = match before {
            Some(Fence::Until { .. }) => self.refresh(deadline_ms).await,
            _ => self.arm_until(deadline_ms).await,
        };
        let done = match refreshed {
            Err(Trouble::Gone) => {
                self.say(&"somebody has changed the packet filter: the dead-man is put back");
                self.arm_until(deadline_ms).await
            }
            other => other,
        };
        match done {
            Ok(()) => Ok(true),
            Err(Trouble::Past) => {
                if self.door() == Door::Absent {
                    self.arm(None).await;
                }
                Ok(false)
            }
            Err(Trouble::Gone | Trouble::Busy) => Err("the kernel's dead-man".into()),
        }
    }

    /// Loads the table; `None`: closed.
    async fn arm(&self, opening_ms: Option<u64>) {
        let meant = opening_ms.map_or("closed".to_owned(), |opening_ms| format!("open for {opening_ms} ms"));
        self.step(&format_args!("loads the dead-man, {meant}")).await;
        self.world.pause(ms(3), ms(12)).await;
        let until_ms = opening_ms.map_or(0, |opening_ms| self.now_ms() + opening_ms);
        self.here().dead_man.set(DeadMan { present: true, until_ms, meant_until_ms: 0 });
    }

    async fn arm_until(&self, deadline_ms: u64) -> Result<(), Trouble> {
        self.arm(Some(self.timeout_ms(deadline_ms)?.min(OPENING_MS))).await;
        self.refresh(deadline_ms).await
    }

    fn timeout_ms(&self, deadline_ms: u64) -> Result<u64, Trouble> {
        let left_ms = deadline_ms.saturating_sub(self.now_ms());
        if left_ms < TIMEOUT_MIN_MS { Err(Trouble::Past) } else { Ok(left_ms) }
    }

    /// One transaction of the kernel: the old element goes and the new one comes.
    async fn refresh(&self, deadline_ms: u64) -> Result<(), Trouble> {
        for _ in 0..ATTEMPTS {
            if !self.here().dead_man.get().present {
                return Err(Trouble::Gone);
            }
            let asked_ms = self.now_ms();
            let timeout_ms = self.timeout_ms(deadline_ms)?;
            // It can be stopped between the clock and the kernel.
            self.world.pause(20, 60).await;
            if self.world.is_mutant(Mutant::DeadManInTwoSteps) {
                self.here().dead_man.set(DeadMan { until_ms: 0, ..self.here().dead_man.get() });
                self.may_end_here().await;
            }
            if !self.here().dead_man.get().present {
                return Err(Trouble::Gone);
            }
            let until_ms = self.now_ms() + timeout_ms;
            self.here().dead_man.set(DeadMan { present: true, until_ms, meant_until_ms: deadline_ms });
            if self.now_ms().saturating_sub(asked_ms) <= LATE_MS {
                return Ok(());
            }
            if self.timeout_ms(deadline_ms).is_err() {
                self.here().dead_man.set(DeadMan { present: true, ..DeadMan::default() });
                return Err(Trouble::Past);
            }
        }
        Err(Trouble::Busy)
    }

    async fn extend_guard(&self, term: Term, deadline_ms: u64) {
        let deadline_ms = deadline_ms + self.world.setup.timings.guard_grace_ms();
        let _ = self.tell_guard(|guard| guard.extend(&self.world, self.host, term.0, deadline_ms)).await;
    }

    async fn tell_guard(
        &self,
        word: impl Fn(&crate::simulator::ladder::Guard) -> Result<(), NotDone>,
    ) -> Result<(), NotDone> {
        if self.now_ms() < self.guard_silent_until_ms.get() {
            return Err(NotDone::Silent);
        }
        self.may_end_here().await;
        let guard = self.here().guard.borrow().clone();
        let told = guard.map_or(Err(NotDone::Gone), |guard| word(&guard));
        if matches!(told, Err(NotDone::Silent)) {
            self.world.executor.sleep(GUARD_DEADLINE_US).await;
            self.guard_silent_until_ms.set(self.now_ms() + SILENCE_MS);
        }
        told
    }
}
