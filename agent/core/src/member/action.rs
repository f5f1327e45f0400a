//! What a database member does: data, which the shell turns into effects without a choice of its own.

use holdfast_types::record::{FloorRecord, HeldRecord, StopKind, TermRecord};
use holdfast_types::{MemberName, SessionId, Term};

use crate::close::ClosePlan;
use crate::expired;
use crate::floor::Begun;
use crate::hung::Hung;
use crate::outside::Target;

/// One thing to do. The shell does them in their order and stops at the first failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Rule 1, last sentence: the present leader opens the first term after arming, above every term that is known.
    OpenFirst {
        /// The term to open.
        term: Term,
        /// Compare; 0 is absent.
        term_mod_revision: i64,
    },
    /// Rule 23: our term goes on under the session and incarnation that we have now.
    KeepTerm {
        /// The record to put.
        record: TermRecord,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Our PostgreSQL has left recovery: say so in the term record.
    SayWritable {
        /// The record to put.
        record: TermRecord,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Prove by a write that the reign after this closed term has begun, and end its incident.
    Prove {
        /// The closed term.
        closed: Term,
    },
    /// Our PostgreSQL was started again as the writer of its own term: prove it by a write, and record how long it was away.
    TellRestart,
    /// Class `off`: Patroni's leader is the writer, and no hook has opened the term for it.
    FollowPatroni(Box<expired::Plan>),
    /// Class `off`: publish whom we ask for a lease without etcd, and who may therefore follow us.
    NameMembers {
        /// The record to put.
        floor: FloorRecord,
        /// Compare; 0 is absent.
        floor_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Class `off`: the term is ours and Patroni's lock another's: shut the start gate, and kill PostgreSQL with its Patroni.
    EndDeposed,
    /// Class `off`: the writer can have nothing acknowledged any more, and Patroni's lock is its: give it to who follows.
    GiveLock(Box<expired::LockPlan>),
    /// Rule 24: before our fence may be lifted, say that nobody may close our term.
    SayHeld {
        /// The record to put.
        record: HeldRecord,
        /// Compare; 0 is absent.
        held_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Rule 24: our fence stands again; the term may be closed.
    SayBound {
        /// Compare.
        held_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Rule 1: publish a new floor record.
    KeepFloor(Begun),
    /// Shut the start gate; Patroni lives on.
    ShutGate,
    /// Shut the start gate and kill Patroni together with what is left of PostgreSQL.
    ShutGateAndKill,
    /// Rule 9: our PostgreSQL hangs and somebody can follow: shut the start gate and the port, and kill it with its Patroni.
    EndHung(Hung),
    /// Rules 9 and 10: put the attestation.
    Attest {
        /// The term.
        term: Term,
        /// How it stopped.
        stop: StopKind,
    },
    /// Rules 9a and 10: nobody has used the attestation; withdraw it, then open the gate.
    WithdrawAttestation {
        /// Compare.
        attestation_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
    },
    /// The term in which we attested is over: the gate may let a standby start.
    OpenGate,
    /// Kill Patroni only; its supervisor starts it again and PostgreSQL runs on.
    RestartPatroni,
    /// A term that is not ours is in force and our PostgreSQL still accepts writes: kill it with its Patroni.
    KillDeposed,
    /// A person has fenced this node, and its PostgreSQL runs: end it; the start gate keeps it out.
    KillFenced,
    /// Rule 6: replication is open towards this address and port and no other.
    Follow {
        /// The writer's, or nobody's.
        source: Option<(String, u16)>,
    },
    /// Rules 4 and 5: begin to leave, or go on with leaving, the writer of this term.
    Promise {
        /// The term.
        term: Term,
        /// Its writer.
        writer: MemberName,
    },
    /// Rule 7.
    WithdrawPromise {
        /// Compare; 0 when the promise never reached etcd.
        promise_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
        /// Compare: this session's key exists.
        writers_session: SessionId,
    },
    /// A later term is open: what bound us is over.
    ForgetPhase,
    /// Rules 8 and 12.
    Close(Box<ClosePlan>),
    /// A second failover so soon waits for a person.
    Hold {
        /// The term that is not closed.
        term: Term,
        /// When the last one was closed.
        last_failover_wall_ms: i64,
    },
    /// Rule 13: the leader key is the old writer's again.
    TakeLeaderKey {
        /// Compare.
        leader_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
    },
    /// Rule 13: the successor has not opened; name the next.
    NameNext {
        /// The member.
        to: MemberName,
        /// Its Patroni lease.
        member_lease: i64,
        /// Compare; 0 is absent.
        leader_mod_revision: i64,
        /// Compare.
        term_mod_revision: i64,
        /// Compare: the override by which it is named, if it is.
        override_mod_revision: Option<i64>,
    },
    /// Rule 11: ask the fence device of a silent writer's host. Nothing waits for it.
    AskOutside(Target),
}

impl Action {
    /// Whether the decision rests on etcd's state in a way that a watched, possibly late view cannot carry.
    pub fn needs_fresh_read(&self) -> bool {
        !matches!(
            self,
            Self::RestartPatroni
                | Self::OpenGate
                | Self::ShutGate
                | Self::ShutGateAndKill
                | Self::Prove { .. }
                | Self::TellRestart
        )
    }
}
