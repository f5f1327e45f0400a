//! Routing for those who do not use our poolers: where load balancers ask, and what is run when the writer changes.

use std::net::SocketAddr;

use super::reader::{Reader, number, parsed, texts};
use super::socket;

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
pub(super) fn routing(table: &mut Reader<'_>) -> (Option<SocketAddr>, Option<RouteCommand>) {
    let listen = table.optional("listen", parsed(socket));
    let line = table.optional("command", texts);
    let deadline_ms = table.optional("command_deadline_ms", number(100, 60_000));
    if line.is_none() && deadline_ms.is_some() {
        table.problem("command_deadline_ms", "there is no command");
    }
    (listen, line.map(|line| RouteCommand { line, deadline_ms: deadline_ms.unwrap_or(DEADLINE_MS) }))
}
