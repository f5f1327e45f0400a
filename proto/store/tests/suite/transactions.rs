//! Reads, comparisons, writes, history.

use holdfast_store::{Compare, Read, Store, StoreError, Txn, TxnOutcome, Write};

use super::{Compaction, below, pair, put, refused, succeeded};

pub async fn reading(store: &dyn Store) {
    let first = put(store, "/read/a", "1").await;
    let second = put(store, "/read/a", "2").await;
    let other = put(store, "/read/b/c", "3").await;
    put(store, "/readers", "not below").await;
    assert_eq!((second, other), (first + 1, first + 2), "each change is one revision");

    let what =
        vec![Read::Key("/read/none".into()), Read::Prefix("/read/".into()), Read::Key("/read/b/c".into())];
    let reading = store.read(what).await.unwrap();
    let keys: Vec<&str> = reading.pairs.iter().map(|pair| pair.key.as_str()).collect();
    assert_eq!(keys, ["/read/a", "/read/b/c", "/read/b/c"]);
    assert!(reading.revision >= other && reading.cluster_id != 0);
    let a = reading.get("/read/a").unwrap();
    assert_eq!((a.value.as_slice(), a.create_revision, a.mod_revision), (&b"2"[..], first, second));
    assert_eq!((a.version, a.lease), (2, 0));
    assert_eq!(reading.mod_revision("/read/none"), 0);
}

pub async fn comparing(store: &dyn Store) {
    let revision = put(store, "/compare/a", "x").await;
    let (key, none) = (|| "/compare/a".to_owned(), || "/compare/none".to_owned());
    let hold = [
        Compare::ModRevision { key: key(), is: revision },
        Compare::ModRevision { key: none(), is: 0 },
        Compare::CreateRevision { key: key(), is: revision },
        Compare::CreateRevision { key: none(), is: 0 },
        Compare::Version { key: key(), is: 1 },
        Compare::Version { key: none(), is: 0 },
        Compare::Lease { key: key(), is: 0 },
        Compare::Lease { key: none(), is: 0 },
        Compare::Value { key: key(), is: b"x".to_vec() },
    ];
    let fail = [
        Compare::ModRevision { key: key(), is: revision - 1 },
        Compare::ModRevision { key: none(), is: 1 },
        Compare::Version { key: key(), is: 2 },
        Compare::Lease { key: key(), is: 7 },
        Compare::Value { key: key(), is: b"y".to_vec() },
        Compare::Value { key: none(), is: b"".to_vec() },
    ];
    let all = Txn { compares: hold.to_vec(), ..Txn::default() };
    assert!(matches!(store.txn(all).await.unwrap(), TxnOutcome::Succeeded { .. }));
    for compare in fail {
        let mut compares = hold.to_vec();
        compares.push(compare.clone());
        let otherwise_read = vec![key(), none()];
        let txn = Txn { compares, writes: vec![Write::put("/compare/never", "")], otherwise_read };
        let outcome = store.txn(txn).await.unwrap();
        let TxnOutcome::Refused { read, .. } = outcome else { panic!("{compare:?} held") };
        assert_eq!(read.len(), 1, "absent keys are absent");
        assert_eq!(read[0].value, b"x");
    }
    assert_eq!(pair(store, "/compare/never").await, None);
}

pub async fn refused_as_a_whole(store: &dyn Store) {
    let first = || Write::put("/whole/first", "1");
    let twice = refused(store, vec![first(), first()]).await;
    assert!(matches!(twice, StoreError::Refused { .. }), "{twice}");
    assert!(!twice.outcome_unknown());
    let inside = refused(store, vec![first(), Write::DeletePrefix { prefix: "/whole/".into() }]).await;
    assert!(matches!(inside, StoreError::Refused { .. }), "{inside}");
    let deleted = refused(store, vec![first(), Write::Delete { key: "/whole/first".into() }]).await;
    assert!(matches!(deleted, StoreError::Refused { .. }), "{deleted}");
    let many = (0..129).map(|n| Write::put(format!("/whole/{n}"), "")).collect();
    assert!(matches!(refused(store, many).await, StoreError::Refused { .. }));
    let nothing = refused(store, vec![first(), Write::PutSameValue { key: "/whole/none".into() }]).await;
    assert!(matches!(nothing, StoreError::Refused { .. }), "{nothing}");
    assert!(below(store, "/whole/").await.pairs.is_empty());
}

pub async fn same_value(store: &dyn Store) {
    let lease = store.grant(60).await.unwrap();
    let hung = Write::Put { key: "/same/hung".into(), value: b"v".to_vec(), lease };
    let made = succeeded(store, vec![Write::put("/same/plain", "w"), hung]).await;
    let keys = ["/same/plain", "/same/hung"];
    let again = keys.map(|key| Write::PutSameValue { key: key.into() }).to_vec();
    let revision = succeeded(store, again).await;
    assert_eq!(revision, made + 1, "one transaction is one revision");
    for (key, value, lease) in [(keys[0], "w", 0), (keys[1], "v", lease)] {
        let now = pair(store, key).await.unwrap();
        assert_eq!((now.value.as_slice(), now.lease), (value.as_bytes(), lease));
        assert_eq!((now.version, now.create_revision, now.mod_revision), (2, made, revision));
    }
    store.revoke(lease).await.unwrap();
}

pub async fn deleting(store: &dyn Store) {
    let made = put(store, "/delete/a", "1").await;
    for key in ["/delete/b/1", "/delete/b/2"] {
        put(store, key, "").await;
    }
    let none = succeeded(store, vec![Write::Delete { key: "/delete/none".into() }]).await;
    assert_eq!(none, made + 2, "nothing changed, so no new revision");
    let both = vec![
        Write::Delete { key: "/delete/a".into() },
        Write::DeletePrefix { prefix: "/delete/b/".into() },
        Write::put("/delete/c", ""),
    ];
    assert_eq!(succeeded(store, both).await, made + 3);
    assert_eq!(below(store, "/delete/").await.pairs.len(), 1);
    let again = put(store, "/delete/a", "2").await;
    let a = pair(store, "/delete/a").await.unwrap();
    assert_eq!((a.create_revision, a.version), (again, 1), "a key that comes back is a new one");
}

pub async fn history(store: &dyn Store, compact: impl Fn(i64) -> Compaction) {
    let key = || "/history/a".to_owned();
    let first = put(store, &key(), "1").await;
    let second = put(store, &key(), "2").await;
    let gone = succeeded(store, vec![Write::Delete { key: key() }]).await;
    let value = async |revision| store.read_at(key(), revision).await.unwrap().map(|pair| pair.value);
    assert_eq!(value(first - 1).await, None);
    assert_eq!(value(first).await, Some(b"1".to_vec()));
    assert_eq!(value(second).await, Some(b"2".to_vec()));
    assert_eq!(value(gone).await, None);
    let future = store.read_at(key(), gone + 100).await.unwrap_err();
    assert!(matches!(future, StoreError::Refused { .. }), "{future}");

    compact(second).await;
    assert_eq!(store.read_at(key(), second).await.unwrap().unwrap().value, b"2");
    let old = store.read_at(key(), first).await.unwrap_err();
    assert_eq!(old, StoreError::Compacted { call: "read_at", revision: first });
}
