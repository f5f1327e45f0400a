//! Reads an identity from its three files and finds everything that is wrong with them. No state.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WantsServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ConfigBuilder, InconsistentKeys, RootCertStore, ServerConfig, WantsVerifier};
use x509_parser::prelude::{FromDer as _, Validity, X509Certificate};

use super::{Peer, TlsProblem};
use crate::file::read_bounded;

/// Where an identity is kept, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The authorities that a peer's certificate must come from.
    pub ca: PathBuf,
    /// Our certificate, with intermediate ones after it if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates that an authority has taken back before their end, if it keeps such a list.
    pub crl: Option<PathBuf>,
}

/// What stands in the files.
#[derive(Debug)]
pub(crate) struct Content {
    pub ca: Vec<u8>,
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
    pub crl: Option<Vec<u8>>,
}

/// The largest file that is read: a certificate has one or two kilobytes, a list of revoked ones 40 bytes for each.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// An identity whose files are in order.
#[derive(Debug)]
pub(crate) struct Material {
    pub certified: CertifiedKey,
    /// Of those who connect to us.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// Of those whom we connect to.
    pub server_verifier: Arc<WebPkiServerVerifier>,
    pub peer: Peer,
    /// Seconds since 1970.
    pub ends_unix_s: i64,
}

/// The one source of cryptography in all programs.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads and checks everything; `now` is the wall clock.
pub(super) fn read(paths: &TlsPaths, now: UnixTime) -> Result<Material, Vec<TlsProblem>> {
    let mut unreadable_all = Vec::new();
    let mut bytes = |path: &PathBuf| {
        let found = read_bounded(path, FILE_BYTES_MAX);
        let unreadable = |error| TlsProblem::Unreadable { path: path.clone(), error };
        found.map_err(unreadable).map_err(|problem| unreadable_all.push(problem)).ok()
    };
    let (ca, cert, key) = (bytes(&paths.ca), bytes(&paths.cert), bytes(&paths.key));
    let crl = paths.crl.as_ref().map(bytes);
    match (ca, cert, key, crl) {
        (Some(ca), Some(cert), Some(key), None) => check(paths, &Content { ca, cert, key, crl: None }, now),
        (Some(ca), Some(cert), Some(key), Some(Some(crl))) => {
            check(paths, &Content { ca, cert, key, crl: Some(crl) }, now)
        }
        (ca, cert, key, crl) => {
            // What can be read is looked at all the same, so that all problems come together.
            let mut problems = Vec::new();
            problems.extend(ca.and_then(|ca| roots(&paths.ca, &ca, now).err()));
            problems.extend(cert.and_then(|cert| certificates(&paths.cert, &cert).err()));
            problems.extend(key.and_then(|found| private_key(&paths.key, &found).err()));
            if let (Some(path), Some(Some(crl))) = (&paths.crl, crl) {
                problems.extend(revoked(path, &crl).err());
            }
            problems.extend(unreadable_all);
            Err(problems)
        }
    }
}

/// Checks what was read; the paths are for the messages.
pub(crate) fn check(paths: &TlsPaths, content: &Content, now: UnixTime) -> Result<Material, Vec<TlsProblem>> {
    let mut problems = Vec::new();
    let mut note = |problem: TlsProblem| problems.push(problem);
    let roots = roots(&paths.ca, &content.ca, now).map_err(&mut note).ok();
    let chain = certificates(&paths.cert, &content.cert).map_err(&mut note).ok();
    let key = private_key(&paths.key, &content.key).map_err(&mut note).ok();
    let crls = match (&paths.crl, &content.crl) {
        (Some(path), Some(crl)) => revoked(path, crl).map_err(&mut note).ok(),
        _ => Some(Vec::new()),
    };
    let described =
        chain.as_ref().and_then(|chain| describe(&paths.cert, &chain[0], now).map_err(&mut note).ok());
    let certified = match (chain.clone(), key) {
        (Some(chain), Some(key)) => pair((&paths.cert, &paths.key), chain, key).map_err(&mut note).ok(),
        _ => None,
    };
    let verifiers =
        roots.zip(crls).and_then(|(roots, crls)| verifiers(&paths.ca, &roots, &crls).map_err(&mut note).ok());
    if let (Some(chain), Some((verifier, _)), Some(_)) = (&chain, &verifiers, &described)
        && let Err(error) = verifier.verify_client_cert(&chain[0], &chain[1..], now)
    {
        let why = error.to_string();
        note(TlsProblem::Distrusted { cert: paths.cert.clone(), ca: paths.ca.clone(), why });
    }
    match (certified, verifiers, described) {
        (Some(certified), Some((verifier, server_verifier)), Some((peer, ends_unix_s)))
            if problems.is_empty() =>
        {
            Ok(Material { certified, verifier, server_verifier, peer, ends_unix_s })
        }
        _ => Err(problems),
    }
}

/// A certificate and its key that are no identity of ours.
#[derive(Debug)]
pub(super) struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// Reads and checks both.
    pub(super) fn read(&self, now: UnixTime) -> Result<CertifiedKey, Vec<TlsProblem>> {
        let bytes = |path: &PathBuf| {
            let unreadable = |error| TlsProblem::Unreadable { path: path.clone(), error };
            read_bounded(path, FILE_BYTES_MAX).map_err(unreadable)
        };
        let chain = bytes(&self.cert).and_then(|found| certificates(&self.cert, &found));
        let chain = chain.and_then(|chain| {
            in_force(&self.cert, parsed(&self.cert, &chain[0])?.validity(), now)?;
            Ok(chain)
        });
        let key = bytes(&self.key).and_then(|found| private_key(&self.key, &found));
        match (chain, key) {
            (Ok(chain), Ok(key)) => pair((&self.cert, &self.key), chain, key).map_err(|one| vec![one]),
            (chain, key) => Err(chain.err().into_iter().chain(key.err()).collect()),
        }
    }
}

/// A server that shows this certificate. `clients` says whose certificates it asks for.
pub(super) fn server(
    clients: impl FnOnce(
        ConfigBuilder<ServerConfig, WantsVerifier>,
    ) -> ConfigBuilder<ServerConfig, WantsServerCert>,
    certified: &Arc<CertifiedKey>,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring serves TLS 1.2 and 1.3");
    let mut config =
        clients(builder).with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    // A resumed session would carry the identity of the connection it began on past a change of the files.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// One that asks nobody for a certificate.
pub(super) fn shown(certified: Arc<CertifiedKey>) -> Arc<ServerConfig> {
    Arc::new(server(|config| config.with_no_client_auth(), &certified))
}

/// What judges a server by the authorities in a file.
pub fn server_verifier(ca: &Path) -> Result<Arc<WebPkiServerVerifier>, TlsProblem> {
    let unreadable = |error| TlsProblem::Unreadable { path: ca.to_owned(), error };
    let bytes = read_bounded(ca, FILE_BYTES_MAX).map_err(unreadable)?;
    let roots = roots(ca, &bytes, UnixTime::now())?;
    Ok(verifiers(ca, &roots, &[])?.1)
}

fn unusable(path: &Path, why: impl ToString) -> TlsProblem {
    TlsProblem::Unusable { path: path.to_owned(), why: why.to_string() }
}

/// At least one.
fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| unusable(path, error))?;
    if found.is_empty() {
        return Err(TlsProblem::NotPem { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(found)
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        Error::NoItemsFound => TlsProblem::NotPem { path: path.to_owned(), wanted: "private key" },
        other => unusable(path, other),
    })
}

/// Lists of revoked certificates; an empty file is none.
fn revoked(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsProblem> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| unusable(path, error))?;
    if found.is_empty() && !bytes.trim_ascii().is_empty() {
        return Err(TlsProblem::NotPem { path: path.to_owned(), wanted: "list of revoked certificates" });
    }
    Ok(found)
}

/// The authorities. A file may keep an ended one beside its successor; one of them must be in force.
fn roots(path: &Path, bytes: &[u8], now: UnixTime) -> Result<Arc<RootCertStore>, TlsProblem> {
    let mut roots = RootCertStore::empty();
    let mut in_force_any = false;
    let mut problem = None;
    for authority in certificates(path, bytes)? {
        match in_force(path, parsed(path, &authority)?.validity(), now) {
            Ok(()) => in_force_any = true,
            Err(error) => problem = Some(error),
        }
        roots.add(authority).map_err(|error| unusable(path, error))?;
    }
    match problem {
        Some(problem) if !in_force_any => Err(problem),
        _ => Ok(Arc::new(roots)),
    }
}

fn parsed<'c>(path: &Path, der: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, TlsProblem> {
    X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|error| unusable(path, error))
}

fn in_force(path: &Path, validity: &Validity, now: UnixTime) -> Result<(), TlsProblem> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now > validity.not_after.timestamp() {
        return Err(TlsProblem::Expired { path: path.to_owned(), ended: validity.not_after.to_string() });
    }
    if now < validity.not_before.timestamp() {
        return Err(TlsProblem::NotYetValid {
            path: path.to_owned(),
            begins: validity.not_before.to_string(),
        });
    }
    Ok(())
}

/// Whom a certificate names, and when it ends.
fn describe(path: &Path, der: &CertificateDer<'_>, now: UnixTime) -> Result<(Peer, i64), TlsProblem> {
    let certificate = parsed(path, der)?;
    in_force(path, certificate.validity(), now)?;
    let peer =
        Peer::of_certificate(der).map_err(|error| TlsProblem::NoPeer { path: path.to_owned(), error })?;
    Ok((peer, certificate.validity().not_after.timestamp()))
}

fn pair(
    (cert, key_path): (&Path, &Path),
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsProblem> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsProblem::KeyMismatch { key: key_path.to_owned(), cert: cert.to_owned() }
        }
        other => unusable(key_path, other),
    })
}

/// Who may connect, and whom we connect to. A list of revoked certificates that is late, or that one of several
/// authorities does not keep, keeps nobody out: all hosts would lose each other at once by one forgotten file.
#[allow(clippy::type_complexity)] // Two verifiers, made from the same three things.
fn verifiers(
    ca: &Path,
    roots: &Arc<RootCertStore>,
    crls: &[CertificateRevocationListDer<'static>],
) -> Result<(Arc<dyn ClientCertVerifier>, Arc<WebPkiServerVerifier>), TlsProblem> {
    let of_clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
        .with_crls(crls.iter().cloned())
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| unusable(ca, error))?;
    let of_servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider())
        .with_crls(crls.iter().cloned())
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| unusable(ca, error))?;
    Ok((of_clients, of_servers))
}
