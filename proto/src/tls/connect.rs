//! Opening a connection: TCP, TLS with the identity of this moment, and the check that the other side is who we meant.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::{Identity, Peer, Protocol};

/// Connects to one address, whatever the URI says: tonic is given an `http://` one, because it refuses `https://` with
/// a connector of our own.
#[derive(Debug, Clone)]
pub struct Connector {
    target: Arc<Target>,
}

#[derive(Debug)]
struct Target {
    identity: Identity,
    address: String,
    expected: Option<Peer>,
    protocol: Protocol,
    deadline: Duration,
}

impl Connector {
    /// A connector to `address` (`host:port`) that gives up after `deadline`, handshake included.
    pub fn new(
        identity: Identity,
        address: impl Into<String>,
        protocol: Protocol,
        deadline: Duration,
    ) -> Self {
        let target = Target { identity, address: address.into(), expected: None, protocol, deadline };
        Self { target: Arc::new(target) }
    }

    /// Also refuses a server whose certificate names anyone else. An address alone tells little: it comes from a
    /// record, and another host may have taken it since.
    pub fn expect(self, peer: Peer) -> Self {
        let Target { identity, address, protocol, deadline, .. } = &*self.target;
        let (identity, address) = (identity.clone(), address.clone());
        let (protocol, deadline) = (*protocol, *deadline);
        Self { target: Arc::new(Target { identity, address, expected: Some(peer), protocol, deadline }) }
    }

    /// Connects once.
    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let target = &self.target;
        match tokio::time::timeout(target.deadline, target.connect()).await {
            Ok(result) => result,
            Err(_) => Err(target.failure(format!("no handshake within {} ms", target.deadline.as_millis()))),
        }
    }
}

impl Target {
    fn failure(&self, why: impl std::fmt::Display) -> io::Error {
        io::Error::other(format!("{}: {why}", self.address))
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(&self.address).await.map_err(|error| self.failure(error))?;
        // Small frames must not wait for acknowledgements; tonic's own setting does not reach this socket.
        tcp.set_nodelay(true)?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| self.failure(error))?;
        let connector = TlsConnector::from(self.identity.client(self.protocol));
        let tls = connector.connect(name, tcp).await.map_err(|error| self.failure(error))?;
        if let Some(expected) = &self.expected {
            let found = peer_of(&tls).map_err(|error| self.failure(error))?;
            if found != *expected {
                return Err(self.failure(format!("{found} answers where {expected} was expected")));
            }
        }
        Ok(tls)
    }
}

fn peer_of(tls: &TlsStream<TcpStream>) -> Result<Peer, String> {
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let first = chain.first().ok_or("the server has shown no certificate")?;
    Peer::of_certificate(first).map_err(|error| error.to_string())
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

/// A channel that connects when it is first used, and again when it has lost its connection. No call on it takes longer
/// than `call_deadline`.
pub fn channel(connector: Connector, call_deadline: Duration) -> Channel {
    Endpoint::from_static("http://agent")
        .timeout(call_deadline)
        // A peer that was cut off answers nothing, not even a reset: leave its connection before the next call does.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3))
        .connect_with_connector_lazy(connector)
}
