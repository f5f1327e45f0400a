//! What the guard owes one instance. Pure: time comes in as a number, and the kill is somebody else's.
//!
//! A deadline that has passed cannot be extended any more, whether or not the kill has begun: the check is against the
//! deadline, never against what was done about it.

use crate::wire::{DEADLINE_AHEAD_MAX_NS, Kill, Phase, Refusal, Stuck};

/// Who was still there when the guard looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// How many.
    pub count: u32,
    /// Those in uninterruptible sleep.
    pub stuck: Stuck,
}

/// The duty of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    phase: Phase,
    term: u64,
    deadline_ns: u64,
    last_kill: Option<Kill>,
}

impl Duty {
    /// Nothing is owed; `term` is the highest that a former guard had heard of.
    pub fn new(term: u64) -> Self {
        Self { phase: Phase::Idle, term, deadline_ns: 0, last_kill: None }
    }

    /// What is done now.
    pub fn phase(&self) -> Phase {
        self.phase
    }
    /// The highest term heard of.
    pub fn term(&self) -> u64 {
        self.term
    }
    /// The last kill.
    pub fn last_kill(&self) -> Option<Kill> {
        self.last_kill
    }
    /// The deadline in force.
    pub fn deadline_ns(&self) -> Option<u64> {
        (self.phase == Phase::Armed).then_some(self.deadline_ns)
    }
    /// Whether the deadline has passed and nothing was begun.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.deadline_ns().is_some_and(|deadline_ns| deadline_ns <= now_ns)
    }

    /// Whether an order for this term may be followed now.
    fn admit(&self, now_ns: u64, term: u64) -> Result<(), Refusal> {
        if self.phase == Phase::Killing || self.is_due(now_ns) {
            return Err(Refusal::Killing);
        }
        if term < self.term {
            return Err(Refusal::LowerTerm);
        }
        Ok(())
    }

    /// Whether what is guarded may be exchanged now.
    pub fn may_register(&self, now_ns: u64) -> Result<(), Refusal> {
        self.admit(now_ns, self.term)
    }

    /// The agent's word. An earlier deadline than the last one is taken too: it only kills sooner.
    pub fn extend(&mut self, now_ns: u64, term: u64, deadline_ns: u64) -> Result<(), Refusal> {
        self.admit(now_ns, term)?;
        if deadline_ns <= now_ns {
            return Err(Refusal::Past);
        }
        if deadline_ns - now_ns > DEADLINE_AHEAD_MAX_NS {
            return Err(Refusal::TooFar);
        }
        (self.phase, self.term, self.deadline_ns) = (Phase::Armed, term, deadline_ns);
        Ok(())
    }

    /// The duty is over.
    pub fn release(&mut self, now_ns: u64, term: u64) -> Result<(), Refusal> {
        self.admit(now_ns, term)?;
        (self.phase, self.term) = (Phase::Idle, term);
        Ok(())
    }

    /// A person takes the duty away, also that of a kill that has not ended.
    pub fn stand_down(&mut self) {
        self.phase = Phase::Idle;
    }

    /// The deadline has passed, and nobody is there whom it could end: no kill, and no proof of one.
    pub fn lapse(&mut self) {
        self.phase = Phase::Idle;
    }

    /// The deadline has passed: the kill begins.
    pub fn begin_kill(&mut self, now_ns: u64) {
        self.phase = Phase::Killing;
        self.last_kill = Some(Kill {
            term: self.term,
            deadline_ns: self.deadline_ns,
            begun_ns: now_ns,
            empty_ns: None,
            left: 0,
            stuck: Stuck::default(),
        });
    }

    /// Who is still there; nobody: the proof is complete.
    pub fn saw(&mut self, now_ns: u64, left: Left) {
        let Some(kill) = self.last_kill.as_mut().filter(|_| self.phase == Phase::Killing) else { return };
        (kill.left, kill.stuck) = (left.count, left.stuck);
        if left.count == 0 {
            kill.empty_ns = Some(now_ns);
            self.phase = Phase::Killed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;
    const SOON: u64 = NOW + 3_000_000_000;

    fn armed() -> Duty {
        let mut duty = Duty::new(0);
        duty.extend(NOW, 7, SOON).unwrap();
        duty
    }

    #[test]
    fn a_deadline_must_lie_ahead_and_not_too_far() {
        for (deadline_ns, refusal) in [
            (NOW, Refusal::Past),
            (0, Refusal::Past),
            (NOW + DEADLINE_AHEAD_MAX_NS + 1, Refusal::TooFar),
            (u64::MAX, Refusal::TooFar),
        ] {
            let mut duty = armed();
            assert_eq!(duty.extend(NOW, 7, deadline_ns), Err(refusal));
            assert_eq!(duty, armed());
        }
        assert_eq!(armed().extend(NOW, 7, NOW + DEADLINE_AHEAD_MAX_NS), Ok(()));
    }

    #[test]
    fn a_lower_term_changes_nothing() {
        let mut duty = armed();
        assert_eq!(duty.extend(NOW, 6, SOON), Err(Refusal::LowerTerm));
        assert_eq!(duty.release(NOW, 6), Err(Refusal::LowerTerm));
        assert_eq!(duty, armed());
        duty.release(NOW, 7).unwrap();
        assert_eq!(duty.extend(NOW, 6, SOON), Err(Refusal::LowerTerm));
        assert_eq!(Duty::new(9).extend(NOW, 8, SOON), Err(Refusal::LowerTerm));
    }

    #[test]
    fn what_is_due_cannot_be_saved_any_more() {
        let mut duty = armed();
        assert!(!duty.is_due(SOON - 1) && duty.is_due(SOON));
        assert_eq!(duty.extend(SOON, 8, SOON + 1), Err(Refusal::Killing));
        assert_eq!(duty.release(SOON, 8), Err(Refusal::Killing));
        assert_eq!(duty.may_register(SOON), Err(Refusal::Killing));
        duty.begin_kill(SOON + 1);
        assert!(!duty.is_due(SOON + 1), "it is begun once");
        assert_eq!(duty.extend(SOON + 2, 8, SOON + 9), Err(Refusal::Killing));
    }

    #[test]
    fn the_proof_is_kept_until_the_next_kill() {
        let mut duty = armed();
        duty.begin_kill(SOON + 1);
        let mut left = Left { count: 2, stuck: Stuck::default() };
        left.stuck.push(44);
        duty.saw(SOON + 2, left);
        assert_eq!(duty.phase(), Phase::Killing);
        assert_eq!((duty.last_kill().unwrap().left, duty.last_kill().unwrap().stuck.pids()), (2, &[44][..]));
        duty.saw(SOON + 3, Left::default());
        assert_eq!(duty.phase(), Phase::Killed);
        let proof = Kill {
            term: 7,
            deadline_ns: SOON,
            begun_ns: SOON + 1,
            empty_ns: Some(SOON + 3),
            left: 0,
            stuck: Stuck::default(),
        };
        assert_eq!(duty.last_kill(), Some(proof));
        duty.extend(SOON + 4, 7, SOON + 9).unwrap();
        assert_eq!((duty.phase(), duty.last_kill()), (Phase::Armed, Some(proof)));
    }

    #[test]
    fn an_earlier_deadline_is_taken() {
        let mut duty = armed();
        duty.extend(NOW, 7, NOW + 1).unwrap();
        assert_eq!(duty.deadline_ns(), Some(NOW + 1));
    }
}
