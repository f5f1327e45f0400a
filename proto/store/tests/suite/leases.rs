//! Leases: how they live, how they end, and what a dead one does to a transaction.

use std::time::{Duration, Instant};

use holdfast_store::{Store, StoreError, Write};

use super::{PATIENCE, below, pair, refused, succeeded};

fn hung(key: &str, lease: i64) -> Write {
    Write::Put { key: key.to_owned(), value: Vec::new(), lease }
}

pub async fn life_and_end(store: &dyn Store) {
    let (lease, other) = (store.grant(60).await.unwrap(), store.grant(60).await.unwrap());
    assert_ne!(lease, other);
    succeeded(store, vec![hung("/life/a", lease), hung("/life/b", lease), hung("/life/c", other)]).await;
    assert_eq!(pair(store, "/life/a").await.unwrap().lease, lease);

    let before = Instant::now();
    let renewal = store.keep_alive(lease).await.unwrap();
    assert_eq!(renewal.ttl_ms, 60_000);
    assert!(renewal.sent >= before && renewal.sent <= Instant::now());
    let again = store.keep_alive(lease).await.unwrap();
    assert!(again.sent >= renewal.sent);
    store.keep_alive(other).await.unwrap();
    let left = store.remaining(lease).await.unwrap().unwrap();
    assert!((1_000..=60_000).contains(&left), "{left} ms");

    store.revoke(lease).await.unwrap();
    let left: Vec<String> = below(store, "/life/").await.pairs.into_iter().map(|pair| pair.key).collect();
    assert_eq!(left, ["/life/c"], "the other lease's key stays");
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseNotFound { call: "keep_alive" }));
    assert_eq!(store.revoke(lease).await, Err(StoreError::LeaseNotFound { call: "revoke" }));
    assert_eq!(store.remaining(lease).await, Ok(None));
    store.keep_alive(other).await.expect("a lost lease does not disturb another");
    store.revoke(other).await.unwrap();
}

pub async fn dead_lease_refuses_the_transaction(store: &dyn Store) {
    let lease = store.grant(60).await.unwrap();
    store.revoke(lease).await.unwrap();
    let error = refused(store, vec![Write::put("/dead/first", ""), hung("/dead/second", lease)]).await;
    assert_eq!(error, StoreError::LeaseNotFound { call: "txn" });
    assert!(below(store, "/dead/").await.pairs.is_empty(), "no part of it happened");
}

pub async fn expiry(store: &dyn Store) {
    let lease = store.grant(2).await.unwrap();
    succeeded(store, vec![hung("/expiry/a", lease)]).await;
    let deadline = Instant::now() + PATIENCE;
    while pair(store, "/expiry/a").await.is_some() {
        assert!(Instant::now() < deadline, "the lease never ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseNotFound { call: "keep_alive" }));
}
