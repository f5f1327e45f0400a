//! Rule 9: our own word that our PostgreSQL has stopped, or, by rule 10, that it never began; and how it is taken back
//! (rules 9a and 10).

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_host::clock;
use holdfast_store::{Compare, Txn, Write};
use holdfast_types::Term;
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{Attestation, StopKind, Stored};

use super::{armed_txn, fenced, trace, txn};
use crate::member::Member;

/// Puts the attestation. The gate was shut and the processes were seen gone before this was decided.
pub async fn attest(member: &Member, cluster: &Cluster, term: Term, stop: StopKind) -> Result<()> {
    let start = SystemTime::now();
    shut_gate(member).await?;
    put(member, cluster, term, stop.clone()).await?;
    fenced::attested(member, cluster, term, &stop);
    let attributes = [("holdfast.term", term.to_string())];
    trace::step(&member.telemetry, trace::of_incident(cluster), "attestation", start, &attributes);
    tracing::warn!(cluster = %member.instance.cluster, term = term.0, "attested: our PostgreSQL has stopped");
    Ok(())
}

/// Rule 10: gives the term back. From the first line on no hook passes in it, whether or not the rest succeeds.
pub async fn relinquish(member: &Member, cluster: &Cluster, term: Term) -> Result<()> {
    let start = SystemTime::now();
    if !member.hooks.give_back(term) {
        bail!("a hook has come that may pass");
    }
    // Asked once more: a person may have promoted it by hand since it was seen.
    if !member.sql.is_in_recovery().await? {
        bail!("PostgreSQL has left recovery");
    }
    put(member, cluster, term, StopKind::Relinquished).await?;
    let attributes = [("holdfast.term", term.to_string())];
    trace::step(&member.telemetry, trace::of_record(cluster), "relinquish", start, &attributes);
    tracing::warn!(
        cluster = %member.instance.cluster, term = term.0,
        "term given back: its promotion hook was lost before it was answered"
    );
    Ok(())
}

async fn put(member: &Member, cluster: &Cluster, term: Term, stop: StopKind) -> Result<()> {
    let own = member.own().context("our own session is not known to be alive")?;
    let attestation = Attestation {
        term,
        holder: member.instance.member.clone(),
        incarnation: own.incarnation,
        session: own.session,
        stop,
        stuck: member.state().stuck.clone(),
        at_wall_ms: clock::wall_ms(),
    };
    let record = cluster.term.as_ref().context("the term record is gone")?;
    if !armed_txn(member, cluster, attestation_txn(&member.keys, attestation, record.mod_revision)).await? {
        bail!("the term record has changed since it was read");
    }
    Ok(())
}

/// Keeps PostgreSQL from starting until the attestation is used or taken back.
pub async fn shut_gate(member: &Member) -> Result<()> {
    member.state().stop_begun_ms.get_or_insert_with(clock::boottime_ms);
    if !member.remember(|remembered| remembered.attesting = true).await {
        bail!("the shut gate cannot be kept on disk");
    }
    Ok(())
}

fn attestation_txn(keys: &ClusterKeys, attestation: Attestation, term_mod_revision: i64) -> Txn {
    let key = keys.attest(attestation.term);
    let compares = vec![
        Compare::ModRevision { key: keys.term(), is: term_mod_revision },
        Compare::ModRevision { key: key.clone(), is: 0 },
    ];
    txn(compares, vec![Write::put(key, Stored::new(attestation).encode())])
}

/// An attestation whose answer was lost may still be on its way, and compares that there is none: the term record is moved
/// on, so that it fails.
fn withdrawal_txn(keys: &ClusterKeys, term: Term, (attestation, record): (i64, i64)) -> Txn {
    let key = keys.attest(term);
    let compares = vec![
        Compare::ModRevision { key: keys.term(), is: record },
        Compare::ModRevision { key: key.clone(), is: attestation },
    ];
    txn(compares, vec![Write::Delete { key }, Write::PutSameValue { key: keys.term() }])
}

/// Takes the attestation back; the gate opens only after that has succeeded.
pub async fn withdraw(
    member: &Member,
    cluster: &Cluster,
    attestation_mod_revision: i64,
    term_mod_revision: i64,
) -> Result<()> {
    let term = cluster.term.as_ref().context("the term record is gone")?.value.term;
    let revisions = (attestation_mod_revision, term_mod_revision);
    if !armed_txn(member, cluster, withdrawal_txn(&member.keys, term, revisions)).await? {
        bail!("it was used, or the term record has changed since it was read");
    }
    member.hooks.taken_back(term);
    open_gate(member).await
}

/// Lets PostgreSQL start again, as far as the other rules allow it.
pub async fn open_gate(member: &Member) -> Result<()> {
    if !member.remember(|remembered| remembered.attesting = false).await {
        bail!("the open gate cannot be kept on disk");
    }
    member.state().stop_begun_ms = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_store::{MemoryStore, Store as _, TxnOutcome};
    use holdfast_types::{ClusterId, Incarnation, MemberName, Namespace, RegionName, Scope, SessionId};

    #[tokio::test]
    async fn an_attestation_that_arrives_after_its_withdrawal_is_refused() {
        let keys = ClusterKeys::new(&ClusterId {
            region: RegionName::new("r1").unwrap(),
            namespace: Namespace::new("service").unwrap(),
            scope: Scope::new("main").unwrap(),
        });
        let store = MemoryStore::new();
        let run = async |txn: Txn| match store.txn(txn).await.unwrap() {
            TxnOutcome::Succeeded { revision } => Some(revision),
            TxnOutcome::Refused { .. } => None,
        };
        let opened = run(txn(Vec::new(), vec![Write::put(keys.term(), "term 5")])).await.unwrap();
        let attestation = Attestation {
            term: Term(5),
            holder: MemberName::new("db2").unwrap(),
            incarnation: Incarnation(1),
            session: SessionId(8),
            stop: StopKind::Relinquished,
            stuck: Vec::new(),
            at_wall_ms: 0,
        };
        // Sent twice, because the first gave no answer; the second one arrives first.
        let twice = || attestation_txn(&keys, attestation.clone(), opened);
        let attested = run(twice()).await.unwrap();
        assert_eq!(run(twice()).await, None, "one stands already");
        let withdrawn = run(withdrawal_txn(&keys, Term(5), (attested, opened))).await;
        assert!(withdrawn.is_some());
        assert_eq!(run(twice()).await, None, "a hook may have been let pass by now");
    }
}
