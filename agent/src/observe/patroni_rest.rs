//! Patroni's REST API: whether it answers at all, and the one order that is given through it. What it says of itself is read
//! from etcd, where it costs nothing.
//!
//! With TLS or without, as its address says. A client certificate is shown where Patroni asks for one (`verify_client`), and
//! is no hindrance where it does not.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::patroni_file::Login;

/// It runs on this host, and accepts at once.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// An answer is a line of text.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The begin of an answer, whatever it says.
    Answer,
    /// Refused or broken off: nobody listens. Not hung.
    Refused,
    /// Somebody listens who does not understand us, or whom we do not trust: one that hangs would not be noticed. Why, and
    /// what to do.
    Stranger(String),
    /// Connected, and nothing within the deadline.
    Silence,
}

/// Asks `GET /liveness`, which Patroni answers from its own state without asking anybody.
pub async fn is_heard(url: &str, tls: Arc<ClientConfig>, deadline: Duration) -> Heard {
    let Some((is_tls, host, port)) = parts(url) else { return Heard::Refused };
    let talk = async {
        let Ok(tcp) = TcpStream::connect((host, port)).await else { return Heard::Refused };
        let result = if is_tls { over_tls(host, tls, tcp).await } else { ask(host, tcp).await };
        match result {
            // The first byte of HTTP/1.0, or of an alert of TLS.
            Ok(b'H') => Heard::Answer,
            Ok(_) => Heard::Stranger(format!("{url} does not answer as HTTP; correct patroni_url")),
            Err(error) => judge(url, is_tls, &error),
        }
    };
    tokio::time::timeout(deadline, talk).await.unwrap_or(Heard::Silence)
}

async fn over_tls(host: &str, tls: Arc<ClientConfig>, tcp: TcpStream) -> Result<u8, Error> {
    let name = ServerName::try_from(host.to_owned()).map_err(Error::other)?;
    ask(host, tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await?).await
}

async fn ask(host: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<u8, Error> {
    let request = format!("GET /liveness HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    stream.read_u8().await
}

fn judge(url: &str, is_tls: bool, error: &Error) -> Heard {
    use rustls::{AlertDescription, CertificateError, Error as Tls};
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
        let remedy = match tls {
            // An authority of the same name has another key.
            Tls::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                "its certificate comes from another authority than ours; name that one's certificate with patroni_ca"
            }
            Tls::InvalidCertificate(_) => {
                "look at restapi.certfile of Patroni, and at the host in patroni_url"
            }
            Tls::InvalidMessage(_) => "it answers without TLS; patroni_url must begin with http://",
            Tls::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
                | AlertDescription::DecryptError,
            ) => "it does not take our certificate; restapi.cafile of Patroni must hold our authority",
            _ => "compare patroni_url with restapi of Patroni",
        };
        return Heard::Stranger(format!("{url}: {tls}: {remedy}"));
    }
    let broken = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
    if broken && !is_tls {
        let text =
            "closes the connection without an answer; if it wants TLS, patroni_url must begin with https://";
        return Heard::Stranger(format!("{url} {text}"));
    }
    Heard::Refused
}

/// The order to restart PostgreSQL, whatever is pending.
pub struct Order {
    /// Where its REST API is.
    pub url: String,
    /// How it is spoken to there.
    pub tls: Arc<ClientConfig>,
    /// What it may ask for.
    pub login: Option<Login>,
}

/// Gives the order and waits for its end, which is seconds away when it is taken up. The error is Patroni's own word, or why
/// it could not be asked.
pub async fn restart(order: Order) -> Result<String, String> {
    let url = &order.url;
    let (is_tls, host, port) = parts(url).ok_or_else(|| format!("{url} is no address"))?;
    let authorization = order.login.as_ref().map_or(String::new(), |login| {
        let both = format!("{}:{}", login.username, login.password);
        format!("Authorization: Basic {}\r\n", base64(both.as_bytes()))
    });
    let request = format!(
        "POST /restart HTTP/1.0\r\nHost: {host}\r\n{authorization}Content-Type: application/json\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    );
    let talk = async {
        let tcp = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect((host, port)));
        let tcp = tcp.await.map_err(|_| Error::from(ErrorKind::TimedOut))??;
        if is_tls {
            let name = ServerName::try_from(host.to_owned()).map_err(Error::other)?;
            let connector = tokio_rustls::TlsConnector::from(order.tls);
            let stream = tokio::time::timeout(CONNECT_DEADLINE, connector.connect(name, tcp));
            exchange(&request, stream.await.map_err(|_| Error::from(ErrorKind::TimedOut))??).await
        } else {
            exchange(&request, tcp).await
        }
    };
    let bytes = talk.await.map_err(|error| format!("Patroni's REST API at {url}: {error}"))?;
    match answer(&bytes) {
        Some((200 | 202, text)) => Ok(text),
        Some((code, text)) => Err(format!("Patroni refuses ({code}): {text}")),
        None => Err(format!("{url} does not answer as HTTP; correct patroni_url")),
    }
}

async fn exchange(request: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Vec<u8>, Error> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await {
        // Python ends a TLS connection without a word.
        Err(error) if error.kind() != ErrorKind::UnexpectedEof || bytes.is_empty() => Err(error),
        _ => Ok(bytes),
    }
}

/// Code and body of an answer.
fn answer(bytes: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(bytes);
    let code = text.strip_prefix("HTTP/")?.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some((code, body.trim().to_owned()))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let all = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(all >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Whether it speaks TLS, its host, its port.
fn parts(url: &str) -> Option<(bool, &str, u16)> {
    let (is_tls, rest) = match url.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, url.strip_prefix("http://")?),
    };
    let (host, port) = rest.split('/').next()?.rsplit_once(':')?;
    Some((is_tls, host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};
    use tokio::net::TcpListener;

    const DEADLINE: Duration = Duration::from_secs(10);
    type Authority = CertifiedIssuer<'static, KeyPair>;

    #[test]
    fn urls() {
        assert_eq!(parts("https://10.0.0.1:8008/"), Some((true, "10.0.0.1", 8008)));
        assert_eq!(parts("https://[fd00::1]:8008"), Some((true, "fd00::1", 8008)));
        assert_eq!(parts("http://db1:8008/patroni"), Some((false, "db1", 8008)));
        assert_eq!(parts("10.0.0.1:8008"), None);
    }

    #[test]
    fn answers_to_an_order() {
        let refused = b"HTTP/1.0 412 Precondition Failed\r\nServer: x\r\n\r\nleader name does not match";
        assert_eq!(answer(refused), Some((412, "leader name does not match".into())));
        assert_eq!(answer(b"HTTP/1.0 503 "), Some((503, String::new())));
        assert_eq!(answer(b"SSH-2.0"), None);
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("admin:s 1", "YWRtaW46cyAx")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[tokio::test]
    async fn an_order_names_the_login_and_the_word_of_patroni_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 4096];
            let length = stream.read(&mut bytes).await.unwrap();
            stream.write_all(b"HTTP/1.0 412 x\r\n\r\nrestart is refused").await.unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        });
        let ours = authority();
        let order = Order {
            url,
            tls: client(&ours, &ours),
            login: Some(Login { username: "admin".into(), password: "s 1".into() }),
        };
        assert_eq!(restart(order).await, Err("Patroni refuses (412): restart is refused".into()));
        let heard = heard.await.unwrap();
        assert!(
            heard.starts_with("POST /restart HTTP/1.0\r\n") && heard.contains("Basic YWRtaW46cyAx\r\n"),
            "{heard}"
        );
        assert!(heard.ends_with("{}"), "{heard}");
    }

    fn authority() -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(authority: &Authority) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let pem = params.signed_by(&key, authority).unwrap().pem();
        let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        (chain, PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap())
    }

    fn roots(authority: &Authority) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }

    fn client(trusts: &Authority, is_of: &Authority) -> Arc<ClientConfig> {
        let (chain, key) = leaf(is_of);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(trusts))
            .with_client_auth_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    /// A server like Patroni's, with the certificate of `of`; it wants one of its clients if `asks` says so. Its address.
    async fn server(of: Option<(&Authority, bool)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tls = of.map(|(authority, asks)| {
            let (chain, key) = leaf(authority);
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots(authority), Arc::clone(&provider));
            let builder =
                ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let builder = if asks {
                builder.with_client_cert_verifier(verifier.build().unwrap())
            } else {
                builder.with_no_client_auth()
            };
            tokio_rustls::TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    None => serve(stream).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream).await;
                        }
                    }
                }
            }
        });
        address
    }

    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = [0; 5];
        if stream.read_exact(&mut request).await.is_ok() {
            let is_http = &request == b"GET /";
            // As Python's server answers what is no HTTP.
            let answer: &[u8] =
                if is_http { b"HTTP/1.0 200 OK\r\n\r\n" } else { b"HTTP/1.0 400 Bad request\r\n\r\n" };
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    }

    #[tokio::test]
    async fn with_and_without_tls_and_with_and_without_client_certificates() {
        let ours = authority();
        for of in [None, Some((&ours, false)), Some((&ours, true))] {
            let (scheme, address) = (if of.is_some() { "https" } else { "http" }, server(of).await);
            let heard = is_heard(&format!("{scheme}://{address}"), client(&ours, &ours), DEADLINE).await;
            assert_eq!(heard, Heard::Answer, "{of:?}", of = of.map(|(_, asks)| asks));
        }
        assert_eq!(is_heard("http://127.0.0.1:1", client(&ours, &ours), DEADLINE).await, Heard::Refused);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_named_with_its_remedy() {
        let (ours, theirs) = (authority(), authority());
        let cases = [
            ("https", Some((&theirs, false)), client(&ours, &ours), "patroni_ca"),
            ("https", Some((&theirs, true)), client(&theirs, &ours), "restapi.cafile"),
            ("https", None, client(&ours, &ours), "begin with http://"),
            ("http", Some((&ours, false)), client(&ours, &ours), ""),
        ];
        for (scheme, of, tls, remedy) in cases {
            let url = format!("{scheme}://{}", server(of).await);
            match is_heard(&url, tls, DEADLINE).await {
                Heard::Stranger(why) => assert!(why.contains(&url) && why.contains(remedy), "{why}"),
                other => panic!("{url} ({remedy}): {other:?}"),
            }
        }
    }
}
