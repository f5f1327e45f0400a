//! The start gate on real file systems (promise I12): a missing mount, another disk, an older copy, a read-only one and one that
//! hangs. Needs root and loop devices; what is mounted is unmounted, also when a test fails.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// DESIGN section 4.
const BOUND: Duration = Duration::from_secs(2);

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system in a file; unmounted when it goes out of scope.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn make(image: PathBuf, at: &Path) -> Self {
        let disk = Self { image, at: at.to_owned() };
        run("truncate", &["-s", "16M", disk.image()]);
        run("mkfs.ext4", &["-q", "-O", "^has_journal", disk.image()]);
        disk
    }

    fn copy(&self, image: PathBuf) -> Self {
        std::fs::copy(&self.image, &image).unwrap();
        Self { image, at: self.at.clone() }
    }

    fn image(&self) -> &str {
        self.image.to_str().unwrap()
    }

    fn mount(&self, options: &str) {
        run("mount", &["-o", options, self.image(), self.at.to_str().unwrap()]);
    }

    fn unmount(&self) {
        run("umount", &[self.at.to_str().unwrap()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for arguments in [["fsfreeze", "-u"], ["umount", "-q"]] {
            let _ = Command::new(arguments[0]).arg(arguments[1]).arg(&self.at).output();
        }
    }
}

/// An armed host whose agent is gone: a standby may start, as far as the gates of the term go.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Self { folder };
        support::lay_out(host.folder.path(), "armed");
        for name in ["data/pg_tblspc", "hot"] {
            std::fs::create_dir_all(host.path(name)).unwrap();
        }
        std::fs::write(host.path("data/standby.signal"), "").unwrap();
        symlink(host.path("hot/pg"), host.path("data/pg_tblspc/16385")).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn mode(&self, mode: &str) {
        support::remember(self.folder.path(), mode);
    }

    fn disk(&self) -> Disk {
        Disk::make(self.path("hot.img"), &self.path("hot"))
    }

    fn gate(&self) -> Output {
        self.gate_of(&[])
    }

    fn gate_of(&self, first: &[&str]) -> Output {
        let mut gate = Command::new(self.path("gate/postgres"));
        gate.env("HOLDFAST_CONFIG", self.path("agent.toml")).args(first);
        gate.arg("-D").arg(self.path("data")).output().unwrap()
    }

    #[track_caller]
    fn starts(&self) {
        let output = self.gate();
        assert!(output.status.success(), "{output:?}");
    }

    #[track_caller]
    fn refused(&self) -> String {
        let output = self.gate();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What the agent keeps once it has seen PostgreSQL run there.
    fn record(&self, marker: &str) {
        let look = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"))
            .args(["places", "--owner", "service.main"])
            .arg(self.path("data"))
            .output();
        let found: serde_json::Value = serde_json::from_slice(&look.unwrap().stdout).unwrap();
        let places = found.as_array().unwrap().iter().map(|place| {
            let markers = match place["name"].get("tablespace") {
                Some(_) => vec![marker],
                None => Vec::new(),
            };
            serde_json::json!({ "name": place["name"], "path": place["path"], "on": place["there"]["Ok"]["on"], "markers": markers })
        });
        let places = places.collect();
        let record =
            serde_json::json!({ "format": 1, "min_reader": 1, "places": serde_json::Value::Array(places) });
        std::fs::write(self.path("state/service.main/places.json"), record.to_string()).unwrap();
        std::fs::write(self.path("hot/.holdfast.service.main.pg"), marker).unwrap();
    }
}

#[test]
fn what_was_never_seen_must_hold_something_of_postgresql() {
    let host = Host::new();
    let said = host.refused();
    assert!(said.contains("tablespace 16385") && said.contains("No such file"), "{said}");
    std::fs::create_dir(host.path("hot/pg")).unwrap();
    let said = host.refused();
    assert!(said.contains("nothing of PostgreSQL is in it"), "{said}");
    let repair = host.gate_of(&["--single"]);
    assert_eq!(repair.status.code(), Some(1), "recovery would write there: {repair:?}");
    assert!(host.gate_of(&["--describe-config"]).status.success(), "that writes nothing");
    host.mode("observe");
    let output = host.gate();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("not armed") && said.contains("tablespace 16385"),
        "{said}"
    );
    host.mode("armed");
    std::fs::create_dir(host.path("hot/pg/PG_15_202209061")).unwrap();
    host.starts();
}

#[test]
fn only_the_disk_that_was_there_is_taken_and_only_as_it_was_left() {
    let host = Host::new();
    let disk = host.disk();
    // Below the mount point lies what crash recovery would make: PostgreSQL would take it.
    std::fs::create_dir_all(host.path("hot/pg/PG_15_202209061")).unwrap();
    disk.mount("rw");
    std::fs::create_dir_all(host.path("hot/pg/PG_15_202209061")).unwrap();
    host.record("first");
    host.starts();

    disk.unmount();
    let older = disk.copy(host.path("older.img"));
    let said = host.refused();
    let missing = format!("{} is not mounted", host.path("hot").display());
    assert!(said.contains(&missing) && said.contains("holdfast disk adopt"), "{said}");

    disk.mount("rw");
    host.record("second");
    host.starts();
    disk.unmount();
    older.mount("rw");
    let said = host.refused();
    assert!(said.contains("an older copy of the disk"), "{said}");
    older.unmount();

    let other = Disk::make(host.path("other.img"), &host.path("hot"));
    other.mount("rw");
    std::fs::create_dir_all(host.path("hot/pg/PG_15_202209061")).unwrap();
    std::fs::write(host.path("hot/.holdfast.service.main.pg"), "second").unwrap();
    let said = host.refused();
    assert!(said.contains("another file system is mounted"), "{said}");
    other.unmount();

    disk.mount("ro");
    let said = host.refused();
    assert!(said.contains("cannot be written to"), "{said}");
    disk.unmount();
    disk.mount("rw");
    host.starts();
}

#[test]
fn a_disk_that_hangs_is_refused_within_the_bound() {
    let host = Host::new();
    let disk = host.disk();
    disk.mount("rw");
    std::fs::create_dir_all(host.path("hot/pg/PG_15_202209061")).unwrap();
    host.record("first");
    // A frozen file system answers reads; a look that needs one of its locks for writing waits. The marker's folder is
    // replaced by a pipe instead, which nobody writes to: opening it waits as a dead disk does.
    std::fs::remove_file(host.path("hot/.holdfast.service.main.pg")).unwrap();
    run("mkfifo", &[host.path("hot/.holdfast.service.main.pg").to_str().unwrap()]);
    let begun = Instant::now();
    let said = host.refused();
    let took = begun.elapsed();
    // Whoever waits there goes on, and ends.
    run(
        "timeout",
        &["5", "sh", "-c", "echo x > \"$0\"", host.path("hot/.holdfast.service.main.pg").to_str().unwrap()],
    );
    assert!(said.contains("a disk hangs"), "{said}");
    assert!(took < BOUND * 2, "{took:?}");
}
