//! A node that a person is about to stop.

use serde::{Deserialize, Serialize};

/// The mark that a member, or a pooler by `host.name`, is to be left alone until it is taken away again: the member is no
/// candidate (`PROTOCOL.md` section 4, drained). A coordinator puts it and takes it away; nothing else does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedRecord {
    /// Who asked for it: the etcd user of the request.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when: wall clock of the coordinator, milliseconds since 1970.
    pub since_wall_ms: i64,
    /// The operation that put it.
    pub operation: u64,
}
