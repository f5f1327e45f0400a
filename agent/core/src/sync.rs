//! Patroni's `/sync` key and PostgreSQL's `synchronous_standby_names`, as the decisions need them.

use std::collections::BTreeSet;

use holdfast_types::{Configuration, MemberName};

/// One value of Patroni's `/sync` with the three numbers by which etcd tells its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncKey {
    /// Who wrote it as leader; absent after a reset.
    pub leader: Option<MemberName>,
    /// The standbys that count.
    pub sync_standby: BTreeSet<MemberName>,
    /// How many of them may be missing; absent in the key means 0.
    pub quorum: usize,
    /// etcd's `version`: one more at each change since `create_revision`.
    pub version: i64,
    /// etcd's `mod_revision`.
    pub mod_revision: i64,
    /// etcd's `create_revision`: another one means that the key was deleted in between.
    pub create_revision: i64,
}

impl SyncKey {
    /// `M` and `q` from the point of view of `writer`.
    pub fn configuration(&self, writer: &MemberName) -> Configuration {
        Configuration::from_sync(self.leader.as_ref(), &self.sync_standby, self.quorum, writer)
    }
}

/// A `synchronous_standby_names` of the form `ANY k (S)`; the other forms are not quorum commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnySetting {
    /// `k`: how many of `names` must have flushed before a commit is acknowledged.
    pub acknowledgements: usize,
    /// `S`.
    pub names: BTreeSet<MemberName>,
}

/// Why an actual setting does not carry the promise of a configuration (rule 1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// A commit would wait for nobody.
    #[error("synchronous_standby_names asks for no acknowledgement")]
    NoAcknowledgement,
    /// Some set of `k` names could miss every set of `|M| - q` members.
    #[error(
        "{members} members and names together are more than quorum {quorum} + {acknowledgements} acknowledgements"
    )]
    TooWide {
        /// `|M ∪ S|`.
        members: usize,
        /// `q`.
        quorum: usize,
        /// `k`.
        acknowledgements: usize,
    },
    /// Patroni changes one of the two at a time: neither containing the other is no step of its own.
    #[error("neither the members of /sync nor the names of synchronous_standby_names contain the other")]
    Crossing,
}

impl AnySetting {
    /// Rule 1: `k > 0`, `|M ∪ S| <= q + k`, and `M ⊆ S` or `S ⊆ M`.
    pub fn fits(&self, configuration: &Configuration) -> Result<(), Misfit> {
        if self.acknowledgements == 0 {
            return Err(Misfit::NoAcknowledgement);
        }
        let members = self.names.union(&configuration.members).count();
        if members > configuration.quorum.saturating_add(self.acknowledgements) {
            let (quorum, acknowledgements) = (configuration.quorum, self.acknowledgements);
            return Err(Misfit::TooWide { members, quorum, acknowledgements });
        }
        if !self.names.is_subset(&configuration.members) && !configuration.members.is_subset(&self.names) {
            return Err(Misfit::Crossing);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::names;

    fn any(acknowledgements: usize, list: &[&str]) -> AnySetting {
        AnySetting { acknowledgements, names: names(list) }
    }

    #[test]
    fn patronis_own_setting_fits() {
        let both = Configuration { members: names(&["b", "c"]), quorum: 1 };
        assert_eq!(any(1, &["b", "c"]).fits(&both), Ok(()));
        assert_eq!(any(2, &["b", "c"]).fits(&both), Ok(()));
        assert_eq!(any(0, &["b", "c"]).fits(&both), Err(Misfit::NoAcknowledgement));
    }

    #[test]
    fn a_setting_from_an_older_sync_does_not() {
        // The trace of section 9: B promoted with a setting from before d joined; the next failover lost a write.
        let wider = Configuration { members: names(&["b", "c", "d"]), quorum: 1 };
        assert!(matches!(any(1, &["b", "c"]).fits(&wider), Err(Misfit::TooWide { members: 3, .. })));
        let other = Configuration { members: names(&["b", "c"]), quorum: 2 };
        assert_eq!(any(2, &["c", "d"]).fits(&other), Err(Misfit::Crossing));
    }
}
