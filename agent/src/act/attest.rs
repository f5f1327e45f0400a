//! Rule 9: our own word that our PostgreSQL has stopped, and how it is taken back (rule 9a).

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_host::clock;
use holdfast_store::{Compare, Write};
use holdfast_types::Term;
use holdfast_types::record::{Attestation, StopKind, Stored};

use super::{armed_txn, term_is, trace, txn};
use crate::member::Member;

/// Puts the attestation. The gate was shut and the processes were seen gone before this was decided.
pub async fn attest(member: &Member, cluster: &Cluster, term: Term, stop: StopKind) -> Result<()> {
    let start = SystemTime::now();
    let own = member.own().context("our own session is not known to be alive")?;
    shut_gate(member).await?;
    let attestation = Attestation {
        term,
        holder: member.instance.member.clone(),
        incarnation: own.incarnation,
        session: own.session,
        stop,
        at_wall_ms: clock::wall_ms(),
    };
    let record = cluster.term.as_ref().context("the term record is gone")?;
    let key = member.keys.attest(term);
    let compares =
        vec![term_is(member, record.mod_revision), Compare::ModRevision { key: key.clone(), is: 0 }];
    let write = Write::put(key, Stored::new(attestation).encode());
    if !armed_txn(member, cluster, txn(compares, vec![write])).await? {
        bail!("the term record has changed since it was read");
    }
    let attributes = [("holdfast.term", term.to_string())];
    trace::step(&member.telemetry, trace::of_incident(cluster), "attestation", start, &attributes);
    tracing::warn!(cluster = %member.instance.cluster, term = term.0, "attested: our PostgreSQL has stopped");
    Ok(())
}

/// Keeps PostgreSQL from starting until the attestation is used or taken back.
pub async fn shut_gate(member: &Member) -> Result<()> {
    if !member.remember(|remembered| remembered.attesting = true).await {
        bail!("the shut gate cannot be kept on disk");
    }
    Ok(())
}

/// Takes the attestation back; the gate opens only after that has succeeded.
pub async fn withdraw(
    member: &Member,
    cluster: &Cluster,
    attestation_mod_revision: i64,
    term_mod_revision: i64,
) -> Result<()> {
    let term = cluster.term.as_ref().context("the term record is gone")?.value.term;
    let key = member.keys.attest(term);
    let compares = vec![
        term_is(member, term_mod_revision),
        Compare::ModRevision { key: key.clone(), is: attestation_mod_revision },
    ];
    if !armed_txn(member, cluster, txn(compares, vec![Write::Delete { key }])).await? {
        bail!("it was used, or the term record has changed since it was read");
    }
    open_gate(member).await
}

/// Lets PostgreSQL start again, as far as the other rules allow it.
pub async fn open_gate(member: &Member) -> Result<()> {
    if !member.remember(|remembered| remembered.attesting = false).await {
        bail!("the open gate cannot be kept on disk");
    }
    Ok(())
}
