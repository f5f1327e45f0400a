//! What servers do to a client on a bad day: dead, hung, restarted, without quorum, strict about certificates.
#![allow(clippy::unwrap_used)] // Helpers of tests are not seen as tests.

mod server;

use std::time::{Duration, Instant};

use holdfast_store::{EtcdOptions, EtcdStore, Read, Store, StoreError, Txn, TxnOutcome, WatchEvent, Write};

use server::{Etcd, until_it_answers};

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn put(key: &str, value: &str) -> Txn {
    Txn { writes: vec![Write::put(key, value)], ..Txn::default() }
}

/// The next event that fits, whatever comes before.
async fn event(watch: &mut holdfast_store::Watch, fits: impl Fn(&WatchEvent) -> bool) -> WatchEvent {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let event = watch.next().await;
            if fits(&event) {
                return event;
            }
        }
    })
    .await
    .expect("the watch says it")
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_did_not_happen() {
    // Port 1 of loopback refuses; nothing listens there.
    let store = EtcdStore::new(EtcdOptions::new(vec!["127.0.0.1:1".into()], None));
    let error = store.txn(put("/a", "")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(!error.outcome_unknown() && error.to_string().contains("127.0.0.1:1"), "{error}");
    let health = store.health().await;
    assert_eq!((health.answering(), health.members, health.has_quorum()), (0, None, None));
}

#[tokio::test]
async fn dead_endpoints_are_skipped_within_one_call() {
    let (etcd, _) = Etcd::one().await;
    let endpoints = vec!["127.0.0.1:1".into(), "127.0.0.1:2".into(), etcd.endpoints().remove(0)];
    for _ in 0..6 {
        let store = EtcdStore::new(EtcdOptions::new(endpoints.clone(), None));
        store.read(vec![Read::Key("/a".into())]).await.expect("the third endpoint answers");
    }
    let store = EtcdStore::new(EtcdOptions::new(endpoints, None));
    let health = store.health().await;
    assert_eq!((health.answering(), health.members, health.has_quorum()), (1, Some(1), Some(true)));
    assert_eq!(health.alarms, Some(vec![]));
    assert!(health.endpoints[2].status.as_ref().unwrap().db_size_bytes > 0);
}

#[tokio::test]
async fn a_hung_server_is_left_and_the_watch_comes_along() {
    let etcd = Etcd::start(3, None);
    let all = EtcdStore::new(etcd.options());
    until_it_answers(&all).await;
    // First alone with a follower, so that it is known who hangs; then the others are there.
    let health = all.health().await;
    let leads = |n: usize| health.endpoints[n].status.as_ref().is_ok_and(|status| status.leads);
    let hung = (0..3).find(|n| !leads(*n)).unwrap();

    // Clients begin with a random endpoint: make them until one has begun with the server that will hang.
    let (store, mut watch, lease) = loop {
        let store = EtcdStore::new(etcd.options());
        let mut watch = store.watch(vec!["/hung/".into()]);
        event(&mut watch, |event| matches!(event, WatchEvent::Snapshot(_))).await;
        let lease = store.grant(60).await.unwrap();
        etcd.members[hung].stop();
        let answer = store.keep_alive(lease).await;
        if answer.is_err() {
            break (store, watch, lease);
        }
        etcd.members[hung].resume();
    };
    let sent = Instant::now();
    store.keep_alive(lease).await.expect("the next call goes to another server");
    assert!(sent.elapsed() < Duration::from_millis(1_000), "{:?}", sent.elapsed());
    event(&mut watch, |event| matches!(event, WatchEvent::Disconnected { .. })).await;
    event(&mut watch, |event| matches!(event, WatchEvent::Snapshot(_))).await;
    let TxnOutcome::Succeeded { revision } = store.txn(put("/hung/a", "1")).await.unwrap() else { panic!() };
    event(
        &mut watch,
        |event| matches!(event, WatchEvent::Changes { revision: seen, .. } if *seen == revision),
    )
    .await;
    etcd.members[hung].resume();
}

#[tokio::test]
async fn without_quorum_the_outcome_is_unknown() {
    let mut etcd = Etcd::start(3, None);
    let store = EtcdStore::new(etcd.options());
    until_it_answers(&store).await;
    for member in &mut etcd.members[..2] {
        member.kill();
    }
    let sent = Instant::now();
    let error = store.txn(put("/a", "")).await.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
    assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
    for n in 0..2 {
        etcd.restart(n);
    }
    until_it_answers(&store).await;
}

#[tokio::test]
async fn a_watch_and_a_lease_live_through_a_restart() {
    let (mut etcd, store) = Etcd::one().await;
    let lease = store.grant(60).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    store.txn(put("/restart/a", "1")).await.unwrap();
    let mut watch = store.watch(vec!["/restart/".into()]);
    event(&mut watch, |event| matches!(event, WatchEvent::Snapshot(_))).await;

    etcd.restart(0);
    until_it_answers(&store).await;
    store.txn(put("/restart/a", "2")).await.unwrap();
    let with_two = |event: &WatchEvent| match event {
        WatchEvent::Snapshot(reading) => reading.get("/restart/a").is_some_and(|pair| pair.value == b"2"),
        WatchEvent::Changes { puts, .. } => puts.iter().any(|pair| pair.value == b"2"),
        WatchEvent::Disconnected { .. } => false,
    };
    event(&mut watch, with_two).await;
    store.keep_alive(lease).await.unwrap();
}
