//! The ground of the command line's tests: certificates made by `holdfast pki`, a real etcd that wants them, planted
//! records, and the binary.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)] // Helpers of tests; each test uses a part.

#[path = "../../src/view/testing/built.rs"]
pub mod built;
#[path = "../../src/view/testing/built_host.rs"]
pub mod built_host;
#[path = "../../../proto/store/tests/server/mod.rs"]
pub mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use holdfast_proto::message::{
    GrantAnswer, GrantQuestion, HostReport, HostStatus, InstanceName, LifeAnswer, LifeQuestion, Refusal,
};
use holdfast_proto::server::{Asker, Host, serve};
use holdfast_proto::tls::{Identity, TlsPaths};
use holdfast_store::{EtcdOptions, EtcdStore, Read, Store, Txn, TxnOutcome, Write};
use holdfast_types::Profile;
use holdfast_types::preflight::Preflight;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use built::Built;
use server::{Etcd, Pem, until_it_answers};

/// An etcd, an operator, a configuration.
pub struct Ground {
    pub etcd: Etcd,
    pub store: EtcdStore,
    pub folder: TempDir,
}

/// What a run of the binary gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Ground {
    /// Starts etcd and makes the operator.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (pki, host, operator) =
            (folder.path().join("pki"), folder.path().join("host"), folder.path().join("operator"));
        let text = |path: &Path| path.display().to_string();
        must(&["pki", "init", "--dir", &text(&pki)]);
        let region = ["--region", "r1", "--host", "db3", "--address", "127.0.0.1"];
        must(&[&["pki", "host", "--dir", &text(&pki), "--out", &text(&host)][..], &region].concat());
        must(&["pki", "operator", "--dir", &text(&pki), "--name", "ann", "--out", &text(&operator)]);
        let pem = Pem { ca: &host.join("ca.crt"), cert: &host.join("host.crt"), key: &host.join("host.key") };
        let etcd = Etcd::start(1, Some(pem));
        let tls = client(&operator);
        let options = EtcdOptions::new(etcd.endpoints(), Some(Arc::new(move || Arc::clone(&tls))));
        let ground = Self { store: EtcdStore::new(options), etcd, folder };
        until_it_answers(&ground.store).await;
        ground.configure(&[("r1", &ground.etcd.endpoints())]);
        ground
    }

    /// Serves an agent that says this, with the certificate of a host. Returns its address.
    pub async fn serve_agent(&self, status: HostStatus) -> String {
        let report = built_host::host_report(status.host.as_str(), Profile::Fast, &[]);
        self.serve_agent_with(status, report).await
    }

    /// The same with what it has kept.
    pub async fn serve_agent_with(&self, status: HostStatus, report: HostReport) -> String {
        let host = self.folder.path().join("host");
        let paths = TlsPaths {
            ca: host.join("ca.crt"),
            cert: host.join("host.crt"),
            key: host.join("host.key"),
            crl: None,
        };
        let identity = Identity::load(paths).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let region = status.region.clone();
        let agent = Arc::new(Says(status, report));
        // Ends with the test's runtime.
        tokio::spawn(serve(listener, identity, region, agent, std::future::pending::<()>()));
        address
    }

    /// Adds agents to the last region of the configuration.
    pub fn configure_agents(&self, agents: &[String]) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        std::fs::write(self.config(), format!("{text}agents = {agents:?}\n")).unwrap();
    }

    /// Writes the operator's configuration.
    pub fn configure(&self, regions: &[(&str, &[String])]) {
        let operator = self.folder.path().join("operator");
        let path = |name: &str| operator.join(name).display().to_string();
        let mut text = format!("cert = {:?}\nkey = {:?}\n", path("operator.crt"), path("operator.key"));
        text += &format!("ca = {:?}\n", path("ca.crt"));
        for (name, etcd) in regions {
            text += &format!("[[region]]\nname = {name:?}\netcd = {etcd:?}\n");
        }
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("operator.toml")
    }

    /// From now on the commands come from somebody who may only look.
    pub fn become_viewer(&self) {
        let (pki, operator) = (self.folder.path().join("pki"), self.folder.path().join("operator"));
        let text = |path: &Path| path.display().to_string();
        let viewer = self.folder.path().join("viewer");
        must(&["pki", "viewer", "--dir", &text(&pki), "--name", "bob", "--out", &text(&viewer)]);
        for ending in ["crt", "key"] {
            std::fs::copy(
                viewer.join(format!("viewer.{ending}")),
                operator.join(format!("operator.{ending}")),
            )
            .unwrap();
        }
    }

    /// From now on the commands come from the holder of another certificate, made by these words of `pki`.
    pub fn become_holder(&self, words: &[&str]) {
        let (pki, out) = (self.folder.path().join("pki"), tempfile::tempdir_in(self.folder.path()).unwrap());
        let text = |path: &Path| path.display().to_string();
        must(&[&["pki"], words, &["--dir", &text(&pki), "--out", &text(out.path())]].concat());
        for ending in ["crt", "key"] {
            let made = out.path().join(format!("{}.{ending}", words[0]));
            std::fs::copy(made, self.folder.path().join(format!("operator/operator.{ending}"))).unwrap();
        }
    }

    /// The same with a certificate that ended a second ago, or with one of an authority that nobody here knows.
    pub fn become_outdated(&self, uri: &str, of_ours: bool) {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair, SanType};
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join("pki").join(name)).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = if of_ours {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 2);
            let ours = Issuer::from_ca_cert_pem(&read("ca.crt"), KeyPair::from_pem(&read("ca.key")).unwrap());
            params.signed_by(&key, &ours.unwrap()).unwrap()
        } else {
            let mut authority = CertificateParams::default();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let other = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
            params.signed_by(&key, &*other).unwrap()
        };
        let operator = self.folder.path().join("operator");
        std::fs::write(operator.join("operator.crt"), certificate.pem()).unwrap();
        std::fs::write(operator.join("operator.key"), key.serialize_pem()).unwrap();
    }

    /// The present operator's certificate has been taken back, and the configuration names the list.
    pub fn revoke_operator(&self) {
        use rcgen::{
            CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
        };
        use x509_parser::prelude::{FromDer as _, X509Certificate};
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        let der = CertificateDer::from_pem_slice(read("operator/operator.crt").as_bytes()).unwrap();
        let serial = X509Certificate::from_der(&der).unwrap().1.raw_serial().to_vec();
        let ours =
            Issuer::from_ca_cert_pem(&read("pki/ca.crt"), KeyPair::from_pem(&read("pki/ca.key")).unwrap());
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2020, 1, 2),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: rcgen::date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let file = self.folder.path().join("ca.crl");
        std::fs::write(&file, list.signed_by(&ours.unwrap()).unwrap().pem().unwrap()).unwrap();
        let text = std::fs::read_to_string(self.config()).unwrap();
        std::fs::write(self.config(), format!("crl = {:?}\n{text}", file.display().to_string())).unwrap();
    }

    /// The revision of the store: it grows with every write of anybody.
    pub async fn revision(&self) -> i64 {
        self.store.read(Vec::new()).await.unwrap().revision
    }

    /// Replaces everything in etcd by these keys.
    pub async fn plant(&self, built: &Built) {
        let prefixes =
            ["/holdfast/", "/service/"].map(|prefix| Write::DeletePrefix { prefix: prefix.into() });
        self.must_txn(prefixes.to_vec()).await;
        // A term counts only if it is younger than the mode.
        let old = |key: &String| built.stale.contains(key);
        let mode = |key: &String| *key == built.keys.mode();
        let put = |which: &dyn Fn(&String) -> bool| {
            let of = built.pairs.iter().filter(|(key, _)| which(key));
            of.map(|(key, value)| Write::put(key, value.clone())).collect::<Vec<_>>()
        };
        self.must_txn(put(&old)).await;
        self.must_txn(put(&mode)).await;
        self.must_txn(put(&|key| !old(key) && !mode(key))).await;
    }

    async fn must_txn(&self, writes: Vec<Write>) {
        let outcome = self.store.txn(Txn { writes, ..Txn::default() }).await.unwrap();
        assert!(matches!(outcome, TxnOutcome::Succeeded { .. }));
    }

    /// A key's value as JSON.
    pub async fn stored(&self, key: &str) -> Option<serde_json::Value> {
        let reading = self.store.read(vec![Read::Key(key.to_owned())]).await.unwrap();
        reading.get(key).map(|pair| serde_json::from_slice(&pair.value).unwrap())
    }

    /// Runs the binary with this configuration; nobody can be asked.
    pub async fn run(&self, arguments: &[&str]) -> Run {
        let mut command = binary();
        command.env("HOLDFAST_CONFIG", self.config()).args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        run_of(&output)
    }
}

/// An agent that only tells its status, and what it has kept.
struct Says(HostStatus, HostReport);

#[tonic::async_trait]
impl Host for Says {
    async fn status(&self) -> HostStatus {
        self.0.clone()
    }
    async fn report(&self, _: i64) -> HostReport {
        self.1.clone()
    }
    async fn life(&self, question: LifeQuestion, _: Asker) -> Result<LifeAnswer, Refusal> {
        Err(Refusal::NotHere(question.instance.member.to_string()))
    }
    async fn grant(&self, question: GrantQuestion, _: Asker) -> Result<GrantAnswer, Refusal> {
        Err(Refusal::NotHere(question.instance.member.to_string()))
    }
    async fn preflight(&self, instance: InstanceName) -> Result<Preflight, Refusal> {
        Err(Refusal::NotHere(instance.member.to_string()))
    }
}

/// Runs the binary without a ground.
pub fn run_alone(arguments: &[&str]) -> Run {
    run_of(&binary().args(arguments).output().unwrap())
}

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.stdin(Stdio::null()).env_remove("HOLDFAST_CONFIG").env_remove("RUST_BACKTRACE");
    command
}

fn run_of(output: &Output) -> Run {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Run { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn must(arguments: &[&str]) {
    let run = run_alone(arguments);
    assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
}

fn client(operator: &Path) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(operator.join("ca.crt")).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(operator.join("operator.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(operator.join("operator.key")).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
