//! The parts of a data directory: where the links of `pg_wal` and `pg_tblspc` lead, and what is there.

use std::fs;
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use holdfast_types::record::{FileSystem, FoundPlace, PlaceName, There};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, eaccess};

use super::mounts::{self, Mount};
use crate::durable;

/// A UUID; a file of another length is not ours.
const MARKER_BYTES_MAX: usize = 64;
/// PostgreSQL itself refuses no number of tablespaces; a directory of more links than these is not looked through.
const TABLESPACES_MAX: usize = 4_096;

/// What is there of each part of the data directory, links followed. Reads this process's own mount table. `owner` is in the names
/// of the markers: servers of two versions may have a tablespace in one directory.
pub fn look(data_dir: &Path, owner: &str) -> io::Result<Vec<FoundPlace>> {
    let mounts = mounts::mounts(&fs::read_to_string("/proc/self/mountinfo")?);
    // A host without the file has nothing that must be mounted.
    let fstab = fs::read_to_string("/etc/fstab").unwrap_or_default();
    let real_data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let found = |name: PlaceName, path: PathBuf| {
        let (path, there) = match fs::canonicalize(&path) {
            Ok(path) => {
                let there = there(
                    &name,
                    &path,
                    &Around { data_dir: &real_data_dir, owner, mounts: &mounts, fstab: &fstab },
                );
                (path, there)
            }
            Err(error) => (fs::read_link(&path).unwrap_or(path), Err(error)),
        };
        let there = there.map_err(|error| error.to_string());
        FoundPlace { name, path: path.display().to_string(), there }
    };
    let mut places = vec![found(PlaceName::Data, data_dir.to_owned())];
    places.push(found(PlaceName::Wal, data_dir.join("pg_wal")));
    for oid in tablespaces(data_dir)? {
        let path = data_dir.join("pg_tblspc").join(&oid);
        places.push(found(PlaceName::Tablespace(oid), path));
    }
    Ok(places)
}

/// A directory in it is a tablespace for tests (`allow_in_place_tablespaces`), and lies where the data directory does.
fn tablespaces(data_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(data_dir.join("pg_tblspc")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut oids = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            oids.push(entry.file_name().to_string_lossy().into_owned());
        }
        if oids.len() > TABLESPACES_MAX {
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!("more than {TABLESPACES_MAX} tablespaces"),
            ));
        }
    }
    oids.sort();
    Ok(oids)
}

/// What a look at one part needs to know of the others and of the host.
struct Around<'a> {
    data_dir: &'a Path,
    owner: &'a str,
    mounts: &'a [Mount],
    fstab: &'a str,
}

fn there(name: &PlaceName, path: &Path, around: &Around<'_>) -> io::Result<There> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(Error::new(ErrorKind::NotADirectory, "not a directory"));
    }
    let room = statvfs(path).map_err(io::Error::from)?;
    let on = mounts::covering(around.mounts, path)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "no mount of /proc/self/mountinfo is above it"))?;
    // In the others it is the device's number, which another boot may give to another disk.
    let has_id = matches!(on.fs_type.as_str(), "ext2" | "ext3" | "ext4" | "btrfs");
    let marker = marker_of(path, metadata.dev(), around.owner);
    // What lies in the data directory comes and goes with it.
    let marker = marker.filter(|_| *name == PlaceName::Data || !path.starts_with(around.data_dir));
    Ok(There {
        on: FileSystem {
            mount_point: on.point.clone(),
            fs_type: on.fs_type.clone(),
            source: on.source.clone(),
            uuid: uuid_of(metadata.dev()),
            fs_id: has_id.then(|| room.filesystem_id()),
        },
        unmounted: mounts::unmounted(around.fstab, around.mounts, path),
        takes_marker: marker.is_some(),
        marker: marker.as_deref().and_then(read_marker),
        writable: !room.flags().contains(FsFlags::ST_RDONLY) && eaccess(path, AccessFlags::W_OK).is_ok(),
        free_bytes: room.blocks_available().saturating_mul(room.fragment_size()),
        is_postgres: is_postgres(name, path)?,
    })
}

/// By udev's links, which name the device whose number the directory has. A host without udev, and a file system over several
/// devices, has none.
fn uuid_of(device: u64) -> Option<String> {
    let links = fs::read_dir("/dev/disk/by-uuid").ok()?;
    let named = |link: fs::DirEntry| {
        let is_it = fs::metadata(link.path()).is_ok_and(|found| found.rdev() == device);
        is_it.then(|| link.file_name().to_string_lossy().into_owned())
    };
    links.flatten().find_map(named)
}

/// Beside the directory and not in it: a base backup and `pg_rewind` would replace what is in it by the source's, and Patroni
/// removes all of it before it makes a replica anew. A directory that is the root of its file system has nothing beside it.
fn marker_of(path: &Path, device: u64, owner: &str) -> Option<PathBuf> {
    let folder = path.parent()?;
    let same = fs::metadata(folder).is_ok_and(|found| found.dev() == device);
    same.then(|| {
        folder.join(format!(".holdfast.{owner}.{}", path.file_name().unwrap_or_default().to_string_lossy()))
    })
}

fn read_marker(file: &Path) -> Option<String> {
    let bytes = durable::read_optional(file).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    Some(text.trim().to_owned()).filter(|word| !word.is_empty() && word.len() <= MARKER_BYTES_MAX)
}

/// Writes the marker of a part that takes one, and waits until it is on disk.
pub fn mark(path: &Path, owner: &str, word: &str) -> io::Result<()> {
    let file = marker_of(path, fs::metadata(path)?.dev(), owner)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "it is the root of its file system"))?;
    durable::write(&file, word.as_bytes())
}

/// An empty directory under a missing mount is not. `pg_wal` may be empty after a reset.
fn is_postgres(name: &PlaceName, path: &Path) -> io::Result<bool> {
    Ok(match name {
        PlaceName::Data => path.join("PG_VERSION").exists(),
        PlaceName::Wal => true,
        PlaceName::Tablespace(_) => fs::read_dir(path)?
            .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("PG_"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_and_one_that_leads_nowhere_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["data/pg_tblspc", "wal", "hot/PG_15_202209061", "shadow"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("data/PG_VERSION"), "15").unwrap();
        symlink(root.join("wal"), root.join("data/pg_wal")).unwrap();
        for (oid, target) in [("16390", "shadow"), ("16385", "hot"), ("16400", "gone")] {
            symlink(root.join(target), root.join("data/pg_tblspc").join(oid)).unwrap();
        }
        let found = look(&root.join("data"), "service.main").unwrap();
        let path = |at: usize| found[at].path.strip_prefix(root.to_str().unwrap()).unwrap().to_owned();
        let paths: Vec<_> = (0..found.len()).map(path).collect();
        assert_eq!(paths, ["/data", "/wal", "/hot", "/shadow", "/gone"]);
        let is_postgres = |place: &FoundPlace| place.there.as_ref().map(|there| there.is_postgres).ok();
        let all: Vec<_> = found.iter().map(is_postgres).collect();
        assert_eq!(all, [Some(true), Some(true), Some(true), Some(false), None]);
        assert!(found[4].there.as_ref().unwrap_err().contains("No such file"), "{found:?}");
        let hot = found[2].there.as_ref().unwrap();
        assert!(hot.writable && hot.free_bytes > 0 && hot.takes_marker && hot.marker.is_none(), "{hot:?}");
        mark(&root.join("hot"), "service.main", "one word\n").unwrap();
        let again = look(&root.join("data"), "service.main").unwrap();
        assert_eq!(again[2].there.as_ref().unwrap().marker.as_deref(), Some("one word"));
        assert!(again[3].there.as_ref().unwrap().marker.is_none(), "each has its own");
        let others = look(&root.join("data"), "service.other").unwrap();
        assert!(others[2].there.as_ref().unwrap().marker.is_none(), "and so has each cluster");
    }

    #[test]
    fn what_lies_in_the_data_directory_has_no_marker_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        fs::create_dir_all(data_dir.join("pg_wal")).unwrap();
        let takes: Vec<_> = look(&data_dir, "service.main")
            .unwrap()
            .iter()
            .map(|place| place.there.as_ref().unwrap().takes_marker)
            .collect();
        assert_eq!(takes, [true, false], "a copy of the data directory would bring its source's");
    }
}
