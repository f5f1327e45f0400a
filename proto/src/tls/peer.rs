//! Who a certificate says its holder is: the URI in its subject alternative names.
//!
//! The one place that writes and reads these names. `holdfast pki` writes them; every server of ours reads them from the
//! certificate that the TLS handshake has verified. It decides nothing about what a peer may do.

use std::fmt;
use std::str::FromStr;

use holdfast_types::{HostName, NameError, RegionName};

const SCHEME: &str = "holdfast://";
/// First segments that stand for people, so no region may be called by them.
const OPERATOR: &str = "operator";
const VIEWER: &str = "viewer";

/// The name of a person, or of an automation that acts like one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PersonName(String);

impl PersonName {
    /// Checks and takes a name: the same letters and length as a host's.
    pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
        match HostName::new(value) {
            Ok(name) => Ok(Self(name.into())),
            Err(error) => Err(NameError { kind: "name of a person", ..error }),
        }
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The holder of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A host's programs: `holdfast://<region>/host/<host>`.
    Host {
        /// Its region.
        region: RegionName,
        /// Its name in the region.
        host: HostName,
    },
    /// A person who may give orders: `holdfast://operator/<name>`.
    Operator(PersonName),
    /// A person who may only look: `holdfast://viewer/<name>`.
    Viewer(PersonName),
}

/// Why a name is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// One of its parts.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A region that could be taken for a person.
    #[error("region name {0:?} is kept for the names of people in certificates; choose another")]
    ReservedRegion(String),
    /// Another form.
    #[error(
        "{0:?} is not a name of Holdfast; expected holdfast://REGION/host/HOST, holdfast://operator/NAME or \
         holdfast://viewer/NAME"
    )]
    Form(String),
    /// No name at all.
    #[error("the certificate of {subject:?} has no holdfast:// URI; issue it with `holdfast pki`")]
    NoUri {
        /// Its distinguished name.
        subject: String,
    },
    /// More than one, so that nobody knows which is meant.
    #[error("the certificate of {subject:?} has {count} holdfast:// URIs; one is needed")]
    ManyUris {
        /// Its distinguished name.
        subject: String,
        /// How many.
        count: usize,
    },
    /// The bytes are not a certificate.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
}

impl Peer {
    /// A host; refuses a region that is named like a class of people.
    pub fn host(region: RegionName, host: HostName) -> Result<Self, PeerError> {
        if [OPERATOR, VIEWER].contains(&region.as_str()) {
            return Err(PeerError::ReservedRegion(region.into()));
        }
        Ok(Self::Host { region, host })
    }

    /// The name without its scheme: the common name of a certificate, and the user of etcd that follows from it.
    pub fn common_name(&self) -> String {
        let uri = self.to_string();
        uri.strip_prefix(SCHEME).map_or_else(|| uri.clone(), str::to_owned)
    }

    /// The peer that a DER certificate names. Whether to trust the certificate was decided before.
    pub fn of_certificate(der: &[u8]) -> Result<Self, PeerError> {
        use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
        let unreadable = |error: String| PeerError::Certificate(error);
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
        let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
        let ours: Vec<&str> = names
            .iter()
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .filter(|uri| uri.starts_with(SCHEME))
            .collect();
        let subject = || certificate.subject().to_string();
        match ours[..] {
            [uri] => uri.parse(),
            [] => Err(PeerError::NoUri { subject: subject() }),
            _ => Err(PeerError::ManyUris { subject: subject(), count: ours.len() }),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { region, host } => write!(f, "{SCHEME}{region}/host/{host}"),
            Self::Operator(name) => write!(f, "{SCHEME}{OPERATOR}/{name}"),
            Self::Viewer(name) => write!(f, "{SCHEME}{VIEWER}/{name}"),
        }
    }
}

impl FromStr for Peer {
    type Err = PeerError;

    fn from_str(uri: &str) -> Result<Self, PeerError> {
        let form = || PeerError::Form(uri.to_owned());
        let segments: Vec<&str> = uri.strip_prefix(SCHEME).ok_or_else(form)?.split('/').collect();
        match segments[..] {
            [OPERATOR, name] => Ok(Self::Operator(PersonName::new(name)?)),
            [VIEWER, name] => Ok(Self::Viewer(PersonName::new(name)?)),
            [region, "host", host] => Self::host(RegionName::new(region)?, HostName::new(host)?),
            _ => Err(form()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_read_back() {
        for uri in ["holdfast://r1/host/db1.plant", "holdfast://operator/ann", "holdfast://viewer/grafana"] {
            assert_eq!(uri.parse::<Peer>().unwrap().to_string(), uri);
        }
        assert_ne!("holdfast://r1/host/a".parse::<Peer>(), "holdfast://r2/host/a".parse::<Peer>());
    }

    #[test]
    fn nothing_but_the_three_forms_is_taken() {
        for bad in [
            "",
            "holdfast://",
            "holdfast://operator/",
            "holdfast://operator/ann/",
            "holdfast://operator/a%2Fb",
            "holdfast://operator/host/db1",
            "holdfast://viewer/host/db1",
            "holdfast://r1/host/",
            "holdfast:///host/db1",
            "holdfast://r1/pooler/db1",
            "https://operator/ann",
            "HOLDFAST://operator/ann",
        ] {
            assert!(bad.parse::<Peer>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_region_cannot_be_called_operator() {
        let error = "holdfast://operator/host/db1".parse::<Peer>().unwrap_err();
        assert_eq!(error, PeerError::ReservedRegion("operator".into()));
    }
}
