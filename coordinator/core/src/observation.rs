//! One cluster as an operation sees it, frozen: made by the coordinator's shell from etcd and from the agents' answers.

use std::collections::BTreeMap;

use holdfast_types::preflight::Preflight;
use holdfast_types::record::{DrainedRecord, OperationPhase, PhaseDone};
use holdfast_types::{Class, MemberName, Mode, Term};

/// A cluster at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The mode in force; `None`: there is a mode record that cannot be read.
    pub mode: Option<Mode>,
    /// Records that cannot be read, each with its place: a fence may be among them.
    pub unreadable: Vec<String>,
    /// Its class; absent when Patroni's configuration is not known.
    pub class: Option<Class>,
    /// Why nothing automatic is done, and what ends that.
    pub suspended: Option<String>,
    /// Patroni has a request for a switchover of somebody else's.
    pub requested_of_patroni: bool,
    /// The reign that is in force.
    pub reign: Option<ReignSeen>,
    /// Every member that anybody has heard of.
    pub members: BTreeMap<MemberName, MemberSeen>,
    /// The poolers, by `host.name`.
    pub poolers: BTreeMap<String, PoolerSeen>,
    /// The drained members and poolers; `None`: the mark cannot be read, and counts.
    pub drained: BTreeMap<String, Option<DrainedRecord>>,
}

/// The reign in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReignSeen {
    /// Its term.
    pub term: Term,
    /// Its writer; of a closed one, the last.
    pub holder: MemberName,
    /// How far it is.
    pub state: ReignState,
}

/// How far a reign is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReignState {
    /// Open, and written in.
    Writable,
    /// Open, not promoted yet.
    Opening,
    /// Open, and its writer has said that it has stopped.
    Stopped,
    /// Closed.
    Closed,
}

/// One member.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemberSeen {
    /// Its agent has a session.
    pub agent_alive: bool,
    /// Somebody has taken us out of the way on its host.
    pub disarmed_locally: bool,
    /// A fence record keeps it out.
    pub fenced: bool,
    /// It may be named as successor, by its own agent's eyes; absent: not known.
    pub eligible: Option<bool>,
    /// Its walreceiver streams; absent: not known.
    pub streaming: Option<bool>,
    /// It counts for the quorum of commits, by Patroni's `/sync`.
    pub synchronous: bool,
    /// Patroni reports that a restart of its PostgreSQL is pending.
    pub pending_restart: bool,
    /// Patroni's tags keep it from leading.
    pub may_not_lead: bool,
    /// Patroni's `failover_priority`.
    pub priority: i64,
    /// How the last phase of an operation went, by its agent.
    pub done: Option<PhaseDone>,
    /// What its agent says of it before a planned change; absent when it was not asked, or does not answer.
    pub preflight: Option<Preflight>,
}

/// One pooler.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolerSeen {
    /// Its host's agent has a session.
    pub alive: bool,
    /// The term that it follows.
    pub term: Term,
    /// Where it sends its clients.
    pub target: Option<MemberName>,
    /// Its clients wait.
    pub paused: bool,
    /// How the last phase of an operation went.
    pub done: Option<PhaseDone>,
}

impl Observation {
    /// The term that is written in, and by whom.
    pub fn writer(&self) -> Option<(Term, &MemberName)> {
        let reign = self.reign.as_ref().filter(|reign| reign.state == ReignState::Writable)?;
        Some((reign.term, &reign.holder))
    }

    /// Whether a member, or a pooler by `host.name`, is drained. Names of members are the same in either case.
    pub fn is_drained(&self, node: &str) -> bool {
        self.drained.keys().any(|name| name.eq_ignore_ascii_case(node))
    }

    /// The members that count for the quorum and stream at present. Never the writer: it says of itself that it streams, and
    /// stands in the `/sync` of the last reign until Patroni has rewritten that (simulator, operations, seed 57).
    pub fn streaming_synchronous(&self) -> impl Iterator<Item = (&MemberName, &MemberSeen)> {
        let writes = |name: &MemberName| self.reign.as_ref().is_some_and(|reign| reign.holder == *name);
        let counts = move |(name, seen): &(&MemberName, &MemberSeen)| {
            seen.synchronous && seen.streaming == Some(true) && !writes(name)
        };
        self.members.iter().filter(counts)
    }
}

/// The word that answers for a phase of an operation: done, or why not. `None`: not yet.
pub fn word(done: Option<&PhaseDone>, operation: u64, phase: OperationPhase) -> Option<Result<(), &str>> {
    let done = done.filter(|done| (done.operation, done.phase) == (operation, phase))?;
    Some(match &done.problem {
        None => Ok(()),
        Some(problem) => Err(problem),
    })
}
