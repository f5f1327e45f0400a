//! Records that only tell: what an agent would have done, and which orders people gave. No decision rests on them, and
//! both are bounded, so that nobody has to clear them away.

use serde::{Deserialize, Serialize};

use crate::{MemberName, Position, SessionId};

/// How many lines a [`WouldRecord`] keeps.
pub const WOULD_LINES_MAX: usize = 16;

/// What the agent of a member would have done if the cluster were armed; oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldRecord {
    /// At most [`WOULD_LINES_MAX`].
    pub lines: Vec<WouldLine>,
    /// It would have left the writer by now: others see what they would have closed the reign by.
    #[serde(default)]
    pub promise: Option<WouldPromise>,
    /// It would have attested that its own PostgreSQL has stopped.
    #[serde(default)]
    pub stop: Option<WouldStop>,
}

/// A promise that was not given. Observing agents count terms each for itself, so it names the writer's session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldPromise {
    /// Who would have been left.
    pub writer: MemberName,
    /// The session of its host.
    pub session: SessionId,
    /// How far this member had come.
    pub position: Position,
    /// When: wall clock of that host, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// An attestation that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldStop {
    /// The session of the writer's host.
    pub session: SessionId,
    /// When: wall clock of that host, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// One thing that was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldLine {
    /// When it was decided: wall clock of that host, milliseconds since 1970.
    pub at_wall_ms: i64,
    /// What, as it stands after the words "would have".
    pub text: String,
}

impl WouldRecord {
    /// Adds a line; the oldest makes room.
    pub fn push(&mut self, line: WouldLine) {
        self.lines.push(line);
        let over = self.lines.len().saturating_sub(WOULD_LINES_MAX);
        self.lines.drain(..over);
    }
}

/// An order of a person: who, when, why, from where. Written in the transaction that carries the order out, so that
/// there is no order without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its place in the sequence; the key is a ring.
    pub number: u64,
    /// The verb, for example `fence`.
    pub verb: String,
    /// The member, for verbs that have one.
    #[serde(default)]
    pub node: Option<MemberName>,
    /// Who: identity from the certificate.
    pub by: String,
    /// From where: the host that the command ran on, by its own name.
    pub from: String,
    /// Why.
    pub reason: String,
    /// The loss that was accepted, in words, for verbs that may cause one.
    #[serde(default)]
    pub accepted: Option<String>,
    /// When: wall clock of that host, milliseconds since 1970.
    pub at_wall_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept() {
        let mut record = WouldRecord::default();
        for at_wall_ms in 0..20 {
            record.push(WouldLine { at_wall_ms, text: "close term 4".into() });
        }
        assert_eq!(record.lines.len(), WOULD_LINES_MAX);
        assert_eq!((record.lines[0].at_wall_ms, record.lines[15].at_wall_ms), (4, 19));
    }
}
