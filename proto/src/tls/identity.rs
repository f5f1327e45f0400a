//! One identity for everything that a program says over TLS, taken anew from its files when they change.
//!
//! Whoever opens or accepts a connection asks for the configuration of that moment; open connections keep the one that
//! they began with. The connection that finds the files changed still uses the old identity, those after it the new one.

use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::UnixTime;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig};

use super::files::{self, Material, TlsPaths};
use super::reread::Reread;
use super::{Peer, TlsProblem};

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
pub struct Identity(Reread<Made>);

/// The configurations of one reading of the files.
#[derive(Debug, Clone)]
struct Made {
    http2: Arc<ClientConfig>,
    plain: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    shown: Arc<ServerConfig>,
    peer: Peer,
    ends_unix_s: i64,
}

impl Identity {
    /// Reads the files; all their problems come back together.
    pub fn load(paths: TlsPaths) -> Result<Self, Vec<TlsProblem>> {
        let of = [Some(&paths.ca), Some(&paths.cert), Some(&paths.key), paths.crl.as_ref()];
        let files = of.into_iter().flatten().cloned().collect();
        let make = move || Ok(Made::of(files::read(&paths, UnixTime::now())?));
        Ok(Self(Reread::load(files, make)?))
    }

    /// Who we are.
    pub fn peer(&self) -> Peer {
        self.0.last().peer
    }

    /// When our certificate ends, seconds since 1970.
    pub fn ends_unix_s(&self) -> i64 {
        self.0.last().ends_unix_s
    }

    /// What is wrong with files that have changed and were not taken; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        self.0.problems()
    }

    /// The configuration for a connection that is opened now.
    pub fn client(&self, protocol: Protocol) -> Arc<ClientConfig> {
        let made = self.0.now();
        match protocol {
            Protocol::Http2 => made.http2,
            Protocol::Plain => made.plain,
        }
    }

    /// The configuration for a connection that is accepted now: HTTP/2, and no client without a certificate.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.0.now().server
    }

    /// The same for whoever connects, with or without a certificate, and no protocol agreed on: for `ShownCertificate`.
    pub(super) fn shown(&self) -> Arc<ServerConfig> {
        self.0.now().shown
    }

    /// A source of client configurations, for code that knows no identity.
    pub fn source(&self, protocol: Protocol) -> Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync> {
        let identity = self.clone();
        Arc::new(move || identity.client(protocol))
    }
}

/// A configuration of ours for a server whose certificate comes from other authorities than our peers'.
pub fn trusting(config: &ClientConfig, verifier: Arc<WebPkiServerVerifier>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    // rustls calls every change of a verifier dangerous; this one verifies as the other does.
    config.dangerous().set_certificate_verifier(verifier);
    Arc::new(config)
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
        let mut server = files::server(|config| config.with_client_cert_verifier(verifier), &certified);
        server.alpn_protocols = vec![HTTP2.to_vec()];
        let shown = files::shown(certified);
        Self { http2, plain, server: Arc::new(server), shown, peer, ends_unix_s }
    }
}
