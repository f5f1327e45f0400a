//! A lab for a test: driven by the program's own verbs, taken down when the test ends, whichever way.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, dead_code)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-lab");
/// So long may a condition take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A lab that is there or not; `down` at the end of the test in any case.
pub struct Lab {
    name: String,
    spec: tempfile::NamedTempFile,
}

/// How a command on a host ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
}

impl Ended {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl Lab {
    /// Only the name: nothing is started. What an earlier, killed test left under it is removed.
    pub fn named(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a lab needs root: namespaces, cgroups, mounts");
        let lab = Self { name: name.into(), spec: tempfile::NamedTempFile::new().unwrap() };
        lab.quiet_down();
        lab
    }

    /// A healthy lab.
    pub fn up(name: &str, spec: &str) -> Self {
        let lab = Self::named(name);
        let output = lab.start_up(spec).wait_with_output().unwrap();
        assert!(output.status.success(), "up: {}", String::from_utf8_lossy(&output.stderr));
        lab
    }

    /// Begins to bring it up.
    pub fn start_up(&self, spec: &str) -> Child {
        self.spec.as_file().set_len(0).unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(self.spec.path())
            .unwrap()
            .write_all(spec.as_bytes())
            .unwrap();
        let mut up = Command::new(PROGRAM);
        up.arg("up").arg(self.spec.path()).args(["--name", &self.name]);
        up.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// An `up` that is refused: its exit code and what it said.
    pub fn refused_up(&self, spec: &str) -> (Option<i32>, String) {
        let output = self.start_up(spec).wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A verb that succeeds and answers with JSON.
    pub fn run(&self, arguments: &[&str]) -> Value {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Whether a verb succeeds.
    pub fn tries(&self, arguments: &[&str]) -> bool {
        Command::new(PROGRAM).args(arguments).output().unwrap().status.success()
    }

    /// A verb that fails: what it said.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} did not fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn describe(&self) -> Value {
        self.run(&["describe", &self.name])
    }

    /// A command on a host.
    pub fn exec(&self, host: &str, command: &[&str]) -> Ended {
        let output = self.exec_output(host, command);
        Ended { code: output.status.code(), stdout: String::from_utf8_lossy(&output.stdout).into_owned() }
    }

    fn exec_output(&self, host: &str, command: &[&str]) -> Output {
        Command::new(PROGRAM).args(["exec", &self.name, host, "--"]).args(command).output().unwrap()
    }

    /// Whether a write over a route of the first cluster is acknowledged.
    pub fn writes(&self, kind: &str, to: Option<&str>) -> bool {
        let described = self.describe();
        let routes = described["regions"][0]["clusters"][0]["routes"].as_array().unwrap();
        let route =
            routes.iter().find(|route| route["kind"] == kind && route["host"].as_str() == to).unwrap();
        let sql = "SELECT pg_logical_emit_message(true, 'test', '')";
        self.exec("client", &["timeout", "5", "psql", "-qAtX", text(&route["dsn"]), "-c", sql]).success()
    }

    /// Whether the leader of the first cluster has that standby streaming.
    pub fn streams(&self, standby: &str) -> bool {
        let described = self.describe();
        let instances = described["regions"][0]["hosts"].as_array().unwrap();
        let sockets = instances.iter().filter_map(|host| host["instances"][0]["socket_dir"].as_str());
        let sql = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'";
        sockets.into_iter().any(|socket| {
            let output =
                Command::new("psql").args(["-qAtX", "-h", socket, "-U", "postgres", "-c", sql]).output();
            String::from_utf8_lossy(&output.unwrap().stdout).lines().any(|name| name == standby)
        })
    }

    /// Takes it down and insists.
    pub fn down(&self) {
        let output = Command::new(PROGRAM).args(["down", &self.name]).output().unwrap();
        assert!(output.status.success(), "down: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn quiet_down(&self) {
        if Path::new("/run/holdfast-lab").join(&self.name).exists() {
            drop(Command::new(PROGRAM).args(["down", &self.name]).output());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.quiet_down();
    }
}

/// A host of a description.
pub fn host<'d>(described: &'d Value, name: &str) -> &'d Value {
    let regions = described["regions"].as_array().unwrap();
    let mut hosts = regions.iter().flat_map(|region| region["hosts"].as_array().unwrap());
    hosts.find(|host| host["name"] == name).unwrap()
}

/// A text of a description.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Waits for a condition.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(POLL);
    }
}

/// Everything on this machine that bears the lab's name: namespaces, cgroups, mounts, directories, processes.
pub fn leftovers(lab: &str) -> Vec<String> {
    let mut found = Vec::new();
    let prefix = format!("lab-{lab}-");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        found.extend(name.starts_with(&prefix).then(|| format!("netns {name}")));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = format!("/holdfast-lab/{lab}");
    found.extend(
        mounts.lines().filter(|line| line.contains(&below) || line.contains(&prefix)).map(str::to_owned),
    );
    let cgroups = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
    let cgroups = cgroups.split(' ').nth(4).unwrap();
    for dir in [format!("{cgroups}{below}"), format!("/run{below}"), format!("/var/lib{below}")] {
        found.extend(Path::new(&dir).exists().then_some(dir));
    }
    found.extend(processes(&below));
    found
}

/// Processes in the lab's cgroup, or with a path of the lab in their command line. What has ended and only waits for its
/// parent's notice has neither.
fn processes(below: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let in_cgroup = read("cgroup").lines().any(|line| line.starts_with("0::") && line.contains(below));
        let (command, alive) = (read("cmdline"), !read("stat").contains(") Z "));
        if alive && (in_cgroup || command.contains(&format!("{below}/"))) {
            found.push(format!("process {:?} {command}", entry.file_name()));
        }
    }
    found
}
