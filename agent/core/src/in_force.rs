//! Rule 2: which synchronous configurations may still acknowledge a commit of the present writer.
//!
//! The floor record's own, and every value that `/sync` has had since, the present one included. `version(/sync)` tells
//! how many there were; when they cannot all be read the answer is unknown, and CLOSE refuses. Counting against the
//! present `/sync` alone loses writes (section 9, first row).

use holdfast_types::Configuration;
use holdfast_types::MemberName;
use holdfast_types::record::FloorRecord;

use crate::mutant::{Mutant, left_out};
use crate::sync::SyncKey;

/// Why the configurations in force cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Its version started again: the count says nothing.
    #[error(
        "/sync was deleted and made again since the floor record (create revision {found}, was {recorded})"
    )]
    Recreated {
        /// In the floor record.
        recorded: i64,
        /// Now.
        found: i64,
    },
    /// etcd was rolled back, or the floor record is not of this `/sync`.
    #[error("/sync has version {found}, older than the floor record's {recorded}")]
    WentBack {
        /// In the floor record.
        recorded: i64,
        /// Now.
        found: i64,
    },
    /// A value in between is not known: etcd's history has been compacted.
    #[error("version {0} of /sync is no longer in etcd's history")]
    Compacted(i64),
}

/// The configurations in force, the floor record's first.
///
/// `history` holds values of `/sync` read from etcd's history; it may hold more than is needed, in any order.
pub fn configurations(
    floor: &FloorRecord,
    present: &SyncKey,
    history: &[SyncKey],
    writer: &MemberName,
) -> Result<Vec<Configuration>, Unknown> {
    if left_out(Mutant::PresentSyncOnly) {
        return Ok(vec![present.configuration(writer)]);
    }
    if present.create_revision != floor.sync_create_revision {
        return Err(Unknown::Recreated {
            recorded: floor.sync_create_revision,
            found: present.create_revision,
        });
    }
    if present.version < floor.sync_version {
        return Err(Unknown::WentBack { recorded: floor.sync_version, found: present.version });
    }
    let mut in_force = vec![floor.configuration.clone()];
    for version in floor.sync_version + 1..=present.version {
        let value = if version == present.version {
            present
        } else {
            let of_version =
                |key: &&SyncKey| key.version == version && key.create_revision == present.create_revision;
            history.iter().find(of_version).ok_or(Unknown::Compacted(version))?
        };
        let configuration = value.configuration(writer);
        if !in_force.contains(&configuration) {
            in_force.push(configuration);
        }
    }
    Ok(in_force)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, name, names};
    use holdfast_types::Term;

    fn sync(version: i64, standbys: &[&str], quorum: usize) -> SyncKey {
        SyncKey {
            leader: Some(name("a")),
            sync_standby: names(standbys),
            quorum,
            version,
            mod_revision: 100 + version,
            create_revision: 10,
        }
    }

    fn floor(version: i64) -> FloorRecord {
        FloorRecord {
            term: Term(1),
            sync_version: version,
            sync_mod_revision: 100 + version,
            sync_create_revision: 10,
            data_uuids: std::collections::BTreeMap::new(),
            configuration: Configuration { members: names(&["b", "c"]), quorum: 1 },
            floor: at(1, 100),
        }
    }

    #[test]
    fn an_unchanged_sync_is_one_configuration() {
        let found = configurations(&floor(3), &sync(3, &["b", "c"], 1), &[], &name("a")).unwrap();
        assert_eq!(found, [floor(3).configuration]);
    }

    #[test]
    fn patronis_own_hole_keeps_the_old_configuration_in_force() {
        // b flushed and acknowledged; b's walsender went, /sync became {c} with quorum 0: c alone must not suffice.
        let found = configurations(&floor(3), &sync(4, &["c"], 0), &[], &name("a")).unwrap();
        assert_eq!(found.len(), 2);
        assert!(!found.iter().all(|one| one.is_closed_by(&names(&["c"]))));
        assert!(found.iter().all(|one| one.is_closed_by(&names(&["b", "c"]))));
    }

    #[test]
    fn a_missing_value_in_between_is_unknown() {
        let present = sync(6, &["b", "c"], 1);
        assert_eq!(
            configurations(&floor(3), &present, &[sync(4, &["c"], 0)], &name("a")),
            Err(Unknown::Compacted(5))
        );
        let history = [sync(5, &["c"], 0), sync(4, &["b"], 0)];
        assert_eq!(configurations(&floor(3), &present, &history, &name("a")).unwrap().len(), 3);
    }

    #[test]
    fn a_recreated_or_older_sync_is_unknown() {
        let mut present = sync(3, &["b", "c"], 1);
        present.create_revision = 11;
        assert!(matches!(
            configurations(&floor(3), &present, &[], &name("a")),
            Err(Unknown::Recreated { .. })
        ));
        let older = sync(2, &["b", "c"], 1);
        assert!(matches!(configurations(&floor(3), &older, &[], &name("a")), Err(Unknown::WentBack { .. })));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn each_rule_that_can_be_left_out_is_what_these_tests_rest_on() {
        use crate::mutant::without;
        let hole = || configurations(&floor(3), &sync(4, &["c"], 0), &[], &name("a"));
        let found = without(Mutant::PresentSyncOnly, hole).unwrap();
        assert!(found.iter().all(|one| one.is_closed_by(&names(&["c"]))), "{found:?}");
    }
}
