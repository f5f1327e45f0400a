//! Small files that survive a crash: written whole or not at all, and on disk before the call returns.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

/// Records of ours are a few hundred bytes; a file that is larger than this was not written by us.
const BYTES_MAX: u64 = 1024 * 1024;

/// Writes `bytes` to a new file beside `path`, syncs it, renames it over `path`, and syncs the folder. World-readable:
/// the gates run as Patroni's user, and nothing that is kept this way is secret.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_owned(path, bytes, None)
}

/// The same for a file that belongs to `owner` (user and group id) from its first moment on.
pub fn write_owned(path: &Path, bytes: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    replace(path, bytes, owner, true)?;
    sync_folder(folder_of(path)?)
}

/// The same without waiting for the disk: readers see the old file or the new one, and a host that dies before [`sync`] has
/// an old, a new or an empty one.
pub fn replace_unsynced(path: &Path, bytes: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    replace(path, bytes, owner, false)
}

/// Waits until a file that was replaced is on disk.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_folder(folder_of(path)?)
}

fn replace(path: &Path, bytes: &[u8], owner: Option<(u32, u32)>, synced: bool) -> io::Result<()> {
    let folder = folder_of(path)?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let beside = folder.join(format!(".{}.new", name.to_string_lossy()));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o644).open(&beside)?;
    // Whatever the umask of whoever calls: a person's shell may have a strict one.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    if let Some((user, group)) = owner {
        fchown(&file, Some(user), Some(group))?;
    }
    file.write_all(bytes)?;
    if synced {
        file.sync_all()?;
    }
    fs::rename(&beside, path)
}

/// Reads a file of ours that may be absent; one that is too large to be ours is an error.
pub fn read_optional(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {BYTES_MAX} bytes")));
    }
    Ok(Some(bytes))
}

/// Removes a file that may be absent, durably.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(folder_of(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn folder_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no folder"))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        assert_eq!(read_optional(&path).unwrap(), None);
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        replace_unsynced(&path, b"three", None).unwrap();
        assert_eq!(read_optional(&path).unwrap().as_deref(), Some(&b"three"[..]));
        sync(&path).unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read_optional(&path).unwrap().as_deref(), Some(&b"two"[..]));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_not_ours_is_not_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert_eq!(read_optional(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
