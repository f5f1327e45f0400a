//! What agents and people say to an agent, and what it answers. Serialised as JSON for `holdfast status -o json`.

use holdfast_types::record::ObservedRecord;
use holdfast_types::renewals::RenewalDay;
use holdfast_types::{
    Class, HostName, Incarnation, MemberName, Mode, Namespace, Position, Profile, RegionName, Scope, Term,
};
use serde::Serialize;

/// One PostgreSQL instance of the host that is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceName {
    /// Patroni's namespace.
    pub namespace: Namespace,
    /// Patroni's scope.
    pub scope: Scope,
    /// Patroni's name of the member.
    pub member: MemberName,
}

/// What PostgreSQL does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
    /// No postmaster.
    Stopped,
}

/// One host's own view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStatus {
    /// Its region.
    pub region: RegionName,
    /// Its name.
    pub host: HostName,
    /// The start of its agent that answers.
    pub incarnation: Incarnation,
    /// Version of its build.
    pub version: String,
    /// Its wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
    /// Whether it hears etcd; absent before the first answer.
    pub etcd_reachable: Option<bool>,
    /// Its PostgreSQL instances.
    pub instances: Vec<InstanceStatus>,
    /// Its PgBouncer processes.
    pub poolers: Vec<PoolerStatus>,
    /// What is wrong with the host, one line each.
    pub problems: Vec<String>,
}

/// One PostgreSQL instance in its agent's eyes. Absent is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceStatus {
    /// Which one.
    pub name: InstanceName,
    /// Which promises its cluster can be given.
    pub class: Class,
    /// The cluster's mode as it was last seen.
    pub mode: Mode,
    /// What PostgreSQL does.
    pub role: Option<Role>,
    /// Received (a standby) or written (a primary).
    pub position: Option<Position>,
    /// The term record as it was last seen.
    pub term: Option<TermSeen>,
    /// Its promise that still binds it.
    pub promise: Option<PromiseHeld>,
    /// Why it is fenced; absent when it is not.
    pub fenced: Option<String>,
    /// Patroni's own word.
    pub patroni_state: Option<String>,
    /// What the last decision waits for.
    pub waits: Vec<String>,
    /// What it would have done if the cluster were armed.
    pub would: Vec<String>,
    /// What is wrong with it, one line each.
    pub problems: Vec<String>,
    /// For how long its PostgreSQL, or the disk of that, hangs, if it is the writer, in milliseconds; 0: it does not. Absent
    /// when it is not asked.
    pub hung_ms: Option<u64>,
}

/// The term record in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TermSeen {
    /// The term.
    pub term: Term,
    /// The present or last writer.
    pub holder: MemberName,
    /// Whether the term is open.
    pub open: bool,
    /// Whether its writer has left recovery.
    pub writable: bool,
}

/// A promise in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromiseHeld {
    /// The term whose writer was left.
    pub term: Term,
    /// What had been received; absent while the promise is being made.
    pub position: Option<Position>,
}

/// One PgBouncer process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolerStatus {
    /// Its name on the host.
    pub name: String,
    /// Namespace of its cluster.
    pub namespace: Namespace,
    /// Scope of its cluster.
    pub scope: Scope,
    /// The writer that clients are sent to; absent while they wait.
    pub target: Option<MemberName>,
    /// Whether clients wait.
    pub paused: bool,
    /// Clients without a server connection; absent while PgBouncer does not answer.
    pub clients_waiting: Option<u64>,
    /// For how long the first of them waits, in milliseconds.
    pub waited_ms: Option<u64>,
    /// Whether clients should come to it; absent from a build that does not look.
    pub up: Option<bool>,
    /// Why, or why not; one line.
    pub why: Option<String>,
}

/// What a host has kept of the last weeks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// Its region.
    pub region: RegionName,
    /// Its name.
    pub host: HostName,
    /// Version of its build.
    pub version: String,
    /// Its wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
    /// Its timing profile; absent when this build does not know it.
    pub profile: Option<Profile>,
    /// What its agent observed, oldest first.
    pub incidents: Vec<ObservedRecord>,
    /// How late the renewals of its session were, oldest day first.
    pub renewals: Vec<RenewalDay>,
    /// Records that could not be read, there or here.
    pub unreadable: u64,
}

/// Asks whether the PostgreSQL of `instance` lives, in `term`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifeQuestion {
    /// Which one.
    pub instance: InstanceName,
    /// The asker's term.
    pub term: Term,
}

/// A sign of life, or of its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its postmaster runs and answers.
    Alive,
    /// It has no postmaster.
    Stopped,
    /// It does not answer, or has not been looked at.
    Unknown,
}

/// The answer, from the instance's own agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeAnswer {
    /// The answerer's term.
    pub term: Term,
    /// What it saw.
    pub life: Life,
    /// How long ago.
    pub age_ms: u64,
}

/// Asks a member for a write lease without etcd (rule 22).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantQuestion {
    /// The member that is asked.
    pub instance: InstanceName,
    /// The term under which the asker writes.
    pub term: Term,
    /// The asker.
    pub writer: MemberName,
    /// The start of its agent.
    pub incarnation: Incarnation,
}

/// The lease is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantAnswer {
    /// For how long the member helps nobody else, from the moment of its answer, in milliseconds.
    pub duration_ms: u64,
}

/// Why an agent does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The instance lives elsewhere.
    #[error("{0} is not on this host; ask the agent of its own host")]
    NotHere(String),
    /// It may not, by the rules of the protocol.
    #[error("{0}")]
    Rule(String),
}
