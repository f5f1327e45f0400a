//! Rewrites the term record of our own open term: a new incarnation or session (rule 23), or that we are writable.

use anyhow::{Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_store::Write;
use holdfast_types::record::{Stored, TermRecord};

use super::{armed_txn, term_is, txn};
use crate::member::Member;

/// Puts `record` if the term record still stands at `mod_revision`.
pub async fn put(member: &Member, cluster: &Cluster, record: &TermRecord, mod_revision: i64) -> Result<()> {
    let value = Stored::new(record.clone()).encode();
    let write = Write::put(member.keys.term(), value);
    if !armed_txn(member, cluster, txn(vec![term_is(member, mod_revision)], vec![write])).await? {
        bail!("the term record has changed since it was read");
    }
    tracing::info!(cluster = %member.instance.cluster, term = record.term.0, "term record rewritten: still ours");
    Ok(())
}
