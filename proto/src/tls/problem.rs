//! What can be wrong with an identity's files, each with its path and its remedy.

use std::io;
use std::path::PathBuf;

use super::PeerError;

/// One problem of one file. All of an identity are reported together.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    /// The file cannot be read by this process.
    #[error("{} cannot be read: {error}; check the path and that this process's user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no {wanted} in PEM form; issue it again, for example with `holdfast pki`", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// PEM, but its content is damaged or of a kind that is not supported.
    #[error("{} cannot be used: {why}; issue it again, for example with `holdfast pki`", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        why: String,
    },
    /// The certificate is over.
    #[error("{} ended on {ended}; issue a new certificate, running programs take it without a restart", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// When, UTC.
        ended: String,
    },
    /// The certificate has not begun: the clock of this host or of the issuer is wrong.
    #[error("{} is valid only from {begins}; compare this host's clock with the issuer's", path.display())]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When it begins, UTC.
        begins: String,
    },
    /// Two files that do not belong together.
    #[error("{} is not the key of {}; one of them was replaced without the other", key.display(), cert.display())]
    KeyMismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
    },
    /// The authority did not sign the certificate.
    #[error("{} is not accepted by the authority {}: {why}; issue it from that authority", cert.display(), ca.display())]
    Distrusted {
        /// The certificate.
        cert: PathBuf,
        /// The authority.
        ca: PathBuf,
        /// What the verification said.
        why: String,
    },
    /// The certificate does not say who we are.
    #[error("{}: {error}", path.display())]
    NoPeer {
        /// The certificate.
        path: PathBuf,
        /// Why.
        error: PeerError,
    },
}
