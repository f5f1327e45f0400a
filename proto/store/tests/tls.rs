//! TLS with client certificates: taken when it is right, named when it is wrong.
#![allow(clippy::unwrap_used)] // Helpers of tests are not seen as tests.

mod server;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use holdfast_store::{EtcdOptions, EtcdStore, Store, StoreError, TlsSource};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use server::{Etcd, Pem, until_it_answers};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key in PEM.
fn leaf(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn client(trusted: &str, identity: Option<(String, String)>) -> TlsSource {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    Arc::new(move || Arc::clone(&config))
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn client_certificates_are_shown_and_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority();
    let (cert, key) = leaf(&ours);
    let ca = write(folder.path(), "ca.crt", &ours.pem());
    let (cert, key) = (write(folder.path(), "s.crt", &cert), write(folder.path(), "s.key", &key));
    let etcd = Etcd::start(1, Some(Pem { ca: &ca, cert: &cert, key: &key }));

    let known =
        EtcdStore::new(EtcdOptions::new(etcd.endpoints(), Some(client(&ours.pem(), Some(leaf(&ours))))));
    until_it_answers(&known).await;

    let nobody = EtcdStore::new(EtcdOptions::new(etcd.endpoints(), Some(client(&ours.pem(), None))));
    let error = nobody.read(vec![]).await.unwrap_err();
    assert!(error.is_outage(), "TLS 1.3 tells a missing certificate only after the handshake: {error:?}");

    let distrust = client(&authority().pem(), Some(leaf(&ours)));
    let stranger = EtcdStore::new(EtcdOptions::new(etcd.endpoints(), Some(distrust)));
    let error = stranger.read(vec![]).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unreachable { why, .. } if why.contains("certificate")),
        "{error:?}"
    );
}
