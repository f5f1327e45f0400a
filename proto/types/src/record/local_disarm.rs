//! What a person has done to one host alone, without etcd: `holdfast disarm --local`.
//!
//! The record lies in the state directory of the host's agent, never in etcd: it must work with agent, etcd and certificates
//! gone. The command line writes it; the gates, the agent and `boot-deny` obey it. The agent tells of it in its facts.

use serde::{Deserialize, Serialize};

use crate::Mode;

/// Where the state of a host's agent lies unless its configuration says otherwise.
pub const STATE_DIR: &str = "/var/lib/holdfast";
/// Where its sockets lie unless its configuration says otherwise.
pub const RUN_DIR: &str = "/run/holdfast";
/// Name of what an agent remembers of a cluster, in the cluster's folder below the state directory.
pub const REMEMBERED_FILE: &str = "remembered.json";
/// Name of a promise that binds this host, in the same folder.
pub const PROMISE_FILE: &str = "promise.json";

/// A person has taken Holdfast out of the way on one host: all instances of it are Patroni's alone.
///
/// It stands until it is ended by `holdfast disarm --local --undo`; the ended record stays, as the account of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDisarm {
    /// The user of the host who gave the order: no certificate is asked.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Wall clock of the host, milliseconds since 1970.
    pub at_wall_ms: i64,
    /// A fence record does not keep PostgreSQL from starting either.
    #[serde(default)]
    pub over_fence: bool,
    /// Where the server's programs are, for a start gate whose configuration cannot be used; absolute.
    #[serde(default)]
    pub bin_dir: Option<String>,
    /// How it was ended; absent while it stands.
    #[serde(default)]
    pub ended: Option<LocalEnd>,
}

/// The end of a local disarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEnd {
    /// The user of the host.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Wall clock of the host, milliseconds since 1970.
    pub at_wall_ms: i64,
}

impl LocalDisarm {
    /// Its name in the state directory.
    pub const FILE: &str = "disarmed.json";

    /// Whether it stands.
    pub fn stands(&self) -> bool {
        self.ended.is_none()
    }
}

impl std::fmt::Display for LocalDisarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "local disarm by {}: {}", self.by, self.reason)
    }
}

/// The part of what an agent remembers of a cluster that others than the agent read too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedMode {
    /// The last mode that was seen.
    pub mode: Mode,
    /// The member is fenced, and why.
    #[serde(default)]
    pub fenced: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stored;

    #[test]
    fn it_stands_until_it_is_ended() {
        let old = br#"{"format":1,"min_reader":1,"by":"root","reason":"x","at_wall_ms":5}"#;
        let mut record = Stored::<LocalDisarm>::decode("k", old).unwrap().body;
        assert!(record.stands() && !record.over_fence);
        assert_eq!(record.to_string(), "local disarm by root: x");
        record.ended = Some(LocalEnd { by: "ann".into(), reason: "over".into(), at_wall_ms: 6 });
        let kept = Stored::<LocalDisarm>::decode("k", &Stored::new(record).encode()).unwrap().body;
        assert!(!kept.stands());
    }
}
