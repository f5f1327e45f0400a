//! What the commands and a host's supervisor say to each other: one JSON line each way over the supervisor's socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::failure::{Exit, Failure};

/// A line is never longer.
pub const LINE_BYTES_MAX: u64 = 64 * 1024;
/// A boot waits for killed processes and for the packet filter; everything else takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(40);

/// What a supervisor is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How are the units?
    Status,
    /// From now on do not start these again when they end; all when empty. Kills nothing.
    Hold(Vec<String>),
    /// Start these again; all when empty.
    Start(Vec<String>),
    /// Kill what is left and start as after a power failure, except these.
    Boot(Vec<String>),
}

/// What it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Why it did not do it.
    pub error: Option<String>,
    /// The supervisor's own process: the host's mount namespace is its.
    pub pid: i32,
    /// The units.
    pub units: Vec<UnitStatus>,
}

/// How a unit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its name.
    pub name: String,
    /// Its process, while it runs.
    pub pid: Option<i32>,
    /// Whether it is kept down.
    pub held: bool,
    /// How often it was started again by itself.
    pub restarts: u32,
    /// How it ended last.
    pub last_end: Option<String>,
}

impl Response {
    /// The process of a unit.
    pub fn pid_of(&self, unit: &str) -> Option<i32> {
        self.units.iter().find(|status| status.name == unit)?.pid
    }
}

/// Asks the supervisor behind `socket`.
pub async fn ask(socket: &Path, request: &Request) -> Result<Response> {
    let at = || format!("the supervisor behind {}", socket.display());
    let unreachable = |why: &dyn std::fmt::Display| {
        let remedy = "a lab without its supervisors can only be taken down: holdfast-lab down";
        Failure::with(Exit::Unreachable, format!("{} does not answer: {why}; {remedy}", at()))
    };
    let response = match tokio::time::timeout(DEADLINE, exchange(socket, request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&format!("not within {} s", DEADLINE.as_secs()))),
    };
    match response.error {
        Some(error) => bail!("{}: {error}", at()),
        None => Ok(response),
    }
}

async fn exchange(socket: &Path, request: &Request) -> Result<Response> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}
