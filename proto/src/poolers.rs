//! What `holdfast check pooler` and the agent of its host say to each other: one JSON line each way over the agent's socket,
//! beside the gates' questions. Load balancers are given the same answer over HTTP.

use serde::{Deserialize, Serialize};

/// Name of the agent's socket in its run directory.
pub const SOCKET: &str = "agent.sock";

/// The longest line that either side accepts, in bytes.
pub const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Asks whether clients should come to the poolers of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum PoolerQuestion {
    /// The one of this name; all of the host without a name.
    Pooler {
        /// Its name in the agent's configuration.
        name: Option<String>,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolerAnswer {
    /// Whether clients should come: every pooler that was asked for is up.
    pub up: bool,
    /// Each of them.
    pub poolers: Vec<PoolerVerdict>,
    /// Why nothing can be said of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One PgBouncer process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolerVerdict {
    /// Its name in the agent's configuration.
    pub pooler: String,
    /// `namespace/scope` of its cluster.
    pub cluster: String,
    /// Whether clients should come to it.
    pub up: bool,
    /// Why, or why not; one line.
    pub why: String,
}

impl PoolerAnswer {
    /// The answer of these.
    pub fn of(poolers: Vec<PoolerVerdict>) -> Self {
        Self { up: !poolers.is_empty() && poolers.iter().all(|one| one.up), poolers, error: None }
    }

    /// Nothing can be said.
    pub fn error(why: String) -> Self {
        Self { up: false, poolers: Vec::new(), error: Some(why) }
    }

    /// One line for each, the reasons of a no first.
    pub fn lines(&self) -> Vec<String> {
        let line = |one: &PoolerVerdict| {
            format!("{}: {}: {}", one.pooler, if one.up { "up" } else { "down" }, one.why)
        };
        let (up, down): (Vec<_>, Vec<_>) = self.poolers.iter().partition(|one| one.up);
        self.error.iter().cloned().chain(down.into_iter().chain(up).map(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_up_if_each_of_its_processes_is() {
        let one = |pooler: &str, up| PoolerVerdict {
            pooler: pooler.into(),
            cluster: "service/main".into(),
            up,
            why: "because".into(),
        };
        assert!(PoolerAnswer::of(vec![one("a", true)]).up);
        let mixed = PoolerAnswer::of(vec![one("a", true), one("b", false)]);
        assert!(!mixed.up);
        assert_eq!(mixed.lines(), ["b: down: because", "a: up: because"]);
        assert!(!PoolerAnswer::of(Vec::new()).up, "nobody would reach anything");
    }
}
