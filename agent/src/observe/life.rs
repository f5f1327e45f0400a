//! One probe of a PostgreSQL port or socket by a fresh connection (rules 4 and 9): it answers an SSL request, or it gives no sign of life.

use std::path::Path;
use std::time::Duration;

use holdfast_agent_core::detach::Life;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Length 8 and the code 1234 5679: PostgreSQL answers one byte before any authentication, from a process of its own,
/// so an answer means that the postmaster still starts backends.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A full queue of a socket is tried again after this.
const QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// Probes once. A refusal, a reset and silence are all no sign of life; what fails on our side says nothing.
pub async fn probe(address: &str, port: u16, deadline: Duration) -> Life {
    let talk = async { ask(TcpStream::connect((address, port)).await?).await };
    match tokio::time::timeout(deadline, talk).await {
        Ok(Ok(_)) => Life::Alive,
        Err(_) => Life::None,
        Ok(Err(error)) if is_ours(&error) => Life::Unknown,
        Ok(Err(_)) => Life::None,
    }
}

/// Probes the socket on our own host, for as long as it takes. A postmaster that hangs takes no connection, and the kernel
/// takes no more than fit into its queue; a socket that is not there, or that nobody listens on, says nothing about it.
pub async fn probe_socket(path: &Path) -> Life {
    loop {
        match async { ask(UnixStream::connect(path).await?).await }.await {
            Ok(_) => return Life::Alive,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tokio::time::sleep(QUEUE_PAUSE).await;
            }
            Err(_) => return Life::Unknown,
        }
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<u8> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await
}

/// No descriptor, no memory, no local port: nothing was sent. A network that cannot be reached is no sign of life, but
/// rule 4 wants the session gone too, which takes etcd: an isolated standby does not see that.
fn is_ours(error: &std::io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EADDRNOTAVAIL | EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const DEADLINE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn an_answer_is_life_and_silence_is_not() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(b"S").await.unwrap();
            (server, request)
        });
        assert_eq!(probe("127.0.0.1", port, Duration::from_secs(10)).await, Life::Alive);
        let (server, request) = answering.await.unwrap();
        assert_eq!(request, SSL_REQUEST);
        // Nobody accepts now: the kernel still takes the connection, as that of a hung postmaster does.
        assert_eq!(probe("127.0.0.1", port, DEADLINE).await, Life::None);
        drop(server);
        assert_eq!(probe("127.0.0.1", port, DEADLINE).await, Life::None);
    }

    #[tokio::test]
    async fn a_socket_is_waited_at_for_as_long_as_somebody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(probe_socket(&path).await, Life::Unknown, "it is not there");
        let server = tokio::net::UnixListener::bind(&path).unwrap();
        assert!(tokio::time::timeout(DEADLINE, probe_socket(&path)).await.is_err(), "nobody accepts");
        let answering = tokio::spawn(async move {
            // The first is the one that was given up.
            loop {
                let (mut stream, _) = server.accept().await.unwrap();
                let _ = stream.write_all(b"N").await;
            }
        });
        assert_eq!(probe_socket(&path).await, Life::Alive);
        answering.abort();
    }
}
