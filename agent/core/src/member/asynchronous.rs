//! Class `off`: the term follows Patroni's leader and promises nothing (DESIGN section 4).
//!
//! There are no promises to count, so nothing is closed and no promotion is gated: a failover is Patroni's, with the loss
//! that asynchronous replication has. What the term gives is one name for the writer, which poolers and `status` follow,
//! and the end of a second one: a PostgreSQL that accepts writes while the lock and the term are another's is killed.
//! A crash is left to Patroni, which starts PostgreSQL on the spot: nothing is lost that way.

use holdfast_types::record::Reign;

use super::{Action, Decision, Local, Postgres, highest_term, open_record, term_in_force};
use crate::cluster::Cluster;

pub(super) fn decide(cluster: &Cluster, local: &Local<'_>, decision: &mut Decision) {
    let Some(leader) = &cluster.leader_key else { return };
    let term = term_in_force(cluster);
    if leader.value == *local.me {
        if local.postgres != (Postgres::Running { in_recovery: Some(false) }) || cluster.cannot_tell_terms() {
            return;
        }
        let Some(own) = local.own else {
            decision.waits.push("our own session is not known to be alive".into());
            return;
        };
        match term.map(|term| (term, &term.value.reign)) {
            Some((term, Reign::Open { holder, incarnation, session, .. })) if holder == local.me => {
                if (*session, *incarnation) != (own.session, own.incarnation) {
                    decision.actions.push(Action::KeepTerm {
                        record: open_record(&term.value, local.me, own, true),
                        term_mod_revision: term.mod_revision,
                    });
                }
            }
            _ => decision.actions.push(Action::FollowPatroni {
                term: highest_term(cluster, local).next(),
                term_mod_revision: cluster.term.as_ref().map_or(0, |term| term.mod_revision),
                leader_mod_revision: leader.mod_revision,
            }),
        }
        return;
    }
    let deposed =
        term.and_then(|term| term.value.open_holder()).is_some_and(|holder| *holder == leader.value);
    if deposed && local.accepts_writes() {
        decision.actions.push(Action::KillDeposed);
    }
}
