//! Watches: a snapshot, then every change once, in order.

use holdfast_store::{Store, Watch, WatchEvent, Write};

use super::{PATIENCE, put, succeeded};

pub async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch says something")
}

async fn changes(watch: &mut Watch) -> (i64, Vec<String>, Vec<String>) {
    match next(watch).await {
        WatchEvent::Changes { revision, puts, deletes } => {
            (revision, puts.into_iter().map(|pair| pair.key).collect(), deletes)
        }
        other => panic!("expected changes: {other:?}"),
    }
}

pub async fn snapshot_then_changes(store: &dyn Store) {
    let before = put(store, "/watch/a/1", "old").await;
    let mut watch = store.watch(vec!["/watch/a/".into(), "/watch/b/".into()]);
    let WatchEvent::Snapshot(snapshot) = next(&mut watch).await else {
        panic!("a watch begins with a snapshot")
    };
    assert_eq!(snapshot.pairs.len(), 1);
    assert!(snapshot.revision >= before);

    put(store, "/watch/c/1", "not watched").await;
    let first = put(store, "/watch/a/1", "new").await;
    assert_eq!(changes(&mut watch).await, (first, vec!["/watch/a/1".into()], vec![]));
    let second = put(store, "/watch/b/1", "").await;
    assert_eq!(changes(&mut watch).await, (second, vec!["/watch/b/1".into()], vec![]));
    let writes = vec![Write::put("/watch/a/2", ""), Write::Delete { key: "/watch/a/1".into() }];
    let third = succeeded(store, writes).await;
    assert_eq!(changes(&mut watch).await, (third, vec!["/watch/a/2".into()], vec!["/watch/a/1".into()]));

    // More than the buffer holds, then read: nothing may be lost, doubled or out of order.
    let mut written = Vec::new();
    for number in 0..100 {
        written.push(put(store, "/watch/a/2", &number.to_string()).await);
    }
    for revision in written {
        assert_eq!(changes(&mut watch).await.0, revision);
    }
}

pub async fn a_lease_that_ends(store: &dyn Store) {
    let lease = store.grant(2).await.unwrap();
    let hung = |key: &str| Write::Put { key: key.to_owned(), value: Vec::new(), lease };
    succeeded(store, vec![hung("/watch-lease/a"), hung("/watch-lease/b")]).await;
    let mut watch = store.watch(vec!["/watch-lease/".into()]);
    assert!(matches!(next(&mut watch).await, WatchEvent::Snapshot(snapshot) if snapshot.pairs.len() == 2));
    let (_, puts, mut deletes) = changes(&mut watch).await;
    deletes.sort();
    assert_eq!((puts, deletes), (vec![], vec!["/watch-lease/a".into(), "/watch-lease/b".into()]));
}
