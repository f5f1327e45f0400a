//! Promise I12 with real servers: a tablespace whose mount is gone when PostgreSQL starts again, on the writer after a crash and
//! on a standby. Patroni alone starts them: crash recovery makes the directory anew below the mount point, and committed rows are
//! gone (`facts/baseline.md` 4.6). Here the start is refused, somebody else writes, the reason stands in `status`, and once the
//! disk is back the member comes back by itself, with every row.

use std::path::PathBuf;

use crate::support::{Lab, eventually, host, text};
use serde_json::Value;

const SPEC: &str =
    concat!(include_str!("../../specs/quick.toml"), include_str!("../../specs/three_members.toml"));
const DATABASES: [&str; 3] = ["db1", "db2", "db3"];
const ROWS: &str = "8000";

struct Region {
    lab: Lab,
    images: tempfile::TempDir,
    /// The mount point, the same on every host; each host has its own mounts.
    mount_point: tempfile::TempDir,
}

#[test]
#[ignore = "a minute and a half: tests/all --long"]
fn postgresql_starts_only_on_the_disk_that_it_was_left_on() {
    let (images, mount_point) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let region = Region { lab: Lab::up("t_mounts", SPEC), images, mount_point };
    eventually("db1 is healthy", || region.lab.is_healthy());
    for host in DATABASES {
        region.makes_a_disk(host);
    }
    region.fills_a_tablespace();
    let writer = region.writer();
    let standby = DATABASES.into_iter().find(|host| *host != writer).unwrap();
    region.loses_its_mount(standby);
    region.comes_back(standby);
    region.loses_its_mount(&writer);
    assert_ne!(region.writer(), writer, "it was not started");
    region.comes_back(&writer);
    region.adopts_another_disk(standby);
}

impl Region {
    fn path(&self) -> PathBuf {
        self.mount_point.path().join("pg")
    }

    fn shell(&self, host: &str, script: &str) -> String {
        let said = self.lab.exec(host, &["sh", "-ec", script]);
        assert!(said.success(), "{host}: {script}: {said:?}");
        said.stdout.trim().to_owned()
    }

    fn image(&self, host: &str) -> String {
        self.images.path().join(format!("{host}.img")).display().to_string()
    }

    fn makes_a_disk(&self, host: &str) {
        let (image, path) = (self.image(host), self.path());
        let data_dir = self.data_dir(host);
        self.shell(
            host,
            &format!(
                "truncate -s 48M {image}; mkfs.ext4 -q {image}; chmod 755 {}",
                self.mount_point.path().display()
            ),
        );
        self.mount(host);
        let path = path.display();
        self.shell(host, &format!("mkdir {path}; chown --reference={data_dir} {path}; chmod 700 {path}"));
    }

    fn mount(&self, host: &str) {
        self.shell(
            host,
            &format!("mount -o loop {} {}", self.image(host), self.mount_point.path().display()),
        );
    }

    fn data_dir(&self, name: &str) -> String {
        text(&host(&self.lab.describe(), name)["instances"][0]["data_dir"]).to_owned()
    }

    fn writer(&self) -> String {
        self.lab.status()["term"]["holder"].as_str().unwrap_or_default().to_owned()
    }

    fn rows(&self, host: &str) -> Option<String> {
        self.lab.sql(host, "SELECT count(*) FROM hot")
    }

    /// And waits until each agent has kept where it lies.
    fn fills_a_tablespace(&self) {
        let writer = self.writer();
        let path = self.path();
        let sql = [
            format!("CREATE TABLESPACE ts_hot LOCATION '{}'", path.display()),
            format!("CREATE TABLE hot TABLESPACE ts_hot AS SELECT g FROM generate_series(1, {ROWS}) g"),
        ];
        for one in &sql {
            assert!(self.lab.sql(&writer, one).is_some(), "{one}");
        }
        for host in DATABASES {
            eventually("the rows are there", || self.rows(host).as_deref() == Some(ROWS));
            eventually("the tablespace is recorded", || self.disks(host).contains("as recorded"));
        }
    }

    /// What `disk list` says of the tablespace.
    fn disks(&self, name: &str) -> String {
        let said = self.disk(name, &["list", "-o", "json"]);
        let found: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        let places = found["places"].as_array().cloned().unwrap_or_default();
        let of = places.iter().find(|place| text(&place["place"]).starts_with("tablespace"));
        of.map(|place| text(&place["state"]).to_owned()).unwrap_or_default()
    }

    fn disk(&self, name: &str, words: &[&str]) -> crate::support::Output {
        let described = self.lab.describe();
        let configuration = text(&host(&described, name)["agent_config"]).to_owned();
        let line = [&["holdfast", "disk"], words, &["--agent-config", &configuration]].concat();
        self.lab.exec(name, &line)
    }

    fn loses_its_mount(&self, host: &str) {
        // As a disk that was pulled, or a host that came up without it: the crash finds the mount gone.
        self.shell(host, &format!("umount -l {}", self.mount_point.path().display()));
        for target in ["postgres", "patroni"] {
            // Its agent ends Patroni with a crashed PostgreSQL, if it is faster.
            self.lab.tries(&["fault", self.lab.name(), "kill", host, target]);
        }
        let missing = format!("mount {}", self.mount_point.path().display());
        eventually("status names the mount", || {
            let status = self.lab.holdfast(&["status"]).stdout;
            let named = status.contains(&missing) && status.contains(&format!("{host}: tablespace"));
            if named {
                eprintln!("{status}");
            }
            named
        });
        eventually("Patroni's log says why it is not started", || {
            self.lab.log(host, "patroni-main").contains("PostgreSQL is not started: tablespace")
        });
        assert!(self.lab.sql(host, "SELECT 1").is_none(), "it does not run");
        let shadow = self.shell(host, &format!("ls -A {}", self.mount_point.path().display()));
        assert_eq!(shadow, "", "nothing was made below the mount point");
        eventually("the others write", || self.lab.writes("libpq", None));
    }

    fn comes_back(&self, host: &str) {
        self.mount(host);
        eventually("it streams again", || self.lab.streams(host));
        eventually("with every row", || self.rows(host).as_deref() == Some(ROWS));
        eventually("nothing is wrong any more", || self.lab.is_healthy());
    }

    /// A copy on another disk is refused until a person says that it is meant.
    fn adopts_another_disk(&self, host: &str) {
        let (image, point) = (self.image(host), self.mount_point.path().display());
        for target in ["patroni", "postgres"] {
            self.lab.tries(&["fault", self.lab.name(), "kill", host, target]);
        }
        self.shell(
            host,
            &format!(
                "umount -l {point}; mkdir {image}.d; mount -o loop {image} {image}.d; truncate -s 48M {image}.new; \
                 mkfs.ext4 -q {image}.new; mount -o loop {image}.new {point}; cp -a {image}.d/. {point}; umount {image}.d"
            ),
        );
        eventually("it is another file system", || self.disks(host).contains("another file system"));
        eventually("it is refused", || {
            self.lab.log(host, "patroni-main").contains("another file system is mounted")
        });
        let told = self.disk(host, &["adopt", "--reason", "the disk was replaced", "--yes"]);
        assert!(told.success(), "{told:?}");
        eventually("it streams again", || self.lab.streams(host));
        eventually("with every row", || self.rows(host).as_deref() == Some(ROWS));
        let listed = self.disk(host, &["list"]).stdout;
        eprintln!("{listed}");
        assert!(listed.contains("the disk was replaced"), "{listed}");
    }
}
