//! What operations are decided on: one observation out of a view. The simulator's coordinators make theirs here too.

use std::collections::BTreeMap;

use holdfast_coordinator_core::observation::{MemberSeen, Observation, PoolerSeen, ReignSeen, ReignState};
use holdfast_types::MemberName;
use holdfast_types::preflight::Preflight;
use holdfast_types::record::{OperationRecord, Reign, RouteRecord};

use super::cluster::{ClusterView, Seen};
use super::patroni::PatroniMember;

/// What a planner sees of a cluster. `told`: what the agents of members say before a planned change, where they were asked.
/// `suspended`: why nothing automatic is done, and what ends that.
pub fn observe(
    view: &ClusterView,
    told: &BTreeMap<MemberName, Preflight>,
    suspended: Option<String>,
) -> Observation {
    let alive = |name: &MemberName| view.agent_alive(name) == Some(true);
    let may_not_lead =
        |name: &MemberName| view.patroni.members.get(name).and_then(PatroniMember::not_to_lead).is_some();
    let member = |name: MemberName| {
        let facts = view.facts.get(&name);
        let seen = MemberSeen {
            agent_alive: alive(&name),
            disarmed_locally: facts.is_some_and(|facts| facts.disarmed_locally().is_some()),
            fenced: view.fences.contains_key(&name),
            eligible: facts.and_then(|facts| facts.eligible),
            streaming: facts.and_then(|facts| facts.streaming),
            synchronous: view.patroni.sync.as_ref().is_some_and(|sync| sync.standbys.contains(&name)),
            pending_restart: view.patroni.members.get(&name).is_some_and(|member| member.pending_restart),
            may_not_lead: may_not_lead(&name),
            priority: facts.map_or(1, |facts| facts.failover_priority),
            done: view.done.get(&name).cloned(),
            preflight: told.get(&name).cloned(),
        };
        (name, seen)
    };
    let pooler = |(name, route): (&String, &RouteRecord)| {
        let seen = PoolerSeen {
            alive: view.pooler_alive(name),
            term: route.term,
            target: route.target.clone(),
            paused: route.paused,
            done: route.done.clone(),
        };
        (name.clone(), seen)
    };
    Observation {
        mode: (!view.mode_unreadable).then(|| view.mode()),
        unreadable: view.problems.clone(),
        class: view.patroni.class(),
        suspended,
        requested_of_patroni: view.patroni.failover_requested,
        reign: view.reign().map(|record| ReignSeen {
            term: record.term,
            holder: record.holder().clone(),
            state: match &record.reign {
                Reign::Closed { .. } => ReignState::Closed,
                Reign::Open { .. } if view.attestations.iter().any(|word| word.term == record.term) => {
                    ReignState::Stopped
                }
                Reign::Open { writable: true, .. } => ReignState::Writable,
                Reign::Open { .. } => ReignState::Opening,
            },
        }),
        members: view.members().into_iter().map(member).collect(),
        poolers: view.routes.iter().map(pooler).collect(),
        drained: view.drained.clone(),
    }
}

/// The operation that has not ended.
pub fn running(view: &ClusterView) -> Option<&Seen<OperationRecord>> {
    view.operation.as_ref().filter(|seen| seen.body().runs())
}

/// The number that the next operation gets.
pub fn next_number(view: &ClusterView) -> u64 {
    let present = view.operation.iter().map(|seen| seen.body().number);
    let ended = view.operations.iter().map(|record| record.number);
    present.chain(ended).max().map_or(1, |number| number.saturating_add(1))
}
