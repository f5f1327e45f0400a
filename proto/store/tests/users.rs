//! An etcd that knows its users by a password: tokens that are over, roles that change, passwords that change, and an
//! authentication that is turned on under a client at work.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Helpers of tests are not seen as tests.

mod server;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_store::{
    EtcdOptions, EtcdStore, EtcdUser, Read, Store, StoreError, Txn, TxnOutcome, WatchEvent, Write,
};
use server::{Etcd, until_it_answers};

/// A token that nobody uses ends after this, and etcd looks once a second.
const TOKEN_TTL_S: u64 = 2;
const OVER: Duration = Duration::from_millis(TOKEN_TTL_S * 1_000 + 1_500);

struct Ground {
    etcd: Etcd,
    folder: tempfile::TempDir,
    has_root: bool,
}

impl Ground {
    fn new(token: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("jwt"), "some bytes that sign").unwrap();
        let token = token.replace("FOLDER", &folder.path().display().to_string());
        // bcrypt's cheapest: what it costs is not what is tested.
        let arguments = [&[token.as_str(), "--bcrypt-cost=4"], more].concat();
        Self { etcd: Etcd::start_with(1, None, &arguments), folder, has_root: false }
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    fn store(&self) -> EtcdStore {
        let user = EtcdUser { name: "db1".into(), password_file: self.password_file() };
        EtcdStore::new(EtcdOptions { user: Some(user), ..self.etcd.options() })
    }

    fn etcdctl(&self, words: &[&str]) {
        let mut command = Command::new("/usr/bin/etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.etcd.endpoints()[0]]);
        if self.has_root {
            command.args(["--user", "root:r"]);
        }
        let output = command.args(words).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    fn passwd(&self, password: &str) {
        let mut command = Command::new("/usr/bin/etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.etcd.endpoints()[0], "--user", "root:r"]);
        let mut child = command
            .args(["user", "passwd", "db1", "--interactive=false"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn turn_on(&mut self) {
        for words in [
            &["user", "add", "root:r"][..],
            &["role", "add", "root"],
            &["user", "grant-role", "root", "root"],
            &["user", "add", "db1:one"],
            &["role", "add", "db1"],
            &["role", "grant-permission", "db1", "readwrite", "/mine/", "--prefix=true"],
            &["user", "grant-role", "db1", "db1"],
            &["auth", "enable"],
        ] {
            self.etcdctl(words);
        }
        self.has_root = true;
    }
}

async fn put(store: &EtcdStore, key: &str, lease: i64) -> Result<(), StoreError> {
    let writes = vec![Write::Put { key: key.to_owned(), value: b"x".to_vec(), lease }];
    match store.txn(Txn { writes, ..Txn::default() }).await? {
        TxnOutcome::Succeeded { .. } => Ok(()),
        refused => panic!("nothing was compared: {refused:?}"),
    }
}

async fn is_there(store: &EtcdStore, key: &str) -> Result<bool, StoreError> {
    Ok(store.read(vec![Read::Key(key.to_owned())]).await?.get(key).is_some())
}

#[tokio::test]
async fn a_session_outlives_tokens_and_passwords() {
    let mut ground = Ground::new(&format!("--auth-token-ttl={TOKEN_TTL_S}"), &[]);
    std::fs::write(ground.password_file(), "one\n").unwrap();
    let store = ground.store();
    until_it_answers(&store).await;
    // Before etcd has users the password is of no use, and does no harm.
    let lease = store.grant(30).await.unwrap();
    put(&store, "/mine/session", lease).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    let mut watch = store.watch(vec!["/mine/".into()]);
    assert!(matches!(watch.next().await, WatchEvent::Snapshot(_)));

    ground.turn_on();
    put(&store, "/mine/a", 0).await.expect("authentication was turned on under us");
    store.keep_alive(lease).await.unwrap();
    let denied = put(&store, "/other", 0).await.unwrap_err();
    assert!(
        matches!(&denied, StoreError::Refused { why, .. } if why.contains("holdfast permissions etcd")),
        "{denied}"
    );

    for _ in 0..2 {
        tokio::time::sleep(OVER).await;
        store.keep_alive(lease).await.unwrap();
        assert!(is_there(&store, "/mine/session").await.expect("the token is over"));
    }
    tokio::time::sleep(OVER).await;
    put(&store, "/mine/b", 0).await.expect("an order meets a token that is over");
    // The watch has lived through all of it, or has begun again: it knows of the last order in either case.
    loop {
        match tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("the watch is alive") {
            WatchEvent::Changes { puts, .. } if puts.iter().any(|pair| pair.key == "/mine/b") => break,
            WatchEvent::Snapshot(reading) if reading.get("/mine/b").is_some() => break,
            _ => {}
        }
    }

    ground.passwd("two");
    let error = is_there(&store, "/mine/a").await.unwrap_err();
    let StoreError::Unauthenticated { why, .. } = &error else { panic!("{error:?}") };
    for part in ["user db1", &ground.password_file().display().to_string(), "etcdctl user passwd db1"] {
        assert!(why.contains(part), "{part} is not in {why}");
    }
    assert!(!why.contains("one"), "a password in an error: {why}");
    std::fs::write(ground.password_file(), "two\n").unwrap();
    assert!(is_there(&store, "/mine/session").await.expect("the file was read again"));
    store.keep_alive(lease).await.expect("the same lease");

    std::fs::remove_file(ground.password_file()).unwrap();
    let without = ground.store().read(vec![]).await.unwrap_err();
    assert!(without.to_string().contains("password of user db1 cannot be had"), "{without}");
    let health = store.health().await;
    assert_eq!(health.answering(), 0, "each server is asked on a connection of its own: {health:?}");
    std::fs::write(ground.password_file(), "two\n").unwrap();
    let health = store.health().await;
    assert!(health.answering() == 1 && health.read_us().is_some(), "{health:?}");
}

#[tokio::test]
async fn a_signed_token_that_is_over_or_of_an_older_role_is_asked_for_again() {
    let token = format!("--auth-token=jwt,sign-method=HS256,priv-key=FOLDER/jwt,ttl={TOKEN_TTL_S}s");
    let mut ground = Ground::new(&token, &[]);
    std::fs::write(ground.password_file(), "one").unwrap();
    let store = ground.store();
    until_it_answers(&store).await;
    ground.turn_on();
    let lease = store.grant(30).await.unwrap();
    put(&store, "/mine/session", lease).await.unwrap();
    tokio::time::sleep(OVER).await;
    assert!(is_there(&store, "/mine/session").await.expect("the token is over"));
    for write in [false, true] {
        // Every change of a user or a role makes all signed tokens worthless.
        ground.etcdctl(&["role", "grant-permission", "db1", "read", &format!("/more/{write}")]);
        if write {
            put(&store, "/mine/a", 0).await.expect("an order under an older token");
        } else {
            assert!(is_there(&store, "/mine/session").await.expect("a read under an older token"));
        }
    }
    store.keep_alive(lease).await.unwrap();
}
