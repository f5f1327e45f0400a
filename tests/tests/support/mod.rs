//! A lab for a test: driven by the program's own verbs, taken down when the test ends, whichever way.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, dead_code)]

pub mod load;
pub mod region;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use holdfast_host::run::Output;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-lab");
/// The bench, whose clients are the load of a test.
pub const BENCH: &str = env!("CARGO_BIN_EXE_holdfast-bench");
/// So long may a condition take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long may a commit take that should not come.
const REFUSAL: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
/// So long may a verb take, and `up`, which has a deadline of 120 s and a tear-down.
const VERB_MS: u64 = 90_000;
const UP_MS: u64 = 180_000;
/// A case of the bench: a Patroni that hangs for 55 s, and each of the bench's own deadlines.
const CASE_MS: u64 = 600_000;

/// Runs a program to its end, or kills it at its deadline.
pub fn within(deadline_ms: u64, line: &[&str]) -> Output {
    let (program, arguments) = line.split_first().unwrap();
    let command = holdfast_host::run::Command::new(program).args(arguments.to_vec()).deadline_ms(deadline_ms);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(holdfast_host::run::run(command)).unwrap()
}

/// The same for a verb of the lab.
pub fn verb(arguments: &[&str]) -> Output {
    within(VERB_MS, &[&[PROGRAM], arguments].concat())
}

/// A lab that is there or not; `down` at the end of the test in any case.
pub struct Lab {
    name: String,
    spec: tempfile::NamedTempFile,
}

/// A transaction that needs no table and waits for a standby.
pub const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'test', '')";

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
        let output = lab.try_up(spec);
        assert!(output.success(), "up: {}", output.stderr);
        lab
    }

    /// Brings it up, and says how that ended.
    pub fn try_up(&self, spec: &str) -> Output {
        self.write(spec);
        within(UP_MS, &[PROGRAM, "up", self.spec.path().to_str().unwrap(), "--name", &self.name])
    }

    fn write(&self, spec: &str) {
        self.spec.as_file().set_len(0).unwrap();
        let file = fs::OpenOptions::new().append(true).open(self.spec.path());
        file.unwrap().write_all(spec.as_bytes()).unwrap();
    }

    /// Begins to bring it up: for a test that kills it on the way.
    pub fn start_up(&self, spec: &str) -> Child {
        self.write(spec);
        let mut up = Command::new(PROGRAM);
        up.arg("up").arg(self.spec.path()).args(["--name", &self.name]);
        up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A verb that succeeds and answers with JSON.
    pub fn run(&self, arguments: &[&str]) -> Value {
        let output = verb(arguments);
        assert!(output.success(), "{arguments:?}: {}", output.stderr);
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// Whether a verb succeeds.
    pub fn tries(&self, arguments: &[&str]) -> bool {
        verb(arguments).success()
    }

    /// A verb that fails with this exit code: what it said.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = verb(arguments);
        assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.stderr);
        output.stderr
    }

    pub fn describe(&self) -> Value {
        self.run(&["describe", &self.name])
    }

    /// A command on a host.
    pub fn exec(&self, host: &str, command: &[&str]) -> Output {
        verb(&[&["exec", &self.name, host, "--"], command].concat())
    }

    /// One statement by the local superuser of a database host; what it prints, if it succeeds.
    pub fn sql(&self, name: &str, sql: &str) -> Option<String> {
        let described = self.describe();
        let socket = text(&host(&described, name)["instances"][0]["socket_dir"]).to_owned();
        let line = ["timeout", "5", "psql", "-qAtX", "-h", &socket, "-U", "postgres", "-c", sql];
        let output = self.exec(name, &line);
        output.success().then(|| output.stdout.trim().to_owned())
    }

    /// The timeline that the writer writes on.
    pub fn timeline_of(&self, writer: &str) -> String {
        let sql = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int";
        self.sql(writer, sql).expect("PostgreSQL answers")
    }

    /// A command on a host that is not waited for.
    pub fn start(&self, host: &str, command: &[&str]) -> Child {
        let mut child = Command::new(PROGRAM);
        child.args(["exec", &self.name, host, "--"]).args(command).stdin(Stdio::null()).spawn().unwrap()
    }

    /// The operator's command, on the clients' host.
    pub fn holdfast(&self, arguments: &[&str]) -> Output {
        self.exec("client", &[&["holdfast"], arguments].concat())
    }

    /// An order that must be followed.
    pub fn order(&self, arguments: &[&str]) {
        let said = self.holdfast(arguments);
        assert!(said.success(), "{arguments:?}: {said:?}");
    }

    /// What `status` says; null while it cannot be asked.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.holdfast(&["status", "-o", "json"]).stdout).unwrap_or_default()
    }

    pub fn is_healthy(&self) -> bool {
        self.status()["healthy"] == Value::Bool(true)
    }

    /// The incidents; none while they cannot be asked for.
    pub fn events(&self) -> Vec<Value> {
        let said = self.holdfast(&["events", "-o", "json"]).stdout;
        let found: Value = serde_json::from_str(&said).unwrap_or_default();
        found["events"].as_array().cloned().unwrap_or_default()
    }

    /// What a program of a host has said so far.
    pub fn log(&self, name: &str, program: &str) -> String {
        let described = self.describe();
        std::fs::read_to_string(text(&host(&described, name)["logs"][program])).unwrap()
    }

    /// `etcdctl` of the first region, on the clients' host.
    pub fn etcdctl(&self, words: &[&str]) -> Output {
        let etcd = self.describe()["regions"][0]["etcd"].clone();
        let endpoints: Vec<&str> = etcd["endpoints"].as_array().unwrap().iter().map(text).collect();
        let flags = [("endpoints", endpoints.join(",")), ("cacert", text(&etcd["ca"]).into())];
        let own = ["cert", "key"].map(|name| (name, text(&etcd[name]).to_owned()));
        let flags: Vec<String> =
            flags.into_iter().chain(own).map(|(name, value)| format!("--{name}={value}")).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.exec("client", &[&["env", "ETCDCTL_API=3", "etcdctl"], &flags[..], words].concat())
    }

    /// One run of a case of the bench, clients on every route, the fault, the heal: its record. Nothing that was
    /// acknowledged is lost, and one host acknowledged at a time.
    pub fn bench(&self, case: &str) -> Value {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let what = ["--case", case, "--n", "1", "--systems", "holdfast-fast"];
        let ran = within(CASE_MS, &[&[BENCH], &what[..], &["--lab", &self.name, "--json", path]].concat());
        eprintln!("{}", ran.stderr);
        assert!(ran.success(), "{case}: {}", ran.stderr);
        let records = fs::read_to_string(path).unwrap();
        let record: Value = serde_json::from_str(records.lines().last().unwrap()).unwrap();
        let verdict = &record["verdict"];
        assert_eq!(verdict["lost"]["count"], 0, "{case}: acknowledged rows are lost: {verdict}");
        assert_eq!(verdict["appeared_though_refused"]["count"], 0, "{case}: {verdict}");
        assert_eq!(verdict["two_acknowledging"]["certain_us"], 0, "{case}: two writers: {verdict}");
        assert!(verdict["counts"]["acknowledged"].as_u64().unwrap() > 100, "{case}: nobody wrote: {verdict}");
        record
    }

    /// Whether one transaction from a host over that connection string is acknowledged.
    pub fn commits(&self, host: &str, dsn: &str) -> bool {
        self.exec(host, &["timeout", "5", "psql", "-qAtX", dsn, "-c", COMMIT]).success()
    }

    /// Whether a write over a route of the first cluster is acknowledged.
    pub fn writes(&self, kind: &str, to: Option<&str>) -> bool {
        let described = self.describe();
        self.commits("client", &route(&described["regions"][0]["clusters"][0], kind, to))
    }

    /// Whether the leader of the first cluster has that standby streaming.
    pub fn streams(&self, standby: &str) -> bool {
        let described = self.describe();
        let instances = described["regions"][0]["hosts"].as_array().unwrap();
        let sockets = instances.iter().filter_map(|host| host["instances"][0]["socket_dir"].as_str());
        let sql = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'";
        sockets.into_iter().any(|socket| {
            let line = ["timeout", "5", "psql", "-qAtX", "-h", socket, "-U", "postgres", "-c", sql];
            within(VERB_MS, &line).stdout.lines().any(|name| name == standby)
        })
    }

    /// Takes it down and insists.
    pub fn down(&self) {
        let output = verb(&["down", &self.name]);
        assert!(output.success(), "down: {}", output.stderr);
    }

    fn quiet_down(&self) {
        if Path::new("/run/holdfast-lab").join(&self.name).exists() {
            verb(&["down", &self.name]);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.quiet_down();
    }
}

/// The connection string of a route of a described cluster.
pub fn route(cluster: &Value, kind: &str, to: Option<&str>) -> String {
    let routes = cluster["routes"].as_array().unwrap();
    let route = routes.iter().find(|route| route["kind"] == kind && route["host"].as_str() == to);
    text(&route.unwrap()["dsn"]).to_owned()
}

/// The lines of a child, as they come: whoever waits for one can wait with a deadline.
pub fn lines_of(out: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (said, lines) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).all(|line| said.send(line).is_ok())
    });
    lines
}

/// A client's session that stays open. It ends with the first statement that is refused: a transaction that was rolled back
/// must not be taken for one that was committed.
pub struct Session {
    psql: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Session {
    /// Opens it from a host.
    pub fn open(lab: &Lab, host: &str, dsn: &str) -> Self {
        let mut psql = Command::new(PROGRAM)
            .args(["exec", lab.name(), host, "--", "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", dsn])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (psql.stdin.take().unwrap(), psql.stdout.take().unwrap());
        Self { psql, stdin, lines: lines_of(stdout) }
    }

    /// Opens it as superuser over the Unix socket of a host of a description.
    pub fn local(lab: &Lab, described: &Value, name: &str) -> Self {
        let socket = text(&host(described, name)["instances"][0]["socket_dir"]);
        Self::open(lab, name, &format!("host={socket} user=postgres dbname=postgres"))
    }

    /// One transaction: the process of the server that acknowledged it.
    pub fn commit(&mut self) -> String {
        self.within(PATIENCE).expect("the session must stay open and commit")
    }

    /// The same, if it is acknowledged within a few seconds; `None`: the session has ended, or waits.
    pub fn try_commit(&mut self) -> Option<String> {
        self.within(REFUSAL)
    }

    /// The same for a transaction that waits for no standby.
    pub fn try_commit_alone(&mut self) -> Option<String> {
        self.send("SET LOCAL synchronous_commit = local;")?;
        self.answer()
    }

    /// Begins a transaction, writes in it, and leaves it open.
    pub fn begin(&mut self) -> Option<()> {
        self.stdin.write_all(format!("BEGIN; {COMMIT} \\g /dev/null\n").as_bytes()).ok()
    }

    /// Commits what was begun; `None`: it is not acknowledged.
    pub fn end(&mut self) -> Option<String> {
        self.stdin.write_all(b"COMMIT; SELECT pg_backend_pid();\n").ok()?;
        self.lines.recv_timeout(REFUSAL).ok()
    }

    /// Sends one transaction whose answer is read later.
    pub fn begin_commit(&mut self) -> Option<()> {
        self.send("")
    }

    fn send(&mut self, first: &str) -> Option<()> {
        let sql = format!("BEGIN; {first} {COMMIT} \\g /dev/null\nCOMMIT; SELECT pg_backend_pid();\n");
        self.stdin.write_all(sql.as_bytes()).ok()
    }

    /// The answer to what was sent, if it comes within a few seconds.
    pub fn answer(&mut self) -> Option<String> {
        self.lines.recv_timeout(REFUSAL).ok()
    }

    fn within(&mut self, deadline: Duration) -> Option<String> {
        self.begin_commit()?;
        self.lines.recv_timeout(deadline).ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
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

/// The guard's proof. Its clients end when their processes do, which is before the guard has seen the last one go.
pub fn eventually_proved(described: &Value, name: &str) {
    let log = text(&host(described, name)["logs"]["guard"]);
    eventually(&format!("the guard's proof in {log}"), || {
        fs::read_to_string(log).unwrap().contains("all are gone")
    });
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
    found.extend(loop_devices(&below));
    found
}

/// Loop devices whose file is, or was, the lab's.
fn loop_devices(below: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if file.contains(&format!("{below}/")) {
            found.push(format!("loop device {:?} of {file}", entry.file_name()));
        }
    }
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
        let of_lab = |line: &str| line.ends_with(below) || line.contains(&format!("{below}/"));
        let in_cgroup = read("cgroup").lines().any(|line| line.starts_with("0::") && of_lab(line));
        // Without a state it was reaped while we read.
        let (command, stat) = (read("cmdline"), read("stat"));
        let alive = !stat.is_empty() && !stat.contains(") Z ") && !stat.contains(") X ");
        if alive && (in_cgroup || command.contains(&format!("{below}/"))) {
            found.push(format!("process {:?} {command}", entry.file_name()));
        }
    }
    found
}
