//! Whether PostgreSQL's directories lie where they belong (promise I12).
//!
//! A tablespace whose mount is missing at a start costs committed rows: after a crash PostgreSQL makes the directory anew on
//! whatever is below the mount point, and its leader goes on without the rows (1,001 of 8,000 gone, `facts/baseline.md` 4.6). So
//! each part of the data directory is compared with what it was when PostgreSQL last ran on it. What was never seen is judged
//! by itself.
//!
//! Called by the start gate before every start, and by the agent while PostgreSQL runs. Never mounts, moves or deletes anything:
//! what is on the right disk is a person's word, `holdfast disk adopt`.

use holdfast_types::record::{FileSystem, FoundPlace, Place, PlaceName, Places, There};

use crate::mutant::{Mutant, left_out};

/// Recovery writes WAL before it can remove any: two segments of PostgreSQL's default size.
const WAL_ROOM_BYTES: u64 = 32 * 1024 * 1024;
/// An older copy of a file system, a snapshot that was mounted instead of it, is told from it by a marker that was rewritten
/// since. More often than that is not worth the write.
const MARKED_ANEW_AFTER_MS: i64 = 3_600_000;

/// Why PostgreSQL must not start on a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} ({path}): {fault}")]
pub struct Wrong {
    /// Which.
    pub name: PlaceName,
    /// Where.
    pub path: String,
    /// What.
    pub fault: Fault,
}

/// What is wrong with a place. Each text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The directory is not there, or does not answer.
    #[error("{0}; mount what belongs there")]
    NotThere(String),
    /// The same, and it is known where it lay.
    #[error("{why}; it lay on {mount_point}: is that mounted? mount {mount_point}")]
    Gone {
        /// What the kernel says.
        why: String,
        /// The mount point of the record.
        mount_point: String,
    },
    /// It was on another mount.
    #[error("{recorded} is not mounted, and what is there now lies on {found}; mount it: mount {recorded}")]
    NotMounted {
        /// The mount point of the record.
        recorded: String,
        /// The one on which it lies.
        found: String,
    },
    /// Never seen before, and `fstab` says that something is missing.
    #[error("/etc/fstab mounts {0}, and nothing is mounted there; mount it: mount {0}")]
    FstabNotMounted(String),
    /// It leads elsewhere.
    #[error("it was {0}; put the link back")]
    Moved(String),
    /// The mount point is right, the file system is not.
    #[error(
        "another file system is mounted on {mount_point} ({found}, recorded is {recorded}); mount the right disk"
    )]
    OtherFileSystem {
        /// Where.
        mount_point: String,
        /// What is there.
        found: String,
        /// What was there.
        recorded: String,
    },
    /// The same file system by its ids, and not as it was left: an older copy, or another host's.
    #[error(
        "its marker is {0}, so what is mounted is an older copy of the disk, or another host's; mount the right disk"
    )]
    OtherMarker(&'static str),
    /// Never seen before, and PostgreSQL's own directory is not in it.
    #[error(
        "nothing of PostgreSQL is in it, as in the empty directory under a missing mount; mount what belongs there"
    )]
    Empty,
    /// PostgreSQL could not write.
    #[error("it cannot be written to; look at dmesg and remount it, or mend its owner")]
    ReadOnly,
    /// No room for recovery.
    #[error(
        "{0} bytes are free, recovery needs {WAL_ROOM_BYTES}; make room, and never by removing files of pg_wal"
    )]
    Full(u64),
}

/// What is wrong with the places that were found, in their order. Empty: PostgreSQL may start.
pub fn judge(recorded: Option<&Places>, found: &[FoundPlace]) -> Vec<Wrong> {
    if left_out(Mutant::StartGateOpen) {
        return Vec::new();
    }
    found
        .iter()
        .filter_map(|place| Some(wrong(place, fault(recorded_of(recorded, &place.name), place)?)))
        .collect()
}

fn wrong(place: &FoundPlace, fault: Fault) -> Wrong {
    Wrong { name: place.name.clone(), path: place.path.clone(), fault }
}

fn recorded_of<'r>(recorded: Option<&'r Places>, name: &PlaceName) -> Option<&'r Place> {
    recorded?.places.iter().find(|place| place.name == *name)
}

fn fault(recorded: Option<&Place>, found: &FoundPlace) -> Option<Fault> {
    let there = match &found.there {
        Ok(there) => there,
        Err(why) => {
            let gone = |recorded: &Place| Fault::Gone {
                why: why.clone(),
                mount_point: recorded.on.mount_point.clone(),
            };
            return Some(recorded.map_or_else(|| Fault::NotThere(why.clone()), gone));
        }
    };
    let misplaced = match recorded {
        Some(recorded) => not_as_recorded(recorded, found, there),
        None => not_by_itself(there),
    };
    misplaced.or_else(|| (!there.writable).then_some(Fault::ReadOnly)).or_else(|| {
        let full = found.name == PlaceName::Wal && there.free_bytes < WAL_ROOM_BYTES;
        full.then_some(Fault::Full(there.free_bytes))
    })
}

fn not_by_itself(there: &There) -> Option<Fault> {
    let unmounted = there.unmounted.clone().map(Fault::FstabNotMounted);
    unmounted.or_else(|| (!there.is_postgres).then_some(Fault::Empty))
}

/// The directory of the data is Patroni's to make anew, so what is in it is not asked for here.
///
/// Where the file system is proved to be the same one, its mount point is not compared: a service in a mount namespace of its own
/// sees a directory that it may write to as a mount, and the agent does not.
fn not_as_recorded(recorded: &Place, found: &FoundPlace, there: &There) -> Option<Fault> {
    let (was, is) = (&recorded.on, &there.on);
    let is_marked = there.marker.as_ref().map(|marker| recorded.markers.contains(marker));
    let same = identity(was, is);
    let is_proved = same.unwrap_or(is_marked == Some(true));
    if !is_proved && was.mount_point != is.mount_point {
        return Some(Fault::NotMounted { recorded: was.mount_point.clone(), found: is.mount_point.clone() });
    }
    if same == Some(false) {
        return Some(Fault::OtherFileSystem {
            mount_point: is.mount_point.clone(),
            found: text(is),
            recorded: text(was),
        });
    }
    if recorded.path != found.path {
        return Some(Fault::Moved(recorded.path.clone()));
    }
    match is_marked {
        _ if recorded.markers.is_empty() || !there.takes_marker => None,
        Some(true) => None,
        Some(false) => Some(Fault::OtherMarker("another")),
        None => Some(Fault::OtherMarker("gone")),
    }
}

/// Whether both are one file system by their ids. What is known of only one of them says nothing.
fn identity(was: &FileSystem, is: &FileSystem) -> Option<bool> {
    fn known<T: PartialEq>(was: Option<&T>, is: Option<&T>) -> Option<bool> {
        Some(was? == is?)
    }
    let ids = [known(was.uuid.as_ref(), is.uuid.as_ref()), known(was.fs_id.as_ref(), is.fs_id.as_ref())];
    if was.fs_type != is.fs_type || ids.contains(&Some(false)) {
        return Some(false);
    }
    ids.contains(&Some(true)).then_some(true)
}

fn text(on: &FileSystem) -> String {
    match &on.uuid {
        Some(uuid) => format!("{} {uuid}", on.fs_type),
        None => format!("{} of {}", on.fs_type, on.source),
    }
}

/// What the agent has to keep after it has seen PostgreSQL run on places with which nothing is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The record is as it should be.
    Nothing,
    /// Keep this record.
    Record(Places),
    /// Keep the first record, write the word into the marker of each place of it, then keep the second. A host that dies at any
    /// line finds a marker that its record names.
    Mark {
        /// Names the words of before too.
        before: Places,
        /// The word, which nobody has used before.
        word: String,
        /// Names this word alone.
        after: Places,
    },
}

/// Decides what to keep. Places that are known stay as they are, new ones are added, and those that are gone from a running
/// PostgreSQL are dropped with it. `word` is a new one.
pub fn keep(recorded: Option<&Places>, found: &[FoundPlace], now_wall_ms: i64, word: &str) -> Keep {
    let known = |place: &FoundPlace| recorded_of(recorded, &place.name).cloned();
    let new = |place: &FoundPlace| {
        let on = place.there.as_ref().ok()?.on.clone();
        Some(Place { name: place.name.clone(), path: place.path.clone(), on, markers: Vec::new() })
    };
    let places: Vec<Place> = found.iter().filter_map(|place| known(place).or_else(|| new(place))).collect();
    let old = recorded.cloned().unwrap_or_default();
    let unmarked = |place: &Place| place.markers.is_empty() && takes_marker(found, &place.name);
    // A clock that was set back makes the last time look like the future: then it is done again.
    let age_ms = now_wall_ms.saturating_sub(old.marked_wall_ms);
    if places.iter().any(unmarked) || !(0..MARKED_ANEW_AFTER_MS).contains(&age_ms) {
        let before = Places { places: marked(&places, found, word, true), ..old.clone() };
        let after =
            Places { places: marked(&places, found, word, false), marked_wall_ms: now_wall_ms, ..old };
        return Keep::Mark { before, word: word.to_owned(), after };
    }
    if places == old.places { Keep::Nothing } else { Keep::Record(Places { places, ..old }) }
}

fn takes_marker(found: &[FoundPlace], name: &PlaceName) -> bool {
    let there = found.iter().find(|place| place.name == *name).and_then(|place| place.there.as_ref().ok());
    there.is_some_and(|there| there.takes_marker)
}

fn marked(places: &[Place], found: &[FoundPlace], word: &str, beside_others: bool) -> Vec<Place> {
    let one = |place: &Place| {
        let mut markers = if beside_others { place.markers.clone() } else { Vec::new() };
        if takes_marker(found, &place.name) && !(beside_others && markers.is_empty()) {
            markers.push(word.to_owned());
        }
        Place { markers, ..place.clone() }
    };
    places.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
