//! Rewrites the term record of our own open term: a new incarnation or session (rule 23), or that we are writable.

use anyhow::{Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_store::Write;
use holdfast_types::record::TermRecord;

use super::{armed_txn, encoded, incident, term_is, txn};
use crate::member::Member;

/// Puts `record` if the term record still stands at `mod_revision`.
pub async fn put(member: &Member, cluster: &Cluster, record: &TermRecord, mod_revision: i64) -> Result<()> {
    let key = member.keys.term();
    let value = encoded(cluster, &key, record.clone());
    let write = Write::put(key, value);
    if !armed_txn(member, cluster, txn(vec![term_is(member, mod_revision)], vec![write])).await? {
        bail!("the term record has changed since it was read");
    }
    tracing::info!(cluster = %member.instance.cluster, term = record.term.0, "term record rewritten: still ours");
    Ok(())
}

/// Puts `record`, which says that we are promoted, with the timeline that PostgreSQL has really taken: its archive may have
/// shown it more history files than anybody here knows of.
pub async fn say_writable(
    member: &Member,
    cluster: &Cluster,
    record: &TermRecord,
    mod_revision: i64,
) -> Result<()> {
    let taken = member.sql.writer().await.ok().map(|writer| writer.flushed.timeline);
    if let (Some(taken), Some(reserved)) = (taken, record.timeline)
        && taken < reserved
    {
        tracing::error!(
            cluster = %member.instance.cluster,
            taken = taken.0,
            reserved = reserved.0,
            "PostgreSQL writes on a timeline id that an earlier reign may have used: reinitialise each member that was promoted since and comes back (patronictl reinit), and take a base backup"
        );
    }
    let record = TermRecord { timeline: record.timeline.max(taken), ..record.clone() };
    put(member, cluster, &record, mod_revision).await?;
    incident::promoted(member, cluster);
    Ok(())
}
