//! The start gate as Patroni runs it, with an agent that hangs: a standby starts, a primary does not, and in time.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A gate that took longer made a restarted Patroni start a second postmaster (DESIGN section 4).
const BOUND: Duration = Duration::from_secs(2);
/// The machine may be busy at one moment; the gate itself waits the same time in each try.
const TRIES: usize = 3;

/// A host with one instance, whose last known mode was `mode`, and an agent that takes questions and never answers.
struct Host {
    folder: tempfile::TempDir,
    _agent: UnixListener,
}

impl Host {
    fn new(mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["run", "data", "bin", "gate", "state/service.main"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let postgres = at("bin/postgres");
        std::fs::write(&postgres, "#!/bin/sh\necho became postgres \"$@\"\n").unwrap();
        std::fs::set_permissions(&postgres, std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink(env!("CARGO_BIN_EXE_holdfast-agent"), at("gate/postgres")).unwrap();
        let remembered =
            format!(r#"{{"format":1,"min_reader":1,"mode":"{mode}","fenced":null,"attesting":false}}"#);
        std::fs::write(at("state/service.main/remembered.json"), remembered).unwrap();
        let here = folder.path().display();
        let config = format!(
            r#"
            region = "r1"
            host = "db1"
            run_dir = "{here}/run"
            state_dir = "{here}/state"
            tls = {{ ca = "{here}/ca", cert = "{here}/cert", key = "{here}/key" }}
            etcd = {{ endpoints = ["10.0.0.1:2379"] }}
            grpc = {{ listen = "10.0.0.2:7460" }}
            [[instance]]
            namespace = "service"
            scope = "main"
            member = "db1"
            data_dir = "{here}/data"
            bin_dir = "{here}/bin"
            socket_dir = "{here}/run"
            port = 5432
            address = "10.0.0.2"
            patroni_url = "https://10.0.0.2:8008"
            cgroup = "{here}/cgroup"
            "#
        );
        std::fs::write(at("agent.toml"), config).unwrap();
        let agent = UnixListener::bind(at("run/agent.sock")).unwrap();
        Self { folder, _agent: agent }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> (Output, Duration) {
        let gate: &Path = &self.path("gate/postgres");
        let begun = Instant::now();
        let output = Command::new(gate)
            .env("HOLDFAST_CONFIG", self.path("agent.toml"))
            .arg("-D")
            .arg(self.path("data"))
            .output()
            .unwrap();
        (output, begun.elapsed())
    }
}

#[test]
fn with_a_hung_agent_a_primary_is_refused_within_its_bound() {
    let host = Host::new("armed");
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let (output, elapsed) = host.start();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("would start as primary") && said.contains("holdfast-agent"), "{said}");
        took.push(elapsed);
    }
    assert!(took.iter().min().unwrap() < &BOUND, "{took:?}");
}

#[test]
fn with_a_hung_agent_a_standby_starts_and_so_does_anything_in_a_cluster_that_is_not_armed() {
    let host = Host::new("armed");
    std::fs::write(host.path("data/standby.signal"), "").unwrap();
    let (output, _) = host.start();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("became postgres -D"), "{output:?}");
    let (output, _) = Host::new("observe").start();
    assert!(output.status.success(), "{output:?}");
}
