//! `disarm --local` as a person calls it, where it may be called beside everything else: what it refuses, and how it is
//! undone. What it opens is shown in a lab, which has hosts of its own (`tests/tests/untimed/common_mode.rs`).

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new(mode: &str) -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        let here = host.folder.path();
        fs::create_dir_all(here.join("state/service.main")).unwrap();
        let config = format!("state_dir = \"{0}/state\"\nrun_dir = \"{0}/run\"\n", here.display());
        fs::write(here.join("agent.toml"), config).unwrap();
        host.remember(mode);
        host
    }

    fn remember(&self, mode: &str) {
        let text =
            format!(r#"{{"format":1,"min_reader":1,"mode":"{mode}","fenced":null,"attesting":false}}"#);
        fs::write(self.folder.path().join("state/service.main/remembered.json"), text).unwrap();
    }

    fn disarmed(&self) {
        let text = r#"{"format":1,"min_reader":1,"by":"root","reason":"x","at_wall_ms":1,"colour":"kept"}"#;
        fs::write(self.record_file(), text).unwrap();
    }

    fn record_file(&self) -> std::path::PathBuf {
        self.folder.path().join("state/disarmed.json")
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.record_file()).unwrap()).unwrap()
    }

    fn local(&self, words: &[&str]) -> Output {
        let config = self.folder.path().join("agent.toml");
        Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["disarm", "--local", "--reason", "test", "-o", "json", "--agent-config"])
            .arg(config)
            .args(words)
            .env("SUDO_USER", "ann")
            .output()
            .unwrap()
    }
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: opening a host needs root");
    }
    is_root
}

#[test]
fn it_is_undone_once_no_term_of_before_can_come_into_force() {
    if !is_root() {
        return;
    }
    let host = Host::new("armed");
    let said = host.local(&["--undo", "--yes"]);
    assert_eq!(said.status.code(), Some(0), "nothing stands: {said:?}");
    host.disarmed();
    let said = host.local(&["--undo", "--yes"]);
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("holdfast disarm --wait"), "{said:?}");
    assert!(host.record()["ended"].is_null());
    host.remember("disarmed");
    assert_eq!(host.local(&["--undo", "--dry-run"]).status.code(), Some(0));
    assert!(host.record()["ended"].is_null(), "a dry run does nothing");
    let said = host.local(&["--undo", "--yes"]);
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let record = host.record();
    assert!(record["ended"]["by"].as_str().unwrap().starts_with("user ann of "), "{record}");
    assert_eq!((&record["reason"], &record["colour"]), (&"x".into(), &"kept".into()));
}

#[test]
fn a_dry_run_changes_nothing_and_tells_of_a_promise() {
    if !is_root() {
        return;
    }
    let host = Host::new("armed");
    fs::write(host.folder.path().join("state/service.main/promise.json"), "{}").unwrap();
    let said = host.local(&["--dry-run"]);
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(report["result"], "would_do");
    assert!(report["warnings"][0].as_str().unwrap().contains("last writer is down"), "{report}");
    assert!(!host.record_file().exists());
    // What cannot be read is said, and not taken for absent.
    fs::write(host.record_file(), "{").unwrap();
    let said = host.local(&["--undo", "--yes"]);
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert!(report["warnings"][0].as_str().unwrap().contains("counts for nothing"), "{report}");
}

#[test]
fn its_options_belong_to_it_and_nobody_is_asked_without_a_terminal() {
    if !is_root() {
        return;
    }
    let usage = |words: &[&str]| {
        let said = Command::new(env!("CARGO_BIN_EXE_holdfast")).args(words).output().unwrap();
        said.status.code()
    };
    assert_eq!(usage(&["disarm", "--undo", "--reason", "x"]), Some(2));
    assert_eq!(usage(&["disarm", "--local", "--undo", "--over-fence", "--reason", "x"]), Some(2));
    let host = Host::new("armed");
    assert_eq!(host.local(&[]).status.code(), Some(2), "nobody says yes");
    assert!(!host.record_file().exists());
}
