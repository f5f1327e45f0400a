//! Records of a reign: who may write, what its standbys promised, how it ended.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Configuration, Incarnation, MemberName, Position, SessionId, Term, Timeline};

/// The term record: the one key whose transactions decide who may write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermRecord {
    /// The term; CLOSE leaves it, OPEN raises it by one.
    pub term: Term,
    /// Open or closed.
    pub reign: Reign,
    /// W3C `traceparent` of the incident that last changed the record.
    #[serde(default)]
    pub trace: Option<String>,
    /// The highest timeline id on which a reign up to this one may have written; OPEN reserves the one above it
    /// (`PROTOCOL.md` rule 14). Absent in records of builds before it.
    #[serde(default)]
    pub timeline: Option<Timeline>,
}

/// Whether a term has a writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Reign {
    /// `holder` may write.
    Open {
        /// The writer.
        holder: MemberName,
        /// The start of the holder's agent that opened or renewed the term.
        incarnation: Incarnation,
        /// The holder's session.
        session: SessionId,
        /// The holder's PostgreSQL has left recovery: poolers send clients to it from now on. OPEN comes before the
        /// promotion, so it starts as `false`.
        #[serde(default)]
        writable: bool,
        /// What was asked of the opener: the floor of the reign before. Everything that was acknowledged before this reign
        /// is at or below it, so it is the floor again if the term is given back unused (rule 10). Absent: not known, as
        /// after an override.
        #[serde(default)]
        floor: Option<Position>,
    },
    /// Nobody may write in this term any more, and nobody can take that back.
    Closed {
        /// The last writer.
        holder: MemberName,
        /// What the next writer must have at least: an override lets its one successor pass below it. Records without it
        /// hold nobody back, and this build writes none.
        floor: Option<Position>,
        /// `version` of `/sync` after CLOSE rewrote it with its own value.
        sync_version: i64,
        /// `mod_revision` of `/sync` before that; OPEN compares with the revision of the CLOSE itself.
        evidence: Evidence,
        /// The member for which CLOSE put Patroni's leader key.
        successor: Option<MemberName>,
        /// Wall clock of the closer, milliseconds since 1970.
        at_wall_ms: i64,
    },
}

impl TermRecord {
    /// The holder, if the term is open.
    pub fn open_holder(&self) -> Option<&MemberName> {
        match &self.reign {
            Reign::Open { holder, .. } => Some(holder),
            Reign::Closed { .. } => None,
        }
    }

    /// The session under which the term is held, if it is open.
    pub fn open_session(&self) -> Option<SessionId> {
        match self.reign {
            Reign::Open { session, .. } => Some(session),
            Reign::Closed { .. } => None,
        }
    }

    /// The present or last writer.
    pub fn holder(&self) -> &MemberName {
        match &self.reign {
            Reign::Open { holder, .. } | Reign::Closed { holder, .. } => holder,
        }
    }

    /// Rule 10: whether this is the word by which the holder gives the open term back. It counts only under the session
    /// and the start that the record names: a later start of the holder's agent may have let the promotion pass.
    pub fn is_given_back_by(&self, word: &Attestation) -> bool {
        match &self.reign {
            Reign::Open { holder, incarnation, session, writable: false, .. } => {
                word.stop == StopKind::Relinquished
                    && (word.term, &word.holder) == (self.term, holder)
                    && (word.incarnation, word.session) == (*incarnation, *session)
            }
            Reign::Open { .. } | Reign::Closed { .. } => false,
        }
    }

    /// Rule 10: the term was closed because its holder gave it back. It never wrote, so it is a candidate like any other.
    pub fn was_given_back(&self) -> bool {
        matches!(self.reign, Reign::Closed { evidence: Evidence::Relinquished, .. })
    }
}

/// Why the last writer can no longer have a commit acknowledged (DESIGN section 4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Evidence {
    /// The writer's own agent shows a clean shutdown; no promises needed (rule 9).
    AttestedClean,
    /// The writer's own agent shows that it has stopped; the floor comes from the promisers (rules 8 and 9).
    AttestedStopped {
        /// Who promised.
        promisers: BTreeSet<MemberName>,
    },
    /// The session is gone, no sign of life, and more than `quorum` of every configuration promised (rule 8).
    Revoked {
        /// Who promised.
        promisers: BTreeSet<MemberName>,
        /// Who asked the fence device that switched the writer's host off (rule 11): its word took the place of the gone
        /// session. A field of this kind, and no kind of its own: builds before it must still read the term.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outside: Option<MemberName>,
    },
    /// The holder gave the term back before its PostgreSQL left recovery: nothing was ever acknowledged in it (rule 10).
    Relinquished,
    /// A named person took the loss (rule 11).
    Override {
        /// Identity from the certificate.
        by: String,
        /// Why.
        reason: String,
    },
}

impl std::fmt::Display for Evidence {
    /// For people: the kind, and who stands for it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let listed = |promisers: &BTreeSet<MemberName>| {
            promisers.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::AttestedClean => write!(f, "attested by its own agent, shut down cleanly"),
            Self::AttestedStopped { promisers } => {
                write!(f, "attested by its own agent, left by {}", listed(promisers))
            }
            Self::Revoked { promisers, outside: None } => write!(f, "revoked, left by {}", listed(promisers)),
            Self::Revoked { promisers, outside: Some(asker) } => {
                write!(f, "switched off from outside, asked by {asker}, and left by {}", listed(promisers))
            }
            Self::Relinquished => write!(f, "given back by its own agent before it wrote"),
            Self::Override { by, reason } => write!(f, "override by {by}: {reason}"),
        }
    }
}

/// Rule 1: what the present writer has published about its synchronous configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloorRecord {
    /// The term in which it was written.
    pub term: Term,
    /// `version` of `/sync`.
    pub sync_version: i64,
    /// `mod_revision` of `/sync`.
    pub sync_mod_revision: i64,
    /// `create_revision` of `/sync`: its version restarts after a delete.
    pub sync_create_revision: i64,
    /// `M` and `q`.
    pub configuration: Configuration,
    /// The id of each member's data directory: a promise of other data does not count until there is a newer record. Of the
    /// writer's too: it may come back only with what it wrote (rule 15).
    #[serde(default)]
    pub data_uuids: BTreeMap<MemberName, String>,
    /// `F`: what at least `|M| - q` members had flushed when this was written.
    pub floor: Position,
}

/// Rule 5: a standby's durable word that it has stopped receiving WAL from the writer of `term`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The term whose writer it has left.
    pub term: Term,
    /// The writer it has left.
    pub writer: MemberName,
    /// What it had received when nothing could come any more.
    pub position: Position,
    /// The data directory's own id: a node whose data were replaced does not vote.
    pub data_uuid: String,
    /// The promiser's agent.
    pub incarnation: Incarnation,
    /// When the writer, or its agent, gave its last sign of life to this node; wall clock, milliseconds since 1970. For
    /// people: the write gap is measured from here.
    #[serde(default)]
    pub heard_wall_ms: Option<i64>,
    /// Wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// Rule 9: the writer's own agent says that its PostgreSQL has stopped and its start gate is shut. Rule 10: the holder's
/// own agent says that its PostgreSQL never left recovery, and that it lets no promotion pass any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The term.
    pub term: Term,
    /// The writer.
    pub holder: MemberName,
    /// Its agent.
    pub incarnation: Incarnation,
    /// Its session.
    pub session: SessionId,
    /// How it stopped.
    pub stop: StopKind,
    /// Processes that were still there: in uninterruptible sleep with SIGKILL pending, behind a port that the kernel keeps
    /// closed. Empty: all were gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<i32>,
    /// Wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// How a writer stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stop")]
pub enum StopKind {
    /// `pg_control` says "shut down"; the position is the end of the shutdown checkpoint record.
    Clean {
        /// The end of its WAL.
        end: Position,
    },
    /// `pg_control` says "in production", or the disk did not let it be read after its agent had ended a PostgreSQL that
    /// hung: a crash or a kill. Its own disk may be ahead of what was acknowledged.
    Stopped,
    /// It never began: PostgreSQL is in recovery, and no promotion hook of the term has been or will be let pass (rule 10).
    Relinquished,
}
