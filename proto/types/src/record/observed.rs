//! What an observing agent keeps of an incident on its own disk, for `holdfast report`. No decision rests on it, and it never
//! goes to etcd: history belongs on the hosts.

use serde::{Deserialize, Serialize};

use super::WouldLine;
use crate::{MemberName, Namespace, Scope};

/// How many lines an [`ObservedRecord`] keeps of what would have been done.
pub const OBSERVED_LINES_MAX: usize = 16;

/// By what an incident was noticed; the later ones say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservedReason {
    /// Patroni's lock went to another, and nothing was seen before.
    LockLost,
    /// The session of the writer's host ended: the host, its link, or its agent.
    SessionGone,
    /// Patroni beside the writer did not answer.
    PatroniHung,
    /// The writer's PostgreSQL, or the disk under it, hung.
    PostgresHung,
    /// The writer's postmaster was gone, by the eyes of its own agent.
    PostmasterGone,
}

/// One incident in the eyes of one observing agent. All times are wall clocks of that host, milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRecord {
    /// Patroni's namespace.
    pub namespace: Namespace,
    /// Patroni's scope.
    pub scope: Scope,
    /// Whose agent.
    pub member: MemberName,
    /// Who wrote.
    pub writer: MemberName,
    /// When it was noticed.
    pub noticed_wall_ms: i64,
    /// By what.
    pub reason: ObservedReason,
    /// The writer's last sign of life that this host had.
    pub last_sign_wall_ms: Option<i64>,
    /// What this agent would have done, oldest first; at most [`OBSERVED_LINES_MAX`].
    pub would: Vec<WouldLine>,
    /// What it would have waited for when it had noticed: why nothing, or no more, would have been done.
    #[serde(default)]
    pub waits: Vec<String>,
    /// When the writer's reign would have been closed.
    pub would_close_wall_ms: Option<i64>,
    /// To whom Patroni's lock would have been given then.
    pub would_name: Option<MemberName>,
    /// Whom Patroni made the leader instead; the writer itself, if that went on.
    pub next: Option<MemberName>,
    /// When this host saw that one hold the lock.
    pub led_wall_ms: Option<i64>,
    /// When that one was out of recovery; only its own agent knows.
    pub writable_wall_ms: Option<i64>,
}
