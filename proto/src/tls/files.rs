//! Reads an identity from its three files and finds everything that is wrong with them. No state.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::prelude::{FromDer as _, Validity, X509Certificate};

use super::{Peer, TlsProblem};

/// Where an identity is kept, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The authorities that a peer's certificate must come from.
    pub ca: PathBuf,
    /// Our certificate, with intermediate ones after it if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// An identity whose files are in order.
#[derive(Debug)]
pub(super) struct Material {
    pub roots: Arc<RootCertStore>,
    pub certified: CertifiedKey,
    pub verifier: Arc<dyn ClientCertVerifier>,
    pub peer: Peer,
    /// Seconds since 1970.
    pub ends_unix_s: i64,
}

/// What tells that a file has been replaced or rewritten; `None` for one that cannot be looked at.
pub(super) type Stamp = [Option<(u64, u64, i64, i64)>; 3];

/// Looks at the files without reading them.
pub(super) fn stamp(paths: &TlsPaths) -> Stamp {
    [&paths.ca, &paths.cert, &paths.key].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    })
}

/// The one source of cryptography in all programs.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads and checks everything; `now` is the wall clock.
pub(super) fn read(paths: &TlsPaths, now: UnixTime) -> Result<Material, Vec<TlsProblem>> {
    let mut problems = Vec::new();
    let mut note = |problem: TlsProblem| problems.push(problem);
    let roots = roots(&paths.ca, now).map_err(&mut note).ok();
    let chain = certificates(&paths.cert).map_err(&mut note).ok();
    let key = key(&paths.key).map_err(&mut note).ok();
    let described =
        chain.as_ref().and_then(|chain| describe(&paths.cert, &chain[0], now).map_err(&mut note).ok());
    let certified = match (chain.clone(), key) {
        (Some(chain), Some(key)) => pair(paths, chain, key).map_err(&mut note).ok(),
        _ => None,
    };
    let verifier = roots.as_ref().and_then(|roots| verifier(&paths.ca, roots).map_err(&mut note).ok());
    if let (Some(chain), Some(verifier), Some(_)) = (&chain, &verifier, &described)
        && let Err(error) = verifier.verify_client_cert(&chain[0], &chain[1..], now)
    {
        let why = error.to_string();
        note(TlsProblem::Distrusted { cert: paths.cert.clone(), ca: paths.ca.clone(), why });
    }
    match (roots, certified, verifier, described) {
        (Some(roots), Some(certified), Some(verifier), Some((peer, ends_unix_s))) if problems.is_empty() => {
            Ok(Material { roots, certified, verifier, peer, ends_unix_s })
        }
        _ => Err(problems),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsProblem> {
    fs::read(path).map_err(|error| TlsProblem::Unreadable { path: path.to_owned(), error })
}

fn unusable(path: &Path, why: impl ToString) -> TlsProblem {
    TlsProblem::Unusable { path: path.to_owned(), why: why.to_string() }
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
    let found = found.map_err(|error| unusable(path, error))?;
    if found.is_empty() {
        return Err(TlsProblem::NotPem { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(&bytes(path)?).map_err(|error| match error {
        Error::NoItemsFound => TlsProblem::NotPem { path: path.to_owned(), wanted: "private key" },
        other => unusable(path, other),
    })
}

/// The authorities. A file may keep an ended one beside its successor; one of them must be in force.
fn roots(path: &Path, now: UnixTime) -> Result<Arc<RootCertStore>, TlsProblem> {
    let mut roots = RootCertStore::empty();
    let mut in_force_any = false;
    let mut problem = None;
    for authority in certificates(path)? {
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
    paths: &TlsPaths,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsProblem> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsProblem::KeyMismatch { key: paths.key.clone(), cert: paths.cert.clone() }
        }
        other => unusable(&paths.key, other),
    })
}

fn verifier(ca: &Path, roots: &Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, TlsProblem> {
    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
        .build()
        .map_err(|error| unusable(ca, error))
}
