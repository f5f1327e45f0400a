//! The operator's certificate: who gives an order, until when, and the TLS configuration made of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::config::OperatorConfig;
use super::exit::Failure;

/// What the certificate says, and how to connect with it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The name in the certificate: `holdfast://operator/ann`; its common name if there is no such URI.
    pub name: String,
    /// When it ends, seconds since 1970.
    pub ends_unix_s: i64,
    /// TLS with this identity, for HTTP/2.
    pub tls: Arc<ClientConfig>,
}

impl Identity {
    /// Reads certificate, key and authority.
    pub fn load(config: &OperatorConfig) -> Result<Self, Failure> {
        let (cert, key, ca) = (&config.cert, &config.key, &config.ca);
        let chain = certificates(cert)?;
        let first = chain.first().ok_or_else(|| problem(cert, "holds no certificate"))?;
        let (name, ends_unix_s) = describe(cert, first)?;
        let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| problem(key, error))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca)? {
            roots.add(authority).map_err(|error| problem(ca, error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| problem(cert, error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private)
            .map_err(|error| problem(key, error))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { name, ends_unix_s, tls: Arc::new(tls) })
    }
}

fn problem(path: &Path, what: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("{}: {what}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| problem(path, error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = read(path)?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| problem(path, error))
}

fn describe(path: &Path, certificate: &CertificateDer<'_>) -> Result<(String, i64), Failure> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| problem(path, error))?;
    let names = parsed.subject_alternative_name().map_err(|error| problem(path, error))?;
    let uri = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("holdfast://") => Some((*uri).to_owned()),
            _ => None,
        })
    });
    let common = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let name = uri
        .or_else(|| common.map(str::to_owned))
        .ok_or_else(|| problem(path, "has neither a holdfast:// name nor a common name"))?;
    Ok((name, parsed.validity().not_after.timestamp()))
}
