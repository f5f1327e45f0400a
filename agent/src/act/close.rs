//! CLOSE (rule 8) and its repair (rule 13): the only places that write Patroni's keys.

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::close::{ClosePlan, LeaderKey, OutOfOffice};
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::mutant::{Mutant, left_out};
use holdfast_store::{Compare, Write};
use holdfast_types::MemberName;
use holdfast_types::keys;
use holdfast_types::record::Stored;

use super::{armed_txn, encoded, fenced, incident, not_fenced, override_is, term_is, trace, txn};
use crate::member::Member;

/// Runs the transaction of the plan. The order of its writes matters: Patroni's cache applies events one by one, and the
/// leader key's wakes its loop.
pub async fn close(member: &Member, cluster: &Cluster, plan: &ClosePlan) -> Result<()> {
    let start = SystemTime::now();
    let given_back = plan.closed.was_given_back();
    // A term that was given back belongs to the incident that it was opened in.
    let context = if given_back { trace::of_record(cluster) } else { trace::of_incident(cluster) };
    let mut closed = plan.closed.clone();
    closed.trace = context.as_ref().map(ToString::to_string).or(closed.trace);
    let event = incident::at_close(member, cluster, plan, closed.trace.as_deref());
    let mut writes = vec![
        Write::PutSameValue { key: member.keys.patroni_sync() },
        Write::put(member.keys.term(), encoded(cluster, &member.keys.term(), closed)),
        Write::put(member.keys.event(event.number), Stored::new(event).encode()),
    ];
    if let Some(event) = incident::continued(cluster, plan) {
        writes.push(Write::Delete { key: member.keys.event(event.number) });
    }
    if plan.delete_failover {
        writes.push(Write::Delete { key: member.keys.patroni_failover() });
    }
    writes.retain(|write| !(left_out(Mutant::SyncNotBumped) && matches!(write, Write::PutSameValue { .. })));
    let leader = member.keys.patroni_leader();
    match &plan.leader_key {
        LeaderKey::Give { to, member_lease } => {
            writes.push(Write::Put { key: leader, value: to.as_str().into(), lease: *member_lease });
        }
        LeaderKey::Delete => writes.push(Write::Delete { key: leader }),
        LeaderKey::Leave => {}
    }
    let compares = compares(member, cluster, plan)?;
    if !armed_txn(member, cluster, txn(compares, writes)).await? {
        bail!("etcd has changed since it was read");
    }
    tracing::warn!(cluster = %member.instance.cluster, term = plan.closed.term.0, leader_key = %plan.leader_key, "term closed");
    let attributes = [
        ("holdfast.term", plan.closed.term.to_string()),
        ("holdfast.leader_key", plan.leader_key.to_string()),
    ];
    trace::step(&member.telemetry, context, "close", start, &attributes);
    fenced::closed(member, cluster, plan);
    if !given_back {
        revoke_the_old_patroni(member, cluster, plan.closed.holder()).await;
    }
    Ok(())
}

fn compares(member: &Member, cluster: &Cluster, plan: &ClosePlan) -> Result<Vec<Compare>> {
    let keys = &member.keys;
    let revision = |key: String, is: i64| Compare::ModRevision { key, is };
    let mut compares = vec![
        term_is(member, plan.term_mod_revision),
        revision(keys.floor(), plan.floor_mod_revision),
        revision(keys.patroni_sync(), plan.sync_mod_revision),
        revision(keys.patroni_leader(), plan.leader_mod_revision),
        revision(keys.patroni_config(), plan.config_mod_revision),
        revision(keys.maintenance(), plan.maintenance_mod_revision),
        revision(keys.held(), plan.held_mod_revision),
    ];
    for (promiser, is) in &plan.promise_mod_revisions {
        compares.push(revision(keys.promise(promiser, plan.closed.term), *is));
    }
    match &plan.out_of_office {
        OutOfOffice::SessionAbsent(_) => {
            compares.push(session_is_gone(member, cluster, plan.closed.holder())?);
        }
        OutOfOffice::LeaderIsAnother => {}
        OutOfOffice::Outside { asker, mod_revision } => {
            compares.push(revision(keys.outside(asker), *mod_revision));
        }
        OutOfOffice::Attested { mod_revision } => {
            compares.push(revision(keys.attest(plan.closed.term), *mod_revision));
        }
    }
    compares.extend(plan.override_mod_revision.map(|is| override_is(member, is)));
    if let LeaderKey::Give { to, member_lease } = &plan.leader_key {
        compares.push(Compare::Lease { key: keys.patroni_member(to), is: *member_lease });
        compares.push(not_fenced(member, to));
    }
    Ok(compares)
}

/// Compares that the session that was seen gone is: absent, or (after a boot) on another lease, which must still be there.
pub fn session_is_gone(member: &Member, cluster: &Cluster, writer: &MemberName) -> Result<Compare> {
    let facts = cluster.facts.get(writer).context("the writer's host is not known")?;
    let key = keys::session(&member.config.region, &facts.host);
    let now = cluster.sessions.iter().find(|(_, session)| session.host == facts.host);
    Ok(match now {
        Some((session, _)) => Compare::Lease { key, is: session.0 },
        None => Compare::ModRevision { key, is: 0 },
    })
}

/// The old writer's Patroni loses its lease, so that its member key goes too. Best effort: it would run out by itself.
pub async fn revoke_the_old_patroni(member: &Member, cluster: &Cluster, holder: &MemberName) {
    let Some(old) = cluster.members.get(holder).filter(|old| old.lease != 0) else { return };
    if let Err(error) = member.world.store.revoke(old.lease).await {
        tracing::debug!(%error, "the old writer's Patroni keeps its lease until it runs out");
    }
}

/// Rule 13: the old writer's Patroni has taken the free lock again.
pub async fn take_leader_key(
    member: &Member,
    cluster: &Cluster,
    leader_mod_revision: i64,
    term_mod_revision: i64,
) -> Result<()> {
    let key = member.keys.patroni_leader();
    let compares = vec![
        term_is(member, term_mod_revision),
        Compare::ModRevision { key: key.clone(), is: leader_mod_revision },
    ];
    if !armed_txn(member, cluster, txn(compares, vec![Write::Delete { key }])).await? {
        bail!("etcd has changed since it was read");
    }
    Ok(())
}

/// Rule 13: the successor that was named has not opened the next term in time.
pub async fn name_next(
    member: &Member,
    cluster: &Cluster,
    to: &MemberName,
    member_lease: i64,
    (leader_mod_revision, term_mod_revision): (i64, i64),
    override_mod_revision: Option<i64>,
) -> Result<()> {
    let key = member.keys.patroni_leader();
    let mut compares = vec![
        term_is(member, term_mod_revision),
        Compare::ModRevision { key: key.clone(), is: leader_mod_revision },
        Compare::Lease { key: member.keys.patroni_member(to), is: member_lease },
        not_fenced(member, to),
    ];
    compares.extend(override_mod_revision.map(|is| override_is(member, is)));
    let write = Write::Put { key, value: to.as_str().into(), lease: member_lease };
    if !armed_txn(member, cluster, txn(compares, vec![write])).await? {
        bail!("etcd has changed since it was read");
    }
    tracing::warn!(cluster = %member.instance.cluster, %to, "the next successor is named");
    if override_mod_revision.is_some() {
        incident::overridden(member, cluster);
    }
    Ok(())
}
