//! Rule 15: the writer of a closed term leads again, because nobody else can, or because those who could did not; and the
//! holder of an open one goes on with it.
//!
//! It comes back as everybody else comes into office: a standby at or above the floor, by its hook and rule 14. What still
//! accepts writes is ended first, so that no two reigns write on one timeline. What it has acknowledged is in its own WAL, so
//! nothing is lost by it; others come first only because something was wrong with it a moment ago.

use holdfast_types::record::{Reign, TermRecord};

use super::closing::SUCCESSOR_PATIENCE_MS;
use super::{Action, Decision, Local, Memory, Named, Postgres, lasts_ms};
use crate::close::Revised;
use crate::cluster::Cluster;
use crate::successor;

/// So many holders of the leader key have had their time in this closed term before its old writer is one among the others.
const OTHERS_FIRST: u32 = 2;

/// Whether the lock is left to the old writer when its Patroni has it (rule 13).
pub(super) fn may_lead(cluster: &Cluster, term: &Revised<TermRecord>, named: Named) -> bool {
    let Reign::Closed { holder, floor: Some(floor), .. } = &term.value.reign else { return false };
    let facts = cluster.facts.get(holder);
    let able = facts.is_some_and(|facts| facts.eligible == Some(true) && cluster.agent_alive(&facts.host));
    let others: Vec<_> = cluster.candidates().into_iter().filter(|one| one.member != *holder).collect();
    let is_last = named.earlier >= OTHERS_FIRST || successor::choose(&others, *floor).is_none();
    able && !cluster.fenced(holder) && is_last
}

/// The old writer's own agent names it: only here it is known whether it has reached the floor.
pub(super) fn name_itself(
    cluster: &Cluster,
    local: &Local<'_>,
    term: &Revised<TermRecord>,
    named: Named,
    decision: &mut Decision,
) {
    let Reign::Closed { floor: Some(floor), .. } = &term.value.reign else { return };
    let is_standby = local.postgres == Postgres::Running { in_recovery: Some(true) };
    let reaches = local.reached.is_some_and(|reached| reached >= *floor);
    let has_the_lock = cluster.leader_key.as_ref().is_some_and(|leader| leader.value == *local.me);
    if !is_standby || !reaches || has_the_lock || !may_lead(cluster, term, named) {
        return;
    }
    if let Some(left_ms) = named.left_ms(local) {
        decision.again_in_ms = Some(left_ms);
        return;
    }
    decision.actions.extend(name_me(cluster, local, term));
}

/// The lock for ourselves.
pub(super) fn name_me(cluster: &Cluster, local: &Local<'_>, term: &Revised<TermRecord>) -> Option<Action> {
    // Patroni's own spelling of the name goes into its keys.
    let (to, patroni) = cluster.members.get_key_value(local.me)?;
    (patroni.lease != 0).then(|| Action::NameNext {
        to: to.clone(),
        member_lease: patroni.lease,
        leader_mod_revision: cluster.leader_key.as_ref().map_or(0, |leader| leader.mod_revision),
        term_mod_revision: term.mod_revision,
        override_mod_revision: None,
    })
}

/// Whether the lock has been nobody's for longer than Patroni's race takes, while the holder of the open term stands ready
/// as a standby.
///
/// Nobody can follow it then, and its own Patroni does not race where another's has left a `/sync` without it (simulator,
/// seed 309079): it has everything, and its hook passes in its own term.
pub(super) fn is_left_over(
    cluster: &Cluster,
    local: &Local<'_>,
    memory: &mut Memory,
    decision: &mut Decision,
) -> bool {
    let is_standby = local.postgres == Postgres::Running { in_recovery: Some(true) };
    let able = cluster.facts.get(local.me).is_some_and(|facts| facts.eligible == Some(true));
    let config = cluster.config.filter(|_| cluster.leader_key.is_none() && is_standby && able);
    let Some(config) = config.filter(|_| !cluster.fenced(local.me)) else {
        memory.unlocked_since_ms = None;
        return false;
    };
    let race_ms = config.loop_wait_ms.saturating_add(SUCCESSOR_PATIENCE_MS);
    let left_ms = race_ms.saturating_sub(lasts_ms(&mut memory.unlocked_since_ms, local));
    if left_ms > 0 {
        decision.again_in_ms = Some(left_ms);
    }
    left_ms == 0
}
