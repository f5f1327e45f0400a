//! Whether a member's own PostgreSQL is to be restarted: in the phase of that, when it is its turn, and it does not write.

use holdfast_types::MemberName;
use holdfast_types::record::{OperationPhase, OperationRecord};

use super::{running, writable_term};
use crate::cluster::Cluster;
use crate::member::term_in_force;

/// The operation whose turn it is to restart `me`, as a standby of the very term in which it was begun.
pub(super) fn is_due<'c>(
    cluster: &'c Cluster,
    me: &MemberName,
    now_wall_ms: i64,
) -> Option<&'c OperationRecord> {
    let record = running(cluster).filter(|record| record.phase == OperationPhase::Restart)?;
    let is_my_turn = record.rolling.as_ref()?.now.as_ref() == Some(me);
    let is_free = record.given_up.is_none() && cluster.suspended(now_wall_ms) == Some(false);
    writable_term(cluster, record)?;
    let writes = term_in_force(cluster)?.value.open_holder() == Some(me);
    (is_my_turn && is_free && !writes).then_some(record)
}
