//! A writer that was away and came back in its own term: no reign ended, but clients waited. No decision rests on it.

use serde::{Deserialize, Serialize};

use crate::{MemberName, Term};

/// One restart of a writer in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRecord {
    /// Its place in the sequence of its member; the key is a ring.
    pub number: u64,
    /// The writer.
    pub member: MemberName,
    /// The term, which went on.
    pub term: Term,
    /// How its PostgreSQL had ended.
    pub ended: RestartEnd,
    /// Its last sign of life: wall clock of its host, milliseconds since 1970.
    pub gone_wall_ms: i64,
    /// When it had acknowledged a write again, by the same clock.
    pub back_wall_ms: i64,
    /// W3C trace id.
    #[serde(default)]
    pub trace_id: Option<String>,
    /// One line for people: cause and effect.
    pub text: String,
}

impl RestartRecord {
    /// For how long nobody could write, in milliseconds.
    pub fn away_ms(&self) -> i64 {
        self.back_wall_ms - self.gone_wall_ms
    }
}

/// How a PostgreSQL ended that was started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartEnd {
    /// It crashed or was killed: the control file said that it was in production.
    Crashed,
    /// It was shut down.
    ShutDown,
    /// Its agent was away too: the host was, or all of it was stopped. The last sign of life is the last change of its WAL
    /// on disk.
    Unseen,
    /// A newer build tells it.
    #[serde(other)]
    Other,
}

impl std::fmt::Display for RestartEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Crashed => "crashed",
            Self::ShutDown => "was shut down",
            Self::Unseen => "ended while the agent was away too",
            Self::Other => "ended",
        })
    }
}
