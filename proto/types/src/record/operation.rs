//! Operations: planned work on a cluster that ends in a stated state (promise I13), and the requests for it.
//!
//! An *intent* is a wish, put by a person's command line or by any automation under its own name in etcd, which proves who it
//! was. A coordinator takes it: in one transaction the intent goes and the *operation* is there, refused or begun. From
//! then on the record is the journal: the coordinator stores each phase before anybody acts on it, the agents act on the
//! phase that they read and say in records of their own how it went. So any of them may be killed at any moment.

use serde::{Deserialize, Serialize};

use crate::{HostName, MemberName, Term};

/// How long open transactions may go on before a switchover gives up, unless the intent says otherwise, in milliseconds.
pub const DRAIN_TIMEOUT_MS: u64 = 5_000;
/// The longest that may be asked for: poolers do not pause before, but everybody waits for the end of the operation.
pub const DRAIN_TIMEOUT_MS_MAX: u64 = 3_600_000;
/// How long a pooler keeps its clients waiting for an operation, by its own clock: after that it lets them go, whoever of
/// the others is still there. A switchover takes half a second (`facts/baseline.md` 5.2).
pub const PAUSE_MS_MAX: u64 = 8_000;

/// A request for an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRecord {
    /// What is wanted.
    #[serde(flatten)]
    pub wanted: Wanted,
    /// Why.
    pub reason: String,
    /// From where: what the requester says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Not begun by then, it is refused: wall clock of the coordinator, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_wall_ms: Option<i64>,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Wanted {
    /// Another member becomes the writer, and no client notices.
    Switchover(Switchover),
    /// A node is made ready to be stopped.
    Drain(Drain),
    /// The PostgreSQL of one member after the other is started anew.
    Restart(Restart),
    /// A drained node takes part again.
    Undrain {
        /// The member, or the pooler by `host.name`.
        node: String,
    },
    /// The operation of this number ends at the next place where it can.
    Cancel {
        /// Its number.
        number: u64,
    },
}

impl Wanted {
    /// Its name, as in the record.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Switchover(_) => "switchover",
            Self::Drain(_) => "drain",
            Self::Restart(_) => "restart",
            Self::Undrain { .. } => "undrain",
            Self::Cancel { .. } => "cancel",
        }
    }

    /// How the writer is handed over, of what may ask for that.
    pub fn hand_over(&self) -> Option<Switchover> {
        match self {
            Self::Switchover(wanted) => Some(wanted.clone()),
            Self::Drain(wanted) => Some(wanted.switchover()),
            Self::Restart(wanted) => Some(wanted.switchover()),
            Self::Undrain { .. } | Self::Cancel { .. } => None,
        }
    }
}

/// A planned change of the writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    /// Who becomes the writer; absent: the best synchronous standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberName>,
    /// For how long open transactions may go on, in milliseconds; then nothing is changed, or they are ended.
    #[serde(default = "drain_timeout_ms")]
    pub drain_timeout_ms: u64,
    /// Whether transactions that are still open after that are ended.
    #[serde(default)]
    pub terminate: bool,
}

fn drain_timeout_ms() -> u64 {
    DRAIN_TIMEOUT_MS
}

impl Default for Switchover {
    fn default() -> Self {
        Self { to: None, drain_timeout_ms: DRAIN_TIMEOUT_MS, terminate: false }
    }
}

/// A node that is to be stopped by a person afterwards. A writer hands over first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The member, or the pooler by `host.name`.
    pub node: String,
    /// Of a writer: who becomes the writer; absent: the best synchronous standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberName>,
    /// Also while another node of its kind is drained.
    #[serde(default)]
    pub beside_drained: bool,
    /// As of a switchover.
    #[serde(default = "drain_timeout_ms")]
    pub drain_timeout_ms: u64,
    /// As of a switchover.
    #[serde(default)]
    pub terminate: bool,
}

impl Drain {
    /// The hand-over that it begins with, if the node is the writer.
    pub fn switchover(&self) -> Switchover {
        let Self { to, drain_timeout_ms, terminate, .. } = self;
        Switchover { to: to.clone(), drain_timeout_ms: *drain_timeout_ms, terminate: *terminate }
    }
}

/// PostgreSQL is started anew, one member after the other, the writer's last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// These members; without one: all of which Patroni reports a pending restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<MemberName>,
    /// Without names: all members.
    #[serde(default)]
    pub all: bool,
    /// As of a switchover.
    #[serde(default = "drain_timeout_ms")]
    pub drain_timeout_ms: u64,
    /// As of a switchover.
    #[serde(default)]
    pub terminate: bool,
}

impl Restart {
    /// How the writer hands over when its turn comes.
    pub fn switchover(&self) -> Switchover {
        Switchover { to: None, drain_timeout_ms: self.drain_timeout_ms, terminate: self.terminate }
    }
}

/// Where work on one member after the other is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rolling {
    /// Whose turn it is.
    pub now: Option<MemberName>,
    /// Whether that one counted for commits when its turn came: it has to again before the next.
    #[serde(default)]
    pub counted: bool,
    /// Who comes after it, in this order.
    #[serde(default)]
    pub left: Vec<MemberName>,
    /// Who was restarted, and was back.
    #[serde(default)]
    pub restarted: Vec<MemberName>,
    /// Why nobody comes after it, where a person has stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<String>,
}

/// Where an operation is. Each is stored before it is acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationPhase {
    /// The agent of the member whose turn it is has its PostgreSQL restarted.
    Restart,
    /// That member streams again, and counts.
    Rejoin,
    /// The writer's agent makes a checkpoint and waits for open transactions. Nothing is changed yet.
    Prepare,
    /// The poolers hold their clients back.
    Pause,
    /// The writer's agent tells its Patroni to hand over: from here on the writer changes, or it is found out that it does
    /// not.
    HandOver,
    /// Another writes; the poolers prove it by a write of their own, and that nothing of theirs is left at the old one.
    Verify,
    /// The old writer becomes a standby again.
    Settle,
    /// It goes no further: the poolers let their clients go.
    Release,
}

impl std::fmt::Display for OperationPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::Rejoin => "rejoin",
            Self::Prepare => "prepare",
            Self::Pause => "pause",
            Self::HandOver => "hand over",
            Self::Verify => "verify",
            Self::Settle => "settle",
            Self::Release => "release",
        })
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// What was wanted is so.
    Done,
    /// It was not begun: something stood in the way.
    Refused,
    /// It was begun, did not come about, and everything is as it was.
    Unchanged,
    /// A failover, or a person, was faster: its text says what is true now.
    Overtaken,
    /// Something is as it was wanted, and something is not.
    PartlyDone,
}

impl std::fmt::Display for OperationState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unchanged => "failed, unchanged",
            Self::Overtaken => "overtaken",
            Self::PartlyDone => "partly done",
        })
    }
}

/// The end of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationEnd {
    /// How.
    pub state: OperationState,
    /// What is true now, for people.
    pub text: String,
    /// The next safe command, where there is something left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// When: wall clock of the coordinator, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// The moment at which a phase was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStep {
    /// The phase.
    pub phase: OperationPhase,
    /// When: wall clock of the coordinator, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// An operation, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// Its number in the cluster.
    pub number: u64,
    /// What was wanted.
    #[serde(flatten)]
    pub wanted: Wanted,
    /// Who: the name under which the intent stood in etcd.
    pub by: String,
    /// The last part of the intent's key: whoever put it finds the operation by it.
    pub intent: String,
    /// From where, as the intent says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Why.
    pub reason: String,
    /// The host of the coordinator that stored it last.
    pub coordinator: HostName,
    /// The term in which it was begun; absent when it was refused before one was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<Term>,
    /// The writer of that term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<MemberName>,
    /// The member that is to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<MemberName>,
    /// The poolers that take part, by `host.name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poolers: Vec<String>,
    /// Of work on one member after the other: where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Rolling>,
    /// Where it is; of an operation that has ended, where it was.
    pub phase: OperationPhase,
    /// When each phase was stored, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<OperationStep>,
    /// What was found in the way, each with its remedy: of a refused one what refused it, of another what it went on with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Why it goes no further, from the moment at which that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
    /// W3C `traceparent` of its root span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<OperationEnd>,
}

impl OperationRecord {
    /// Whether it has not ended.
    pub fn runs(&self) -> bool {
        self.ended.is_none()
    }
}

/// How a phase of an operation went on one host: the word of a member's agent, or of a pooler's beside its route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseDone {
    /// The operation.
    pub operation: u64,
    /// The phase.
    pub phase: OperationPhase,
    /// Why it did not succeed; absent: it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What is to be known of one that did, for people: a part that could not be done, or was not needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

impl PhaseDone {
    /// Whether it speaks of this phase of this operation.
    pub fn is_of(&self, operation: u64, phase: OperationPhase) -> bool {
        self.operation == operation && self.phase == phase
    }
}

/// Which coordinator works: the key hangs on its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorRecord {
    /// Its host.
    pub host: HostName,
    /// Version of the build.
    pub version: String,
    /// Since when: its wall clock, milliseconds since 1970.
    pub since_wall_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stored;

    #[test]
    fn an_intent_is_short_enough_to_be_written_by_hand() {
        let text =
            br#"{"format":1,"min_reader":1,"operation":"switchover","reason":"kernel","ticket":"C-7"}"#;
        let intent = Stored::<IntentRecord>::decode("k", text).unwrap();
        assert_eq!(intent.body.wanted, Wanted::Switchover(Switchover::default()));
        let text = br#"{"format":1,"min_reader":1,"operation":"drain","node":"db2","reason":"kernel"}"#;
        let Wanted::Drain(drain) = Stored::<IntentRecord>::decode("k", text).unwrap().body.wanted else {
            panic!()
        };
        assert_eq!((drain.node.as_str(), drain.switchover()), ("db2", Switchover::default()));
        let unknown = br#"{"format":1,"min_reader":1,"operation":"fence","reason":"x"}"#;
        let error = Stored::<IntentRecord>::decode("k", unknown).unwrap_err().to_string();
        assert!(error.contains("switchover"), "{error}");
    }

    #[test]
    fn what_a_newer_build_adds_to_an_operation_is_kept() {
        let text = br#"{"format":1,"min_reader":1,"number":3,"operation":"switchover","to":"db2","by":"operator/ann",
            "intent":"i1","reason":"x","coordinator":"backup1","phase":"hand_over","later":{"a":1}}"#;
        let record = Stored::<OperationRecord>::decode("k", text).unwrap();
        assert!(record.body.runs() && !record.unknown().is_empty());
        let again = Stored::<OperationRecord>::decode("k", &record.encode()).unwrap();
        assert_eq!(again, record);
    }
}
