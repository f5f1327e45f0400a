//! Rule 1: publishes a floor record, in the order that the rule gives.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::floor::{self, Begun};
use holdfast_agent_core::sync::SyncKey;
use holdfast_store::{Compare, Write};
use holdfast_types::keys;
use holdfast_types::record::FloorRecord;
use holdfast_types::{MemberName, Position, Term};

use super::{armed_txn, encoded, term_is, txn};
use crate::member::Member;
use crate::member::sql::WriterState;

/// How long the members get to flush what stood in the writer's WAL when it was asked. Streaming standbys take
/// milliseconds; one that takes longer is waited for by the next look.
const FLUSH_DEADLINE: Duration = Duration::from_millis(1_000);
const FLUSH_POLL: Duration = Duration::from_millis(10);

/// Reads the setting, then the position, waits for the members, then puts the record.
pub async fn publish(member: &Member, cluster: &Cluster, begun: &Begun) -> Result<()> {
    let record = cluster.term.as_ref().context("the term record is gone")?;
    let floor = settled(member, cluster, &begun.sync, record.value.term).await?;
    let own = member.own().context("our own session is not known to be alive")?;
    let session = keys::session(&member.config.region, &member.config.host);
    let compares = vec![
        term_is(member, record.mod_revision),
        Compare::Lease { key: session, is: own.session.0 },
        Compare::ModRevision { key: member.keys.patroni_sync(), is: begun.sync.mod_revision },
    ];
    let key = member.keys.floor();
    let value = encoded(cluster, &key, floor.clone());
    let write = Write::put(key, value);
    if !armed_txn(member, cluster, txn(compares, vec![write])).await? {
        bail!("etcd has changed since it was read");
    }
    tracing::info!(cluster = %member.instance.cluster, floor = %floor.floor, sync_version = floor.sync_version, "floor record published");
    Ok(())
}

/// The record to put for `sync`, once enough members have flushed what it promises.
pub async fn settled(member: &Member, cluster: &Cluster, sync: &SyncKey, term: Term) -> Result<FloorRecord> {
    let me = &member.instance.member;
    // The setting is read after `/sync`, never before.
    let writer = member.sql.writer().await?;
    let begun = floor::begin(None, sync, writer.setting.as_ref(), me, term, &cluster.data_uuids())?;
    let position = member.sql.writer().await?.flushed;
    let started = tokio::time::Instant::now();
    loop {
        let now = member.sql.writer().await?;
        if let Some(record) = floor::publish(&begun, position, &flushed(cluster, &now), term) {
            return Ok(record);
        }
        if started.elapsed() >= FLUSH_DEADLINE {
            bail!("too few members have flushed {position} yet; the old floor record stands");
        }
        tokio::time::sleep(FLUSH_POLL).await;
    }
}

fn flushed(cluster: &Cluster, writer: &WriterState) -> BTreeMap<MemberName, Position> {
    writer.flushed_by(|member| {
        let ours = cluster.address(member).map(|(address, _)| address.to_owned());
        ours.or_else(|| cluster.members.get(member).map(|known| known.address.clone()))
    })
}
