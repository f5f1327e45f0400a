//! The lab's cgroup v2 directories: made, frozen, killed and removed as a whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_host::cgroup::Cgroup;

/// A killed cgroup of a dozen processes is empty after 15-26 ms; a busy machine gets far more.
const EMPTY_DEADLINE: Duration = Duration::from_secs(20);
/// The kernel may still count a process that has just been reaped.
const REMOVE_ATTEMPTS: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// Where cgroup v2 is mounted: `/sys/fs/cgroup` on stock Debian, elsewhere beside v1.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    mount_point(&mounts)
        .context("no cgroup2 file system is mounted; the lab needs one: mount -t cgroup2 none DIR")
}

fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        (kind.split(' ').next() == Some("cgroup2")).then_some(())?;
        Some(PathBuf::from(place.split(' ').nth(4)?))
    })
}

/// Makes a directory and those above it.
pub fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cgroup {}", path.display()))
}

/// Freezes or thaws everything in and below it.
pub fn freeze(path: &Path, frozen: bool) -> Result<()> {
    let file = path.join("cgroup.freeze");
    fs::write(&file, if frozen { "1" } else { "0" }).with_context(|| file.display().to_string())
}

/// Kills everything in and below it. A frozen cgroup dies too. Absent is as good as empty.
pub fn kill(path: &Path) -> Result<()> {
    match Cgroup::open(path) {
        Ok(cgroup) => cgroup.kill().with_context(|| path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Waits until nobody is left.
pub async fn wait_empty(path: &Path) -> Result<()> {
    match Cgroup::open(path) {
        Ok(cgroup) => cgroup.wait_empty(EMPTY_DEADLINE).await.with_context(|| path.display().to_string()),
        Err(_) => Ok(()),
    }
}

/// The processes in and below it; none if it is gone.
pub fn pids(path: &Path) -> Vec<i32> {
    Cgroup::open(path).and_then(|cgroup| cgroup.pids()).unwrap_or_default()
}

/// Another cgroup of the same path, if nobody is left in the one that is there.
pub fn renew(path: &Path) -> Result<()> {
    match remove_tree(path) {
        Err(error) if error.kind() != io::ErrorKind::ResourceBusy => {
            return Err(error).with_context(|| path.display().to_string());
        }
        _ => {}
    }
    create(path)
}

/// Removes an empty tree.
pub async fn remove(path: &Path) -> Result<()> {
    for _ in 0..REMOVE_ATTEMPTS {
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                tokio::time::sleep(REMOVE_PAUSE).await;
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    bail!("cgroup {} stays busy: {:?}", path.display(), pids(path))
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_beside_v1() {
        let text = "37 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
                    38 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(text).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("31 23 0:28 / /sys rw - sysfs sysfs rw\n"), None);
    }
}
