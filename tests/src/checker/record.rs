//! What the clients write down: one JSON object a line, in the order in which things ended.
//!
//! A recording whose writer was killed may end in a torn line; that line is dropped. Anything else that is not
//! understood is an error: a verdict over half a recording would be worth nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The version of the lines that this program writes.
pub const FORMAT: u32 = 1;

/// How a client reaches the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// All database hosts in one connection string, `target_session_attrs=read-write`.
    Libpq,
    /// Through one PgBouncer in transaction mode.
    Pgbouncer,
    /// Through one HAProxy that asks our agents.
    Haproxy,
    /// Through one HAProxy that asks Patroni.
    HaproxyPatroni,
    /// The Unix socket of one database host, for as long as that host accepts writes.
    Socket,
}

/// One client: a sequence of attempts, one at a time, over one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// Number of the client, unique in the recording.
    pub client: u32,
    /// Name of its route: `libpq`, `pgbouncer:HOST` or `socket:HOST`. Clients may share one.
    pub route: String,
    /// Kind of its route.
    pub kind: RouteKind,
    /// The host that the route leads to, where it leads to one.
    pub host: Option<String>,
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// The server said that it is committed.
    Acknowledged,
    /// The same with WARNING 01000: somebody cancelled the wait for synchronous replication.
    Warned,
    /// It cannot have been committed: an error before the commit, or the statement was never sent.
    Refused {
        /// SQLSTATE, or `connect` when there was no server to give one.
        reason: String,
    },
    /// Sent, and what became of it is not known.
    Unknown {
        /// SQLSTATE of a session that was ended, `closed` or `deadline`.
        reason: String,
    },
}

/// One attempt to insert one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The client.
    pub client: u32,
    /// Its number of this attempt: with the client the key of the row.
    pub seq: u64,
    /// When it began, [`super::monotonic_us`].
    pub begin_us: u64,
    /// When it ended.
    pub end_us: u64,
    /// How.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a host said over its own socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// `pg_is_in_recovery()` is false.
    Writable,
    /// `pg_is_in_recovery()` is true.
    ReadOnly,
    /// Nobody listens, or the server refuses sessions.
    Down,
    /// No answer within the deadline of the probe.
    Unknown,
}

/// The standbys as the writer sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standbys {
    /// Names in `synchronous_standby_names`.
    pub named: u32,
    /// Walsenders in state streaming with `sync_state` sync or quorum.
    pub sync_streaming: u32,
    /// All walsenders in state streaming.
    pub streaming: u32,
}

/// One probe of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The host.
    pub host: String,
    /// When it was asked.
    pub begin_us: u64,
    /// When it had answered.
    pub end_us: u64,
    /// The answer.
    pub state: NodeState,
    /// Its standbys: asked in some probes only, answered by a writer only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standbys: Option<Standbys>,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "line")]
pub enum Line {
    /// The first line.
    Header {
        /// [`FORMAT`].
        format: u32,
        /// The run's name: first column of every row's key.
        run: String,
        /// All clients.
        clients: Vec<ClientInfo>,
        /// When the clients started.
        begin_us: u64,
    },
    /// An attempt that has ended.
    Attempt(Attempt),
    /// A probe that has ended.
    Probe(Probe),
    /// The last line of a recording that ended in order.
    End {
        /// When the last attempt had ended.
        end_us: u64,
    },
}

/// Everything that the clients of one run wrote down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// The run's name.
    pub run: String,
    /// All clients.
    pub clients: Vec<ClientInfo>,
    /// Their attempts.
    pub attempts: Vec<Attempt>,
    /// The probes.
    pub probes: Vec<Probe>,
    /// When the recording began.
    pub begin_us: u64,
    /// When it ended: the last moment in it.
    pub end_us: u64,
    /// When the clients were told to stop; absent when the recording was killed. Attempts may end later than that, but
    /// none begins.
    pub told_us: Option<u64>,
}

/// Why a recording cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("the recording {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line in the middle is not understood.
    #[error("line {number} of the recording is not understood: {source}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// The first line is missing, or of another format.
    #[error("the recording does not begin with a header of format {FORMAT}")]
    Header,
}

impl Recording {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, RecordingError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RecordingError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads the lines of a file.
    pub fn parse(text: &str) -> Result<Self, RecordingError> {
        let mut lines = whole_lines(text);
        let mut recording = match lines.next() {
            Some((_, Ok(Line::Header { format: FORMAT, run, clients, begin_us }))) => {
                Self { run, clients, begin_us, end_us: begin_us, ..Self::default() }
            }
            _ => return Err(RecordingError::Header),
        };
        for (number, line) in lines {
            recording.add(line.map_err(|source| RecordingError::Line { number, source })?);
        }
        Ok(recording)
    }

    fn add(&mut self, line: Line) {
        match line {
            Line::Header { .. } => {}
            Line::Attempt(attempt) => {
                self.end_us = self.end_us.max(attempt.end_us);
                self.attempts.push(attempt);
            }
            Line::Probe(probe) => {
                self.end_us = self.end_us.max(probe.end_us);
                self.probes.push(probe);
            }
            Line::End { end_us } => {
                self.end_us = self.end_us.max(end_us);
                self.told_us = Some(end_us);
            }
        }
    }

    /// The clients by number.
    pub fn clients_by_number(&self) -> BTreeMap<u32, &ClientInfo> {
        self.clients.iter().map(|client| (client.client, client)).collect()
    }
}

/// The lines that end in a newline: the rest was cut off while it was written.
fn whole_lines(text: &str) -> impl Iterator<Item = (usize, Result<Line, serde_json::Error>)> + '_ {
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    text[..end].lines().enumerate().map(|(at, line)| (at + 1, serde_json::from_str(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> String {
        let header = Line::Header { format: FORMAT, run: "r".into(), clients: Vec::new(), begin_us: 5 };
        serde_json::to_string(&header).unwrap() + "\n"
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_a_torn_middle_is_an_error() {
        let attempt = Attempt {
            client: 1,
            seq: 2,
            begin_us: 10,
            end_us: 20,
            outcome: Outcome::Refused { reason: "25006".into() },
        };
        let line = serde_json::to_string(&Line::Attempt(attempt.clone())).unwrap();
        let torn = format!("{}{line}\n{}", header(), &line[..20]);
        let recording = Recording::parse(&torn).unwrap();
        assert_eq!(recording.attempts, [attempt]);
        assert_eq!((recording.begin_us, recording.end_us), (5, 20));
        let middle = format!("{}{}\n{line}\n", header(), &line[..20]);
        assert!(matches!(Recording::parse(&middle), Err(RecordingError::Line { number: 2, .. })));
    }

    #[test]
    fn a_recording_needs_its_header() {
        assert!(matches!(Recording::parse(""), Err(RecordingError::Header)));
        let other = header().replace("\"format\":1", "\"format\":2");
        assert!(matches!(Recording::parse(&other), Err(RecordingError::Header)));
    }
}
