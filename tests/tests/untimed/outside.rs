//! Rule 11 with real servers: a writer's host stands still, its peers ask a fence device to switch it off, and the device
//! does so, lies, hangs or fails. Another writes in each case; only the first is evidence.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Lab, eventually, text};
use serde_json::Value;

const SPEC: &str = include_str!("../../specs/quick.toml");
/// The device, in the protocol of fence-agents: options on standard input, the answer is the exit code. It stands outside
/// of every host: the order to switch one off is a file, which the test carries out, as a management controller would.
const DEVICE: &str = r##"#!/bin/sh
while IFS='=' read -r name value; do
  case $name in
    action) action=$value ;;
    nodename) node=$value ;;
    folder) folder=$value ;;
  esac
done
echo "$action $node" >> "$folder/calls"
case $(cat "$folder/mood") in
  lies) exit 0 ;;
  hangs) sleep 100 & wait ;;
  fails) echo "power-$node: connection refused" >&2; exit 1 ;;
esac
case $action in
  off)
    touch "$folder/order.$node"
    while [ -e "$folder/order.$node" ]; do sleep 0.05; done
    [ -e "$folder/off.$node" ] ;;
  status) [ -e "$folder/off.$node" ] && exit 2; exit 0 ;;
  *) exit 1 ;;
esac
"##;
/// Longer than every lease, grace and session of the profile `fast` together.
const STILL: Duration = Duration::from_secs(8);

struct Region {
    lab: Lab,
    folder: tempfile::TempDir,
}

#[test]
fn a_device_is_evidence_only_when_it_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("fence_test");
    fs::write(&program, DEVICE).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let outside = format!(
        "[outside]\nprogram = \"{}\"\ntimeout_ms = 2000\nretries = 1\noptions = {{ folder = \"{}\" }}\n",
        program.display(),
        folder.path().display()
    );
    let lab = Lab::up("t_outside", &format!("{SPEC}{outside}"));
    let region = Region { lab, folder };
    region.is_not_asked_in_a_maintenance();
    region.switches_a_host_off();
    region.is_no_evidence("lies", |said| {
        assert_eq!(said["off"]["code"], 0, "{said}");
        assert_eq!(said["status"]["code"], 0, "it says that the host is on: {said}");
    });
    region.is_no_evidence("hangs", |said| assert_eq!(said["off"]["ended"], "hung", "{said}"));
    region.is_no_evidence("fails", |said| {
        assert_eq!(said["off"]["code"], 1, "{said}");
        assert!(text(&said["off"]["text"]).ends_with("connection refused"), "{said}");
    });
}

impl Region {
    fn mood(&self, mood: &str) {
        fs::write(self.folder.path().join("mood"), mood).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        let said = fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        said.lines().map(str::to_owned).collect()
    }

    fn settled_writer(&self) -> (String, u64) {
        eventually("the region is healthy", || self.lab.is_healthy());
        let term = self.lab.status()["term"].clone();
        (text(&term["holder"]).to_owned(), term["term"].as_u64().unwrap())
    }

    /// Carries out the order for a host, if the device has been given one.
    fn obey(&self, host: &str) -> bool {
        let order = self.folder.path().join(format!("order.{host}"));
        if !order.exists() {
            return false;
        }
        self.lab.run(&["fault", self.lab.name(), "host-death", host]);
        fs::write(self.folder.path().join(format!("off.{host}")), "").unwrap();
        fs::remove_file(order).unwrap();
        true
    }

    /// What the device said to each peer that asked in this term.
    fn said(&self, term: u64) -> Vec<Value> {
        let found = self.lab.holdfast(&["events", "-o", "json"]).stdout;
        let found: Value = serde_json::from_str(&found).unwrap_or_default();
        let records = found["outside"].as_array().cloned().unwrap_or_default();
        records.into_iter().filter(|one| one["term"] == term && one["state"] != "asking").collect()
    }

    fn another_writes(&self, term: u64) {
        eventually("another writes", || {
            let status = self.lab.status();
            status["term"]["term"].as_u64() > Some(term) && status["term"]["writable"] == true
        });
        eventually("clients write", || self.lab.writes("libpq", None));
    }

    fn heal(&self, host: &str) {
        self.lab.run(&["heal", self.lab.name()]);
        let _ = fs::remove_file(self.folder.path().join(format!("off.{host}")));
        eventually("the host is back as a standby", || self.lab.streams(host));
    }

    fn is_not_asked_in_a_maintenance(&self) {
        self.mood("fails");
        let (writer, term) = self.settled_writer();
        let order = |words: &[&str]| {
            let said = self.lab.holdfast(&[&["maintenance"], words, &["--reason", "x", "--yes"]].concat());
            assert!(said.success(), "{said:?}");
        };
        order(&["on", "--for", "10m"]);
        self.lab.run(&["fault", self.lab.name(), "freeze", &writer]);
        let begun = Instant::now();
        while begun.elapsed() < STILL {
            assert_eq!(self.calls(), Vec::<String>::new(), "nothing automatic is done in a maintenance");
            std::thread::sleep(Duration::from_millis(200));
        }
        self.lab.run(&["heal", self.lab.name()]);
        eventually("the same writer goes on", || self.lab.writes("libpq", None));
        assert_eq!(self.lab.status()["term"]["term"], term);
        order(&["off"]);
    }

    /// One of the two standbys that count cannot promise: the device has its time, and its word is what CLOSE compares.
    fn switches_a_host_off(&self) {
        self.mood("obeys");
        let (writer, term) = self.settled_writer();
        let standbys = self.lab.status()["sync"]["standbys"].clone();
        let mute = text(&standbys[1]).to_owned();
        self.lab.run(&["fault", self.lab.name(), "stop", &mute, "agent"]);
        self.lab.run(&["fault", self.lab.name(), "freeze", &writer]);
        eventually("the host is switched off", || self.obey(&writer));
        eventually("the device's word is recorded", || !self.said(term).is_empty());
        assert_eq!(
            self.lab.status()["term"]["term"],
            term,
            "a device proves the stop, and not what was acknowledged"
        );
        self.lab.run(&["heal", self.lab.name(), &mute]);
        self.another_writes(term);
        let said = self.said(term);
        assert!(
            said.iter().any(|one| one["state"] == "off" && one["tries"][0]["status"]["code"] == 2),
            "{said:?}"
        );
        let events = self.lab.events();
        let event = events.iter().find(|event| event["term"] == term).unwrap();
        assert!(text(&event["text"]).contains("switched off from outside"), "{event}");
        self.heal(&writer);
    }

    /// The failover goes by promises, and the record says what the device did.
    fn is_no_evidence(&self, mood: &str, check: impl Fn(&Value)) {
        self.mood(mood);
        let ((writer, term), before) = (self.settled_writer(), self.calls().len());
        self.lab.run(&["fault", self.lab.name(), "freeze", &writer]);
        self.another_writes(term);
        eventually("what the device did is recorded", || !self.said(term).is_empty());
        let said = self.said(term);
        assert!(
            said.iter().all(|one| one["state"] == "not_proved" && one["host"] == writer.as_str()),
            "{said:?}"
        );
        let tries = said[0]["tries"].as_array().unwrap();
        assert_eq!(tries.len(), 2, "{mood}: once more, and no more: {said:?}");
        tries.iter().for_each(&check);
        let calls = &self.calls()[before..];
        assert!(calls.iter().all(|call| call.ends_with(&writer)), "only the writer's host: {calls:?}");
        // Another peer may be at it.
        eventually("every call ends", || sleepers(self.folder.path()) == 0);
        let status = self.lab.status();
        assert!(status["findings"].to_string().contains("not proved"), "{status}");
        self.heal(&writer);
    }
}

/// Calls of the device that still run.
fn sleepers(folder: &Path) -> usize {
    let program = folder.join("fence_test");
    let of_device = |entry: &fs::DirEntry| {
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        line.contains(program.to_str().unwrap())
    };
    fs::read_dir("/proc").unwrap().flatten().filter(of_device).count()
}
