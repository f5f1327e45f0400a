//! When WAL or the control file of a data directory was written last: the last sign of life that a PostgreSQL leaves which
//! nobody watched. Blocks for as long as the disk hangs: call it on a thread of its own.

use std::path::Path;
use std::time::SystemTime;

/// A directory of WAL has thousands of segments at most; one with more is a trouble of its own.
const FILES_MAX: usize = 100_000;

/// Wall clock, milliseconds since 1970; `None`: nothing of it can be read.
pub fn wall_ms(data_dir: &Path) -> Option<i64> {
    let written = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    let wal = std::fs::read_dir(data_dir.join("pg_wal")).into_iter().flatten().flatten().take(FILES_MAX);
    let segments = wal.filter(|entry| is_segment(&entry.file_name().to_string_lossy()));
    let newest = segments.filter_map(|entry| written(&entry.path())).max();
    let newest = newest.max(written(&data_dir.join("global/pg_control")))?;
    let since = newest.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// History and backup files, and those of an archiver, are written at other times.
fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    #[test]
    fn the_newest_segment_or_the_control_file_tells() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(wall_ms(folder.path()), None);
        std::fs::create_dir_all(folder.path().join("pg_wal/archive_status")).unwrap();
        std::fs::create_dir(folder.path().join("global")).unwrap();
        let write = |name: &str, at_s: u64| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at_s)).unwrap();
        };
        write("global/pg_control", 50);
        assert_eq!(wall_ms(folder.path()), Some(50_000));
        write("pg_wal/000000010000000000000003", 60);
        write("pg_wal/000000010000000000000002", 40);
        write("pg_wal/00000002.history", 90);
        assert_eq!(wall_ms(folder.path()), Some(60_000));
    }
}
