//! Ways to a broken promise that are too long to be found again in every run: lists of named actions.
//!
//! Each is replayed on the mutant, where it must end in a broken promise, and on the right rules, which must refuse one
//! of its steps.

use super::action::Action::{self, *};
use super::node::{A, B, C, NodeSet};

const NOBODY: NodeSet = NodeSet::EMPTY;
const ONLY_C: NodeSet = NodeSet(0b100);
const ONLY_B: NodeSet = NodeSet(0b010);
const A_AND_C: NodeSet = NodeSet(0b101);
const B_AND_C: NodeSet = NodeSet(0b110);

/// B and C leave A, whose session has gone, and promise so.
macro_rules! left_by_both {
    ($($rest:expr),* $(,)?) => {
        &[SessionLost(A), Leave(B), Promise(B), Leave(C), Promise(C), $($rest),*]
    };
}

/// CLOSE on evidence that was counted before Patroni emptied `/sync`.
pub const CLOSED_ON_OLD_EVIDENCE: &[Action] = left_by_both![
    CountEvidence,
    WriteSync(A, 0, NOBODY),
    SetNames(A, 0, NOBODY),
    Write(A),
    Close { eligible: true },
    TakeLock(C),
    CallHook(C),
    Open(C),
];

/// Between CLOSE and OPEN the old writer takes the free lock again, and goes on alone.
pub const OPENED_ON_A_MOVED_SYNC: &[Action] = left_by_both![
    Close { eligible: false },
    TakeLock(A),
    WriteSync(A, 0, NOBODY),
    SetNames(A, 0, NOBODY),
    Write(A),
    LockExpires,
    TakeLock(C),
    CallHook(C),
    Open(C),
];

/// The same, and a crash ends the old writer: nobody else has what it acknowledged alone, so it is the one that opens.
pub const COMES_BACK: &[Action] = left_by_both![
    Close { eligible: false },
    TakeLock(A),
    WriteSync(A, 0, NOBODY),
    SetNames(A, 0, NOBODY),
    Write(A),
    PostgresDies(A),
    StartAsStandby(A),
    Replayed(A),
    SessionBack(A),
    CallHook(A),
    Open(A),
    Promote(A),
];

/// The same, with a data directory from the archive that has none of it.
pub const COMES_BACK_WITH_A_BACKUP: &[Action] = left_by_both![
    Close { eligible: false },
    TakeLock(A),
    WriteSync(A, 0, NOBODY),
    SetNames(A, 0, NOBODY),
    Write(A),
    PostgresDies(A),
    StartAsStandby(A),
    Reinitialise(A),
    Replayed(A),
    SessionBack(A),
    CallHook(A),
    Open(A),
];

/// Patroni computes the candidate's setting before the hook, from the `/sync` of that moment.
pub const OPENED_WITH_AN_OLD_SETTING: &[Action] = &[
    Disconnect(C),
    LockExpires,
    TakeLock(C),
    CallHook(C),
    SetNames(A, 1, ONLY_B),
    WriteSync(A, 0, ONLY_B),
    Leave(B),
    Promise(B),
    Leave(C),
    Promise(C),
    Close { eligible: true },
    Open(C),
    Promote(C),
    Look(A),
    Replayed(A),
    Attach(A),
    Write(C),
    Flush(A),
    SessionLost(C),
    Leave(B),
    Promise(B),
    Close { eligible: true },
    CallHook(B),
    Open(B),
];

/// B reigns from outside the voters; what it began with is known to nobody that its new configuration names.
pub const CLOSED_BELOW_THE_FLOOR: &[Action] = &[
    Write(A),
    Flush(B),
    Disconnect(B),
    SetNames(A, 1, ONLY_C),
    WriteSync(A, 0, ONLY_C),
    HostDies(A),
    Leave(B),
    Promise(B),
    Leave(C),
    Promise(C),
    Close { eligible: true },
    CallHook(B),
    Open(B),
    HostDies(B),
    Leave(C),
    Promise(C),
    Close { eligible: true },
    CallHook(C),
    Open(C),
];

/// B reboots after its promise and streams again from where it was told to before.
pub const REBOOTED_AFTER_THE_PROMISE: &[Action] = left_by_both![
    HostDies(B),
    HostBoots(B),
    StartAsStandby(B),
    Attach(B),
    Write(A),
    Flush(B),
    Close { eligible: false },
    TakeLock(C),
    CallHook(C),
    Open(C),
];

/// A's two unacknowledged records reach as far as the acknowledged ones of the next reign, and further.
pub const LONGER_BUT_OLDER: &[Action] = &[
    Write(A),
    Write(A),
    HostDies(A),
    Leave(B),
    Promise(B),
    Leave(C),
    Promise(C),
    Close { eligible: true },
    CallHook(B),
    Open(B),
    Promote(B),
    Attach(C),
    Write(B),
    Flush(C),
    HostBoots(A),
    StartAsStandby(A),
    Replayed(A),
    SessionBack(A),
    SessionLost(B),
    Leave(A),
    Promise(A),
    Leave(C),
    Promise(C),
    Close { eligible: true },
    CallHook(A),
    Open(A),
];

/// The new writer's lock lapses, the old one's Patroni takes it, empties the setting and acknowledges alone.
pub const THE_DEPOSED_TAKES_THE_LOCK: &[Action] = left_by_both![
    Close { eligible: true },
    CallHook(B),
    Open(B),
    LockExpires,
    TakeLock(A),
    WriteSync(A, 0, NOBODY),
    SetNames(A, 0, NOBODY),
    Write(A),
];

/// Two promises by number, neither of them of a member that counts.
pub const COUNTED_WITHOUT_LOOKING: &[Action] = &[
    Disconnect(B),
    SetNames(A, 1, ONLY_C),
    WriteSync(A, 0, ONLY_C),
    BeginFloor,
    PublishFloor,
    Write(A),
    Flush(C),
    SessionLost(A),
    Leave(B),
    Promise(B),
    Close { eligible: true },
    CallHook(B),
    Open(B),
];

/// A write of `/sync` that Patroni gave up lands when the setting is another one already.
pub const SYNC_LANDS_LATE: &[Action] = &[
    Disconnect(B),
    SetNames(A, 1, ONLY_C),
    SendSync(A, 0, ONLY_C),
    Attach(B),
    SetNames(A, 1, B_AND_C),
    SyncLands,
    BeginFloor,
    PublishFloor,
    Write(A),
    Flush(B),
    SessionLost(A),
    Leave(C),
    Promise(C),
    Close { eligible: true },
    CallHook(C),
    Open(C),
];

/// B's unacknowledged record and C's acknowledged one have the same timeline id, and B has one more.
pub const THE_SAME_TIMELINE: &[Action] = &[
    Write(A),
    Flush(B),
    Flush(C),
    HostDies(A),
    Leave(B),
    Promise(B),
    Leave(C),
    Promise(C),
    Close { eligible: true },
    CallHook(B),
    Open(B),
    Promote(B),
    Write(B),
    Write(B),
    HostDies(B),
    HostBoots(A),
    StartAsStandby(A),
    Replayed(A),
    SessionBack(A),
    Leave(A),
    Promise(A),
    Leave(C),
    Promise(C),
    Close { eligible: true },
    NameNext(C),
    CallHook(C),
    Open(C),
    Promote(C),
    Attach(A),
    Write(C),
    Flush(A),
    HostBoots(B),
    StartAsStandby(B),
    Replayed(B),
    SessionBack(B),
    SessionLost(C),
    Leave(A),
    Promise(A),
    Leave(B),
    Promise(B),
    Close { eligible: true },
    CallHook(B),
    Open(B),
];

/// Patroni has dropped B, and the last write has reached nobody: a floor there would be out of reach.
pub const A_WRITE_THAT_NOBODY_HAS: &[Action] =
    &[Disconnect(B), SetNames(A, 1, ONLY_C), WriteSync(A, 0, ONLY_C), Write(A)];

/// After CLOSE the writer's Patroni takes the lock again and makes the change to `/sync` that it had not come to: in its
/// first loop the old leader becomes a voter.
pub const SYNC_MOVED_AFTER_CLOSE: &[Action] = left_by_both![
    Close { eligible: true },
    CallHook(B),
    Open(B),
    Promote(B),
    Look(A),
    Replayed(A),
    SessionLost(B),
    Leave(A),
    Promise(A),
    Leave(C),
    Promise(C),
    Close { eligible: false },
    TakeLock(B),
    WriteSync(B, 1, A_AND_C),
];
