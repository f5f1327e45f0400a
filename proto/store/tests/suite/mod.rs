//! The suite. Each part works below a prefix of its own, so that their order does not matter.

mod leases;
mod transactions;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use holdfast_store::{KeyValue, Read, Reading, Store, StoreError, Txn, TxnOutcome, Write};

/// More than any call of a healthy store takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every part against one store. `compact` forgets the history before a revision.
pub async fn run(store: Arc<dyn Store>, compact: impl Fn(i64) -> Compaction) {
    transactions::reading(&*store).await;
    transactions::comparing(&*store).await;
    transactions::refused_as_a_whole(&*store).await;
    transactions::same_value(&*store).await;
    transactions::deleting(&*store).await;
    leases::life_and_end(&*store).await;
    leases::dead_lease_refuses_the_transaction(&*store).await;
    leases::expiry(&*store).await;
    watches::snapshot_then_changes(&*store).await;
    watches::a_lease_that_ends(&*store).await;
    transactions::history(&*store, compact).await;
}

/// A compaction under way.
pub type Compaction = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

pub async fn put(store: &dyn Store, key: &str, value: &str) -> i64 {
    succeeded(store, vec![Write::put(key, value)]).await
}

pub async fn succeeded(store: &dyn Store, writes: Vec<Write>) -> i64 {
    match store.txn(Txn { writes, ..Txn::default() }).await.unwrap() {
        TxnOutcome::Succeeded { revision } => revision,
        refused => panic!("without a comparison: {refused:?}"),
    }
}

pub async fn refused(store: &dyn Store, writes: Vec<Write>) -> StoreError {
    store.txn(Txn { writes, ..Txn::default() }).await.unwrap_err()
}

pub async fn below(store: &dyn Store, prefix: &str) -> Reading {
    store.read(vec![Read::Prefix(prefix.to_owned())]).await.unwrap()
}

pub async fn pair(store: &dyn Store, key: &str) -> Option<KeyValue> {
    store.read(vec![Read::Key(key.to_owned())]).await.unwrap().pairs.pop()
}
