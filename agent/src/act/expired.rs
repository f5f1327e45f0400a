//! Class `off`: opens the next term once the last writer's lease is over, and what makes that provable: whom a writer asks
//! for a lease without etcd, and who gets Patroni's lock. OPEN begins the record of the incident too, as CLOSE does in class
//! `quorum`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Result, bail};
use holdfast_agent_core::close::OutOfOffice;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::expired::{LockPlan, Plan};
use holdfast_host::clock;
use holdfast_proto::trace::TraceContext;
use holdfast_store::{Compare, Write};
use holdfast_types::Term;
use holdfast_types::record::{EventRecord, FloorRecord, Step, Stored, TermRecord};

use super::close::{revoke_the_old_patroni, session_is_gone};
use super::{armed_txn, encoded, not_fenced, term_is, trace, txn};
use crate::gate::remembered::Follows;
use crate::member::Member;

/// Runs the transaction of the plan; `false` means that a comparison failed.
///
/// From before it is sent no lease is granted in the term that it ends, also by a later start of the agent: a transaction
/// whose answer was lost may still arrive. Once it has failed, or the term record has moved, it cannot any more.
pub async fn open(member: &Member, cluster: &Cluster, plan: &Plan) -> Result<bool> {
    let compares = compares(member, cluster, plan)?;
    let expires = matches!(plan.out_of_office, Some(OutOfOffice::SessionAbsent(_)));
    if let Some((_, term)) = plan.last.as_ref().filter(|_| expires) {
        bind(member, *term, plan.term_mod_revision).await?;
    }
    name(member, &plan.floor);
    let (term_key, floor_key) = (member.keys.term(), member.keys.floor());
    let context = trace::of_incident(cluster).filter(|_| plan.last.is_some());
    let opened = TermRecord { trace: context.as_ref().map(ToString::to_string), ..plan.opened.clone() };
    let mut writes = vec![
        Write::put(term_key.clone(), encoded(cluster, &term_key, opened)),
        Write::put(floor_key.clone(), encoded(cluster, &floor_key, plan.floor.clone())),
    ];
    writes.extend(plan.last.as_ref().map(|(_, term)| Write::Delete { key: member.keys.attest(*term) }));
    let event = event(member, cluster, plan, context.as_ref());
    writes
        .extend(event.map(|event| Write::put(member.keys.event(event.number), Stored::new(event).encode())));
    if !armed_txn(member, cluster, txn(compares, writes)).await? {
        member.remember(|remembered| remembered.follows = None).await;
        return Ok(false);
    }
    member.state().opened_at = Some(SystemTime::now());
    tracing::warn!(
        cluster = %member.instance.cluster, term = plan.opened.term.0, evidence = describe(plan),
        "term opened: this node is the writer"
    );
    member.wake.notify_one();
    Ok(true)
}

/// The incident that ends the last reign, and how it was noticed: routes and `events` follow it.
fn event(
    member: &Member,
    cluster: &Cluster,
    plan: &Plan,
    context: Option<&TraceContext>,
) -> Option<EventRecord> {
    let (from, last) = plan.last.as_ref()?;
    let now_ms = clock::wall_ms();
    let by_word = matches!(plan.out_of_office, Some(OutOfOffice::Attested { .. }));
    let attested = cluster.attestation.as_ref().filter(|_| by_word).map(|found| found.value.at_wall_ms);
    let gone_ms = i64::try_from(member.writer_gone_ms(cluster)).unwrap_or_default();
    let mut steps_wall_ms = BTreeMap::from([(Step::Closed, now_ms), (Step::Opened, now_ms)]);
    steps_wall_ms.insert(Step::Detected, attested.unwrap_or(now_ms - gone_ms));
    steps_wall_ms.extend(attested.or(member.state().heard_wall_ms).map(|at_ms| (Step::Heard, at_ms)));
    // Whoever follows looks for the term before its own; they differ only after etcd has forgotten some.
    let ended = Term(plan.opened.term.0.saturating_sub(1));
    let me = &member.instance.member;
    Some(EventRecord {
        number: ended.0,
        term: ended,
        from: from.clone(),
        to: Some(me.clone()),
        floor: None,
        trace_id: context.and_then(trace::id),
        steps_wall_ms,
        text: format!("term {last} of {from} was ended by {me}: {}", describe(plan)),
        route_commands: BTreeMap::new(),
    })
}

fn describe(plan: &Plan) -> &'static str {
    match plan.out_of_office {
        Some(OutOfOffice::Attested { .. }) => "its last writer's agent attests its stop",
        Some(_) => "expired: its last writer's session is gone, and with it every lease",
        None => "none is needed",
    }
}

fn compares(member: &Member, cluster: &Cluster, plan: &Plan) -> Result<Vec<Compare>> {
    let keys = &member.keys;
    let revision = |key: String, is: i64| Compare::ModRevision { key, is };
    let mut compares = vec![
        term_is(member, plan.term_mod_revision),
        revision(keys.patroni_leader(), plan.leader_mod_revision),
        revision(keys.floor(), plan.floor_mod_revision),
        revision(keys.held(), plan.held_mod_revision),
        not_fenced(member, &member.instance.member),
    ];
    if let Some((writer, term)) = &plan.last {
        match &plan.out_of_office {
            Some(OutOfOffice::SessionAbsent(_)) => compares.push(session_is_gone(member, cluster, writer)?),
            Some(OutOfOffice::Attested { mod_revision }) => {
                compares.push(revision(keys.attest(*term), *mod_revision));
            }
            Some(OutOfOffice::LeaderIsAnother | OutOfOffice::Outside { .. }) | None => {}
        }
    }
    Ok(compares)
}

/// No lease that we granted is in force, and none is granted in this term from now on.
async fn bind(member: &Member, term: Term, term_mod_revision: i64) -> Result<()> {
    if !member.begin_promising() {
        bail!("a lease that this host granted to the writer of term {term} has not run out");
    }
    let kept = member.remember(|remembered| remembered.follows = Some(Follows { term, term_mod_revision }));
    let kept = kept.await;
    member.state().promising = false;
    if !kept {
        bail!("what binds this host cannot be kept on disk");
    }
    Ok(())
}

/// Whoever may be named by now is asked for each lease from now on, whether or not the record arrives.
fn name(member: &Member, floor: &FloorRecord) {
    let mut state = member.state();
    let before = state.named.take().filter(|(term, _)| *term == floor.term);
    let mut members = before.map(|(_, members)| members).unwrap_or_default();
    members.extend(floor.configuration.members.iter().cloned());
    state.named = Some((floor.term, members));
}

/// For a primary with Patroni's lock that no hook has let pass.
pub async fn follow(member: &Member, cluster: &Cluster, plan: &Plan) -> Result<()> {
    if !open(member, cluster, plan).await? {
        bail!("etcd has changed since it was read");
    }
    Ok(())
}

/// Publishes whom we ask for a lease.
pub async fn name_members(
    member: &Member,
    cluster: &Cluster,
    floor: &FloorRecord,
    (floor_mod_revision, term_mod_revision): (i64, i64),
) -> Result<()> {
    name(member, floor);
    let key = member.keys.floor();
    let compares = vec![
        term_is(member, term_mod_revision),
        Compare::ModRevision { key: key.clone(), is: floor_mod_revision },
    ];
    let write = Write::put(key.clone(), encoded(cluster, &key, floor.clone()));
    if !armed_txn(member, cluster, txn(compares, vec![write])).await? {
        bail!("etcd has changed since it was read");
    }
    Ok(())
}

/// The lock of a writer that can write no more goes to who follows at once, and not after Patroni's ttl.
pub async fn give_lock(member: &Member, cluster: &Cluster, plan: &LockPlan) -> Result<()> {
    let LockPlan { writer, to, .. } = plan;
    let key = member.keys.patroni_leader();
    let compares = vec![
        term_is(member, plan.term_mod_revision),
        Compare::ModRevision { key: key.clone(), is: plan.leader_mod_revision },
        session_is_gone(member, cluster, writer)?,
        Compare::Lease { key: member.keys.patroni_member(to), is: plan.member_lease },
        not_fenced(member, to),
        Compare::ModRevision {
            key: member.keys.patroni_config(),
            is: cluster.config.map_or(0, |config| config.mod_revision),
        },
        Compare::ModRevision {
            key: member.keys.maintenance(),
            is: cluster.maintenance.as_ref().map_or(0, |found| found.mod_revision),
        },
    ];
    let write = Write::Put { key, value: to.as_str().into(), lease: plan.member_lease };
    if !armed_txn(member, cluster, txn(compares, vec![write])).await? {
        bail!("etcd has changed since it was read");
    }
    tracing::warn!(cluster = %member.instance.cluster, %writer, %to, "Patroni's lock is given away: its holder's session is gone, and with it every lease");
    // Its member key goes too: a candidate that asks a dead host waits for 2 s.
    revoke_the_old_patroni(member, cluster, writer).await;
    Ok(())
}
