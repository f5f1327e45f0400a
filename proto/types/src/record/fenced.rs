//! What fences have done: one record for each, and the count of commits that ended with a warning. No decision rests on
//! them; each agent has a ring of its own, so that nobody has to clear them away and nobody writes over another's.

use serde::{Deserialize, Serialize};

use crate::{MemberName, Term};

/// One fence: who was kept from writing, why, by which layer, and how that was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedRecord {
    /// Its place in the sequence of the agent that tells it; the key is a ring.
    pub number: u64,
    /// The member that was fenced.
    pub node: MemberName,
    /// The member whose agent tells it.
    pub told_by: MemberName,
    /// The term whose writer was fenced; absent for a node that held none.
    #[serde(default)]
    pub term: Option<Term>,
    /// What acted.
    pub layer: FenceLayer,
    /// Why.
    pub cause: FenceCause,
    /// What was seen afterwards, for people.
    pub verified: String,
    /// When it was due or begun: wall clock of the teller's host, milliseconds since 1970. For the kernel and the guard
    /// this is the deadline.
    #[serde(default)]
    pub due_wall_ms: Option<i64>,
    /// When it was verified, likewise.
    pub done_wall_ms: i64,
    /// From the one to the other by the monotonic clock, in milliseconds, rounded up. With [`times`](Self::times) above 1
    /// the longest of them.
    #[serde(default)]
    pub took_ms: Option<u64>,
    /// How often: a port that closes and opens again within a minute, as when etcd is slow, is one record.
    #[serde(default = "once")]
    pub times: u64,
    /// Commits of the term that ended with a warning on this node until then; absent where they are not counted.
    #[serde(default)]
    pub warned_in_term: Option<u64>,
    /// W3C trace id of the incident, if there is one.
    #[serde(default)]
    pub trace_id: Option<String>,
}

fn once() -> u64 {
    1
}

/// The layers that can keep a node from writing (DESIGN section 4), and the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceLayer {
    /// The dead-man: the port closed by its timeout.
    Kernel,
    /// The guard killed Patroni with PostgreSQL.
    Guard,
    /// The host's own agent killed them.
    Agent,
    /// Nothing ran; the start gate keeps PostgreSQL from starting.
    Gate,
    /// Enough standbys have left the writer: nothing that it commits is acknowledged.
    Standbys,
    /// A device outside the host.
    Outside,
    /// A person's word.
    Person,
}

/// Why a node was fenced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum FenceCause {
    /// Its write lease ended and was not renewed.
    LeaseOver,
    /// It accepted writes in a term that was another's.
    Deposed,
    /// Its PostgreSQL hung, or the disk under it, and was ended by its own agent.
    Hung,
    /// Its PostgreSQL had stopped, and the term was given away.
    Stopped,
    /// Its term was closed by others.
    Closed {
        /// The evidence, for people.
        evidence: String,
    },
    /// A person's order.
    Ordered {
        /// Identity from the certificate.
        by: String,
        /// Why.
        text: String,
    },
}

/// Commits that ended with PostgreSQL's warning that a wait for a synchronous standby was given up: they are on this
/// node's disk and perhaps nowhere else. Counted from the server's log, so a line that never reached a file is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarnedCommits {
    /// Their clients were told of success after the warning: the wait was cancelled (`pg_cancel_backend`, a client's
    /// cancel request).
    #[serde(default)]
    pub answered: u64,
    /// Their clients lost the connection after the warning: the server was told to end them.
    #[serde(default)]
    pub cut_off: u64,
    /// Both together since the present or last reign of this node began.
    #[serde(default)]
    pub in_term: u64,
    /// That reign.
    #[serde(default)]
    pub term: Option<Term>,
    /// Since when this host counts: its wall clock, milliseconds since 1970.
    #[serde(default)]
    pub since_wall_ms: i64,
    /// A part of the log was gone before it was read.
    #[serde(default)]
    pub at_least: bool,
    /// Why nothing is counted now, for people.
    #[serde(default)]
    pub problem: Option<String>,
}

impl WarnedCommits {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.answered + self.cut_off
    }

    /// Those of one reign, as far as they are counted.
    pub fn of_term(&self, term: Term) -> Option<u64> {
        (self.problem.is_none() && self.term == Some(term)).then_some(self.in_term)
    }
}
