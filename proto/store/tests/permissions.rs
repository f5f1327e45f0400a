//! etcd's own permissions, set up from the table of `holdfast-types` and asked for with certificates: who may write which
//! key, and whom etcd knows at all. A user of etcd is the common name of a certificate.
#![allow(clippy::unwrap_used)] // Helpers of tests are not seen as tests.

mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast_store::{EtcdOptions, EtcdStore, Read, Store, StoreError, TlsSource, Txn, TxnOutcome, Write};
use holdfast_types::keys::{self, ClusterKeys};
use holdfast_types::permissions::{Holder, Key, grants, may_write};
use holdfast_types::{ClusterId, HostName, MemberName, Namespace, RegionName, Scope, Term};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use server::{Etcd, Pem, until_it_answers};

struct Ground {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
        Self { authority, folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Certificate and key with this common name, in files `NAME.crt` and `NAME.key`.
    fn issue(&self, name: &str, common_name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let pem = (params.signed_by(&key, &self.authority).unwrap().pem(), key.serialize_pem());
        std::fs::write(self.at(&format!("{name}.crt")), &pem.0).unwrap();
        std::fs::write(self.at(&format!("{name}.key")), &pem.1).unwrap();
        pem
    }

    fn store(&self, etcd: &Etcd, common_name: &str) -> EtcdStore {
        let (cert, key) = self.issue("client", common_name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        let source: TlsSource = Arc::new(move || Arc::clone(&config));
        EtcdStore::new(EtcdOptions::new(etcd.endpoints(), Some(source)))
    }

    #[allow(clippy::disallowed_methods)] // A tool of the test.
    fn etcdctl(&self, etcd: &Etcd, words: &[&str]) {
        let file = |name: &str| self.at(name).display().to_string();
        let output = Command::new("/usr/bin/etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("https://{}", etcd.endpoints()[0])])
            .args(["--cacert", &file("ca.crt"), "--cert", &file("root.crt"), "--key", &file("root.key")])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
}

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn member(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

fn database(name: &str, peer: &str) -> Holder {
    Holder::Database { host: host(name), member: member(name), peers: vec![host(peer)] }
}

/// Everybody, by the common name that `holdfast pki` gives.
fn holders() -> Vec<(&'static str, Holder)> {
    vec![
        ("r1/host/db1", database("db1", "db2")),
        ("r1/host/db2", database("db2", "db1")),
        ("r1/patroni/service/main", Holder::Patroni),
        ("r1/host/pool1", Holder::Pooler { host: host("pool1"), pooler: "a".into() }),
        ("r1/host/backup1", Holder::Backup { host: host("backup1") }),
        ("r1/host/coordinator1", Holder::Coordinator),
        ("operator/ann", Holder::Operator { user: "operator/ann".into() }),
        ("viewer/wall", Holder::Viewer),
        // The same host name in another region, a host that nobody has put in, a PostgreSQL role.
        ("r2/host/db1", Holder::Stranger),
        ("r1/host/db9", Holder::Stranger),
        ("db1", Holder::Stranger),
    ]
}

fn set_up(ground: &Ground, etcd: &Etcd, region: &RegionName, keys: &ClusterKeys) {
    let run = |words: &[&str]| ground.etcdctl(etcd, words);
    run(&["user", "add", "root", "--no-password"]);
    run(&["role", "add", "root"]);
    run(&["user", "grant-role", "root", "root"]);
    for (name, holder) in holders() {
        let grants = grants(&holder, region, keys);
        if grants.is_empty() {
            continue;
        }
        run(&["user", "add", name, "--no-password"]);
        run(&["role", "add", name]);
        for grant in grants {
            let may = if grant.write { "readwrite" } else { "read" };
            let mut words = vec!["role", "grant-permission", name, may, &grant.key];
            if grant.prefix {
                words.push("--prefix=true");
            }
            run(&words);
        }
        run(&["user", "grant-role", name, name]);
    }
    run(&["auth", "enable"]);
}

async fn write(store: &EtcdStore, key: &str) -> Result<bool, StoreError> {
    let writes = vec![Write::put(key.to_owned(), "{}")];
    let outcome = store.txn(Txn { writes, ..Txn::default() }).await?;
    Ok(matches!(outcome, TxnOutcome::Succeeded { .. }))
}

/// Keys of ours, of each kind.
fn ours(keys: &ClusterKeys) -> Vec<String> {
    let (db1, db2) = (member("db1"), member("db2"));
    vec![
        keys.mode(),
        keys.term(),
        keys.floor(),
        keys.hold(),
        keys.held(),
        keys.overriding(),
        keys.format(),
        keys.outside(&member("db1")),
        keys.fenced(&member("db2"), 4),
        keys.restart(&member("db2"), 4),
        keys.maintenance(),
        keys.attest(Term(4)),
        keys.event(4),
        keys.audit(4),
        keys.promise(&db1, Term(4)),
        keys.promise(&db2, Term(4)),
        keys.facts(&db1),
        keys.would(&db2),
        keys.fence(&db1),
        keys.route(&host("pool1"), "a"),
        keys.route(&host("pool2"), "a"),
    ]
}

#[tokio::test]
async fn etcd_refuses_what_the_table_does_not_give() {
    let ground = Ground::new();
    ground.issue("server", "e1");
    ground.issue("root", "root");
    let at = |name: &str| ground.at(name);
    let (ca, cert, key) = (at("ca.crt"), at("server.crt"), at("server.key"));
    let etcd = Etcd::start(1, Some(Pem { ca: &ca as &Path, cert: &cert, key: &key }));
    until_it_answers(&ground.store(&etcd, "root")).await;
    let region = RegionName::new("r1").unwrap();
    let (namespace, scope) = (Namespace::new("service").unwrap(), Scope::new("main").unwrap());
    let keys = ClusterKeys::new(&ClusterId { region: region.clone(), namespace, scope });
    set_up(&ground, &etcd, &region, &keys);

    let ours = ours(&keys);
    let mut lines: Vec<(String, Key<'_>)> =
        ours.iter().map(|key| (key.clone(), Key::Ours(keys.parse(key).unwrap()))).collect();
    lines.extend(
        ["db1", "pool1", "backup1"].map(|name| (keys::session(&region, &host(name)), Key::Session(name))),
    );
    let of_patroni = [
        keys.patroni_leader(),
        keys.patroni_sync(),
        keys.patroni_failover(),
        keys.patroni_config(),
        keys.patroni_member(&member("db2")),
    ];
    lines.extend(of_patroni.iter().map(|key| (key.clone(), Key::Patroni(keys.parse_patroni(key).unwrap()))));

    for (name, holder) in holders() {
        let store = ground.store(&etcd, name);
        for (key, line) in &lines {
            let written = write(&store, key).await;
            let expected = may_write(&holder, *line);
            assert!(written.as_ref().is_ok_and(|done| *done) == expected, "{name} writes {key}: {written:?}");
            let read = store.read(vec![Read::Key(key.clone())]).await;
            // Patroni knows its own keys alone.
            let may_read = match holder {
                Holder::Stranger => false,
                Holder::Patroni => matches!(line, Key::Patroni(_)),
                _ => true,
            };
            assert_eq!(read.is_ok(), may_read, "{name} reads {key}: {read:?}");
        }
        if holder == Holder::Patroni {
            continue;
        }
        // What an agent and a view read at once, and the keys of others.
        let prefixes = [keys.prefix(), keys.patroni_prefix(), &keys::sessions(&region)]
            .map(|key| Read::Prefix(key.into()));
        assert_eq!(store.read(prefixes.to_vec()).await.is_ok(), holder != Holder::Stranger, "{name}");
        let other = write(&store, "/holdfast/v1/r2/service/main/mode").await;
        assert!(other.is_err(), "{name} writes another region's key: {other:?}");
    }
    leases(&ground, &etcd, &region, &keys).await;
}

/// A lease is ended by nobody who may not write all that hangs on it.
async fn leases(ground: &Ground, etcd: &Etcd, region: &RegionName, keys: &ClusterKeys) {
    let put = async |store: &EtcdStore, key: String, lease| {
        let writes = vec![Write::Put { key, value: b"{}".to_vec(), lease }];
        store.txn(Txn { writes, ..Txn::default() }).await
    };
    // One store at a time: each has its certificate in the same files.
    let patroni = ground.store(etcd, "r1/patroni/service/main");
    let lease = patroni.grant(60).await.unwrap();
    put(&patroni, keys.patroni_member(&member("db2")), lease).await.unwrap();
    put(&patroni, format!("{}failsafe", keys.patroni_prefix()), lease).await.unwrap();
    let db1 = ground.store(etcd, "r1/host/db1");
    let revoked = db1.revoke(lease).await;
    assert!(
        matches!(revoked, Err(StoreError::Refused { .. })),
        "a key of Patroni's own is on it: {revoked:?}"
    );
    let writes = vec![Write::Delete { key: format!("{}failsafe", keys.patroni_prefix()) }];
    patroni.txn(Txn { writes, ..Txn::default() }).await.unwrap();
    put(&db1, keys.patroni_leader(), lease).await.expect("CLOSE names a successor by its lease");
    for name in ["r1/host/pool1", "r1/host/backup1", "operator/ann", "viewer/wall"] {
        let revoked = ground.store(etcd, name).revoke(lease).await;
        assert!(
            matches!(revoked, Err(StoreError::Refused { .. })),
            "{name} ends Patroni's lease: {revoked:?}"
        );
    }
    db1.revoke(lease).await.expect("the old writer's Patroni loses its lease");
    for (name, may) in [("db2", true), ("pool1", false)] {
        let of_host = ground.store(etcd, &format!("r1/host/{name}"));
        let lease = of_host.grant(60).await.unwrap();
        put(&of_host, keys::session(region, &host(name)), lease).await.unwrap();
        assert_eq!(db1.revoke(lease).await.is_ok(), may, "db1 ends the session of {name}");
    }
}
