//! A person's order to go on although acknowledged writes may be lost by it (rules 11 and 18).

use serde::{Deserialize, Serialize};

use crate::{MemberName, Position, Term};

/// Lets one member follow the writer of one term without the proof, or below the floor. It means nothing once that term is
/// over, so it is used once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideRecord {
    /// The term that is to be over.
    pub term: Term,
    /// Who follows, and nobody else.
    pub successor: MemberName,
    /// Identity from the certificate.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The end of what is known to have been acknowledged, when the order was given; absent: not known.
    #[serde(default)]
    pub known_end: Option<Position>,
    /// Where the successor's data ended then; absent: not known.
    #[serde(default)]
    pub position: Option<Position>,
    /// What the person accepted, in words.
    pub accepted: String,
    /// Wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
}

impl std::fmt::Display for OverrideRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { successor, by, reason, accepted, .. } = self;
        write!(f, "override by {by} for {successor} ({reason}): {accepted}")
    }
}
