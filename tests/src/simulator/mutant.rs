//! Rules that can be left out of the simulator's shell, to show that a run finds what they are for. The product has no
//! such switch: what is changed is what the shell does with the core's verdicts, or what it tells the core.

use std::fmt;
use std::str::FromStr;

/// One rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// Rule 5: the position is read before the network is cut.
    PositionBeforeCut,
    /// Rules 5 and 6: a boot forgets the promise, on disk and in etcd, and opens replication.
    PromiseForgottenAtBoot,
    /// Rule 8: CLOSE does not compare `/sync`.
    CloseWithoutSync,
    /// Rule 8: CLOSE counts only the present `/sync`.
    CloseByPresentSync,
    /// Rule 8: CLOSE by a watched view, comparing nothing but the term.
    CloseOnWatchedView,
    /// Rule 14: OPEN does not look at the floor.
    OpenWithoutFloor,
    /// Rule 7: the promise is taken back, and replication opened, by a plain delete.
    WithdrawWithoutTransaction,
    /// Rule 5: the cut is not made, and taken for made.
    PromiseWithoutCut,
    /// Hook: lets everything be promoted.
    HookPasses,
    /// Rule 19: the lease counts from the answer, not from the question.
    DeadlineFromReply,
    /// Rule 19: the lease lasts as long as the session.
    NoMargin,
    /// Rule 22: a grant keeps nobody from promising.
    GrantDoesNotBlock,
    /// Rule 22: a grant blocks for a tenth of its time.
    GrantTooShort,
    /// Rule 4: an agent that has just started promises at once.
    RestartWithoutWaiting,
    /// The guard never kills.
    GuardNeverKills,
    /// The dead-man's element is taken away first, and put back by a second transaction.
    DeadManInTwoSteps,
    /// Rule 14: the timeline ids that nobody here has seen are not held.
    TimelineNotHeld,
    /// Operations: a coordinator stores without comparing that it works, and what it has read.
    StaleCoordinator,
    /// Operations: a pooler holds its clients for as long as it is asked to.
    PoolerNeverResumes,
    /// Operations: the order to hand over compares neither term nor operation.
    OrderWithoutCompare,
    /// Operations: one that something else has overtaken does not end.
    NotOvertaken,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::PositionBeforeCut,
        Self::PromiseForgottenAtBoot,
        Self::CloseWithoutSync,
        Self::CloseByPresentSync,
        Self::CloseOnWatchedView,
        Self::OpenWithoutFloor,
        Self::WithdrawWithoutTransaction,
        Self::PromiseWithoutCut,
        Self::HookPasses,
        Self::DeadlineFromReply,
        Self::NoMargin,
        Self::GrantDoesNotBlock,
        Self::GrantTooShort,
        Self::RestartWithoutWaiting,
        Self::GuardNeverKills,
        Self::DeadManInTwoSteps,
        Self::TimelineNotHeld,
    ];

    /// Those of operations: they are looked for in runs with operations.
    pub const OF_OPERATIONS: [Self; 4] =
        [Self::StaleCoordinator, Self::PoolerNeverResumes, Self::OrderWithoutCompare, Self::NotOvertaken];

    /// Whether it is one of operations.
    pub fn is_of_operations(self) -> bool {
        Self::OF_OPERATIONS.contains(&self)
    }

    fn name(self) -> &'static str {
        match self {
            Self::PositionBeforeCut => "position-before-cut",
            Self::PromiseForgottenAtBoot => "promise-forgotten-at-boot",
            Self::CloseWithoutSync => "close-without-sync",
            Self::CloseByPresentSync => "close-by-present-sync",
            Self::CloseOnWatchedView => "close-on-watched-view",
            Self::OpenWithoutFloor => "open-without-floor",
            Self::WithdrawWithoutTransaction => "withdraw-without-transaction",
            Self::PromiseWithoutCut => "promise-without-cut",
            Self::HookPasses => "hook-passes",
            Self::DeadlineFromReply => "deadline-from-reply",
            Self::NoMargin => "no-margin",
            Self::GrantDoesNotBlock => "grant-does-not-block",
            Self::GrantTooShort => "grant-too-short",
            Self::RestartWithoutWaiting => "restart-without-waiting",
            Self::GuardNeverKills => "guard-never-kills",
            Self::DeadManInTwoSteps => "dead-man-in-two-steps",
            Self::TimelineNotHeld => "timeline-not-held",
            Self::StaleCoordinator => "stale-coordinator",
            Self::PoolerNeverResumes => "pooler-never-resumes",
            Self::OrderWithoutCompare => "order-without-compare",
            Self::NotOvertaken => "not-overtaken",
        }
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mutant {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = || Self::ALL.into_iter().chain(Self::OF_OPERATIONS);
        let known = || all().map(Self::name).collect::<Vec<_>>().join(", ");
        all()
            .find(|mutant| mutant.name() == text)
            .ok_or_else(|| format!("no such mutant; there are: {}", known()))
    }
}
