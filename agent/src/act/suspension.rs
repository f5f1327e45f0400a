//! Rule 24: the writer's word that its fence may be lifted, and that it stands again.

use anyhow::{Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_store::{Compare, Write};
use holdfast_types::record::HeldRecord;

use super::{armed_txn, encoded, term_is, txn};
use crate::member::Member;

/// Says it while the suspension that it is for stands: it must not keep a term open for which nobody asked.
pub async fn say_held(
    member: &Member,
    cluster: &Cluster,
    record: &HeldRecord,
    (held_mod_revision, term_mod_revision): (i64, i64),
) -> Result<()> {
    let keys = &member.keys;
    let revision = |key: String, is: i64| Compare::ModRevision { key, is };
    let compares = vec![
        term_is(member, term_mod_revision),
        revision(keys.held(), held_mod_revision),
        revision(keys.patroni_config(), cluster.config.map_or(0, |config| config.mod_revision)),
        revision(keys.maintenance(), cluster.maintenance.as_ref().map_or(0, |found| found.mod_revision)),
    ];
    let value = encoded(cluster, &keys.held(), record.clone());
    if !armed_txn(member, cluster, txn(compares, vec![Write::put(keys.held(), value)])).await? {
        bail!("etcd has changed since it was read");
    }
    tracing::info!(cluster = %member.instance.cluster, term = record.term.0, "automatic action is suspended: nobody closes this term until our fence stands again");
    Ok(())
}

/// Takes it back.
pub async fn say_bound(
    member: &Member,
    cluster: &Cluster,
    (held_mod_revision, term_mod_revision): (i64, i64),
) -> Result<()> {
    let key = member.keys.held();
    let compares = vec![
        term_is(member, term_mod_revision),
        Compare::ModRevision { key: key.clone(), is: held_mod_revision },
    ];
    if !armed_txn(member, cluster, txn(compares, vec![Write::Delete { key }])).await? {
        bail!("etcd has changed since it was read");
    }
    tracing::info!(cluster = %member.instance.cluster, "the suspension is over and our fence stands");
    Ok(())
}
