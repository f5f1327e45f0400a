//! Accepting connections: TLS handshakes beside each other, bounded in number and time, and the caller's name for the
//! handlers.
//!
//! One stalled client never stops the others, and a flood of them never costs more than the limits. Whoever has no
//! certificate of our authority, or one without a name of ours, gets no further than the handshake. A connection ends
//! with the certificate that it was opened with: whoever has a new one connects again.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::{Identity, Peer};

/// What strangers may cost.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Connections at once, those in the handshake included.
    pub connections_max: usize,
    /// How long a handshake may take.
    pub handshake_deadline: Duration,
}

impl Default for AcceptLimits {
    /// A region has some dozens of agents and operators, one connection each.
    fn default() -> Self {
        Self { connections_max: 256, handshake_deadline: Duration::from_secs(3) }
    }
}

/// Who is at the other end of a connection; in the extensions of every request that comes over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// From its certificate.
    pub peer: Peer,
    /// Where it connected from.
    pub address: SocketAddr,
}

/// An accepted connection whose peer is known.
#[derive(Debug)]
pub struct Connection {
    tls: TlsStream<TcpStream>,
    caller: Caller,
    /// The end of the caller's certificate.
    ends: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

/// Connections for tonic's `serve_with_incoming`. Accepting ends when the stream is dropped.
pub fn incoming(
    listener: TcpListener,
    identity: Identity,
    limits: AcceptLimits,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, stream) = mpsc::channel(16);
    tokio::spawn(accept_all(listener, identity, limits, ready));
    ReceiverStream::new(stream)
}

async fn accept_all(
    listener: TcpListener,
    identity: Identity,
    limits: AcceptLimits,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    /// The only errors of `accept` that last are those of exhaustion: a pause keeps them from spinning.
    const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            next = next => next,
            () = ready.closed() => return,
        };
        match accepted {
            Ok((tcp, address)) => {
                let handshake = handshake(tcp, address, identity.server(), slot);
                let (ready, deadline) = (ready.clone(), limits.handshake_deadline);
                tokio::spawn(async move {
                    match tokio::time::timeout(deadline, handshake).await {
                        // The server has ended: there is nobody to tell.
                        Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                        Ok(Err(error)) => tracing::info!(%address, %error, "connection refused"),
                        Err(_) => tracing::info!(%address, "connection refused: no handshake in time"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<rustls::ServerConfig>,
    slot: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let tls = TlsAcceptor::from(config).accept(tcp).await?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let first = chain.first().ok_or_else(|| io::Error::other("the client has shown no certificate"))?;
    let peer = Peer::of_certificate(first).map_err(io::Error::other)?;
    let ends = Box::pin(sleep(remaining(first)?));
    Ok(Connection { tls, caller: Caller { peer, address }, ends, _slot: slot })
}

/// For how long a certificate that the handshake has verified is still in force.
fn remaining(certificate: &[u8]) -> io::Result<Duration> {
    /// The timer's own bound is two years; a connection that old is made again as well.
    const LONGEST: Duration = Duration::from_secs(365 * 86_400);
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(io::Error::other)?;
    let ends_unix_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // It is in force up to the end of its last second.
    Ok(Duration::from_secs(ends_unix_s.saturating_add(1)).saturating_sub(now).min(LONGEST))
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        if connection.ends.as_mut().poll(context).is_ready() {
            let why = format!("the certificate of {} has ended", connection.caller.peer);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        Pin::new(&mut connection.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write(context, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(context)
    }
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(context)
    }
}
