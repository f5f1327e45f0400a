//! HTTP for whoever only asks, plain or over TLS: so many connections at a time, a deadline on each, one answer on each. What
//! is answered is the caller's affair, and must not wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::tls::ShownCertificate;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// The longest head of a request: a check has a hundred bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What strangers may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: usize,
    /// From the connection to the last byte of the answer.
    pub deadline: Duration,
}

/// Makes an answer. Called for each request; must not wait.
pub type Respond = Arc<dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync>;

/// Answers until the runtime ends; over TLS with this certificate, if there is one.
pub async fn serve(listener: TcpListener, tls: Option<ShownCertificate>, limits: Limits, respond: Respond) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (respond, tls) = (Arc::clone(&respond), tls.as_ref().map(ShownCertificate::server));
                tokio::spawn(async move {
                    // Whoever is slow or speaks something else has itself to blame: nothing is to be done here.
                    let _ = tokio::time::timeout(limits.deadline, answer(stream, tls, respond)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection over HTTP cannot be accepted");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// An answer of this kind.
pub fn response(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn answer(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    respond: Respond,
) -> anyhow::Result<()> {
    match tls {
        None => speak(stream, respond).await?,
        Some(tls) => speak(TlsAcceptor::from(tls).accept(stream).await?, respond).await?,
    }
    Ok(())
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, respond: Respond) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let response = respond(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = http1::Builder::new();
    server.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    server.serve_connection(TokioIo::new(stream), service).await
}

/// The whole answer to a request line, as a client over TCP sees it.
#[cfg(test)]
pub async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    say(TcpStream::connect(address).await.unwrap(), request).await
}

/// The same over a connection that stands.
#[cfg(test)]
pub async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(format!("{request}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}
