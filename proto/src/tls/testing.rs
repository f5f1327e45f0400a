//! Authorities and identities for tests, made with the same names as `holdfast pki` makes.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
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
        self.issue_numbered(uri, (days.0 * 86_400, days.1 * 86_400), None)
    }

    /// The same with times in seconds from now, and with the number by which it can be revoked.
    pub fn issue_numbered(
        &self,
        uri: Option<&str>,
        seconds: (i64, i64),
        number: Option<u64>,
    ) -> (String, String) {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        params.serial_number = number.map(SerialNumber::from);
        let epoch = date_time_ymd(1970, 1, 1);
        (params.not_before, params.not_after) = (epoch + from_now(seconds.0), epoch + from_now(seconds.1));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// A list that revokes the certificates with these numbers, in PEM; itself already late.
    pub fn revoke(&self, numbers: &[u64]) -> String {
        let epoch = date_time_ymd(1970, 1, 1);
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: (*number).into(),
            revocation_time: epoch + from_now(-60),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: epoch + from_now(-120),
            next_update: epoch + from_now(-60),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// Writes an identity's files into `folder`.
    pub fn write(&self, folder: &Path, uri: &str) -> TlsPaths {
        let (cert, key) = self.issue(Some(uri), (-1, 30));
        write(folder, &self.pem(), &cert, &key)
    }

    /// An identity whose certificate has this number and ends so many seconds from now.
    pub fn identity_numbered(&self, uri: &str, number: u64, ends_s: i64) -> Identity {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = self.issue_numbered(Some(uri), (-60, ends_s), Some(number));
        Identity::load(write(folder.path(), &self.pem(), &cert, &key)).unwrap()
    }

    /// An identity that knows which certificates have been revoked.
    pub fn identity_knowing(&self, uri: &str, revoked: &[u64]) -> Identity {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = self.write(folder.path(), uri);
        let crl = folder.path().join("crl");
        fs::write(&crl, self.revoke(revoked)).unwrap();
        paths.crl = Some(crl);
        Identity::load(paths).unwrap()
    }

    /// An identity that lives as long as its files are not needed again.
    pub fn identity(&self, uri: &str) -> Identity {
        let folder = tempfile::tempdir().unwrap();
        Identity::load(self.write(folder.path(), uri)).unwrap()
    }
}

/// Since 1970.
fn from_now(seconds: i64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    Duration::from_secs(u64::try_from(now + seconds).unwrap())
}

pub fn write(folder: &Path, ca: &str, cert: &str, key: &str) -> TlsPaths {
    let paths =
        TlsPaths { ca: folder.join("ca"), cert: folder.join("cert"), key: folder.join("key"), crl: None };
    for (path, text) in [(&paths.ca, ca), (&paths.cert, cert), (&paths.key, key)] {
        // A new file each time, as an operator's `mv` makes it.
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, path).unwrap();
    }
    paths
}
