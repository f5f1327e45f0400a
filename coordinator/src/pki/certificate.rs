//! What stands in a certificate: the subject, its names, and what its key may be used for.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use holdfast_proto::tls::Peer;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use super::PkiError;

const DAY: Duration = Duration::from_secs(86_400);
/// How far in the past a certificate begins: clocks of hosts differ, and a new certificate must work at once.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// An address or a DNS name that clients verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName(String);

impl FromStr for DnsName {
    type Err = String;

    /// Letters, digits, hyphens and dots; no wildcard: a certificate belongs to one host.
    fn from_str(text: &str) -> Result<Self, String> {
        let label = |label: &str| {
            let inner = label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            !label.is_empty()
                && label.len() <= 63
                && inner
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is not a DNS name; wildcards are not allowed, addresses go to --address"))
        }
    }
}

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A host's programs.
    Host {
        /// Region and name.
        peer: Peer,
        /// Addresses that others connect to.
        addresses: Vec<IpAddr>,
        /// Names that others connect to.
        dns: Vec<DnsName>,
    },
    /// A person or an automation.
    Person {
        /// Operator or viewer.
        peer: Peer,
    },
    /// A client of etcd that shows a password beside it. It has no common name: etcd's JSON gateway, by which Patroni speaks
    /// to it, refuses every certificate that has one once authentication is on.
    EtcdClient,
    /// A PostgreSQL role that logs in by certificate (`cert` in `pg_hba.conf` compares the common name).
    PostgresUser {
        /// The role.
        name: String,
    },
}

impl Subject {
    /// etcd knows a client by its common name alone (its `--client-cert-auth` with users). So a host's holds its region, and
    /// neither a host nor a person has the name of a PostgreSQL role, which has no slash.
    fn common_name(&self) -> Option<String> {
        match self {
            Self::Host { peer, .. } | Self::Person { peer, .. } => Some(peer.common_name()),
            Self::PostgresUser { name } => Some(name.clone()),
            Self::EtcdClient => None,
        }
    }

    /// The certificate's content, without its validity.
    pub fn params(&self) -> Result<CertificateParams, PkiError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        // rcgen would put a common name of its own.
        params.distinguished_name = DistinguishedName::new();
        match self.common_name() {
            Some(name) => params.distinguished_name.push(DnType::CommonName, name),
            None => params.distinguished_name.push(DnType::OrganizationName, "Holdfast client of etcd"),
        }
        match self {
            Self::Host { peer, addresses, dns } => {
                // etcd, Patroni and PostgreSQL are servers and clients of each other with one certificate.
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                params.subject_alt_names = host_names(peer, addresses, dns)?;
            }
            Self::Person { peer } => params.subject_alt_names = vec![uri(peer)?],
            Self::PostgresUser { .. } | Self::EtcdClient => {}
        }
        Ok(params)
    }
}

fn host_names(peer: &Peer, addresses: &[IpAddr], dns: &[DnsName]) -> Result<Vec<SanType>, PkiError> {
    let mut names = vec![uri(peer)?];
    let loopback: IpAddr = [127, 0, 0, 1].into();
    for address in addresses.iter().chain([&loopback]) {
        let address = SanType::IpAddress(*address);
        if !names.contains(&address) {
            names.push(address);
        }
    }
    for name in dns.iter().map(|name| name.0.as_str()).chain(["localhost"]) {
        let name = SanType::DnsName(name.try_into().map_err(PkiError::Generate)?);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn uri(peer: &Peer) -> Result<SanType, PkiError> {
    Ok(SanType::URI(peer.to_string().as_str().try_into().map_err(PkiError::Generate)?))
}

/// The authority's own certificate.
pub fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    // It signs hosts and people, never another authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Sets the validity: from an hour before `now` for `days`, but not beyond `end_max`, seconds since 1970.
pub fn set_validity(params: &mut CertificateParams, now: SystemTime, days: u32, end_max: Option<i64>) {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let end = now + DAY * days;
    let end = match end_max.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) => end.min(Duration::from_secs(seconds)),
        None => end,
    };
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + end;
}
