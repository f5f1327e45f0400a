//! Files, handshakes and reloads, over real sockets.

use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt as _;

use super::testing::{Authority, write};
use super::*;

const HOST: &str = "holdfast://r1/host/db1";
const SOON: Duration = Duration::from_secs(20);

fn problems(paths: &TlsPaths) -> Vec<String> {
    Identity::load(paths.clone()).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_problem_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let paths = write(folder.path(), "no pem", "", "");
    std::fs::remove_file(&paths.key).unwrap();
    let found = problems(&paths);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("/ca holds no certificate in PEM form"), "{found:?}");
    assert!(found[1].contains("/cert holds no certificate"), "{found:?}");
    assert!(found[2].contains("/key cannot be read: No such file"), "{found:?}");
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(), Authority::new());
    let (cert, key) = ours.issue(Some(HOST), (-1, 30));
    let (_, other_key) = ours.issue(Some(HOST), (-1, 30));
    let (ended, ended_key) = ours.issue(Some(HOST), (-30, -1));
    let (early, early_key) = ours.issue(Some(HOST), (1, 30));
    let (nobody, nobody_key) = ours.issue(None, (-1, 30));
    for (ca, cert, key, expected) in [
        (&ours, &cert, &other_key, "key is not the key of"),
        (&other, &cert, &key, "is not accepted by the authority"),
        (&ours, &ended, &ended_key, "cert ended on"),
        (&ours, &early, &early_key, "is valid only from"),
        (&ours, &nobody, &nobody_key, "has no holdfast:// URI"),
    ] {
        let found = problems(&write(folder.path(), &ca.pem(), cert, key));
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
    }
    let fine = Identity::load(write(folder.path(), &ours.pem(), &cert, &key)).unwrap();
    assert_eq!(fine.peer().to_string(), HOST);
}

/// A server that accepts until the test ends, and its address.
async fn server(
    identity: &Identity,
    limits: AcceptLimits,
) -> (String, impl tokio_stream::Stream<Item = Caller> + use<>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = incoming(listener, identity.clone(), limits).map(|connection| {
        let mut connection = connection.unwrap();
        let caller = tonic::transport::server::Connected::connect_info(&connection);
        tokio::spawn(async move {
            let _ = connection.write_all(b"hello").await;
            let _ = connection.read_u8().await;
        });
        caller
    });
    (address, connections)
}

/// What the server says to a client that connected with `config`: TLS 1.3 tells a refusal only then.
async fn greeting(address: &str, config: std::sync::Arc<ClientConfig>) -> std::io::Result<String> {
    let tcp = TcpStream::connect(address).await?;
    let name = "127.0.0.1".try_into().unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
    let mut text = [0; 5];
    tls.read_exact(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn only_our_own_get_in_and_are_known_by_name() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (address, callers) = server(&ours.identity(HOST), AcceptLimits::default()).await;
    tokio::pin!(callers);
    let known = ours.identity("holdfast://operator/ann");
    let client = known.client(Protocol::Http2);
    let (greeted, caller) = tokio::join!(greeting(&address, client), callers.next());
    assert_eq!(greeted.unwrap(), "hello");
    assert_eq!(caller.unwrap().peer.to_string(), "holdfast://operator/ann");

    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(
        rustls::pki_types::pem::PemObject::pem_slice_iter(ours.pem().as_bytes()).map(Result::unwrap),
    );
    let nobody = ClientConfig::builder_with_provider(super::files::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let foreign = other.identity(HOST).client(Protocol::Http2);
    for config in [std::sync::Arc::new(nobody), foreign] {
        let refused = tokio::select! {
            refused = greeting(&address, config) => refused,
            caller = callers.next() => panic!("{caller:?} was let in"),
        };
        assert!(refused.is_err(), "{refused:?}");
    }
}

#[tokio::test]
async fn a_silent_client_stops_nobody_and_is_dropped() {
    let ours = Authority::new();
    let limits = AcceptLimits { connections_max: 2, handshake_deadline: Duration::from_millis(300) };
    let (address, callers) = server(&ours.identity(HOST), limits).await;
    tokio::pin!(callers);
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let connector = Connector::new(ours.identity(HOST), &address, Protocol::Http2, SOON);
    let (connected, caller) = tokio::join!(connector.connect(), callers.next());
    drop((connected.unwrap(), caller.unwrap()));
    let mut rest = Vec::new();
    let read = tokio::time::timeout(SOON, silent.read_to_end(&mut rest)).await.expect("it was kept");
    assert!(read.is_err() || rest.is_empty());
}

#[tokio::test]
async fn another_host_at_the_address_is_refused() {
    let ours = Authority::new();
    let (address, callers) = server(&ours.identity(HOST), AcceptLimits::default()).await;
    tokio::pin!(callers);
    let wanted: Peer = "holdfast://r1/host/db2".parse().unwrap();
    let identity = ours.identity("holdfast://r1/host/db3");
    let connector = Connector::new(identity, &address, Protocol::Http2, SOON).expect(wanted);
    let (connected, _) = tokio::join!(connector.connect(), callers.next());
    let error = connected.unwrap_err().to_string();
    assert!(error.contains("holdfast://r1/host/db1 answers where holdfast://r1/host/db2"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let deadline = Duration::from_millis(200);
    let connector = Connector::new(Authority::new().identity(HOST), address, Protocol::Plain, deadline);
    let error = tokio::time::timeout(SOON, connector.connect()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("no handshake within 200 ms"), "{error}");
}

/// Asks for configurations until `done`: each asking may begin a look at the files.
async fn until(identity: &Identity, what: &str, done: impl Fn(&Identity) -> bool) {
    let started = Instant::now();
    while !done(identity) {
        assert!(started.elapsed() < SOON, "{what}: not within {SOON:?}");
        let _ = identity.server();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn new_files_are_taken_without_a_restart_and_wrong_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let identity = Identity::load(old.write(folder.path(), HOST)).unwrap();
    let (address, callers) = server(&identity, AcceptLimits::default()).await;
    tokio::pin!(callers);

    let (cert, _) = new.issue(Some(HOST), (-1, 30));
    let (_, key) = new.issue(Some(HOST), (-1, 30));
    write(folder.path(), &new.pem(), &cert, &key);
    until(&identity, "the problem is told", |identity| !identity.problems().is_empty()).await;
    let client = old.identity(HOST).client(Protocol::Http2);
    let (greeted, _) = tokio::join!(greeting(&address, client), callers.next());
    assert_eq!(greeted.unwrap(), "hello", "wrong files have changed something");

    new.write(folder.path(), "holdfast://r1/host/renamed");
    until(&identity, "the new name", |identity| identity.peer().to_string().ends_with("renamed")).await;
    assert_eq!(identity.problems(), Vec::<String>::new());
    let client = new.identity(HOST).client(Protocol::Http2);
    let (greeted, _) = tokio::join!(greeting(&address, client), callers.next());
    assert_eq!(greeted.unwrap(), "hello");
}

#[tokio::test]
async fn a_list_of_revoked_certificates_is_taken_without_a_restart() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new());
    let mut paths = ours.write(folder.path(), HOST);
    let crl = folder.path().join("crl");
    std::fs::write(&crl, "").unwrap();
    paths.crl = Some(crl.clone());
    let identity = Identity::load(paths.clone()).unwrap();
    let (address, callers) = server(&identity, AcceptLimits::default()).await;
    tokio::pin!(callers);
    let (lost, kept) =
        (ours.identity_numbered(HOST, 7, 9_999), ours.identity_numbered("holdfast://operator/ann", 8, 9_999));
    for known in [&lost, &kept] {
        let (greeted, _) = tokio::join!(greeting(&address, known.client(Protocol::Http2)), callers.next());
        assert_eq!(greeted.unwrap(), "hello");
    }
    let list = |text: String| {
        let new = crl.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &crl).unwrap();
    };
    list("no list".into());
    until(&identity, "the problem is told", |identity| !identity.problems().is_empty()).await;
    assert!(
        identity.problems()[0].contains("holds no list of revoked certificates"),
        "{:?}",
        identity.problems()
    );
    list(ours.revoke(&[7]));
    let started = Instant::now();
    loop {
        let refused = tokio::select! {
            refused = greeting(&address, lost.client(Protocol::Http2)) => refused.is_err(),
            _ = callers.next() => false,
        };
        if refused {
            break;
        }
        assert!(started.elapsed() < SOON, "the revoked certificate is still taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (greeted, _) = tokio::join!(greeting(&address, kept.client(Protocol::Http2)), callers.next());
    assert_eq!(greeted.unwrap(), "hello", "a late list keeps nobody out but those in it");
    // A server's certificate is looked up too.
    let wary = ours.identity_knowing("holdfast://operator/ann", &[7]);
    let (address, callers) = server(&lost, AcceptLimits::default()).await;
    tokio::pin!(callers);
    let refused = tokio::select! {
        refused = greeting(&address, wary.client(Protocol::Http2)) => refused,
        _ = callers.next() => panic!("a revoked server was believed"),
    };
    assert!(refused.unwrap_err().to_string().contains("Revoked"));
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new();
    let paths = ours.write(folder.path(), HOST);
    std::fs::File::create(&paths.cert).unwrap().set_len(1 << 30).unwrap();
    let found = problems(&paths);
    assert!(found.len() == 1 && found[0].contains("larger than 1048576 bytes"), "{found:?}");
}
