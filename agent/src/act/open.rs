//! OPEN (rule 14), inside the hook, and the first OPEN after arming (rule 1).

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::open::OpenPlan;
use holdfast_store::{Compare, Write};
use holdfast_types::Term;
use holdfast_types::record::{FloorRecord, Reign, TermRecord};

use super::{armed_txn, encoded, floor, incident, not_fenced, override_is, term_is, txn};
use crate::member::Member;

/// Runs the transaction of the plan; `false` means that a comparison failed.
pub async fn open(member: &Member, cluster: &Cluster, plan: &OpenPlan) -> Result<bool> {
    let keys = &member.keys;
    let mut compares = vec![
        term_is(member, plan.term_mod_revision),
        Compare::ModRevision { key: keys.patroni_leader(), is: plan.leader_mod_revision },
        Compare::ModRevision { key: keys.patroni_sync(), is: plan.sync_mod_revision },
        not_fenced(member, &member.instance.member),
    ];
    compares.extend(plan.override_mod_revision.map(|is| override_is(member, is)));
    let mut writes = writes(member, cluster, &plan.opened, &plan.floor);
    // What led to this reign has been used; etcd holds a bounded number of promises and attestations.
    let closed = Term(plan.opened.term.0.saturating_sub(1));
    writes.push(Write::Delete { key: keys.promise(&member.instance.member, closed) });
    writes.push(Write::Delete { key: keys.attest(closed) });
    // It may be done without our hearing of it: whoever looks then must know that no hook was let pass (rule 10).
    member.hooks.opening(plan.opened.term);
    let opened = armed_txn(member, cluster, txn(compares, writes)).await?;
    if opened {
        // What bound us to the last term is over; the disk must not say otherwise after a crash of the agent.
        member.set_phase(None).await?;
        member.state().opened_at = Some(SystemTime::now());
        incident::opened(member, cluster);
        tracing::warn!(cluster = %member.instance.cluster, term = plan.opened.term.0, "term opened: this node is promoted");
        member.wake.notify_one();
    }
    Ok(opened)
}

fn writes(member: &Member, cluster: &Cluster, opened: &TermRecord, floor: &FloorRecord) -> Vec<Write> {
    let (term, floor_key) = (member.keys.term(), member.keys.floor());
    let opened = encoded(cluster, &term, opened.clone());
    let floor = encoded(cluster, &floor_key, floor.clone());
    vec![Write::put(term, opened), Write::put(floor_key, floor)]
}

/// The first term after arming, for the leader that Patroni has: Patroni calls no hook for it.
pub async fn open_first(
    member: &Member,
    cluster: &Cluster,
    term: Term,
    term_mod_revision: i64,
) -> Result<()> {
    let own = member.own().context("our own session is not known to be alive")?;
    let sync = cluster.sync.as_ref().context("Patroni has no /sync key: synchronous_mode must be quorum")?;
    let leader = cluster.leader_key.as_ref().context("Patroni has no leader")?;
    let floor = floor::settled(member, cluster, sync, term).await?;
    let reign = Reign::Open {
        holder: member.instance.member.clone(),
        incarnation: own.incarnation,
        session: own.session,
        writable: true,
        floor: None,
    };
    // A record from before the arming is not in force, but tells how high ids have been.
    let recorded = cluster.term.as_ref().and_then(|term| term.value.timeline);
    let timeline = recorded.max(Some(floor.floor.timeline));
    let opened = TermRecord { term, reign, trace: None, timeline };
    let keys = &member.keys;
    let compares = vec![
        term_is(member, term_mod_revision),
        Compare::ModRevision { key: keys.patroni_leader(), is: leader.mod_revision },
        Compare::ModRevision { key: keys.patroni_sync(), is: sync.mod_revision },
    ];
    if !armed_txn(member, cluster, txn(compares, writes(member, cluster, &opened, &floor))).await? {
        bail!("etcd has changed since it was read");
    }
    tracing::info!(cluster = %member.instance.cluster, term = term.0, "first term after arming opened");
    Ok(())
}
