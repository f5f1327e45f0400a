//! Authorities and identities for tests, made with the same names as `holdfast pki` makes.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};

use super::{Identity, TlsPaths};

/// An authority of a test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key in PEM; without a `uri` it names nobody; valid from `days.0` to `days.1` days from now.
    pub fn issue(&self, uri: Option<&str>, days: (i64, i64)) -> (String, String) {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        let at = |days: i64| {
            date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(today + days * 86_400).unwrap())
        };
        (params.not_before, params.not_after) = (at(days.0), at(days.1));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// Writes an identity's files into `folder`.
    pub fn write(&self, folder: &Path, uri: &str) -> TlsPaths {
        let (cert, key) = self.issue(Some(uri), (-1, 30));
        write(folder, &self.pem(), &cert, &key)
    }

    /// An identity that lives as long as its files are not needed again.
    pub fn identity(&self, uri: &str) -> Identity {
        let folder = tempfile::tempdir().unwrap();
        Identity::load(self.write(folder.path(), uri)).unwrap()
    }
}

pub fn write(folder: &Path, ca: &str, cert: &str, key: &str) -> TlsPaths {
    let paths = TlsPaths { ca: folder.join("ca"), cert: folder.join("cert"), key: folder.join("key") };
    for (path, text) in [(&paths.ca, ca), (&paths.cert, cert), (&paths.key, key)] {
        // A new file each time, as an operator's `mv` makes it.
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, path).unwrap();
    }
    paths
}
