//! The agent's own identity for connections that it makes. Read again when its files change, so that a renewed
//! certificate needs no restart; a pair that cannot be used leaves the old one in place.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use holdfast_store::TlsSource;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Tls;

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

struct Loaded {
    config: Arc<ClientConfig>,
    changed: Vec<Option<SystemTime>>,
    looked: Instant,
}

/// A source of client configurations that follows the files. `protocol` is what the connection is for: `h2` for gRPC, of
/// which etcd refuses anything else.
pub fn source(tls: &Tls, protocol: Option<&'static str>) -> Result<TlsSource> {
    let tls = tls.clone();
    let load = move |tls: &Tls| {
        let mut config = load(tls)?;
        config.alpn_protocols = protocol.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok::<_, anyhow::Error>(Arc::new(config))
    };
    let loaded = Mutex::new(Loaded { config: load(&tls)?, changed: changed(&tls), looked: Instant::now() });
    Ok(Arc::new(move || {
        let mut loaded = loaded.lock().expect("nobody panics while holding the identity");
        if loaded.looked.elapsed() >= LOOK_EVERY {
            loaded.looked = Instant::now();
            let now = changed(&tls);
            if now != loaded.changed {
                match load(&tls) {
                    Ok(config) => (loaded.config, loaded.changed) = (config, now),
                    Err(error) => tracing::warn!("the new certificate is not used: {error:#}"),
                }
            }
        }
        Arc::clone(&loaded.config)
    }))
}

fn changed(tls: &Tls) -> Vec<Option<SystemTime>> {
    [&tls.ca, &tls.cert, &tls.key].map(|path| std::fs::metadata(path).ok()?.modified().ok()).to_vec()
}

/// Reads the three files.
fn load(tls: &Tls) -> Result<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&tls.ca)? {
        roots.add(certificate).with_context(|| format!("{} is no authority", tls.ca.display()))?;
    }
    let chain = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .with_context(|| format!("{} holds no private key in PEM", tls.key.display()))?;
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .with_context(|| format!("{} does not belong to {}", tls.key.display(), tls.cert.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("{} holds no certificate in PEM", path.display()))
}
