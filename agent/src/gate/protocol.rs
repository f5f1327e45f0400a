//! What the gates and the agent say to each other: one JSON line each way over `agent.sock`.

use std::path::PathBuf;

use holdfast_types::{Namespace, Scope};
use serde::{Deserialize, Serialize};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "agent.sock";

/// The longest line that either side accepts, in bytes.
pub const LINE_BYTES_MAX: u64 = 16 * 1024;

/// A gate's question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask", deny_unknown_fields)]
pub enum Question {
    /// May the postmaster of this data directory start?
    Start {
        /// PGDATA.
        data_dir: PathBuf,
        /// `standby.signal` is there.
        standby: bool,
    },
    /// May this instance be promoted? Answered when it is decided; closing the connection before that gives the lock back.
    Promote {
        /// Patroni's namespace.
        namespace: Namespace,
        /// Patroni's scope.
        scope: Scope,
        /// For how long the hook has been waiting already, in milliseconds.
        #[serde(default)]
        waited_ms: u64,
    },
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// Go on.
    Pass,
    /// Do not: cause and next safe command.
    Refuse {
        /// For the log of Patroni.
        why: String,
    },
}
