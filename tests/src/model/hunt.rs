//! Where each mutant is looked for, and what it takes to call it caught.

use super::action::Action;
use super::mutant::Mutant;
use super::scripts;
use super::world::Bounds;

/// How a mutant is caught.
#[derive(Clone, Copy, Debug)]
pub enum Hunt {
    /// A breadth-first search within bounds that are just wide enough.
    Search(Bounds),
    /// A scripted trace.
    Script(Bounds, &'static [Action]),
    /// From some state after these steps no promotion can be reached any more.
    Stuck(Bounds, &'static [Action]),
    /// The timed model of leases and grants.
    Lease,
}

/// One host dies and stays dead; nothing else goes wrong any more.
pub const DEATH: Bounds = Bounds { terms: 3, crashes: 1, dead_stay_dead: true, ..Bounds::QUIET };

/// The hunt for a mutant.
pub fn of(mutant: Mutant) -> Hunt {
    let quiet = Bounds::QUIET;
    match mutant {
        Mutant::PresentSyncOnly => Hunt::Search(Bounds { sessions: 1, disconnects: 1, ..quiet }),
        Mutant::SyncNotComparedAtClose => Hunt::Script(Bounds::WIDE, scripts::CLOSED_ON_OLD_EVIDENCE),
        Mutant::SyncNotBumped => Hunt::Search(Bounds { sessions: 1, deposed_run: true, ..quiet }),
        Mutant::SyncNotComparedAtOpen => Hunt::Script(Bounds::WIDE, scripts::OPENED_ON_A_MOVED_SYNC),
        Mutant::SettingNotChecked => Hunt::Script(Bounds::WIDE, scripts::OPENED_WITH_AN_OLD_SETTING),
        Mutant::SettingNotCheckedForFloor => Hunt::Script(Bounds::WIDE, scripts::SYNC_LANDS_LATE),
        Mutant::FloorNotReached => Hunt::Script(Bounds::WIDE, scripts::CLOSED_BELOW_THE_FLOOR),
        Mutant::FloorNotReachedAtOpen => Hunt::Search(Bounds { sessions: 1, locks: 2, ..quiet }),
        Mutant::PositionBeforeCut => Hunt::Search(Bounds { sessions: 1, ..quiet }),
        Mutant::PositionWhileReplaying => {
            Hunt::Search(Bounds { sessions: 1, crashes: 1, dead_stay_dead: true, ..quiet })
        }
        Mutant::PromiseForgotten => Hunt::Script(Bounds::WIDE, scripts::REBOOTED_AFTER_THE_PROMISE),
        Mutant::WithdrawnAlone => Hunt::Search(Bounds { sessions: 1, ..quiet }),
        Mutant::ReinitUnnoticed => Hunt::Search(Bounds { sessions: 1, replacements: 1, ..quiet }),
        Mutant::LsnWithoutTimeline => Hunt::Script(Bounds::WIDE, scripts::LONGER_BUT_OLDER),
        Mutant::SessionAlone => Hunt::Search(Bounds { sessions: 1, locks: 2, ..quiet }),
        Mutant::CountedByNumber => Hunt::Script(Bounds::WIDE, scripts::COUNTED_WITHOUT_LOOKING),
        Mutant::QuorumIsEnough | Mutant::LengthMinusQuorum => Hunt::Search(Bounds { sessions: 1, ..quiet }),
        Mutant::Majority => Hunt::Search(Bounds { nodes: 4, sessions: 1, ..quiet }),
        Mutant::WriterReturnsWithOtherData => Hunt::Script(Bounds::WIDE, scripts::COMES_BACK_WITH_A_BACKUP),
        Mutant::DeposedWriterRuns => Hunt::Script(Bounds::WIDE, scripts::THE_DEPOSED_TAKES_THE_LOCK),
        Mutant::FloorNotHeldBack => Hunt::Stuck(DEATH, scripts::A_WRITE_THAT_NOBODY_HAS),
        Mutant::NotClosedAgain => Hunt::Stuck(DEATH, scripts::SYNC_MOVED_AFTER_CLOSE),
        Mutant::TimelineTwice => Hunt::Script(Bounds::WIDE, scripts::THE_SAME_TIMELINE),
        Mutant::DeadlineFromReply
        | Mutant::NoMargin
        | Mutant::GrantDoesNotBlock
        | Mutant::GrantTooShort
        | Mutant::RestartWithoutWaiting
        | Mutant::WriterIsPaused => Hunt::Lease,
    }
}
