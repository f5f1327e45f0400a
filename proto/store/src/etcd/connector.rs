//! The connector below the channel: each connect takes the next endpoint, so that a reconnect is also a fail-over.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{EtcdOptions, TlsSource};

/// A connected stream, plain or TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// None of the endpoints could be connected to: nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoneConnected(pub String);

#[derive(Clone)]
pub(super) struct Connector {
    targets: Arc<Targets>,
}

struct Targets {
    endpoints: Vec<String>,
    tls: Option<TlsSource>,
    connect_deadline: Duration,
    next: AtomicUsize,
}

impl Connector {
    pub fn new(options: &EtcdOptions) -> Self {
        // Hosts that start together begin with different servers.
        let first = usize::try_from(RandomState::new().hash_one(0_u8) % 1_024).unwrap_or(0);
        let targets = Targets {
            endpoints: options.endpoints.iter().map(|text| bare(text).to_owned()).collect(),
            tls: options.tls.clone(),
            connect_deadline: Duration::from_millis(options.connect_deadline_ms),
            next: AtomicUsize::new(first),
        };
        Self { targets: Arc::new(targets) }
    }

    /// A stream of its own, for what is not gRPC.
    pub async fn connect(&self) -> Result<Box<dyn Stream>, NoneConnected> {
        self.targets.connect().await
    }
}

/// An endpoint without scheme and trailing slash, as etcdctl's users write it.
fn bare(endpoint: &str) -> &str {
    let bare = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    bare.unwrap_or(endpoint).trim_end_matches('/')
}

impl Targets {
    /// Tries each endpoint once, beginning with the next in turn.
    async fn connect(&self) -> Result<Box<dyn Stream>, NoneConnected> {
        let mut failures = Vec::new();
        for _ in 0..self.endpoints.len() {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
            let endpoint = &self.endpoints[turn];
            let why = match tokio::time::timeout(self.connect_deadline, self.connect_to(endpoint)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no handshake within {} ms", self.connect_deadline.as_millis()),
            };
            failures.push(format!("{endpoint}: {why}"));
        }
        Err(NoneConnected(if failures.is_empty() {
            "no endpoints given".into()
        } else {
            failures.join("; ")
        }))
    }

    async fn connect_to(&self, endpoint: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(endpoint).await?;
        // Without it etcd's small frames wait for each other: 45 ms a call instead of 0.5.
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(tls()).connect(name, stream).await?))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = NoneConnected;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NoneConnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoneConnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let targets = Arc::clone(&self.targets);
        Box::pin(async move { targets.connect().await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_taken_with_or_without_a_scheme() {
        for text in ["10.0.0.1:2379", "http://10.0.0.1:2379", "https://10.0.0.1:2379/"] {
            assert_eq!(bare(text), "10.0.0.1:2379");
        }
    }
}
