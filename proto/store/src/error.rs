//! Why a call to the store has no answer. The one distinction that matters to callers: did it happen or not?

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No server could be connected to: the call was not sent.
    #[error("{call}: no etcd server can be reached ({why}); check the network and `etcdctl endpoint health`")]
    Unreachable {
        /// What was asked.
        call: &'static str,
        /// What each attempt said.
        why: String,
    },
    /// No answer within the deadline: it may have happened.
    #[error("{call}: no answer from etcd within {deadline_ms} ms; whether it happened is unknown")]
    DeadlineExceeded {
        /// What was asked.
        call: &'static str,
        /// The deadline.
        deadline_ms: u64,
    },
    /// The connection or the server failed after the call was sent: it may have happened.
    #[error("{call}: etcd broke off ({why}); whether it happened is unknown")]
    Broken {
        /// What was asked.
        call: &'static str,
        /// What the connection or the server said.
        why: String,
    },
    /// The lease has expired or was revoked. A transaction that names it did not happen.
    #[error("{call}: the lease has expired or was revoked")]
    LeaseNotFound {
        /// What was asked.
        call: &'static str,
    },
    /// The revision is older than etcd's history.
    #[error("{call}: revision {revision} has been compacted away")]
    Compacted {
        /// What was asked.
        call: &'static str,
        /// The revision that was asked for.
        revision: i64,
    },
    /// etcd does not know who asks: no password, a wrong one, or a token that is over. It did not happen.
    #[error("{call}: etcd does not take us for one of its users ({why})")]
    Unauthenticated {
        /// What was asked.
        call: &'static str,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The server says no: it did not happen, and will not if it is tried again unchanged.
    #[error("{call}: etcd refuses it ({why})")]
    Refused {
        /// What was asked.
        call: &'static str,
        /// What the server says.
        why: String,
    },
}

impl StoreError {
    /// Whether the call may have happened although it failed. A linearizable read settles it.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::DeadlineExceeded { .. } | Self::Broken { .. })
    }

    /// Whether it failed for want of a working server, as opposed to an answer.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::DeadlineExceeded { .. } | Self::Broken { .. })
    }
}
