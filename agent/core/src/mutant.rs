//! Rules that a test build can leave out, one at a time, to show that the tests notice.
//!
//! The call sites ask [`left_out`]. Without the feature `mutants`, which no package and no ordinary build has, it is a
//! constant `false`, and nothing of it remains in the program. With the feature the agent refuses to start unless its
//! configuration names the rule, or `none`. It decides nothing: `holdfast-lab mutants` says which scenario finds which.

/// A rule that can be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "mutants", derive(Debug, Hash, PartialOrd, Ord))]
#[allow(missing_docs)] // `sentence` says what each is.
#[repr(u8)]
pub enum Mutant {
    PresentSyncOnly = 1,
    FloorNotHeldBack,
    SilenceNotNeeded,
    UnknownProbeIsDeath,
    PositionBeforeCut,
    PromiseDoesNotBind,
    PromiseNotKept,
    WithdrawnAlone,
    SyncNotBumped,
    FloorNotReached,
    QuorumIsEnough,
    AttestedAlive,
    NotClosedAgain,
    SyncNotComparedAtOpen,
    FloorNotReachedAtOpen,
    HookPasses,
    LeaseNeverEnds,
    DeadManNotArmed,
    GuardNotTold,
    GrantDoesNotBlock,
    GrantsNotAsked,
    StartGateOpen,
    FenceIgnored,
    OlderTermWrites,
    OlderTermRouted,
    ExpiredNotAwaited,
    HungWaitedFor,
    LeaseNotAwaited,
}

/// Whether the rule is left out. Never in an ordinary build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn left_out(_: Mutant) -> bool {
    false
}

#[cfg(all(test, feature = "mutants"))]
pub(crate) use build::without;
#[cfg(feature = "mutants")]
pub use build::{LeftOut, leave_out, left_out};

/// What only the test build has.
#[cfg(feature = "mutants")]
mod build {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutant;

    /// 0: none.
    #[cfg(not(test))]
    static LEFT_OUT: AtomicU8 = AtomicU8::new(0);
    // Each test has a thread of its own: a rule that one leaves out is in force for the others.
    #[cfg(test)]
    thread_local!(static LEFT_OUT: AtomicU8 = const { AtomicU8::new(0) });

    #[cfg(not(test))]
    fn with<T>(use_it: impl FnOnce(&AtomicU8) -> T) -> T {
        use_it(&LEFT_OUT)
    }

    #[cfg(test)]
    fn with<T>(use_it: impl FnOnce(&AtomicU8) -> T) -> T {
        LEFT_OUT.with(use_it)
    }

    /// Whether the rule is left out.
    pub fn left_out(mutant: Mutant) -> bool {
        with(|left_out| left_out.load(Ordering::Relaxed)) == mutant as u8
    }

    /// Leaves a rule out from now on, in the whole process; `None` puts the last one back.
    pub fn leave_out(mutant: Option<Mutant>) {
        with(|left_out| left_out.store(mutant.map_or(0, |mutant| mutant as u8), Ordering::Relaxed));
    }

    /// In tests: what is decided without a rule.
    #[cfg(test)]
    pub fn without<T>(mutant: Mutant, decide: impl FnOnce() -> T) -> T {
        leave_out(Some(mutant));
        let decided = decide();
        leave_out(None);
        decided
    }

    /// What a configuration may name.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct LeftOut(
        /// The rule; none is the control: the same build with every rule in it.
        pub Option<Mutant>,
    );

    impl std::str::FromStr for LeftOut {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            if text == "none" {
                return Ok(Self(None));
            }
            let found = Mutant::ALL.into_iter().find(|mutant| mutant.name() == text);
            found.map(|mutant| Self(Some(mutant))).ok_or_else(|| {
                let names = Mutant::ALL.map(Mutant::name).join(", ");
                format!("{text} is no rule that can be left out; there are: none, {names}")
            })
        }
    }

    impl Mutant {
        /// All of them.
        pub const ALL: [Self; 28] = [
            Self::PresentSyncOnly,
            Self::FloorNotHeldBack,
            Self::SilenceNotNeeded,
            Self::UnknownProbeIsDeath,
            Self::PositionBeforeCut,
            Self::PromiseDoesNotBind,
            Self::PromiseNotKept,
            Self::WithdrawnAlone,
            Self::SyncNotBumped,
            Self::FloorNotReached,
            Self::QuorumIsEnough,
            Self::AttestedAlive,
            Self::NotClosedAgain,
            Self::SyncNotComparedAtOpen,
            Self::FloorNotReachedAtOpen,
            Self::HookPasses,
            Self::LeaseNeverEnds,
            Self::DeadManNotArmed,
            Self::GuardNotTold,
            Self::GrantDoesNotBlock,
            Self::GrantsNotAsked,
            Self::StartGateOpen,
            Self::FenceIgnored,
            Self::OlderTermWrites,
            Self::OlderTermRouted,
            Self::ExpiredNotAwaited,
            Self::HungWaitedFor,
            Self::LeaseNotAwaited,
        ];

        /// Its name in a configuration and on the command line.
        pub fn name(self) -> &'static str {
            self.about().0
        }

        /// The rule of `PROTOCOL.md`, or the promise, that it leaves out.
        pub fn rule(self) -> &'static str {
            self.about().1
        }

        /// What is different.
        pub fn sentence(self) -> &'static str {
            self.about().2
        }

        fn about(self) -> (&'static str, &'static str, &'static str) {
            match self {
                Self::PresentSyncOnly => {
                    ("present-sync-only", "2", "promises are counted against the present /sync only")
                }
                Self::FloorNotHeldBack => {
                    ("floor-not-held-back", "1", "the floor record does not wait for flushes")
                }
                Self::SilenceNotNeeded => {
                    ("silence-not-needed", "4", "a session that is gone is reason enough to leave a writer")
                }
                Self::UnknownProbeIsDeath => {
                    ("unknown-probe-is-death", "4, I7", "a probe that failed here counts as no answer")
                }
                Self::PositionBeforeCut => {
                    ("position-before-cut", "5", "the position is read before the network is cut")
                }
                Self::PromiseDoesNotBind => {
                    ("promise-does-not-bind", "6", "who has promised may receive from the writer again")
                }
                Self::PromiseNotKept => {
                    ("promise-not-kept", "5, I9", "the phase of a promise is not kept on disk")
                }
                Self::WithdrawnAlone => {
                    ("withdrawn-alone", "7", "a promise is withdrawn without comparing anything")
                }
                Self::SyncNotBumped => ("sync-not-bumped", "8", "CLOSE does not put /sync again"),
                Self::FloorNotReached => ("floor-not-reached", "8", "no promise has to reach the floor"),
                Self::QuorumIsEnough => ("quorum-is-enough", "8", "q promises are enough"),
                Self::AttestedAlive => {
                    ("attested-alive", "9", "a stop is attested while processes are still there")
                }
                Self::NotClosedAgain => {
                    ("not-closed-again", "12", "a closed reign is not closed again when /sync has changed")
                }
                Self::SyncNotComparedAtOpen => {
                    ("sync-not-compared-at-open", "14", "OPEN does not look whether /sync is what CLOSE put")
                }
                Self::FloorNotReachedAtOpen => {
                    ("floor-not-reached-at-open", "14", "OPEN does not compare the position with the floor")
                }
                Self::HookPasses => ("hook-passes", "14, 16", "the promotion hook lets everybody pass"),
                Self::LeaseNeverEnds => ("lease-never-ends", "19", "the write lease is extended by itself"),
                Self::DeadManNotArmed => ("dead-man-not-armed", "20, I3", "the kernel's dead-man is not set"),
                Self::GuardNotTold => ("guard-not-told", "20, I4", "the guard is never told of a lease"),
                Self::GrantDoesNotBlock => {
                    ("grant-does-not-block", "22", "who has granted a lease may promise at once")
                }
                Self::GrantsNotAsked => ("grants-not-asked", "22, I6", "nobody is asked for grants"),
                Self::StartGateOpen => ("start-gate-open", "start gate, I12", "every postmaster may start"),
                Self::FenceIgnored => {
                    ("fence-ignored", "start gate, I5", "a fence record does not keep PostgreSQL out")
                }
                Self::OlderTermWrites => {
                    ("older-term-writes", "I10", "a PostgreSQL that writes in another's term is left alone")
                }
                Self::OlderTermRouted => {
                    ("older-term-routed", "I10", "clients are sent back to the writer of an older term")
                }
                Self::ExpiredNotAwaited => {
                    ("expired-not-awaited", "class off, I2", "the next OPEN of class off awaits no lease")
                }
                Self::HungWaitedFor => {
                    ("hung-waited-for", "9, I8", "a PostgreSQL that does not answer is waited for")
                }
                Self::LeaseNotAwaited => {
                    ("lease-not-awaited", "19", "a session that is gone is taken for a lease that is over")
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn one_rule_at_a_time_is_left_out_by_its_name() {
            for (at, mutant) in Mutant::ALL.into_iter().enumerate() {
                assert_eq!(mutant as usize, at + 1, "{mutant:?}");
                assert_eq!(mutant.name().parse(), Ok(LeftOut(Some(mutant))));
            }
            assert_eq!("none".parse(), Ok(LeftOut(None)));
            assert!("nine".parse::<LeftOut>().unwrap_err().contains("hook-passes"));
        }
    }
}
