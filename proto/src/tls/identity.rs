//! One identity for everything that a program says over TLS, taken anew from its files when they change.
//!
//! Whoever opens or accepts a connection asks for the configuration of that moment; open connections keep the one that
//! they began with. A look at the files happens on a thread of its own, so that a dead disk delays nobody: the connection
//! that finds the files changed still uses the old identity, those after it the new one. Files that are wrong change
//! nothing; the problem is logged once and kept for `problems`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use super::files::{self, Material, Stamp, TlsPaths};
use super::{Peer, TlsProblem};

/// How often the files are looked at, at most: replacing a certificate is not urgent, a look costs three system calls.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const HTTP2: &[u8] = b"h2";

/// What is spoken inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, also etcd's: ALPN `h2`.
    Http2,
    /// Patroni's REST API and PostgreSQL: no ALPN.
    Plain,
}

/// A host's or a person's identity. Clones are the same identity.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    paths: TlsPaths,
    state: Mutex<State>,
    /// Only one thread looks at a time; one that hangs on a dead disk is left behind, and no second follows it.
    looking: AtomicBool,
}

#[derive(Debug)]
struct State {
    made: Made,
    stamp: Stamp,
    looked: Instant,
    problems: Vec<String>,
}

/// The configurations of one reading of the files.
#[derive(Debug, Clone)]
struct Made {
    http2: Arc<ClientConfig>,
    plain: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    peer: Peer,
    ends_unix_s: i64,
}

impl Identity {
    /// Reads the files; all their problems come back together.
    pub fn load(paths: TlsPaths) -> Result<Self, Vec<TlsProblem>> {
        let stamp = files::stamp(&paths);
        let made = Made::of(files::read(&paths, UnixTime::now())?);
        let state = State { made, stamp, looked: Instant::now(), problems: Vec::new() };
        Ok(Self(Arc::new(Shared { paths, state: Mutex::new(state), looking: AtomicBool::new(false) })))
    }

    /// Who we are.
    pub fn peer(&self) -> Peer {
        self.0.lock().made.peer.clone()
    }

    /// When our certificate ends, seconds since 1970.
    pub fn ends_unix_s(&self) -> i64 {
        self.0.lock().made.ends_unix_s
    }

    /// What is wrong with files that have changed and were not taken; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        self.0.lock().problems.clone()
    }

    /// The configuration for a connection that is opened now.
    pub fn client(&self, protocol: Protocol) -> Arc<ClientConfig> {
        let made = self.now();
        match protocol {
            Protocol::Http2 => made.http2,
            Protocol::Plain => made.plain,
        }
    }

    /// The configuration for a connection that is accepted now: HTTP/2, and no client without a certificate.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.now().server
    }

    /// A source of client configurations, for code that knows no identity.
    pub fn source(&self, protocol: Protocol) -> Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync> {
        let identity = self.clone();
        Arc::new(move || identity.client(protocol))
    }

    fn now(&self) -> Made {
        let (made, is_due) = {
            let state = self.0.lock();
            (state.made.clone(), state.looked.elapsed() >= LOOK_INTERVAL)
        };
        if is_due && !self.0.looking.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("tls-files".into());
            if let Err(error) = thread.spawn(move || shared.look()) {
                self.0.looking.store(false, Ordering::Release);
                tracing::warn!(%error, "no thread to look at the certificate's files");
            }
        }
        made
    }
}

/// A configuration of ours for a server whose certificate comes from other authorities than our peers'.
pub fn trusting(config: &ClientConfig, verifier: Arc<WebPkiServerVerifier>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    // rustls calls every change of a verifier dangerous; this one verifies as the other does.
    config.dangerous().set_certificate_verifier(verifier);
    Arc::new(config)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes changed files if they are in order.
    fn look(&self) {
        let stamp = files::stamp(&self.paths);
        if stamp != self.lock().stamp {
            let read = files::read(&self.paths, UnixTime::now());
            let mut state = self.lock();
            match read {
                Ok(material) => {
                    state.made = Made::of(material);
                    state.problems.clear();
                    tracing::info!(peer = %state.made.peer, "new certificate taken");
                }
                Err(problems) => {
                    state.problems = problems.iter().map(ToString::to_string).collect();
                    let problems = state.problems.join("; ");
                    tracing::warn!(problems, "changed certificate files not taken, the old ones stay in use");
                }
            }
            state.stamp = stamp;
        }
        self.lock().looked = Instant::now();
        self.looking.store(false, Ordering::Release);
    }
}

impl Made {
    fn of(material: Material) -> Self {
        let Material { certified, verifier, server_verifier, peer, ends_unix_s } = material;
        let certified = Arc::new(certified);
        let client = |alpn: Vec<Vec<u8>>| {
            let mut config = ClientConfig::builder_with_provider(files::provider())
                .with_safe_default_protocol_versions()
                .expect("ring serves TLS 1.2 and 1.3")
                .with_webpki_verifier(Arc::clone(&server_verifier))
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&certified))));
            config.alpn_protocols = alpn;
            // A resumed session would carry the identity of the connection it began on past a change of the files.
            config.resumption = Resumption::disabled();
            Arc::new(config)
        };
        let (http2, plain) = (client(vec![HTTP2.to_vec()]), client(Vec::new()));
        Self { http2, plain, server: server(verifier, &certified), peer, ends_unix_s }
    }
}

fn server(
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    certified: &Arc<CertifiedKey>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(files::provider())
        .with_safe_default_protocol_versions()
        .expect("ring serves TLS 1.2 and 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}
