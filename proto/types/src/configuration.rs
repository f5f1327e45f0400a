//! One synchronous configuration: who may acknowledge a commit, and how many standbys a promotion must count.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::MemberName;

/// `M(r)` and `q(r)` of one revision of Patroni's `/sync` (`PROTOCOL.md` section 1).
///
/// `members` never holds the writer itself. Any commit that was acknowledged under this configuration is on at least
/// `members.len() - quorum` of them, so more than `quorum` members always include one that has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Configuration {
    /// `({leader} ∪ sync_standby) \ {writer}`; empty when `sync_standby` is.
    pub members: BTreeSet<MemberName>,
    /// Patroni's `quorum`; absent there means 0.
    pub quorum: usize,
}

impl Configuration {
    /// Reads one value of `/sync` from the point of view of `writer`, the holder in the term record.
    ///
    /// `/sync.leader` and the holder differ from a promotion until the new writer rewrites `/sync`; the old leader then
    /// counts as a member.
    pub fn from_sync(
        leader: Option<&MemberName>,
        sync_standby: &BTreeSet<MemberName>,
        quorum: usize,
        writer: &MemberName,
    ) -> Self {
        if sync_standby.is_empty() {
            return Self { members: BTreeSet::new(), quorum };
        }
        let mut members = sync_standby.clone();
        members.extend(leader.cloned());
        members.remove(writer);
        Self { members, quorum }
    }

    /// How many of `promisers` count for this configuration.
    pub fn promised(&self, promisers: &BTreeSet<MemberName>) -> usize {
        self.members.intersection(promisers).count()
    }

    /// Rule 8: `M ≠ ∅` and `|D ∩ M| >= q + 1`.
    pub fn is_closed_by(&self, promisers: &BTreeSet<MemberName>) -> bool {
        !self.members.is_empty() && self.promised(promisers) > self.quorum
    }

    /// Rule 1: how many members must report a flush position before it may become the floor.
    pub fn acknowledgers_needed(&self) -> usize {
        self.members.len().saturating_sub(self.quorum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<MemberName> {
        list.iter().map(|name| MemberName::new(*name).unwrap()).collect()
    }

    #[test]
    fn the_writer_is_no_member_and_the_old_leader_is() {
        let b = MemberName::new("b").unwrap();
        let read = Configuration::from_sync(MemberName::new("a").ok().as_ref(), &names(&["b", "c"]), 1, &b);
        assert_eq!(read.members, names(&["a", "c"]));
    }

    #[test]
    fn an_empty_sync_standby_can_never_be_closed() {
        let read = Configuration::from_sync(
            MemberName::new("a").ok().as_ref(),
            &names(&[]),
            0,
            &MemberName::new("b").unwrap(),
        );
        assert!(!read.is_closed_by(&names(&["a", "b", "c"])));
    }

    #[test]
    fn more_than_quorum_is_needed() {
        let both = Configuration { members: names(&["b", "c"]), quorum: 1 };
        assert!(!both.is_closed_by(&names(&["b"])));
        assert!(!both.is_closed_by(&names(&["b", "d"])));
        assert!(both.is_closed_by(&names(&["b", "c"])));
        assert_eq!(both.acknowledgers_needed(), 1);
    }
}
