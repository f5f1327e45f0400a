//! The authority: one self-signed ECDSA P-256 certificate that signs every host and person of a fleet.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use x509_parser::pem::Pem;

use super::PkiError;
use super::certificate::{Subject, authority_params, set_validity};
use super::files::{self, NewFile};

/// The name of its certificate file, beside itself and beside every certificate that it signed.
pub const CERTIFICATE: &str = "ca.crt";
/// The name of its key file, beside itself only.
pub const KEY: &str = "ca.key";
const COMMON_NAME: &str = "Holdfast authority";

/// A key and its certificate, both PEM.
#[derive(Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS #8.
    pub key: String,
}

/// An authority, read from its folder.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    /// End of its own validity, seconds since 1970.
    ends: i64,
}

/// Makes a new authority in `folder`.
pub fn create(folder: &Path, days: u32, now: SystemTime) -> Result<(), PkiError> {
    let mut params = authority_params(COMMON_NAME);
    set_validity(&mut params, now, days, None);
    let key = new_key()?;
    let certificate = params.self_signed(&key).map_err(PkiError::Generate)?.pem();
    let files = [
        NewFile::key(folder.join(KEY), key.serialize_pem()),
        NewFile::certificate(folder.join(CERTIFICATE), certificate),
    ];
    files::write_all(folder, &files)
}

impl Authority {
    /// Reads an authority and checks that its key and certificate belong together and that it has not ended.
    pub fn load(folder: &Path, now: SystemTime) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (folder.join(CERTIFICATE), folder.join(KEY));
        let certificate = files::read(&certificate_path)?;
        let key = KeyPair::from_pem(&files::read(&key_path)?)
            .map_err(|error| PkiError::NotPem { path: key_path.clone(), why: error.to_string() })?;
        let (public_key, ends) = public_key_and_end(&certificate, &certificate_path)?;
        if public_key != key.public_key_raw() {
            return Err(PkiError::KeyOfAnother { key: key_path, certificate: certificate_path });
        }
        let now_s = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if i64::try_from(now_s).is_ok_and(|now_s| now_s >= ends) {
            return Err(PkiError::AuthorityEnded { path: certificate_path });
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|error| PkiError::NotPem { path: certificate_path, why: error.to_string() })?;
        Ok(Self { issuer, certificate, ends })
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a new key of `subject` for `days`, at most until the authority itself ends.
    pub fn sign(&self, subject: &Subject, days: u32, now: SystemTime) -> Result<Pair, PkiError> {
        let mut params = subject.params()?;
        set_validity(&mut params, now, days, Some(self.ends));
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Generate)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Generate)
}

fn public_key_and_end(pem: &str, path: &Path) -> Result<(Vec<u8>, i64), PkiError> {
    let not_pem = |why: String| PkiError::NotPem { path: PathBuf::from(path), why };
    let pem = Pem::iter_from_buffer(pem.as_bytes())
        .next()
        .ok_or_else(|| not_pem("it holds no certificate".into()))?
        .map_err(|error| not_pem(error.to_string()))?;
    let certificate = pem.parse_x509().map_err(|error| not_pem(error.to_string()))?;
    if !certificate.is_ca() {
        return Err(not_pem("its certificate is not an authority's".into()));
    }
    let public_key = certificate.public_key().subject_public_key.data.to_vec();
    Ok((public_key, certificate.validity().not_after.timestamp()))
}
