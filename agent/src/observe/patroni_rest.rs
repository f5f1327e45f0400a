//! Patroni's REST API: whether it answers at all. What it says is read from etcd, where it costs nothing.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The begin of an answer, whatever it says.
    Answer,
    /// Refused or broken off: nobody listens, or nobody who knows us. Not hung.
    Refused,
    /// Connected, and nothing within the deadline.
    Silence,
}

/// Asks `GET /liveness`, which Patroni answers from its own state without asking anybody.
pub async fn is_heard(url: &str, tls: Arc<ClientConfig>, deadline: Duration) -> Heard {
    let Some((host, port)) = host_and_port(url) else { return Heard::Refused };
    let talk = async {
        let tcp = TcpStream::connect((host, port)).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let mut stream = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await?;
        let request = format!("GET /liveness HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.read_u8().await
    };
    match tokio::time::timeout(deadline, talk).await {
        Ok(Ok(_)) => Heard::Answer,
        Ok(Err(_)) => Heard::Refused,
        Err(_) => Heard::Silence,
    }
}

fn host_and_port(url: &str) -> Option<(&str, u16)> {
    let authority = url.strip_prefix("https://")?.split('/').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(host_and_port("https://10.0.0.1:8008/"), Some(("10.0.0.1", 8008)));
        assert_eq!(host_and_port("https://[fd00::1]:8008"), Some(("fd00::1", 8008)));
        assert_eq!(host_and_port("http://10.0.0.1:8008"), None);
    }
}
