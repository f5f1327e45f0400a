//! Whether a small write reaches the file systems of a data directory and of its WAL. Blocks for as long as they hang: call
//! it on a thread of its own.
//!
//! The file has no name, so a base backup or a rewind never meets one, and none is left behind.

use std::fs::OpenOptions;
use std::io::{Error, Result, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::{EDQUOT, ENOSPC, EROFS, O_TMPFILE};

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is durable, or was refused by a disk that answers.
    Yes,
    /// The file system is read-only.
    ReadOnly,
    /// It says nothing: the file system knows no files without a name, or something else failed.
    Unknown,
}

/// Tries it where WAL goes, and in the data directory if that is another file system.
pub fn probe(data_dir: &Path) -> Written {
    let wal = data_dir.join("pg_wal");
    match (write(&wal), same_file_system(data_dir, &wal)) {
        (Ok(()), Ok(false)) => judge(write(data_dir)),
        (Ok(()), Err(_)) => Written::Unknown,
        (tried, _) => judge(tried),
    }
}

fn same_file_system(one: &Path, other: &Path) -> Result<bool> {
    Ok(one.metadata()?.dev() == other.metadata()?.dev())
}

fn write(folder: &Path) -> Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(O_TMPFILE).mode(0o600).open(folder)?;
    file.write_all(b"holdfast")?;
    file.sync_data()
}

fn judge(tried: Result<()>) -> Written {
    match tried.as_ref().map_err(Error::raw_os_error) {
        Ok(()) | Err(Some(ENOSPC | EDQUOT)) => Written::Yes,
        Err(Some(EROFS)) => Written::ReadOnly,
        Err(_) => Written::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_leaves_nothing_behind() {
        // Not in /tmp, which may be a file system that knows no files without a name.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::create_dir(folder.path().join("pg_wal")).unwrap();
        assert_eq!(probe(folder.path()), Written::Yes);
        assert_eq!(std::fs::read_dir(folder.path().join("pg_wal")).unwrap().count(), 0);
        assert_eq!(probe(&folder.path().join("absent")), Written::Unknown);
    }

    #[test]
    fn a_full_disk_answers_and_a_read_only_one_is_told() {
        let with = |error| judge(Err(Error::from_raw_os_error(error)));
        assert_eq!(with(ENOSPC), Written::Yes);
        assert_eq!(with(EROFS), Written::ReadOnly);
        assert_eq!(with(nix::libc::EIO), Written::Unknown);
    }
}
