//! What the gates and the agent say to each other: one JSON line each way over `agent.sock`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_types::{Namespace, Scope};
use serde::{Deserialize, Serialize};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "agent.sock";

/// The longest line that either side accepts, in bytes.
pub const LINE_BYTES_MAX: u64 = 16 * 1024;

/// A gate's question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask", deny_unknown_fields)]
pub enum Question {
    /// May the postmaster of this data directory start?
    Start {
        /// PGDATA.
        data_dir: PathBuf,
        /// `standby.signal` is there.
        standby: bool,
    },
    /// May this instance be promoted? Answered when it is decided; closing the connection before that gives the lock back,
    /// and with it the term, if that was opened already (rule 10).
    Promote {
        /// Patroni's namespace.
        namespace: Namespace,
        /// Patroni's scope.
        scope: Scope,
        /// For how long the hook has been waiting already, in milliseconds.
        #[serde(default)]
        waited_ms: u64,
    },
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// Go on.
    Pass,
    /// Do not: cause and next safe command.
    Refuse {
        /// For the log of Patroni.
        why: String,
    },
}

impl Answer {
    /// The line that is sent.
    pub fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Asks the agent and waits for its answer, at most `deadline` for each of the two.
pub fn ask(socket: &Path, question: &Question, deadline: Duration) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
