//! What can happen next, one word each; a trace is a list of these.

use super::node::{Node, NodeSet};

/// One step of the world. Every step may be delayed for ever, so a pause, a partition, a slow agent and an outage of
/// etcd are all in the model: the actions that they stop just do not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client writes on this member.
    Write(Node),
    /// The member flushes its next record and reports it.
    Flush(Node),
    /// The member begins to stream from the holder of the open term, rewinding first if it must.
    Attach(Node),
    /// The member's stream breaks off.
    Disconnect(Node),
    /// Host and all on it are gone.
    HostDies(Node),
    /// It boots.
    HostBoots(Node),
    /// PostgreSQL crashes.
    PostgresDies(Node),
    /// Patroni starts it where it was: as primary.
    StartAsPrimary(Node),
    /// Patroni starts it as standby.
    StartAsStandby(Node),
    /// A restarted standby has replayed its local WAL.
    Replayed(Node),
    /// `patronictl reinit`.
    Reinitialise(Node),

    /// Patroni reads its view of etcd anew.
    Look(Node),
    /// Patroni's lock lapses.
    LockExpires,
    /// A Patroni takes the free lock.
    TakeLock(Node),
    /// Patroni sets `synchronous_standby_names` to `ANY count (names)`.
    SetNames(Node, u8, NodeSet),
    /// Patroni writes `/sync` with this quorum and these standbys.
    WriteSync(Node, u8, NodeSet),
    /// The same, but Patroni gives up waiting for the answer: the write is still on its way.
    SendSync(Node, u8, NodeSet),
    /// It lands, if `/sync` still has the version that it compares.
    SyncLands,
    /// A candidate with the lock sets its `synchronous_standby_names` and calls the hook.
    CallHook(Node),
    /// After the hook's yes.
    Promote(Node),

    /// The agent's session ends in etcd.
    SessionLost(Node),
    /// The agent has a session again, and a holder's agent has put it into the term record.
    SessionBack(Node),
    /// Rule 5 (a) to (c): intent, cut, walreceiver ended.
    Leave(Node),
    /// A mutant's: the position is read before the cut.
    ReadEarly(Node),
    /// Rule 5 (e) to (g): position, promise.
    Promise(Node),
    /// Rule 7.
    Withdraw(Node),
    /// Rule 9: the writer's agent attests that PostgreSQL has stopped.
    Attest {
        /// `pg_control` says "shut down".
        clean: bool,
    },
    /// Rule 9a: and takes it back.
    WithdrawAttestation,
    /// Rule 1: the writer's agent sees `/sync` and its actual setting, then reads its flush position.
    BeginFloor,
    /// Rule 1: enough members have flushed it; the record is put.
    PublishFloor,
    /// A mutant's: evidence is counted now and used later.
    CountEvidence,
    /// Rule 8; with a successor to name, or with none that could lead.
    Close {
        /// Some member is eligible.
        eligible: bool,
    },
    /// Rule 13: a closed reign's writer has the leader key again.
    DeleteStaleLock,
    /// Rule 13: nobody opened; the leader key is put for the next.
    NameNext(Node),
    /// Rule 14.
    Open(Node),
    /// A PostgreSQL that writes under a term that is another's is killed.
    KillDeposed(Node),
}

impl Action {
    /// Whether the right rules have no such step.
    pub fn is_a_mutants(self) -> bool {
        matches!(self, Self::CountEvidence | Self::ReadEarly(_))
    }
}
