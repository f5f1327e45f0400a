//! The rules left out, one at a time: what a checker that finds nothing in the right protocol must find in these.
//!
//! Section 9 of the rules that the protocol was designed from lists the weaker rules that people think of first; each is
//! here, with the rule of `PROTOCOL.md` that it breaks.

/// One rule left out or weakened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // `sentence` says what each is.
pub enum Mutant {
    PresentSyncOnly,
    SyncNotComparedAtClose,
    SyncNotBumped,
    SyncNotComparedAtOpen,
    SettingNotChecked,
    SettingNotCheckedForFloor,
    FloorNotReached,
    FloorNotReachedAtOpen,
    FloorNotHeldBack,
    PositionBeforeCut,
    PositionWhileReplaying,
    PromiseForgotten,
    WithdrawnAlone,
    ReinitUnnoticed,
    LsnWithoutTimeline,
    SessionAlone,
    CountedByNumber,
    QuorumIsEnough,
    LengthMinusQuorum,
    Majority,
    NotClosedAgain,
    WriterReturnsWithOtherData,
    DeposedWriterRuns,
    DeadlineFromReply,
    NoMargin,
    GrantDoesNotBlock,
    GrantTooShort,
    RestartWithoutWaiting,
    TimelineTwice,
    WriterIsPaused,
}

impl Mutant {
    /// The rule that it breaks.
    pub fn rule(self) -> &'static str {
        match self {
            Self::SettingNotCheckedForFloor | Self::FloorNotHeldBack => "1",
            Self::PresentSyncOnly => "2",
            Self::PositionBeforeCut | Self::PositionWhileReplaying => "5",
            Self::PromiseForgotten => "6",
            Self::WithdrawnAlone => "7",
            Self::SyncNotComparedAtClose
            | Self::SyncNotBumped
            | Self::FloorNotReached
            | Self::ReinitUnnoticed
            | Self::LsnWithoutTimeline
            | Self::SessionAlone
            | Self::CountedByNumber
            | Self::QuorumIsEnough
            | Self::LengthMinusQuorum
            | Self::Majority => "8",
            Self::NotClosedAgain => "12",
            Self::SyncNotComparedAtOpen
            | Self::SettingNotChecked
            | Self::FloorNotReachedAtOpen
            | Self::TimelineTwice => "14",
            Self::WriterReturnsWithOtherData => "15",
            Self::DeadlineFromReply | Self::NoMargin => "19",
            Self::DeposedWriterRuns => "20 (G)",
            Self::WriterIsPaused => "19 (clocks)",
            Self::GrantDoesNotBlock | Self::GrantTooShort | Self::RestartWithoutWaiting => "22",
        }
    }

    /// What is different.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::PresentSyncOnly => "promises are counted against the present /sync only",
            Self::SyncNotComparedAtClose => {
                "CLOSE does not compare /sync with what its evidence was counted on"
            }
            Self::SyncNotBumped => {
                "CLOSE does not rewrite /sync: a late write of Patroni's from its cache succeeds"
            }
            Self::SyncNotComparedAtOpen => "OPEN does not compare /sync with what CLOSE wrote",
            Self::SettingNotChecked => "OPEN does not look at the opener's actual synchronous_standby_names",
            Self::SettingNotCheckedForFloor => {
                "the floor record is written without looking at the actual setting"
            }
            Self::FloorNotReached => "CLOSE does not need a promise that reaches the floor record's position",
            Self::FloorNotReachedAtOpen => "OPEN does not compare the opener's position with the floor",
            Self::FloorNotHeldBack => {
                "the floor record is written before enough members have flushed its position"
            }
            Self::PositionBeforeCut => "a standby reads its position before it is cut off",
            Self::PositionWhileReplaying => "a restarted standby reads its position while it still replays",
            Self::PromiseForgotten => "a reboot forgets the promise: replication starts again",
            Self::WithdrawnAlone => "a promise is withdrawn without a transaction",
            Self::ReinitUnnoticed => "a replaced data directory votes",
            Self::LsnWithoutTimeline => "positions are compared without their timelines",
            Self::SessionAlone => "the end of the writer's session alone is evidence",
            Self::CountedByNumber => "promises are counted by number, whoever made them",
            Self::QuorumIsEnough => "q promises are enough",
            Self::LengthMinusQuorum => "|M| - q promises are enough",
            Self::Majority => "a majority of M is enough",
            Self::NotClosedAgain => "a closed reign whose /sync has moved is not closed again",
            Self::WriterReturnsWithOtherData => {
                "the old writer opens on a /sync that it moved after CLOSE, with other data than it wrote"
            }
            Self::DeposedWriterRuns => {
                "nothing stops a deposed writer: its Patroni may still empty synchronous_standby_names"
            }
            Self::DeadlineFromReply => "the write lease counts from the reply, not from the sending",
            Self::NoMargin => "the write lease is as long as the session: no room for drift",
            Self::GrantDoesNotBlock => "a member that granted a lease may promise before it has run out",
            Self::GrantTooShort => "a grant ends before the lease that rests on it",
            Self::TimelineTwice => {
                "the id that OPEN reserved is not held: PostgreSQL takes that of a reign that it has not followed"
            }
            Self::WriterIsPaused => "a hypervisor stops the writer's host, its clocks and its dead-man alike",
            Self::RestartWithoutWaiting => "an agent that restarted promises at once, its grants forgotten",
        }
    }

    /// Whether this is not a rule of ours but something that the rules take for granted. Dropping it must be seen to
    /// break a promise all the same: that is what makes it an assumption.
    pub fn is_an_assumption(self) -> bool {
        matches!(self, Self::DeposedWriterRuns | Self::WriterIsPaused)
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        use clap::ValueEnum as _;
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
