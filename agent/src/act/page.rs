//! Pages a person: the configured command gets the incident as JSON on its standard input, within a deadline, and how that
//! went is kept in the record that it is about.

use std::sync::Arc;

use holdfast_host::run::{self, Command};
use holdfast_store::{Compare, Read, Store, Txn, Write};
use holdfast_types::record::HoldRecord;

use crate::member::Member;

/// A pager that has not taken the incident by then is reported as failed.
const DEADLINE_MS: u64 = 10_000;

/// Runs the command in a task of its own.
pub fn page(member: &Member, hold: &HoldRecord) {
    let Some(command) = member.config.paging.clone() else { return };
    let Some((program, arguments)) = command.split_first() else { return };
    let body = serde_json::json!({
        "format": 1,
        "cluster": member.instance.cluster.to_string(),
        "host": member.config.host.to_string(),
        "incident": hold,
    });
    let command = Command::new(program.as_str())
        .args(arguments)
        .stdin(body.to_string().into_bytes())
        .deadline_ms(DEADLINE_MS);
    let (store, key, hold) = (Arc::clone(&member.world.store), member.keys.hold(), hold.clone());
    tokio::spawn(async move {
        let outcome = match run::run(command).await {
            Ok(output) if output.success() => "a person was paged".to_owned(),
            Ok(output) => format!("the paging command failed ({:?}): {}", output.code, output.stderr.trim()),
            Err(error) => format!("the paging command failed: {error}"),
        };
        tracing::info!("{outcome}");
        if let Err(error) = record(&store, key, &hold, outcome).await {
            tracing::warn!(%error, "how the paging went is not recorded");
        }
    });
}

async fn record(
    store: &Arc<dyn Store>,
    key: String,
    hold: &HoldRecord,
    outcome: String,
) -> anyhow::Result<()> {
    let found = store.read(vec![Read::Key(key.clone())]).await?;
    let Some(stored) = holdfast_store::decode_from::<HoldRecord>(&found, &key)? else { return Ok(()) };
    if stored.body.term != hold.term {
        return Ok(());
    }
    let paged = HoldRecord { paged: Some(outcome), ..stored.body.clone() };
    let compares = vec![Compare::ModRevision { key: key.clone(), is: found.mod_revision(&key) }];
    let writes = vec![Write::put(key, stored.with_body(paged).encode())];
    store.txn(Txn { compares, writes, otherwise_read: Vec::new() }).await?;
    Ok(())
}
