//! What the directories of a data directory lie on, beside what is recorded of each: `holdfast disk`. Whether PostgreSQL may
//! start there is the start gate's decision; this only shows both sides.

use holdfast_types::record::{Adopted, FileSystem, FoundPlace, Place, Places};
use serde::Serialize;

use super::status::FORMAT;
use super::text;

/// One directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlaceReport {
    /// Which, in words.
    pub place: String,
    /// Where, links followed.
    pub path: String,
    /// What it lies on now; absent when that cannot be told.
    pub on: Option<FileSystem>,
    /// Free for PostgreSQL, in bytes.
    pub free_bytes: Option<u64>,
    /// `as recorded`, `not recorded`, or what is different, or why it cannot be told.
    pub state: String,
}

/// All directories of one data directory, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskReport {
    /// The version of the JSON.
    pub format: u64,
    /// The data directory.
    pub data_dir: String,
    /// Each.
    pub places: Vec<PlaceReport>,
    /// The last order of a person by which the record was replaced.
    pub adopted: Option<Adopted>,
    /// What was done, for an order; empty for a look.
    pub text: String,
}

impl DiskReport {
    /// Beside each other.
    pub fn of(data_dir: String, recorded: Option<&Places>, found: &[FoundPlace]) -> Self {
        let places = found.iter().map(|place| one(recorded, place)).collect();
        let adopted = recorded.and_then(|recorded| recorded.adopted.clone());
        Self { format: FORMAT, data_dir, places, adopted, text: String::new() }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut table = text::table(&["Place", "Directory", "Mount", "File system", "UUID", "Free", "State"]);
        for place in &self.places {
            let of = |field: fn(&FileSystem) -> Option<String>| {
                place.on.as_ref().and_then(field).unwrap_or("-".into())
            };
            table.add_row([
                place.place.clone(),
                place.path.clone(),
                of(|on| Some(on.mount_point.clone())),
                of(|on| Some(format!("{} of {}", on.fs_type, on.source))),
                of(|on| on.uuid.clone()),
                place.free_bytes.map_or("-".into(), text::bytes),
                place.state.clone(),
            ]);
        }
        let by = |adopted: &Adopted| {
            format!("adopted by {} at {}: {}\n", adopted.by, text::moment(adopted.at_wall_ms), adopted.reason)
        };
        format!("{table}\n{}", self.adopted.as_ref().map(by).unwrap_or_default())
    }
}

fn one(recorded: Option<&Places>, found: &FoundPlace) -> PlaceReport {
    let recorded = recorded.and_then(|record| record.places.iter().find(|place| place.name == found.name));
    let there = found.there.as_ref();
    let state = match (there, recorded) {
        (Err(why), _) => why.clone(),
        (Ok(_), None) => "not recorded".into(),
        (Ok(there), Some(recorded)) => {
            let mut different = differences(recorded, found, &there.on);
            let is_marked = there.marker.as_ref().is_some_and(|marker| recorded.markers.contains(marker));
            if !recorded.markers.is_empty() && there.takes_marker && !is_marked {
                different.push("its marker is not the recorded one".into());
            }
            if !there.writable {
                different.push("it cannot be written to".into());
            }
            if different.is_empty() { "as recorded".into() } else { different.join("; ") }
        }
    };
    PlaceReport {
        place: found.name.to_string(),
        path: found.path.clone(),
        on: there.ok().map(|there| there.on.clone()),
        free_bytes: there.ok().map(|there| there.free_bytes),
        state,
    }
}

/// A file system that is the recorded one by its ids may be seen at another mount point, as by the start gate.
fn differences(recorded: &Place, found: &FoundPlace, on: &FileSystem) -> Vec<String> {
    let was = &recorded.on;
    let uuid = was.uuid.as_ref().zip(on.uuid.as_ref()).map(|(was, is)| was == is);
    let fs_id = was.fs_id.zip(on.fs_id).map(|(was, is)| was == is);
    let is_another = was.fs_type != on.fs_type || [uuid, fs_id].contains(&Some(false));
    let is_the_one = !is_another && [uuid, fs_id].contains(&Some(true));
    let mut different = Vec::new();
    if recorded.path != found.path {
        different.push(format!("it was {}", recorded.path));
    }
    if was.mount_point != on.mount_point && !is_the_one {
        different.push(format!("{} is not mounted", was.mount_point));
    } else if is_another {
        different
            .push(format!("another file system is mounted; recorded is {} of {}", was.fs_type, was.source));
    }
    different
}

/// What is there now, as the record to keep. `Err`: the places that are not there.
pub fn adopted(found: &[FoundPlace], old: Option<&Places>, adopted: Adopted) -> Result<Places, Vec<String>> {
    let gone = |place: &FoundPlace| {
        place.there.as_ref().err().map(|why| format!("{} ({}): {why}", place.name, place.path))
    };
    let gone: Vec<String> = found.iter().filter_map(gone).collect();
    if !gone.is_empty() {
        return Err(gone);
    }
    let place = |found: &FoundPlace| {
        let there = found.there.as_ref().ok()?;
        let (name, path, on) = (found.name.clone(), found.path.clone(), there.on.clone());
        // The agent rewrites it once PostgreSQL runs.
        Some(Place { name, path, on, markers: there.marker.clone().into_iter().collect() })
    };
    let places = found.iter().filter_map(place).collect();
    Ok(Places { places, adopted: Some(adopted), ..old.cloned().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::record::{PlaceName, There};

    fn on(mount_point: &str, fs_id: u64) -> FileSystem {
        FileSystem {
            mount_point: mount_point.into(),
            fs_type: "ext4".into(),
            source: "/dev/sdb1".into(),
            uuid: None,
            fs_id: Some(fs_id),
        }
    }

    fn found(mount_point: &str, fs_id: u64, marker: Option<&str>) -> Vec<FoundPlace> {
        let there = There {
            on: on(mount_point, fs_id),
            unmounted: None,
            takes_marker: true,
            marker: marker.map(str::to_owned),
            writable: true,
            free_bytes: 20 * 1_024 * 1_024,
            is_postgres: true,
        };
        vec![FoundPlace {
            name: PlaceName::Tablespace("16385".into()),
            path: "/mnt/hot/pg".into(),
            there: Ok(there),
        }]
    }

    fn adoption() -> Adopted {
        Adopted { by: "user root of db1".into(), reason: "new disk".into(), at_wall_ms: 1_795_478_400_123 }
    }

    fn state(recorded: Option<&Places>, found: &[FoundPlace]) -> String {
        DiskReport::of("/pg".into(), recorded, found).places[0].state.clone()
    }

    #[test]
    fn both_sides_are_shown_and_an_adoption_makes_them_one() {
        let first = found("/mnt/hot", 1, Some("w1"));
        assert_eq!(state(None, &first), "not recorded");
        let record = adopted(&first, None, adoption()).unwrap();
        assert_eq!(state(Some(&record), &first), "as recorded");
        assert_eq!(
            state(Some(&record), &found("/", 2, None)),
            "/mnt/hot is not mounted; its marker is not the recorded one"
        );
        assert_eq!(state(Some(&record), &found("/mnt/hot/pg", 1, Some("w1"))), "as recorded", "bound there");
        let other = found("/mnt/hot", 3, Some("w1"));
        assert!(state(Some(&record), &other).starts_with("another file system is mounted; recorded is ext4"));
        let again = adopted(&other, Some(&record), adoption()).unwrap();
        assert_eq!(state(Some(&again), &other), "as recorded");
        let text = DiskReport::of("/pg".into(), Some(&again), &other).table();
        assert!(
            text.contains("20 MiB")
                && text.ends_with("adopted by user root of db1 at 2026-11-24T00:00:00.123Z: new disk\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_there_is_not_adopted() {
        let mut gone = found("/mnt/hot", 1, None);
        gone[0].there = Err("No such file".into());
        assert_eq!(
            adopted(&gone, None, adoption()),
            Err(vec!["tablespace 16385 (/mnt/hot/pg): No such file".into()])
        );
        assert_eq!(state(None, &gone), "No such file");
    }
}
