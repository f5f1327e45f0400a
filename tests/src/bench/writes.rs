//! What idle agents add to etcd's log: a pure comparison of two moments.
//!
//! Renewing a lease and reading add nothing to the log; a transaction that changes something adds one entry and raises
//! the revision by one. An entry that did not raise it is a transaction whose condition did not hold, or a lease that was
//! granted or ended, and has no key by which it could be told whose it is: such entries are counted against our agent, so
//! that the figure can only be too high. Beside Patroni alone the same count shows how many of them are Patroni's.
//!
//! It decides whose an entry is; `idle` measures and `judge` compares it with its target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::case::{Case, System};
use super::etcd::{Key, Progress};
use super::record::FORMAT;

/// All keys of ours.
pub const OURS: &str = "/holdfast/";

/// What was written within the measured time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RaftWrites {
    /// [`FORMAT`].
    pub format: u32,
    /// Always `idle`.
    pub case: Case,
    /// The system.
    pub system: System,
    /// Length of the measurement.
    pub seconds: f64,
    /// Entries of the log, by whomever.
    pub raft_entries: u64,
    /// Changes of keys of ours.
    pub ours: u64,
    /// Those of the agent that made the most; what cannot be told from the key is counted as this agent's.
    pub ours_of_worst_agent: u64,
    /// That agent's host; empty when nobody wrote.
    pub worst_agent: String,
    /// Changes of other keys: Patroni's.
    pub of_others: u64,
    /// Entries without a revision: nobody's for certain.
    pub without_revision: u64,
}

/// The two ends of a measurement.
pub struct Moment {
    /// How far etcd had come.
    pub progress: Progress,
    /// Our keys then.
    pub keys: BTreeMap<String, Key>,
}

impl RaftWrites {
    /// Compares two moments. `hosts` are those with an agent.
    pub fn between(system: System, seconds: f64, hosts: &[&str], begin: &Moment, end: &Moment) -> Self {
        let mut by_host: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut ours, mut shared) = (0, 0);
        for (key, changes) in changes(&begin.keys, &end.keys) {
            ours += changes;
            match hosts.iter().find(|host| key.split('/').any(|part| part == **host)) {
                Some(host) => *by_host.entry(host).or_default() += changes,
                None => shared += changes,
            }
        }
        let worst = by_host.iter().max_by_key(|(_, changes)| **changes);
        let (worst_agent, of_worst) = worst.map_or((String::new(), 0), |(host, n)| ((*host).to_owned(), *n));
        let raft_entries = end.progress.applied_index.saturating_sub(begin.progress.applied_index);
        let revisions = end.progress.revision.saturating_sub(begin.progress.revision);
        Self {
            format: FORMAT,
            case: Case::Idle,
            system,
            seconds,
            raft_entries,
            ours,
            ours_of_worst_agent: of_worst + shared,
            worst_agent,
            // One transaction may change several keys of ours and is one revision.
            of_others: revisions.saturating_sub(ours),
            without_revision: raft_entries.saturating_sub(revisions),
        }
    }

    /// The most that one agent can have added to the log in a minute.
    pub fn agent_per_minute(&self) -> f64 {
        // Counts of a bench are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let most = (self.ours_of_worst_agent + self.without_revision) as f64;
        most * 60.0 / self.seconds
    }
}

/// How often each key was changed between two moments, where it was. A key that went was changed at least once more.
pub fn changes<'k>(
    begin: &'k BTreeMap<String, Key>,
    end: &'k BTreeMap<String, Key>,
) -> BTreeMap<&'k str, u64> {
    let mut changes = BTreeMap::new();
    for (name, now) in end {
        let same = begin.get(name).filter(|before| before.create_revision == now.create_revision);
        let count = match (same, begin.contains_key(name)) {
            (Some(before), _) => now.version - before.version,
            // Created anew: its end before that counts too.
            (None, true) => now.version + 1,
            (None, false) => now.version,
        };
        changes.insert(name.as_str(), count.unsigned_abs());
    }
    changes.extend(begin.keys().filter(|name| !end.contains_key(*name)).map(|name| (name.as_str(), 1)));
    changes.retain(|_, count| *count > 0);
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(create_revision: i64, version: i64) -> Key {
        Key { create_revision, version, ..Key::default() }
    }

    fn moment(applied_index: u64, revision: u64, keys: &[(&str, Key)]) -> Moment {
        let keys = keys.iter().map(|(name, key)| ((*name).to_owned(), key.clone())).collect();
        Moment { progress: Progress { applied_index, revision }, keys }
    }

    const FACTS1: &str = "/holdfast/v1/r1/service/main/facts/db1";
    const FACTS2: &str = "/holdfast/v1/r1/service/main/facts/db2";
    const FLOOR: &str = "/holdfast/v1/r1/service/main/floor";
    const SESSION: &str = "/holdfast/v1/r1/session/db2";

    #[test]
    fn a_quiet_minute_has_none_of_ours() {
        let keys = [(FACTS1, key(5, 2)), (FLOOR, key(6, 9))];
        let (begin, end) = (moment(100, 50, &keys), moment(106, 56, &keys));
        let writes = RaftWrites::between(System::HoldfastNormal, 60.0, &["db1", "db2"], &begin, &end);
        assert_eq!((writes.raft_entries, writes.ours, writes.of_others), (6, 0, 6));
        assert_eq!((writes.without_revision, writes.worst_agent.as_str()), (0, ""));
        assert!(writes.agent_per_minute().abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_told_counts_against_the_agent_that_wrote_most() {
        let begin = moment(100, 50, &[(FACTS1, key(5, 2)), (FACTS2, key(5, 1)), (FLOOR, key(6, 9))]);
        // db2 twice (once by its session), db1 once, the floor once, Patroni five times, two entries of nobody.
        let end = moment(
            111,
            59,
            &[(FACTS1, key(5, 3)), (FACTS2, key(5, 2)), (SESSION, key(55, 1)), (FLOOR, key(6, 10))],
        );
        let writes = RaftWrites::between(System::HoldfastNormal, 120.0, &["db1", "db2"], &begin, &end);
        assert_eq!((writes.ours, writes.of_others, writes.without_revision), (4, 5, 2));
        assert_eq!((writes.ours_of_worst_agent, writes.worst_agent.as_str()), (3, "db2"));
        assert!((writes.agent_per_minute() - 2.5).abs() < 1e-9);
    }

    #[test]
    fn keys_that_came_went_or_were_made_anew_are_changes() {
        let begin: BTreeMap<String, Key> = moment(0, 0, &[(FACTS1, key(5, 2)), (FACTS2, key(5, 1))]).keys;
        let end = moment(0, 0, &[(FACTS1, key(9, 2)), (FLOOR, key(7, 3))]).keys;
        let expected = [(FACTS1, 3), (FACTS2, 1), (FLOOR, 3)].into();
        assert_eq!(changes(&begin, &end), expected);
    }
}
