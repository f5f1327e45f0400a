//! Connections of the clients, with the manners of libpq: hosts are tried one after the other, each with a deadline for
//! everything up to the first answer, so that a hung server never hides the next one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// `connect_timeout` of the clients, per host: what users of libpq multi-host set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// `tcp_user_timeout` of the clients.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(3);

/// A parsed connection string.
#[derive(Clone)]
pub struct Target {
    hosts: Vec<Config>,
    tls: Option<MakeRustlsConnect>,
}

/// Why a connection string cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not `keyword=value` throughout.
    #[error("the connection string {dsn:?} is not a list of keyword=value")]
    Syntax {
        /// The string.
        dsn: String,
    },
    /// A keyword has a value that is not understood.
    #[error("the connection string has {keyword}={value}, which is not understood")]
    Value {
        /// The keyword.
        keyword: String,
        /// The value.
        value: String,
    },
    /// A certificate file is missing or not PEM.
    #[error("the certificate file {path} cannot be used: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The last host that was tried said so.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// The last host that was tried did not answer.
    #[error("no answer within {} ms", CONNECT_TIMEOUT.as_millis())]
    Deadline,
    /// The last host that was tried is a standby.
    #[error("the server is read-only")]
    ReadOnly,
}

impl ConnectError {
    /// SQLSTATE, or `connect`.
    pub fn reason(&self) -> String {
        match self {
            Self::Postgres(error) => error.code().map_or_else(|| "connect".into(), |code| code.code().into()),
            Self::Deadline => "connect-deadline".into(),
            Self::ReadOnly => "connect-read-only".into(),
        }
    }
}

impl Target {
    /// Reads a connection string of libpq.
    pub fn parse(dsn: &str) -> Result<Self, TargetError> {
        let mut options = keywords(dsn).ok_or_else(|| TargetError::Syntax { dsn: dsn.to_owned() })?;
        let mut file = |keyword: &str| options.remove(keyword).map(PathBuf::from);
        let (ca, cert, key) = (file("sslrootcert"), file("sslcert"), file("sslkey"));
        let tls = ca.map(|ca| make_tls(ca, cert, key)).transpose()?;
        let hosts = options.remove("host").unwrap_or_default();
        let addresses = options.remove("hostaddr");
        let ports = options.remove("port").unwrap_or_else(|| "5432".into());
        let ports: Vec<&str> = ports.split(',').collect();
        let mut base = Config::new();
        for (keyword, value) in &options {
            set(&mut base, keyword, value)?;
        }
        if tls.is_none() {
            base.ssl_mode(SslMode::Disable);
        }
        let addresses: Vec<&str> =
            addresses.as_deref().map(|list| list.split(',').collect()).unwrap_or_default();
        let hosts = hosts.split(',').enumerate().map(|(at, host)| {
            let port = ports.get(at).or(ports.last()).copied().unwrap_or_default();
            let mut config = base.clone();
            config.host(addresses.get(at).copied().unwrap_or(host));
            let bad_port = |_| TargetError::Value { keyword: "port".into(), value: port.to_owned() };
            config.port(port.parse().map_err(bad_port)?);
            Ok(config)
        });
        Ok(Self { hosts: hosts.collect::<Result<_, _>>()?, tls })
    }

    /// A server behind a Unix socket.
    pub fn socket(dir: &std::path::Path, port: u16, user: &str, dbname: &str) -> Self {
        let mut config = Config::new();
        config.host_path(dir).port(port).user(user).dbname(dbname).ssl_mode(SslMode::Disable);
        Self { hosts: vec![config], tls: None }
    }

    /// The database that it names; `postgres` when it names none.
    pub fn dbname(&self) -> &str {
        self.hosts.first().and_then(Config::get_dbname).unwrap_or("postgres")
    }

    /// Connects to the first host that will have it.
    pub async fn connect(&self) -> Result<Session, ConnectError> {
        let mut last = ConnectError::Deadline;
        for config in &self.hosts {
            match tokio::time::timeout(CONNECT_TIMEOUT, connect_one(config, self.tls.clone())).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => last = error,
                Err(_) => last = ConnectError::Deadline,
            }
        }
        Err(last)
    }
}

fn set(config: &mut Config, keyword: &str, value: &str) -> Result<(), TargetError> {
    match (keyword, value) {
        ("user", user) => drop(config.user(user)),
        ("password", password) => drop(config.password(password)),
        ("dbname", name) => drop(config.dbname(name)),
        ("application_name", name) => drop(config.application_name(name)),
        ("options", options) => drop(config.options(options)),
        ("sslmode", "disable") => drop(config.ssl_mode(SslMode::Disable)),
        // The name is checked whatever the mode: rustls knows no other way.
        ("sslmode", "require" | "verify-ca" | "verify-full") => drop(config.ssl_mode(SslMode::Require)),
        ("sslmode", _) => drop(config.ssl_mode(SslMode::Prefer)),
        ("target_session_attrs", "read-write" | "primary") => {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        ("target_session_attrs", "any") => {}
        // The bench sets these itself, so that every system has the same clients.
        ("connect_timeout" | "tcp_user_timeout" | "keepalives" | "keepalives_idle", _) => {}
        ("keepalives_interval" | "keepalives_count" | "gssencmode", _) => {}
        (keyword, value) => {
            return Err(TargetError::Value { keyword: keyword.to_owned(), value: value.to_owned() });
        }
    }
    Ok(())
}

/// `keyword=value` pairs; a value with blanks stands in single quotes, `\` takes the next character as it is.
fn keywords(dsn: &str) -> Option<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=')?;
        let quoted = after.strip_prefix('\'');
        let mut value = String::new();
        let mut characters = quoted.unwrap_or(after).char_indices();
        let end = loop {
            match characters.next() {
                Some((_, '\\')) => value.push(characters.next()?.1),
                Some((at, '\'')) if quoted.is_some() => break at + 2,
                Some((at, blank)) if quoted.is_none() && blank.is_whitespace() => break at,
                Some((_, other)) => value.push(other),
                None if quoted.is_some() => return None,
                None => break after.len(),
            }
        };
        pairs.insert(keyword.trim().to_owned(), value);
        rest = after[end..].trim_start();
    }
    Some(pairs)
}

fn make_tls(
    ca: PathBuf,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<MakeRustlsConnect, TargetError> {
    let broken = |path: &PathBuf, reason: String| TargetError::Certificate { path: path.clone(), reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&ca)? {
        roots.add(certificate).map_err(|error| broken(&ca, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| broken(&ca, error.to_string()))?
        .with_root_certificates(roots);
    let config = match (cert, key) {
        (Some(cert), Some(key)) => {
            let private =
                PrivateKeyDer::from_pem_file(&key).map_err(|error| broken(&key, error.to_string()))?;
            builder
                .with_client_auth_cert(certificates(&cert)?, private)
                .map_err(|error| broken(&cert, error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TargetError> {
    let broken = |error: rustls::pki_types::pem::Error| TargetError::Certificate {
        path: path.clone(),
        reason: error.to_string(),
    };
    CertificateDer::pem_file_iter(path).map_err(broken)?.collect::<Result<_, _>>().map_err(broken)
}

/// An open session. Dropping it closes the connection, also one that hangs.
pub struct Session {
    /// Statements go here.
    pub client: Client,
    /// A WARNING of code 01000 arrived since [`Session::take_warning`].
    warned: Arc<AtomicBool>,
    driver: JoinHandle<()>,
}

impl Session {
    /// Whether the server warned, since the last call, that the wait for synchronous replication was cancelled.
    pub fn take_warning(&self) -> bool {
        self.warned.swap(false, Ordering::SeqCst)
    }

    /// Asks the server of a Unix socket to cancel what runs, as a client with a query timeout does.
    pub async fn cancel(token: CancelToken) {
        // A cancel that does not arrive is no cancel: the attempt goes on to its own deadline.
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, token.cancel_query(NoTls)).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn connect_one(config: &Config, tls: Option<MakeRustlsConnect>) -> Result<Session, ConnectError> {
    let mut config = config.clone();
    config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(TCP_USER_TIMEOUT);
    let wants_writer = config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite;
    // Asked below: the driver's own check has no deadline of its own and no name for the answer.
    config.target_session_attrs(TargetSessionAttrs::Any);
    let session = match tls {
        Some(tls) => {
            let (client, connection) = config.connect(tls).await?;
            drive(client, connection)
        }
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            drive(client, connection)
        }
    };
    if wants_writer {
        let messages = session.client.simple_query("show transaction_read_only").await?;
        let on = |message: &tokio_postgres::SimpleQueryMessage| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("on"),
            _ => false,
        };
        if messages.iter().any(on) {
            return Err(ConnectError::ReadOnly);
        }
    }
    Ok(session)
}

fn drive<S, T>(client: Client, mut connection: Connection<S, T>) -> Session
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let warned = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&warned);
    // The notice stands before the command's completion in the stream, so the flag is set before the client is told.
    let driver = tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message
                && *notice.code() == SqlState::WARNING
                && notice.message().contains("synchronous replication")
            {
                seen.store(true, Ordering::SeqCst);
            }
        }
    });
    Session { client, warned, driver }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_split_as_libpq_does() {
        let pairs = keywords(r"host=a,b  port=1,2 password='x y\'z' sslmode=verify-full").unwrap();
        assert_eq!(pairs["host"], "a,b");
        assert_eq!(pairs["password"], "x y'z");
        assert_eq!(pairs["sslmode"], "verify-full");
        assert_eq!(keywords("host"), None);
        assert_eq!(keywords("password='open"), None);
    }

    #[test]
    fn each_host_has_its_port() {
        let target =
            Target::parse("host=10.0.0.1,10.0.0.2 port=5432,5433 user=u target_session_attrs=read-write");
        let hosts = target.unwrap().hosts;
        assert_eq!(hosts.iter().map(|host| host.get_ports()[0]).collect::<Vec<_>>(), [5432, 5433]);
        assert!(Target::parse("host=a port=x").is_err());
        assert!(Target::parse("host=a nonsense=1").is_err());
    }
}
