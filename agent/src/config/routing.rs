//! Routing for those who do not use our poolers: where load balancers ask, and what is run when the writer changes.

use std::net::SocketAddr;
use std::path::PathBuf;

use holdfast_proto::tls::{Identity, ShownCertificate, TlsProblem};

use super::reader::{Reader, number, parsed, path, switch, texts};
use super::socket;

/// Where load balancers ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingListen {
    /// An address of this host.
    pub address: SocketAddr,
    /// What they are shown.
    pub tls: RoutingTls,
}

/// What load balancers are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutingTls {
    /// Plain HTTP.
    Off,
    /// The host's own certificate.
    Own,
    /// One that is none of ours.
    Files {
        /// The certificate, with intermediate ones after it, PEM.
        cert: PathBuf,
        /// Its private key, PEM.
        key: PathBuf,
    },
}

impl RoutingTls {
    /// Reads what it names; `None`: plain HTTP.
    pub fn certificate(&self, own: &Identity) -> Result<Option<ShownCertificate>, Vec<TlsProblem>> {
        Ok(match self {
            Self::Off => None,
            Self::Own => Some(ShownCertificate::of(own.clone())),
            Self::Files { cert, key } => Some(ShownCertificate::load(cert.clone(), key.clone())?),
        })
    }
}

/// What is run when the writer changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteCommand {
    /// The program and its arguments.
    pub line: Vec<String>,
    /// How long one run may take, in milliseconds; it is killed then.
    pub deadline_ms: u64,
}

/// A call to a load balancer's or a DNS server's interface takes a second or two.
const DEADLINE_MS: u64 = 10_000;

/// Reads `[routing]`.
pub(super) fn routing(table: &mut Reader<'_>) -> (Option<RoutingListen>, Option<RouteCommand>) {
    let listen = listen(table);
    let line = table.optional("command", texts);
    let deadline_ms = table.optional("command_deadline_ms", number(100, 60_000));
    if line.is_none() && deadline_ms.is_some() {
        table.problem("command_deadline_ms", "there is no command");
    }
    (listen, line.map(|line| RouteCommand { line, deadline_ms: deadline_ms.unwrap_or(DEADLINE_MS) }))
}

fn listen(table: &mut Reader<'_>) -> Option<RoutingListen> {
    let address = table.optional("listen", parsed(socket));
    let own = table.optional("tls", switch);
    let tls = match (own, table.optional("cert", path), table.optional("key", path)) {
        (None | Some(true), Some(cert), Some(key)) => RoutingTls::Files { cert, key },
        (_, None, None) => {
            if own == Some(true) {
                RoutingTls::Own
            } else {
                RoutingTls::Off
            }
        }
        (Some(false), ..) => {
            table.problem("tls", "is false, and cert or key name a certificate");
            RoutingTls::Off
        }
        (_, cert, _) => {
            let (missing, there) = if cert.is_some() { ("key", "cert") } else { ("cert", "key") };
            table.problem(missing, format!("is missing; {there} needs one"));
            RoutingTls::Off
        }
    };
    if address.is_none() && tls != RoutingTls::Off {
        table.problem("listen", "is missing; a certificate is shown to whoever asks there");
    }
    Some(RoutingListen { address: address?, tls })
}
