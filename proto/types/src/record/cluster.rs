//! Records beside the reign: mode, sessions, facts, fences, routes, events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{LocalDisarm, PhaseDone, WarnedCommits};
use crate::{Class, HostName, Incarnation, MemberName, Mode, Position, Profile, Term};

/// What a cluster lets Holdfast do, and who said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeRecord {
    /// The mode.
    pub mode: Mode,
    /// Identity from the certificate.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// One boot of a host; the key hangs on the session's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The host.
    pub host: HostName,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Starts of the agent, raised at each.
    pub incarnation: Incarnation,
    /// Where its agent answers, `address:port`.
    pub grpc: String,
    /// Version of the build.
    pub version: String,
    /// The newest record format it reads: nothing newer is written until all agents report it.
    pub reads_format: u64,
}

/// What the other members need to know of one: written when it changes in meaning, not when it moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFacts {
    /// The host it runs on: its session says whether its agent is alive.
    pub host: HostName,
    /// The address its PostgreSQL answers on.
    pub address: String,
    /// Port of its PostgreSQL.
    pub port: u16,
    /// Port of its Patroni's REST API.
    pub rest_port: u16,
    /// Where its agent answers, `address:port`.
    pub grpc: String,
    /// Patroni's state, for example `running`; absent when unknown.
    pub patroni_state: Option<String>,
    /// Whether it may be named as successor (rule 16), by its own agent's eyes; absent when unknown.
    pub eligible: Option<bool>,
    /// Patroni's `failover_priority`.
    pub failover_priority: i64,
    /// Whether its walreceiver streams.
    pub streaming: Option<bool>,
    /// The data directory's own id.
    pub data_uuid: Option<String>,
    /// The highest term that this host remembers: an etcd that has forgotten it must not use it again (rule 25).
    #[serde(default)]
    pub highest_term: Term,
    /// What etcd has forgotten by what this host remembers, and what to do; for people.
    #[serde(default)]
    pub contradiction: Option<String>,
    /// How Patroni is set up there; absent from builds that do not tell, and until it has been looked at.
    #[serde(default)]
    pub setup: Option<SetupSeen>,
    /// Commits there that ended with a warning; absent from builds that do not count, and until the log was looked at.
    #[serde(default)]
    pub warned: Option<WarnedCommits>,
    /// The last local disarm of its host, standing or ended: while it stands nothing of ours acts there. Absent where there
    /// was none, and from builds that do not know it.
    #[serde(default)]
    pub local_disarm: Option<LocalDisarm>,
    /// When the certificate of its agent ends, seconds since 1970; absent from builds that do not tell.
    #[serde(default)]
    pub certificate_ends_unix_s: Option<i64>,
}

impl MemberFacts {
    /// The local disarm of its host that stands.
    pub fn disarmed_locally(&self) -> Option<&LocalDisarm> {
        self.local_disarm.as_ref().filter(|record| record.stands())
    }
}

/// What only its own host can see of how Patroni is set up. It is for `doctor`, `status` and `arm`; no decision of an agent
/// rests on it. Absent is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupSeen {
    /// The agent's timing profile.
    #[serde(default)]
    pub profile: Option<Profile>,
    /// The class that the agent's configuration gives the cluster; absent from builds that do not tell.
    #[serde(default)]
    pub class: Option<Class>,
    /// Patroni's own file.
    #[serde(default)]
    pub file: Option<PatroniFile>,
    /// Why that could not be read.
    #[serde(default)]
    pub file_problem: Option<String>,
    /// Why the start gate would not let PostgreSQL start on the file systems that are there (I12), a line each. Empty from
    /// builds that do not look.
    #[serde(default)]
    pub misplaced: Vec<String>,
    /// Whether the running postmaster came through the start gate.
    #[serde(default)]
    pub through_gate: Option<bool>,
    /// Whether the file's `bin_name.postgres` leads to the agent's program, so that the next start asks the start gate. Absent
    /// from builds that do not look.
    #[serde(default)]
    pub gate_named: Option<bool>,
    /// A unit of vip-manager runs on the host. Absent: none was seen, which does not say that there is none.
    #[serde(default)]
    pub vip_manager: Option<bool>,
    /// `synchronous_standby_names` as PostgreSQL has it in force; of a primary only.
    #[serde(default)]
    pub synchronous_standby_names: Option<String>,
    /// The standbys that stream from it without a client certificate: their address and role are all that is known of them.
    /// Of a primary only.
    #[serde(default)]
    pub standbys_without_certificate: Option<Vec<MemberName>>,
    /// Why its agent cannot ask Patroni's REST API, though somebody listens there, and what to do.
    #[serde(default)]
    pub rest_problem: Option<String>,
}

/// What matters here of `patroni.yml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatroniFile {
    /// Where it is.
    pub path: String,
    /// `watchdog.mode`; absent there means Patroni's default, which is `automatic`.
    #[serde(default)]
    pub watchdog_mode: Option<String>,
    /// `postgresql.pre_promote`; it takes the place of the one in `/config`.
    #[serde(default)]
    pub pre_promote: Option<String>,
    /// `postgresql.bin_name.postgres`.
    #[serde(default)]
    pub bin_name_postgres: Option<String>,
    /// The section that names Patroni's store (`etcd3`, `consul`, ...): the first by name, as Patroni takes it. Absent where the
    /// file has none, because Patroni takes it from its environment then.
    #[serde(default)]
    pub dcs: Option<String>,
    /// Whether there is a section `citus`.
    #[serde(default)]
    pub citus: Option<bool>,
    /// Whether something of the user's runs when Patroni stops PostgreSQL: `postgresql.before_stop`, or a callback `on_stop`.
    #[serde(default)]
    pub acts_on_stop: Option<bool>,
}

/// Why a node is fenced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum FenceReason {
    /// A person's order.
    Operator {
        /// Identity from the certificate.
        by: String,
        /// Why.
        text: String,
    },
    /// The node was the writer of a term that has been closed over its head.
    Deposed {
        /// That term.
        term: Term,
    },
}

/// Keeps a node out until it has been validated (promise I5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceRecord {
    /// Why.
    pub why: FenceReason,
    /// Wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// A second automatic failover waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    /// The term that would have been closed.
    pub term: Term,
    /// When the last automatic failover was.
    pub last_failover_wall_ms: i64,
    /// Why it holds, and what ends it.
    pub text: String,
    /// Identity from the certificate of the person who lets this term be closed all the same; `holdfast hold end` sets it
    /// and leaves the rest. Once its term is over the record means nothing: the next hold is written over it.
    #[serde(default)]
    pub released_by: Option<String>,
    /// That person's reason.
    #[serde(default)]
    pub released_why: Option<String>,
    /// How paging a person went; absent while it runs, and where no command is configured.
    #[serde(default)]
    pub paged: Option<String>,
}

/// A person works on the cluster: until a moment nothing automatic is done (`PROTOCOL.md` section 4, maintenance). Once
/// that moment is over the record means nothing; the next order is written over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceRecord {
    /// When it ends by itself: wall clock, milliseconds since 1970. Each agent looks at its own clock.
    pub until_wall_ms: i64,
    /// When it was ordered, likewise, by the clock of the host that the command ran on.
    pub since_wall_ms: i64,
    /// Identity from the certificate.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl MaintenanceRecord {
    /// The shortest that may be ordered, in milliseconds: in less, a person has not even read the answer.
    pub const LENGTH_MS_MIN: i64 = 60_000;
    /// The longest: one that was forgotten must not leave a cluster without a failover for longer than a day.
    pub const LENGTH_MS_MAX: i64 = 86_400_000;

    /// Whether it has not run out.
    pub fn is_in_force(&self, now_wall_ms: i64) -> bool {
        self.until_wall_ms > now_wall_ms
    }
}

/// Rule 24: the writer may accept writes without a lease, because a person has suspended automatic action. Its agent puts
/// this before its fence may be lifted, and deletes it once the fence stands again. It means nothing in another term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRecord {
    /// The term.
    pub term: Term,
    /// The writer.
    pub holder: MemberName,
    /// When the maintenance ends by itself, by which its agent takes up the lease again without etcd: wall clock,
    /// milliseconds since 1970. Absent: only a word from etcd ends it, as with Patroni's pause.
    #[serde(default)]
    pub until_wall_ms: Option<i64>,
}

impl HeldRecord {
    /// How far the wall clocks of two hosts may be apart. A cluster's hosts are synchronised to well under a second.
    const CLOCKS_APART_MS_MAX: i64 = 10_000;

    /// Whether the suspension is over by itself, on the writer's host too.
    pub fn has_run_out(&self, now_wall_ms: i64) -> bool {
        self.until_wall_ms
            .is_some_and(|until_wall_ms| until_wall_ms + Self::CLOCKS_APART_MS_MAX < now_wall_ms)
    }
}

/// Where a pooler sends its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// The term it follows.
    pub term: Term,
    /// The writer; absent while paused.
    pub target: Option<MemberName>,
    /// Whether clients wait.
    pub paused: bool,
    /// How the last phase of an operation that concerned it went; absent before the first, and from builds that know none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<PhaseDone>,
}

/// One incident, from the first sign to the proving write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its place in the sequence; the key is a ring.
    pub number: u64,
    /// The term that it ended.
    pub term: Term,
    /// The writer that was lost.
    pub from: MemberName,
    /// The writer that followed; absent while the incident is open.
    pub to: Option<MemberName>,
    /// What the new reign began with.
    pub floor: Option<Position>,
    /// W3C trace id.
    pub trace_id: Option<String>,
    /// Each step, wall clock of the host that took it, milliseconds since 1970.
    pub steps_wall_ms: BTreeMap<Step, i64>,
    /// One line for people: cause and effect.
    pub text: String,
    /// How the command that follows the writer went on each host that has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub route_commands: BTreeMap<HostName, String>,
}

/// The steps of an incident, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names are the meaning; PROTOCOL.md section 11 has the table.
pub enum Step {
    Heard,
    Detected,
    Promised,
    Closed,
    Opened,
    Promoted,
    Routed,
    Proved,
}
