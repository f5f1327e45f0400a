//! Publishes what the other members need to know of this one, when it changes in meaning and not when it moves.

use anyhow::Result;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::Postgres;
use holdfast_agent_core::{attest, eligible};
use holdfast_host::clock;
use holdfast_store::{Txn, Write};
use holdfast_types::record::{MemberFacts, SetupSeen};

use super::encoded;
use crate::member::Member;

/// Puts our facts if they differ from what etcd holds. Not on the session's lease: the address of a dead writer is
/// needed to cut it off.
pub async fn publish(member: &Member, cluster: &Cluster) -> Result<()> {
    let me = &member.instance.member;
    let Some(facts) = facts(member, cluster) else { return Ok(()) };
    let on_its_way = member.state().published.as_ref() == Some(&facts) && cluster.facts.contains_key(me);
    if cluster.facts.get(me) == Some(&facts) || on_its_way {
        return Ok(());
    }
    let key = member.keys.facts(me);
    let value = encoded(cluster, &key, facts.clone());
    let write = Write::put(key, value);
    member.world.store.txn(Txn { writes: vec![write], ..Txn::default() }).await?;
    member.state().published = Some(facts);
    Ok(())
}

fn facts(member: &Member, cluster: &Cluster) -> Option<MemberFacts> {
    member.own()?;
    let (instance, me) = (&member.instance, &member.instance.member);
    let state = member.state();
    let patroni = cluster.members.get(&instance.member);
    let patroni_state = patroni.and_then(|patroni| patroni.state.clone());
    let is_primary = state.postgres == Some(Postgres::Running { in_recovery: Some(false) });
    let host = eligible::Host {
        postgres: state.postgres.unwrap_or(Postgres::Unknown),
        patroni_alive: state.patroni_alive,
        patroni_hung: state.patroni_hung,
        misplaced: !state.misplaced.is_empty(),
    };
    let stands_aside = state.disarmed_here().is_some();
    let eligible = patroni.map(|patroni| !stands_aside && eligible::decide(cluster, me, patroni, host));
    let lost_for_ms = state.stream_lost_ms.map(|lost_ms| clock::boottime_ms().saturating_sub(lost_ms));
    Some(MemberFacts {
        host: member.config.host.clone(),
        address: instance.address.clone(),
        port: instance.port,
        rest_port: rest_port(&instance.patroni_url),
        grpc: member.config.grpc_listen.to_string(),
        patroni_state,
        eligible,
        failover_priority: patroni.map_or(1, |patroni| patroni.failover_priority),
        streaming: attest::streaming_to_publish(state.streaming, lost_for_ms),
        data_uuid: state.data_uuid.clone(),
        highest_term: state.remembered.known_term(),
        contradiction: state.contradiction.clone(),
        warned: state.warned.clone(),
        local_disarm: state.local_disarm.clone(),
        certificate_ends_unix_s: Some(member.identity.ends_unix_s()),
        setup: state.setup.clone().map(|setup| SetupSeen {
            profile: Some(member.config.profile),
            class: Some(instance.class),
            // A standby has one too; it means nothing there.
            synchronous_standby_names: setup.synchronous_standby_names.filter(|_| is_primary),
            standbys_without_certificate: setup.standbys_without_certificate.filter(|_| is_primary),
            rest_problem: state.rest_problem.clone(),
            misplaced: state.misplaced.clone(),
            ..setup
        }),
    })
}

/// The port of Patroni's REST API; 8008 is its default.
fn rest_port(url: &str) -> u16 {
    url.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(8_008)
}
