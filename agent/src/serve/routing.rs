//! The HTTP side of routing: `/writer`, `/replica?max_lag=` and `/pooler` for the checks of a load balancer.
//!
//! 200 for a host that is to be used, 503 for one that is not, each with the reason as JSON. GET, HEAD and OPTIONS say the
//! same, as with Patroni's REST API. It tells no more than who is up: nobody is asked for a certificate, and there is no secret.
//! Over TLS, where it is wanted, the asker can be sure of whom it asks.
//! What is answered is decided by `holdfast-agent-core`'s `routing` and `pooler`; nothing is looked up for an answer.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::tls::ShownCertificate;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use tokio::net::TcpListener;

use super::web::{self, Limits};
use crate::member::Member;
use crate::member::routing::Purpose;
use crate::pooler::seen::{self, Poolers, Seen};

/// A load balancer has one connection at a time for each server that it checks; there may be a dozen of them, and people. A
/// check of theirs that takes longer has failed.
const LIMITS: Limits = Limits { connections_max: 64, deadline: Duration::from_secs(2) };
const JSON: &str = "application/json";

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    purpose: Purpose,
    /// `namespace/scope`.
    cluster: Option<String>,
}

/// Answers until the runtime ends.
pub async fn serve(
    listener: TcpListener,
    tls: Option<ShownCertificate>,
    members: Arc<[Arc<Member>]>,
    poolers: Poolers,
) {
    let respond =
        move |request: &Request<Incoming>| respond(request.method(), request.uri(), &members, &poolers);
    web::serve(listener, tls, LIMITS, Arc::new(respond)).await;
}

fn respond(
    method: &Method,
    uri: &Uri,
    members: &[Arc<Member>],
    poolers: &[Arc<Seen>],
) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD and OPTIONS");
    }
    if uri.path() == "/pooler" {
        return pooler(uri.query().unwrap_or_default(), poolers);
    }
    let names = || members.iter().map(|member| name_of(member)).collect::<Vec<_>>();
    let asked = question(uri.path(), uri.query().unwrap_or_default());
    let chosen = asked.and_then(|asked| Ok((choose(&asked, &names())?, asked)));
    match chosen {
        Ok((index, asked)) => {
            let answer = members[index].route(&asked.purpose);
            let status = if answer.is_up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            web::response(status, JSON, answer.to_json().to_string() + "\n")
        }
        Err((status, why)) => refused(status, &why),
    }
}

/// All PgBouncer processes of the host, those of a cluster, or one.
fn pooler(query: &str, poolers: &[Arc<Seen>]) -> Response<Full<Bytes>> {
    let (mut name, mut cluster) = (None, None);
    for (parameter, value) in parameters(query) {
        let is_there_twice = match parameter {
            "name" => name.replace(value).is_some(),
            "cluster" => cluster.replace(value).is_some(),
            _ => return refused(StatusCode::BAD_REQUEST, &format!("/pooler has no parameter {parameter}")),
        };
        if is_there_twice {
            return refused(StatusCode::BAD_REQUEST, &format!("{parameter} is there twice"));
        }
    }
    match seen::answer(poolers, name.as_deref(), cluster.as_deref()) {
        Ok(answer) => {
            let status = if answer.up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            web::response(status, JSON, serde_json::json!(answer).to_string() + "\n")
        }
        Err(why) => refused(StatusCode::BAD_REQUEST, &why),
    }
}

/// Names and values of a query.
fn parameters(query: &str) -> impl Iterator<Item = (&str, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name, value.replace("%2F", "/").replace("%2f", "/"))
    })
}

fn refused(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    web::response(status, JSON, serde_json::json!({ "error": why }).to_string() + "\n")
}

fn name_of(member: &Member) -> String {
    let cluster = &member.instance.cluster;
    format!("{}/{}", cluster.namespace, cluster.scope)
}

type Refused = (StatusCode, String);

/// Which of this host's clusters is meant.
fn choose(asked: &Question, names: &[String]) -> Result<usize, Refused> {
    let bad = |why: String| Err((StatusCode::BAD_REQUEST, why));
    match (&asked.cluster, names) {
        (None, [_]) => Ok(0),
        (Some(name), _) => match names.iter().position(|known| known == name) {
            Some(index) => Ok(index),
            None => bad(format!("this host has no cluster {name}; it has {}", names.join(", "))),
        },
        (None, []) => bad("the agent of this host has no [[instance]]".into()),
        (None, _) => {
            bad(format!("this host has {}; say which with cluster=NAMESPACE/SCOPE", names.join(", ")))
        }
    }
}

/// What a path and a query ask. A parameter that is not known is refused: a misspelt bound would be no bound.
fn question(path: &str, query: &str) -> Result<Question, Refused> {
    let bad = |why: String| Err((StatusCode::BAD_REQUEST, why));
    let is_replica = match path {
        "/writer" => false,
        "/replica" => true,
        _ => return Err((StatusCode::NOT_FOUND, "there are /writer and /replica, and /pooler".into())),
    };
    let (mut cluster, mut max_lag_bytes) = (None, None);
    for (name, value) in parameters(query) {
        let is_there_twice = match name {
            "cluster" => cluster.replace(value).is_some(),
            // Patroni's own name of it, so that a check can be moved over as it is.
            "max_lag" | "lag" if is_replica => match bytes(&value) {
                Some(bytes) => max_lag_bytes.replace(bytes).is_some(),
                None => {
                    return bad(format!(
                        "{name}={value}: must be a whole number of bytes, or one with a unit: 16MB (B, kB, MB, GB, TB)"
                    ));
                }
            },
            _ => return bad(format!("{path} has no parameter {name}")),
        };
        if is_there_twice {
            return bad(format!("{name} is there twice"));
        }
    }
    let purpose = if is_replica { Purpose::Replica { max_lag_bytes } } else { Purpose::Writer };
    Ok(Question { purpose, cluster })
}

/// A number of bytes as Patroni takes it: units of 1024, whatever their case.
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let power = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" => 1,
        "mb" => 2,
        "gb" => 3,
        "tb" => 4,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1_u64 << (10 * power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::web::{ask, say};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use std::path::Path;
    use tokio::net::TcpStream;

    #[test]
    fn a_path_and_a_query_are_a_question() {
        let replica = |max_lag_bytes| Purpose::Replica { max_lag_bytes };
        for (path, query, purpose, cluster) in [
            ("/writer", "", Purpose::Writer, None),
            ("/writer", "cluster=plant/hall-2/line", Purpose::Writer, Some("plant/hall-2/line")),
            ("/writer", "cluster=service%2Fmain", Purpose::Writer, Some("service/main")),
            ("/replica", "", replica(None), None),
            ("/replica", "max_lag=16MB", replica(Some(16 << 20)), None),
            ("/replica", "lag=1048576&cluster=a/b", replica(Some(1 << 20)), Some("a/b")),
        ] {
            let cluster = cluster.map(str::to_owned);
            assert_eq!(question(path, query), Ok(Question { purpose, cluster }), "{path}?{query}");
        }
        for (path, query, status, why) in [
            ("/", "", 404, "/writer and /replica"),
            ("/writer", "max_lag=1", 400, "has no parameter max_lag"),
            ("/replica", "max_lg=1", 400, "has no parameter max_lg"),
            ("/replica", "max_lag=1&lag=2", 400, "twice"),
            ("/replica", "max_lag=", 400, "whole number"),
            ("/replica", "max_lag=1.5MB", 400, "whole number"),
            ("/replica", "max_lag=16MiB", 400, "whole number"),
            ("/replica", "max_lag=-1", 400, "whole number"),
            ("/replica", "max_lag=99999999999TB", 400, "whole number"),
        ] {
            let (found, said) = question(path, query).unwrap_err();
            assert!(found.as_u16() == status && said.contains(why), "{path}?{query}: {found} {said}");
        }
    }

    #[test]
    fn a_lag_has_patronis_units() {
        let of = |text| bytes(text).unwrap();
        assert_eq!((of("0"), of("7B"), of("2kB"), of("3KB")), (0, 7, 2_048, 3_072));
        assert_eq!((of("1MB"), of("1gb"), of("2TB")), (1 << 20, 1 << 30, 2 << 40));
    }

    #[test]
    fn where_there_are_several_clusters_one_must_be_named() {
        let names = ["service/main".to_owned(), "plant/line".to_owned()];
        let choose = |cluster: Option<&str>, names: &[String]| {
            let cluster = cluster.map(str::to_owned);
            super::choose(&Question { purpose: Purpose::Writer, cluster }, names)
        };
        assert_eq!(choose(None, &names[..1]), Ok(0));
        assert_eq!(
            (choose(Some("plant/line"), &names), choose(Some("service/main"), &names)),
            (Ok(1), Ok(0))
        );
        let (status, why) = choose(None, &names).unwrap_err();
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(why, "this host has service/main, plant/line; say which with cluster=NAMESPACE/SCOPE");
        assert!(choose(Some("main"), &names[..1]).unwrap_err().1.contains("has no cluster main"));
    }

    #[tokio::test]
    async fn what_cannot_be_answered_is_refused_with_a_sentence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, None, Vec::new().into(), Vec::new().into()));
        let said = ask(address, "POST /writer HTTP/1.1").await;
        assert!(said.starts_with("HTTP/1.1 405") && said.contains("only GET, HEAD and OPTIONS"), "{said}");
        // As HAProxy asks: no version of its own, and no host.
        let said = ask(address, "OPTIONS /writer?cluster=a/b HTTP/1.0").await;
        assert!(said.starts_with("HTTP/1.0 400") && said.contains("has no cluster a/b"), "{said}");
        assert!(said.contains("content-type: application/json"), "{said}");
        let said = ask(address, "GET /pooler HTTP/1.1").await;
        assert!(said.starts_with("HTTP/1.1 400") && said.contains("has no [[pooler]]"), "{said}");
        let said = ask(address, "GET /pooler?cluste=a/b HTTP/1.1").await;
        assert!(said.contains("has no parameter cluste"), "{said}");
        let said = ask(address, "HEAD / HTTP/1.1").await;
        assert!(said.starts_with("HTTP/1.1 404") && said.ends_with("\r\n\r\n"), "a HEAD has no body: {said}");
        server.abort();
    }

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A certificate of a load balancer's own authority, which names no host of ours, and its key.
    fn put_pair(folder: &Path, authority: &Authority) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        std::fs::write(folder.join("crt"), params.signed_by(&key, authority).unwrap().pem()).unwrap();
        std::fs::write(folder.join("key"), key.serialize_pem()).unwrap();
    }

    /// What a client says that trusts this authority and has no certificate.
    async fn ask_over_tls(address: std::net::SocketAddr, trusts: &Authority) -> std::io::Result<String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusts.pem().as_bytes()).unwrap()).unwrap();
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "127.0.0.1".try_into().unwrap();
        let stream = connector.connect(name, TcpStream::connect(address).await?).await?;
        Ok(say(stream, "OPTIONS /writer?cluster=a/b HTTP/1.0").await)
    }

    #[tokio::test]
    async fn over_tls_the_asker_knows_whom_it_asks_and_new_files_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let load = || ShownCertificate::load(folder.path().join("crt"), folder.path().join("key"));
        let (first, second) = (authority(), authority());
        put_pair(folder.path(), &first);
        let shown = load().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Some(shown), Vec::new().into(), Vec::new().into()));
        let said = ask_over_tls(address, &first).await.unwrap();
        assert!(said.starts_with("HTTP/1.0 400") && said.contains("has no cluster a/b"), "{said}");
        let refused = ask_over_tls(address, &second).await.unwrap_err();
        assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");

        put_pair(folder.path(), &second);
        let begun = tokio::time::Instant::now();
        while ask_over_tls(address, &second).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the new certificate is not taken");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::fs::write(folder.path().join("key"), "no key").unwrap();
        let problems = load().unwrap_err();
        assert!(problems.len() == 1 && problems[0].to_string().contains("no private key"), "{problems:?}");
        server.abort();
    }
}
