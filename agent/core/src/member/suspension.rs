//! Rule 24: the fence of a writer is lifted in a pause or a maintenance only while etcd says so, and nobody closes its term
//! until it has said that its fence stands again.
//!
//! Without the record a writer that has lost etcd and its standbys in a pause would never hear that the pause is over: it
//! would stay open while others close its term. With it they wait: for its agent's word, for an attested stop, for the
//! maintenance's own end, which its agent knows without etcd, or for a person (`holdfast hold end`). That a host which died
//! in a pause needs a person after it is the price; whoever ends a pause is there.

use holdfast_types::record::HeldRecord;

use super::{Action, Local, Postgres, term_in_force};
use crate::cluster::Cluster;

/// While automatic action is suspended, for the writer: what it must have said before its fence may be lifted.
pub(super) fn hold(cluster: &Cluster, local: &Local<'_>) -> Option<Action> {
    let term = term_in_force(cluster).filter(|term| term.value.open_holder() == Some(local.me))?;
    let record = HeldRecord {
        term: term.value.term,
        holder: local.me.clone(),
        until_wall_ms: cluster.suspended_until(local.now.wall_ms),
    };
    let is_said = cluster.held_by(local.me).is_some_and(|held| held.value == record);
    (!is_said && !cluster.held_unreadable).then(|| Action::SayHeld {
        record,
        held_mod_revision: cluster.held.as_ref().map_or(0, |held| held.mod_revision),
        term_mod_revision: term.mod_revision,
    })
}

/// Once nothing is suspended any more: our fence stands, or there is nothing to fence.
pub(super) fn end(cluster: &Cluster, local: &Local<'_>) -> Option<Action> {
    let term = term_in_force(cluster)?;
    let held = cluster.held_by(local.me)?;
    let writes_nothing = match local.postgres {
        Postgres::Gone | Postgres::Running { in_recovery: Some(true) } => true,
        Postgres::Running { .. } | Postgres::Unknown => false,
    };
    (local.fenced_in || writes_nothing).then_some(Action::SayBound {
        held_mod_revision: held.mod_revision,
        term_mod_revision: term.mod_revision,
    })
}
