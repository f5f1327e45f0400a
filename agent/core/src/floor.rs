//! Rule 1: when the writer may publish a new floor record.
//!
//! The order matters and is kept by the shape of the two functions: [`begin`] is called with a setting that was read
//! *after* the `/sync` it is compared with; the flush position is read after [`begin`] has agreed; [`publish`] waits
//! until enough members report it. Until then the old record stands: otherwise a writer that dies just after
//! publishing would leave a floor that nobody reaches.

use std::collections::BTreeMap;

use holdfast_types::record::FloorRecord;
use holdfast_types::{Configuration, MemberName, Position, Term};

use crate::sync::{AnySetting, Misfit, SyncKey};

/// Why no new floor record can be begun now; each is looked at again when one of its inputs changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The record already says this.
    #[error("the floor record is of this /sync")]
    Unchanged,
    /// `FIRST`, `*` or empty.
    #[error("synchronous_standby_names is not of the form ANY k (names)")]
    NotQuorumCommit,
    /// Patroni changes `/sync` and the setting one after the other: wait for the other one.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// Its promise could not be told from one of other data.
    #[error("the data directory of {0} has no id yet")]
    NoDataId(MemberName),
}

/// A floor record that waits for its position to be flushed by enough members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The `/sync` that was seen first.
    pub sync: SyncKey,
    /// `M` and `q`.
    pub configuration: Configuration,
    /// The id of each member's data directory, and of the writer's own (rule 15).
    pub data_uuids: BTreeMap<MemberName, String>,
}

/// Whether the writer may go on to read its flush position for a new record.
pub fn begin(
    recorded: Option<&FloorRecord>,
    sync: &SyncKey,
    actual: Option<&AnySetting>,
    writer: &MemberName,
    term: Term,
    data_uuids: &BTreeMap<MemberName, String>,
) -> Result<Begun, NotYet> {
    let configuration = sync.configuration(writer);
    let id_of = |member: &MemberName| Some((member.clone(), data_uuids.get(member)?.clone()));
    let known: BTreeMap<_, _> = configuration.members.iter().chain([writer]).filter_map(id_of).collect();
    let unchanged = recorded.is_some_and(|old| {
        let moved = known.iter().any(|(member, id)| old.data_uuids.get(member) != Some(id));
        old.term == term && old.sync_mod_revision == sync.mod_revision && !moved
    });
    if unchanged {
        return Err(NotYet::Unchanged);
    }
    if let Some(member) = configuration.members.iter().find(|member| !known.contains_key(*member)) {
        return Err(NotYet::NoDataId(member.clone()));
    }
    if !configuration.members.is_empty() {
        actual.ok_or(NotYet::NotQuorumCommit)?.fits(&configuration)?;
    }
    Ok(Begun { sync: sync.clone(), configuration, data_uuids: known })
}

/// The record to write, once at least `|M| - q` members report a flush of `floor`; `None` means wait.
///
/// The transaction that writes it compares the term record, the writer's own session, and `mod(/sync)`.
pub fn publish(
    begun: &Begun,
    floor: Position,
    flushed: &BTreeMap<MemberName, Position>,
    term: Term,
) -> Option<FloorRecord> {
    let reached = |member: &&MemberName| flushed.get(*member).is_some_and(|position| *position >= floor);
    let acknowledged = begun.configuration.members.iter().filter(reached).count();
    (acknowledged >= begun.configuration.acknowledgers_needed()).then(|| FloorRecord {
        term,
        sync_version: begun.sync.version,
        sync_mod_revision: begun.sync.mod_revision,
        sync_create_revision: begun.sync.create_revision,
        configuration: begun.configuration.clone(),
        data_uuids: begun.data_uuids.clone(),
        floor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, name, names};

    fn sync() -> SyncKey {
        SyncKey {
            leader: Some(name("a")),
            sync_standby: names(&["b", "c"]),
            quorum: 1,
            version: 3,
            mod_revision: 103,
            create_revision: 10,
        }
    }

    fn any(list: &[&str]) -> AnySetting {
        AnySetting { acknowledgements: 1, names: names(list) }
    }

    fn ids() -> BTreeMap<MemberName, String> {
        ["a", "b", "c", "d"].map(|member| (name(member), format!("{member} 1"))).into()
    }

    #[test]
    fn a_replaced_data_directory_needs_a_new_record() {
        let begun = begin(None, &sync(), Some(&any(&["b", "c"])), &name("a"), Term(1), &ids()).unwrap();
        let flushed = BTreeMap::from([(name("b"), at(1, 100))]);
        let old = publish(&begun, at(1, 100), &flushed, Term(1)).unwrap();
        let again = |ids| begin(Some(&old), &sync(), Some(&any(&["b", "c"])), &name("a"), Term(1), &ids);
        let mut replaced = ids();
        replaced.insert(name("d"), "d 2".into());
        assert_eq!(again(replaced.clone()), Err(NotYet::Unchanged), "d is no synchronous standby");
        replaced.insert(name("c"), "c 2".into());
        assert_eq!(again(replaced.clone()).unwrap().data_uuids[&name("c")], "c 2");
        assert_eq!(old.data_uuids[&name("a")], "a 1", "the writer's own, for rule 15");
        replaced.remove(&name("c"));
        assert_eq!(again(replaced), Err(NotYet::Unchanged), "unknown for a moment");
        assert_eq!(
            begin(None, &sync(), Some(&any(&["b", "c"])), &name("a"), Term(1), &BTreeMap::new()),
            Err(NotYet::NoDataId(name("b")))
        );
    }

    #[test]
    fn a_floor_waits_for_enough_flushes() {
        let begun = begin(None, &sync(), Some(&any(&["b", "c"])), &name("a"), Term(1), &ids()).unwrap();
        let mut flushed = BTreeMap::from([(name("b"), at(1, 99)), (name("d"), at(1, 500))]);
        assert_eq!(publish(&begun, at(1, 100), &flushed, Term(1)), None);
        flushed.insert(name("c"), at(1, 100));
        let record = publish(&begun, at(1, 100), &flushed, Term(1)).unwrap();
        assert_eq!((record.floor, record.sync_mod_revision), (at(1, 100), 103));
        assert_eq!(begin(Some(&record), &sync(), None, &name("a"), Term(1), &ids()), Err(NotYet::Unchanged));
    }

    #[test]
    fn a_new_term_needs_a_new_record_even_if_sync_is_the_same() {
        let begun = begin(None, &sync(), Some(&any(&["b", "c"])), &name("a"), Term(1), &ids()).unwrap();
        let flushed = BTreeMap::from([(name("b"), at(1, 100))]);
        let old = publish(&begun, at(1, 100), &flushed, Term(1)).unwrap();
        assert!(begin(Some(&old), &sync(), Some(&any(&["b", "c"])), &name("a"), Term(2), &ids()).is_ok());
    }

    #[test]
    fn a_setting_in_between_waits() {
        assert!(matches!(
            begin(None, &sync(), Some(&any(&["b", "d"])), &name("a"), Term(1), &ids()),
            Err(NotYet::Misfit(_))
        ));
        assert_eq!(begin(None, &sync(), None, &name("a"), Term(1), &ids()), Err(NotYet::NotQuorumCommit));
    }
}
