//! The start gate as Patroni runs it, with an agent that hangs: a standby starts, a primary does not, and in time.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::os::unix::fs::symlink;
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
    agent: Option<UnixListener>,
}

impl Host {
    fn new(mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        support::lay_out(folder.path(), mode);
        let agent = UnixListener::bind(folder.path().join("run/agent.sock")).unwrap();
        Self { folder, agent: Some(agent) }
    }

    /// The same, and its agent is gone with its socket.
    fn alone(mode: &str) -> Self {
        let mut host = Self::new(mode);
        host.agent = None;
        std::fs::remove_file(host.path("run/agent.sock")).unwrap();
        host
    }

    fn disarm_locally(&self, more: &str) {
        let record =
            format!(r#"{{"format":1,"min_reader":1,"by":"root","reason":"bad build","at_wall_ms":1{more}}}"#);
        std::fs::write(self.path("state/disarmed.json"), record).unwrap();
    }

    fn hook(&self) -> Command {
        let mut hook = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"));
        hook.args(["promote-gate", "--namespace", "service", "--scope", "main"]);
        hook.env("HOLDFAST_CONFIG", self.path("agent.toml"));
        hook
    }

    /// Whether both gates let pass at once.
    fn is_open(&self) -> bool {
        let (start, _) = self.start();
        let hook = self.hook().output().unwrap();
        assert_eq!(start.status.success(), hook.status.success(), "{start:?} {hook:?}");
        start.status.success()
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

#[test]
fn what_a_removal_has_left_behind_lets_pass_where_nothing_is_armed() {
    for mode in ["observe", "disarmed"] {
        assert!(Host::alone(mode).is_open(), "{mode}");
    }
    let never_armed = Host::alone("armed");
    std::fs::remove_file(never_armed.path("state/service.main/remembered.json")).unwrap();
    assert!(never_armed.is_open(), "nothing is remembered");
    std::fs::remove_dir_all(never_armed.path("state")).unwrap();
    assert!(never_armed.is_open(), "there is no state directory");
    // A damaged configuration that still names the directory.
    let damaged = Host::alone("disarmed");
    let config = std::fs::read_to_string(damaged.path("agent.toml")).unwrap();
    std::fs::write(damaged.path("agent.toml"), config.replace("region =", "regions =")).unwrap();
    assert!(damaged.is_open());
    std::fs::write(damaged.path("state/service.main/remembered.json"), "{").unwrap();
    let (start, _) = damaged.start();
    assert_eq!(start.status.code(), Some(1), "what is not known is not taken for disarmed");
    assert_eq!(damaged.hook().output().unwrap().status.code(), Some(1));
}

#[test]
fn a_local_disarm_opens_both_gates_of_an_armed_host_but_not_a_fence() {
    // Its agent hangs: nobody waits for it.
    let host = Host::new("armed");
    host.disarm_locally("");
    let begun = Instant::now();
    assert!(host.is_open());
    assert!(begun.elapsed() < BOUND * 2, "both of them asked a hung agent");
    let memory = host.path("state/service.main/remembered.json");
    let text = std::fs::read_to_string(&memory).unwrap();
    std::fs::write(&memory, text.replace("null", "\"by ann: disk\"").replace(":false}", ":true}")).unwrap();
    assert!(!host.is_open(), "promise I5");
    host.disarm_locally(r#","over_fence":true"#);
    assert!(host.is_open(), "and the shut gate of an attestation does not count");
    host.disarm_locally(r#","ended":{"by":"root","reason":"over","at_wall_ms":2}"#);
    let (start, _) = host.start();
    assert_eq!(start.status.code(), Some(1), "it has ended");
}

#[test]
fn a_hook_that_waits_finds_the_order_that_is_given_meanwhile() {
    let host = Host::new("armed");
    let mut hook = host.hook().spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(hook.try_wait().unwrap().is_none(), "its agent hangs, and it waits");
    host.disarm_locally("");
    let begun = Instant::now();
    assert!(hook.wait().unwrap().success());
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
}

/// PostgreSQL looks for its own files by the name that it was called by, and a service has no path to them.
#[test]
fn what_came_through_the_gate_is_called_by_a_path() {
    let host = Host::alone("observe");
    std::fs::remove_file(host.path("bin/postgres")).unwrap();
    symlink("/usr/lib/postgresql/15/bin/postgres", host.path("bin/postgres")).unwrap();
    let mut gate = Command::new(host.path("gate/postgres"));
    gate.env_clear().env("PATH", "/usr/bin:/bin").env("HOLDFAST_CONFIG", host.path("agent.toml"));
    let output = gate.args(["-C", "port", "-D"]).arg(host.path("data")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("postgresql.conf"),
        "it runs, and finds no configuration in that directory: {said}"
    );
    assert!(!said.contains("own executable path"), "{said}");
}
