//! What a member's tasks know together: behind one lock, never held over a wait.

use std::collections::BTreeSet;
use std::time::SystemTime;

use holdfast_agent_core::detach::Phase;
use holdfast_agent_core::gone::Gone;
use holdfast_agent_core::hung::Pulse;
use holdfast_agent_core::lease::Fence;
use holdfast_agent_core::member::{self as core, Network, Suspicion};
use holdfast_agent_core::observed::Observer;
use holdfast_agent_core::sync::AnySetting;
use holdfast_host::nftables::Generation;
use holdfast_proto::message::TermSeen;
use holdfast_proto::trace::TraceContext;
use holdfast_types::record::{
    LocalDisarm, MemberFacts, ObservedRecord, RestartEnd, SetupSeen, TermRecord, WarnedCommits, WouldRecord,
};
use holdfast_types::{Lsn, MemberName, Position, Term, Timeline};

use super::journal;
use crate::gate::remembered::{Away, Remembered};
use crate::history::History;

/// What is carried from one look to the next, and shared with the gates and with `status`.
#[derive(Debug, Default)]
pub struct State {
    /// What is on disk for the gates.
    pub remembered: Remembered,
    /// A person's order to this host alone, standing or ended; the same as on disk.
    pub local_disarm: Option<LocalDisarm>,
    /// Why that cannot be read; then it counts for nothing.
    pub local_problem: Option<String>,
    /// Where we are in leaving a writer; the same as on disk.
    pub phase: Option<Phase>,
    /// What the kernel's table lets through.
    pub network: Network,
    /// The kernel's count of changes when that was read; `None` when it must be read again.
    pub network_generation: Option<Generation>,
    /// The term that an observing agent takes for in force: Patroni's leader reigns in it.
    pub shadow: Option<TermRecord>,
    /// What we have said that we would have promised and attested, as etcd has it; `None` until it has been looked at.
    pub said: Option<WouldRecord>,
    /// Goes along with what would have been done.
    pub observer: Observer,
    /// The incidents that were observed, as they stand on disk.
    pub observed: Option<History<ObservedRecord>>,
    /// What we know of the writer's signs of life.
    pub suspicion: Suspicion,
    /// The timeline on which WAL was received last: the view that tells it is empty once the walreceiver has ended.
    pub received_timeline: Option<Timeline>,
    /// Until when a lease that we granted without etcd keeps us from promising, `CLOCK_BOOTTIME` in milliseconds.
    pub granted_until_ms: u64,
    /// The term that a hook of ours opens, and how long that is waited for, `CLOCK_BOOTTIME` in milliseconds.
    pub opening: Option<(Term, u64)>,
    /// The end of the lease whose closed port was told last.
    pub closure_told_ms: Option<u64>,
    /// When our start gate was first shut after this stop, `CLOCK_BOOTTIME` in milliseconds.
    pub stop_begun_ms: Option<u64>,
    /// The record of our fences.
    pub fences: journal::Fences,
    /// Our commits that ended with a warning, once they are counted.
    pub warned: Option<WarnedCommits>,
    /// What etcd has forgotten, if it has (rule 25).
    pub contradiction: Option<String>,
    /// The fence that was set last by this start of the agent; `None` when that is not known.
    pub fence: Option<Fence>,
    /// What stands while another is being set: a renewal must not make a load balancer's check fail.
    pub fence_until_done: Option<Fence>,
    /// A promise is being begun, or a term of class `off` opened: no lease is granted.
    pub promising: bool,
    /// For how long the session of the open term has been seen gone.
    pub gone: Gone,
    /// Class `off`: whom floor records of ours name in this term, heard of or not. All of them are asked for a lease.
    pub named: Option<(Term, BTreeSet<MemberName>)>,
    /// The postmaster that was seen last, if it lives.
    pub postmaster: Option<i32>,
    /// Why the fence could not be set when that was tried last.
    pub fence_problem: Option<String>,
    /// Why what the gates need could not be kept on disk when that was tried last.
    pub disk_problem: Option<String>,
    /// Why the guard does not guard our writer; `None` while it does, and while there is nothing to guard.
    pub guard_problem: Option<String>,
    /// Why Patroni's REST API could not be asked last, though somebody listens there.
    pub rest_problem: Option<String>,
    /// The instance's processes were killed by us, and nothing has been started since.
    pub killed: bool,
    /// What is felt of our PostgreSQL, when it is the writer; `None`: it is not asked.
    pub pulse: Option<Pulse>,
    /// Processes of a PostgreSQL that hung and was ended which the kernel still holds.
    pub stuck: Vec<i32>,
    /// The facts that etcd holds of us.
    pub published: Option<MemberFacts>,
    /// The data directory's own id.
    pub data_uuid: Option<String>,
    /// Why the start gate would refuse to start PostgreSQL on the file systems that are there, a line each.
    pub misplaced: Vec<String>,
    /// How Patroni is set up here, as it was seen last.
    pub setup: Option<SetupSeen>,
    /// What the last decision waits for.
    pub waits: Vec<String>,
    /// What the last decision would have done, in mode observe.
    pub would: Vec<String>,
    /// The last view of PostgreSQL.
    pub postgres: Option<core::Postgres>,
    /// When the last look at the instance began, `CLOCK_BOOTTIME` in milliseconds.
    pub looked_ms: Option<u64>,
    /// The postmaster that was seen last has been seen out of recovery, to which it never goes back.
    pub left_recovery: bool,
    /// How far our standby had replayed when it was asked last.
    pub replayed: Option<Lsn>,
    /// Whether our walreceiver streams.
    pub streaming: Option<bool>,
    /// When a stream that it had was first seen broken, `CLOCK_BOOTTIME` in milliseconds.
    pub stream_lost_ms: Option<u64>,
    /// There was no `standby.signal` when the data directory was looked at last.
    pub started_as_primary: bool,
    /// When the postmaster that was seen last had gone, by our wall clock in milliseconds since 1970; `None` when that was
    /// before this start of the agent.
    pub gone_wall_ms: Option<i64>,
    /// How it had ended, by the first look at its control file.
    pub ended: Option<RestartEnd>,
    /// What was waited for when that had been decided on first: why nobody follows.
    pub left_alone: Option<String>,
    /// Our PostgreSQL was started again as the writer of its term, which nobody has been told.
    pub away: Option<Away>,
    /// How many of its restarts were told.
    pub restarts: u64,
    /// What was seen after the postmaster of a writer went.
    pub after_stop: Option<core::AfterStop>,
    /// Our actual `synchronous_standby_names`, as far as a floor record waits for it.
    pub setting: Option<AnySetting>,
    /// The incident in which another agent asked last whether our PostgreSQL lives.
    pub asked_in: Option<TraceContext>,
    /// What a standby has received, or a writer has written, when it was asked last.
    pub position: Option<Position>,
    /// The term as it was seen last, for `status` without etcd.
    pub term: Option<TermSeen>,
    /// When the writer gave its last sign of life, by our wall clock in milliseconds since 1970.
    pub heard_wall_ms: Option<i64>,
    /// When the writer's renewals were first seen overdue.
    pub suspected_at: Option<SystemTime>,
    /// When our hook opened the present term.
    pub opened_at: Option<SystemTime>,
    /// Patroni does not answer.
    pub patroni_hung: bool,
    /// Since when.
    pub patroni_hung_since: Option<SystemTime>,
    /// Patroni's processes live and are not stopped; what eligibility rests on.
    pub patroni_alive: bool,
}

impl State {
    /// Whether our PostgreSQL accepts writes, as far as that has been seen.
    pub fn accepts_writes(&self) -> Option<bool> {
        self.postgres?.accepts_writes(self.started_as_primary)
    }
}
