//! Rule 5: leaves the writer of a term, step by step, each phase on disk before its action. Rule 7: comes back.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::{self, NextStep, Phase, Progress};
use holdfast_agent_core::mutant::{Mutant, left_out};
use holdfast_host::clock;
use holdfast_host::nftables::Lost;
use holdfast_store::{Compare, Write};
use holdfast_types::keys;
use holdfast_types::record::Promise;
use holdfast_types::{MemberName, SessionId, Term};

use super::{armed_txn, encoded, network, position, term_is, trace, txn};
use crate::member::Member;
use crate::observe::walreceiver;

/// A walreceiver ends within milliseconds of its order; one that is stuck in the kernel is waited for by the next look.
const WALRECEIVER_DEADLINE: Duration = Duration::from_millis(1_000);

/// Goes on from wherever the phase stands until the promise is in etcd.
pub async fn promise(member: &Member, cluster: &Cluster, term: Term, writer: &MemberName) -> Result<()> {
    let start = SystemTime::now();
    let standing = member.state().phase.clone().filter(|phase| phase.term() == term);
    let positioned = match standing {
        // A position is worth something only while nothing can come after it: a filter that somebody has flushed since
        // means another read.
        Some(Phase::Positioned { promise } | Phase::Promised { promise })
            if is_cut(member, cluster, writer).await? =>
        {
            promise
        }
        other => {
            if other.is_none() {
                intend(member, term, writer).await?;
            }
            leave(member, cluster, term, writer).await?
        }
    };
    let attributes = [
        ("holdfast.term", term.to_string()),
        ("holdfast.writer", writer.to_string()),
        ("holdfast.position", positioned.position.to_string()),
    ];
    put(member, cluster, positioned).await?;
    let context = trace::of_incident(cluster);
    let since = member.state().suspected_at;
    if let Some(since) = since {
        let detection = [("holdfast.writer", writer.to_string())];
        if let Some(context) = &context {
            member.telemetry.span("detection", context, since, start, &detection);
        }
    }
    trace::step(&member.telemetry, context, "promise", start, &attributes);
    Ok(())
}

/// Step (a), with the timeline that only a living walreceiver tells. From its first line on we grant no lease.
async fn intend(member: &Member, term: Term, writer: &MemberName) -> Result<()> {
    if !member.begin_promising() {
        bail!("a write lease granted by this node has not run out");
    }
    let done = intend_alone(member, term, writer).await;
    // What is on disk binds from now on. A write that did not end in time may still get there, and bind the next start of
    // this agent: unless it has been taken back behind it, no lease is granted.
    let settled = done.is_ok() || member.set_phase(None).await.is_ok();
    member.state().promising = !settled;
    done
}

async fn intend_alone(member: &Member, term: Term, writer: &MemberName) -> Result<()> {
    let received_timeline = match member.sql.standby().await {
        Ok(standby) => position::received_timeline(member, &standby),
        // Nothing is known that the position will not ask for again.
        Err(_) => member.state().received_timeline,
    };
    member.state().received_timeline = received_timeline;
    member.set_phase(Some(Phase::Intended { term, writer: writer.clone(), received_timeline })).await?;
    Ok(())
}

/// Whether the kernel still has our table, with the writer cut off.
async fn is_cut(member: &Member, cluster: &Cluster, writer: &MemberName) -> Result<bool> {
    let Some((address, _)) = cluster.address(writer) else { return Ok(false) };
    Ok(member
        .firewall
        .state()
        .await?
        .is_some_and(|state| state.source.is_none() && state.cut.contains(address)))
}

/// Steps (b) to (f). The order is the core's; what is seen here is passed to it after each step.
async fn leave(member: &Member, cluster: &Cluster, term: Term, writer: &MemberName) -> Result<Promise> {
    let facts = cluster.facts.get(writer).with_context(|| format!("the address of {writer} is not known"))?;
    let (address, port) = (facts.address.as_str(), facts.port);
    let mut progress = Progress::default();
    loop {
        match detach::next_step(&progress) {
            NextStep::Cut => {
                let rest_port = cluster.rest_port_to_refuse(writer);
                let lost = Lost { address: address.to_owned(), port, rest_port };
                network::cut(member, lost).await?;
                progress.cut_in_place = true;
            }
            NextStep::EndWalreceiver => {
                walreceiver::end(&member.instance.cgroup, address, port, WALRECEIVER_DEADLINE).await?;
                progress.walreceiver_gone = true;
            }
            NextStep::WaitForReplay | NextStep::ReadPosition => {
                progress.position = Some(position::received(member).await?);
                progress.replay_settled = true;
            }
            NextStep::Persist(position) => {
                let incarnation =
                    member.own().context("our own session is not known to be alive")?.incarnation;
                // One lock, one statement: a second one within the same expression would wait for the first for ever.
                let (data_uuid, heard_wall_ms) = {
                    let state = member.state();
                    (state.data_uuid.clone(), state.heard_wall_ms)
                };
                let promise = Promise {
                    term,
                    writer: writer.clone(),
                    position,
                    data_uuid: data_uuid.context("the data directory has no id")?,
                    incarnation,
                    heard_wall_ms,
                    at_wall_ms: clock::wall_ms(),
                };
                member.set_phase(Some(Phase::Positioned { promise: promise.clone() })).await?;
                return Ok(promise);
            }
        }
    }
}

/// Step (g).
async fn put(member: &Member, cluster: &Cluster, promise: Promise) -> Result<()> {
    let record = cluster.term.as_ref().context("the term record is gone")?;
    let key = member.keys.promise(&member.instance.member, promise.term);
    let value = encoded(cluster, &key, promise.clone());
    let write = Write::put(key, value);
    if !armed_txn(member, cluster, txn(vec![term_is(member, record.mod_revision)], vec![write])).await? {
        bail!("the term record has changed since it was read");
    }
    tracing::warn!(
        cluster = %member.instance.cluster, term = promise.term.0, writer = %promise.writer, position = %promise.position,
        "promised: nothing more is received from the writer"
    );
    member.set_phase(Some(Phase::Promised { promise })).await?;
    Ok(())
}

/// Rule 7: takes the promise back; the network opens only after that has succeeded, by the next decision.
pub async fn withdraw(
    member: &Member,
    cluster: &Cluster,
    promise_mod_revision: i64,
    term_mod_revision: i64,
    writers_session: SessionId,
) -> Result<()> {
    let record = cluster.term.as_ref().context("the term record is gone")?;
    let key = member.keys.promise(&member.instance.member, record.value.term);
    let session = cluster.sessions.get(&writers_session).context("the writer's session is gone")?;
    let compares = vec![
        term_is(member, term_mod_revision),
        Compare::ModRevision { key: key.clone(), is: promise_mod_revision },
        Compare::Lease { key: keys::session(&member.config.region, &session.host), is: writers_session.0 },
    ];
    let compares = if left_out(Mutant::WithdrawnAlone) { Vec::new() } else { compares };
    // A promise that never arrived is compared as absent; there is nothing to delete then.
    let writes = if promise_mod_revision == 0 { Vec::new() } else { vec![Write::Delete { key }] };
    if !armed_txn(member, cluster, txn(compares, writes)).await? {
        bail!("etcd has changed since it was read");
    }
    member.set_phase(None).await?;
    tracing::info!(cluster = %member.instance.cluster, term = record.value.term.0, "promise withdrawn: the writer is in office");
    Ok(())
}

/// A later term is open: what bound us is over, and our older promises are deleted so that etcd holds a bounded number.
pub async fn forget(member: &Member, cluster: &Cluster) -> Result<()> {
    let term = cluster.term.as_ref().context("the term record is gone")?;
    let me = &member.instance.member;
    if let Some(old) = cluster.promises.get(me).filter(|old| old.value.term < term.value.term) {
        let key = member.keys.promise(me, old.value.term);
        let compares = vec![
            term_is(member, term.mod_revision),
            Compare::ModRevision { key: key.clone(), is: old.mod_revision },
        ];
        if !armed_txn(member, cluster, txn(compares, vec![Write::Delete { key }])).await? {
            bail!("etcd has changed since it was read");
        }
    }
    member.set_phase(None).await?;
    Ok(())
}
