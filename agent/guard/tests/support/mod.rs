//! A guard under test, and cgroups that are gone when the test ends, however it ends.

#![allow(dead_code)] // Each test program uses a part of it.
#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.
#![allow(clippy::disallowed_methods)] // The runner of child processes is tokio's; the guard and its tests have none.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast_guard::client::{Client, GuardError};
use holdfast_guard::wire::{Name, Phase, State};
use rustix::time::{ClockId, clock_gettime};

/// Generous: the machine is shared. What must be fast is measured by the test itself.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const MS: u64 = 1_000_000;

/// The guard's clock.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

pub fn in_ms(ms: u64) -> u64 {
    now_ns() + ms * MS
}

pub fn until_ns(deadline_ns: u64) {
    std::thread::sleep(Duration::from_nanos(deadline_ns.saturating_sub(now_ns())));
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn name() -> Name {
    Name::new("service/main").unwrap()
}

/// cgroups and the guard's powers need root. The tests are complete only where `true` comes back.
pub fn may_guard() -> bool {
    let may = rustix::process::geteuid().is_root() && cgroup_root().is_some();
    if !may {
        eprintln!("SKIPPED: needs root and a cgroup2 file system");
    }
    may
}

/// A running guard in a folder of its own.
pub struct Guard {
    pub folder: PathBuf,
    child: Child,
    _kept: tempfile::TempDir,
}

impl Guard {
    pub fn start(arguments: &[&str]) -> Self {
        let kept = tempfile::tempdir().unwrap();
        let folder = kept.path().to_owned();
        let child = Self::spawn(&folder, arguments, Stdio::inherit());
        Self { folder, child, _kept: kept }
    }

    fn spawn(folder: &Path, arguments: &[&str], stderr: Stdio) -> Child {
        // A figure of another build (static musl): its path in HOLDFAST_GUARD.
        let own = || env!("CARGO_BIN_EXE_holdfast-guard").into();
        let program = std::env::var_os("HOLDFAST_GUARD").unwrap_or_else(own);
        let socket = folder.join("guard.sock");
        let mut command = Command::new(program);
        command.arg("--socket").arg(&socket).args(arguments).stderr(stderr);
        let child = command.spawn().unwrap();
        wait_for("the guard's socket", || Client::connect(&socket).is_ok());
        child
    }

    /// SIGKILL, and another one in the same folder.
    pub fn restart(&mut self, arguments: &[&str]) {
        self.kill();
        self.restart_ended(arguments);
    }

    /// Another one in the folder of one that has ended.
    pub fn restart_ended(&mut self, arguments: &[&str]) {
        self.child = Self::spawn(&self.folder, arguments, Stdio::inherit());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("guard.sock")
    }

    pub fn connect(&self) -> Client {
        // The queue of a socket may be full for a moment, when a test connects faster than a busy machine lets the guard run.
        let begin = Instant::now();
        loop {
            match Client::connect(&self.socket()) {
                Err(GuardError::Io(error))
                    if error.kind() == ErrorKind::WouldBlock && begin.elapsed() < DEADLINE =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                connected => return connected.unwrap(),
            }
        }
    }

    /// What it has written of the instance.
    pub fn proof(&self) -> String {
        fs::read_to_string(self.folder.join("guard-service%2Fmain.state")).unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        (kind.split(' ').next() == Some("cgroup2")).then_some(())?;
        Some(PathBuf::from(place.split(' ').nth(4)?))
    })
}

/// A cgroup with processes, and the processes outside that belong to the same test.
pub struct Cgroup {
    pub path: PathBuf,
    children: Vec<Child>,
}

impl Cgroup {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = cgroup_root().unwrap().join(format!("holdfast-guard-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self { path, children: Vec::new() }
    }

    /// A shell script in the cgroup, or in one below it.
    pub fn run(&mut self, below: &str, script: &str) -> i32 {
        let path = self.path.join(below);
        fs::create_dir_all(&path).unwrap();
        let child = Command::new("sh")
            .args(["-c", &format!("echo $$ > {}/cgroup.procs; {script}", path.display())])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.children.push(child);
        wait_for("the process in its cgroup", || procs(&path).contains(&pid));
        pid
    }

    pub fn sleeper(&mut self) -> i32 {
        self.run("", "exec sleep 1000")
    }

    /// A shell script that is not in the cgroup.
    pub fn run_outside(&mut self, script: &str) -> i32 {
        let child = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.children.push(child);
        pid
    }

    /// The same path, and another cgroup: what a unit gets when it is started again. It must be empty.
    pub fn renew(&self) {
        fs::remove_dir(&self.path).unwrap();
        fs::create_dir(&self.path).unwrap();
    }

    pub fn open(&self) -> File {
        File::open(&self.path).unwrap()
    }

    pub fn is_populated(&self) -> bool {
        !fs::read_to_string(self.path.join("cgroup.events")).unwrap().contains("populated 0")
    }

    pub fn register(&self, client: &Client, postmaster: Option<i32>) -> State {
        client.register(name(), self.open().as_fd(), 5432, postmaster).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Each may be gone already.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for _ in 0..500 {
            if remove_tree(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} is left behind", self.path.display());
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    fs::remove_dir(path)
}

pub fn procs(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// `/proc/<pid>/stat`'s third and fourth field; `None`: there is no such process.
pub fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

pub fn has_ended(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

pub fn state(client: &Client) -> State {
    client.query(name()).unwrap().unwrap()
}

/// Waits for the proof, and checks that it holds.
pub fn wait_killed(client: &Client) -> State {
    wait_for("the proof", || state(client).phase == Phase::Killed);
    let state = state(client);
    let kill = state.last_kill.unwrap();
    assert_eq!(kill.left, 0);
    assert!(kill.deadline_ns <= kill.begun_ns && Some(kill.begun_ns) <= kill.empty_ns, "{kill:?}");
    state
}

/// A guard, and its agent with one process in a registered cgroup.
pub fn guarded(arguments: &[&str]) -> (Guard, Cgroup, Client, i32) {
    let (guard, mut cgroup) = (Guard::start(arguments), Cgroup::new());
    let (client, pid) = (guard.connect(), cgroup.sleeper());
    cgroup.register(&client, Some(pid));
    (guard, cgroup, client, pid)
}
