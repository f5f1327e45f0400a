//! A certificate that is shown to whoever connects, without asking for one: for what orders nothing and tells no secret.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;

use super::reread::Reread;
use super::{Identity, TlsProblem, files};

/// Clones show the same one.
#[derive(Debug, Clone)]
pub struct ShownCertificate(Source);

#[derive(Debug, Clone)]
enum Source {
    Identity(Identity),
    Files(Reread<Arc<ServerConfig>>),
}

impl ShownCertificate {
    /// The host's own.
    pub fn of(identity: Identity) -> Self {
        Self(Source::Identity(identity))
    }

    /// One of its own files, both PEM: from any authority and without a name of ours. Taken anew when they change.
    pub fn load(cert: PathBuf, key: PathBuf) -> Result<Self, Vec<TlsProblem>> {
        let read = files::Pair { cert: cert.clone(), key: key.clone() };
        let make = move || Ok(files::shown(Arc::new(read.read(UnixTime::now())?)));
        Ok(Self(Source::Files(Reread::load(vec![cert, key], make)?)))
    }

    /// The configuration for a connection that is accepted now.
    pub fn server(&self) -> Arc<ServerConfig> {
        match &self.0 {
            Source::Identity(identity) => identity.shown(),
            Source::Files(files) => files.now(),
        }
    }
}
