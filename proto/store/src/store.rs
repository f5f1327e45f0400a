//! The trait. Object safe: the agent holds one `Arc<dyn Store>`.

use std::pin::Pin;

use crate::{KeyValue, Read, Reading, Renewal, StoreError, Txn, TxnOutcome, Watch};

/// A future that owns all it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A linearizable key-value store with leases: etcd, or something that behaves like it.
///
/// Every call ends within the store's own deadline. A write is sent at most once.
pub trait Store: Send + Sync + 'static {
    /// Reads several keys and prefixes at one revision (one read-only transaction: no write to the raft log).
    fn read(&self, what: Vec<Read>) -> BoxFuture<Result<Reading, StoreError>>;

    /// Reads what `key` was at `revision`; `None` if it was absent then. [`StoreError::Compacted`] if that is no longer
    /// known.
    fn read_at(&self, key: String, revision: i64) -> BoxFuture<Result<Option<KeyValue>, StoreError>>;

    /// Runs a transaction.
    fn txn(&self, txn: Txn) -> BoxFuture<Result<TxnOutcome, StoreError>>;

    /// Grants a lease of `ttl_s` seconds and returns its id. etcd raises a `ttl_s` that is shorter than one and a half
    /// election timeouts (2 s by default).
    fn grant(&self, ttl_s: i64) -> BoxFuture<Result<i64, StoreError>>;

    /// Renews a lease once. [`StoreError::LeaseNotFound`] if it is gone.
    fn keep_alive(&self, lease: i64) -> BoxFuture<Result<Renewal, StoreError>>;

    /// Ends a lease and deletes its keys. [`StoreError::LeaseNotFound`] if it was gone already.
    fn revoke(&self, lease: i64) -> BoxFuture<Result<(), StoreError>>;

    /// How long a lease still has in milliseconds (etcd counts whole seconds, rounded down); `None` if it is gone.
    fn remaining(&self, lease: i64) -> BoxFuture<Result<Option<u64>, StoreError>>;

    /// Watches all keys below the given prefixes. Must be called inside a tokio runtime.
    fn watch(&self, prefixes: Vec<String>) -> Watch;
}
