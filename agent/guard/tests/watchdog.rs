//! What the watchdog gets, seen at a pipe that takes its place: the device itself is tested where a kernel has one.

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.
#![allow(clippy::disallowed_methods)] // See support.

mod support;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_guard::wire::{Phase, Watchdog};
use support::{Cgroup, Guard, in_ms, may_guard, name, state, wait_for, wait_killed};

/// The shortest timeout: food every 400 ms.
const TIMEOUT_S: &str = "2";
const TWO_MEALS: Duration = Duration::from_millis(1_000);

struct Device {
    path: PathBuf,
    end: File,
    _folder: tempfile::TempDir,
}

impl Device {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watchdog");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // Both ends, so that the pipe stays whatever the guard does.
        let end = File::options().read(true).write(true).open(&path).unwrap();
        rustix::io::ioctl_fionbio(&end, true).unwrap();
        Self { path, end, _folder: folder }
    }

    fn arguments(&self) -> [&str; 4] {
        ["--watchdog", self.path.to_str().unwrap(), "--watchdog-timeout", TIMEOUT_S]
    }

    /// What has come since the last look.
    fn taken(&mut self) -> Vec<u8> {
        let mut bytes = [0; 4096];
        match self.end.read(&mut bytes) {
            Ok(length) => bytes[..length].to_vec(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    fn taken_in(&mut self, time: Duration) -> Vec<u8> {
        self.taken();
        std::thread::sleep(time);
        self.taken()
    }
}

#[test]
fn it_is_fed_while_a_lease_or_a_proof_stands_and_released_in_order() {
    if !may_guard() {
        return;
    }
    let (mut device, mut cgroup) = (Device::new(), Cgroup::new());
    let guard = Guard::start(&device.arguments());
    let (client, pid) = (guard.connect(), cgroup.sleeper());
    cgroup.register(&client, Some(pid));
    assert_eq!(device.taken_in(TWO_MEALS), b"", "no duty, no watchdog");
    client.extend(name(), 1, in_ms(3_000), Some(pid)).unwrap();
    let food = device.taken_in(TWO_MEALS);
    assert!((2..=4).contains(&food.len()) && food.iter().all(|byte| *byte == 0), "{food:?}");
    assert_eq!(state(&client).watchdog, Watchdog::Fed);
    wait_killed(&client);
    let food = device.taken_in(TWO_MEALS);
    assert!(food.len() >= 2, "with a proof it goes on: {food:?}");
    client.release(name(), 1).unwrap();
    wait_for("the release", || device.taken().ends_with(b"V"));
    assert_eq!(state(&client).watchdog, Watchdog::None);
}

#[test]
fn a_guard_that_ends_while_armed_leaves_it_ticking_and_the_next_one_waits_for_the_agent() {
    if !may_guard() {
        return;
    }
    let (mut device, mut cgroup) = (Device::new(), Cgroup::new());
    let arguments = device.arguments().map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut guard = Guard::start(&arguments);
    let (client, pid) = (guard.connect(), cgroup.sleeper());
    cgroup.register(&client, Some(pid));
    client.extend(name(), 1, in_ms(30_000), Some(pid)).unwrap();
    wait_for("food", || !device.taken().is_empty());
    guard.terminate();
    assert!(!device.taken().contains(&b'V'));
    guard.restart_ended(&arguments);
    assert_eq!(device.taken_in(TWO_MEALS), b"", "it knows of a duty that nobody has taken over");
    let client = guard.connect();
    cgroup.register(&client, Some(pid));
    assert_eq!(device.taken_in(TWO_MEALS), b"", "registered is not extended");
    client.extend(name(), 1, in_ms(30_000), Some(pid)).unwrap();
    wait_for("food", || !device.taken().is_empty());
    client.release(name(), 1).unwrap();
    wait_for("the release", || device.taken().ends_with(b"V"));
    guard.terminate();
}

#[test]
fn a_person_takes_every_duty_away_and_the_watchdog_is_let_go_of() {
    if !may_guard() {
        return;
    }
    let (mut device, mut cgroup) = (Device::new(), Cgroup::new());
    let arguments = device.arguments().map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut guard = Guard::start(&arguments);
    let (client, pid) = (guard.connect(), cgroup.sleeper());
    cgroup.register(&client, Some(pid));
    client.extend(name(), 7, in_ms(1_000), Some(pid)).unwrap();
    client.stand_down().unwrap();
    wait_for("the release", || device.taken().ends_with(b"V"));
    assert_eq!(state(&client).phase, Phase::Idle);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(!support::has_ended(pid), "the deadline has passed, and nothing is owed");
    // The agent's next word counts again.
    client.extend(name(), 7, in_ms(30_000), Some(pid)).unwrap();
    wait_for("food", || !device.taken().is_empty());
    // What a former guard has left ticking is let go of too, without any agent.
    guard.restart(&arguments);
    assert_eq!(device.taken_in(TWO_MEALS), b"", "it knows of a duty that nobody has taken over");
    guard.connect().stand_down().unwrap();
    wait_for("the release", || device.taken().ends_with(b"V"));
    assert!(guard.proof().contains("phase idle\nterm 7"), "{}", guard.proof());
}

/// A file system that is frozen: who writes to it sleeps in the kernel, and SIGKILL waits.
struct Frozen {
    helper: Child,
}

impl Frozen {
    /// The writer is put into this cgroup. The helper thaws when its input closes, so also when the test dies.
    fn with_writer(cgroup: &Cgroup) -> Self {
        let script = format!(
            "set -e; d=$(mktemp -d); trap 'fsfreeze -u $d/m 2>/dev/null; umount $d/m; rm -r $d' EXIT
             truncate -s 8M $d/i; mkfs.ext4 -q $d/i; mkdir $d/m; mount -o loop $d/i $d/m; fsfreeze -f $d/m
             sh -c 'echo $$ > {}/cgroup.procs; echo x > '$d'/m/file' </dev/null >/dev/null 2>&1 &
             echo ready; read line; fsfreeze -u $d/m; wait",
            cgroup.path.display()
        );
        let mut helper = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = [0; 6];
        helper.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        assert_eq!(&word, b"ready\n");
        Self { helper }
    }

    fn thaw(&mut self) {
        drop(self.helper.stdin.take());
        self.helper.wait().unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
    }
}

#[test]
fn one_that_cannot_be_killed_is_named_and_the_watchdog_starves() {
    if !may_guard() {
        return;
    }
    let (mut device, mut cgroup) = (Device::new(), Cgroup::new());
    let guard = Guard::start(&device.arguments());
    let (client, sleeper) = (guard.connect(), cgroup.sleeper());
    let mut frozen = Frozen::with_writer(&cgroup);
    let stuck = || {
        support::procs(&cgroup.path)
            .into_iter()
            .find(|pid| support::stat(*pid).is_some_and(|(state, _)| state == 'D'))
    };
    wait_for("a writer in the kernel", || stuck().is_some());
    let writer = stuck().unwrap();
    cgroup.register(&client, None);
    client.extend(name(), 1, in_ms(100), None).unwrap();
    let named =
        || state(&client).last_kill.is_some_and(|kill| kill.left == 1 && kill.stuck.pids() == [writer]);
    wait_for("the name of the one that is left", named);
    assert!(support::has_ended(sleeper), "the others are gone");
    assert_eq!((state(&client).phase, state(&client).watchdog), (Phase::Killing, Watchdog::Withheld));
    assert_eq!(device.taken_in(TWO_MEALS), b"");
    assert!(client.extend(name(), 1, in_ms(1_000), None).is_err(), "too late for a new lease");
    let text = guard.proof();
    assert!(text.contains(&format!("left 1\nstuck {writer}\n")), "{text}");
    frozen.thaw();
    wait_killed(&client);
    wait_for("food", || !device.taken().is_empty());
}

#[test]
fn without_a_device_it_goes_on_and_says_so_once() {
    if !may_guard() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("guard.sock");
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast-guard"))
        .arg("--socket")
        .arg(&socket)
        .args(["--watchdog", "/nowhere/watchdog"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the guard's socket", || holdfast_guard::client::Client::connect(&socket).is_ok());
    let client = holdfast_guard::client::Client::connect(&socket).unwrap();
    let cgroup = Cgroup::new();
    client.register(name(), cgroup.open().as_fd(), 5432, None).unwrap();
    for _ in 0..2 {
        client.extend(name(), 1, in_ms(50), None).unwrap();
        assert_eq!(wait_killed(&client).watchdog, Watchdog::None);
        client.release(name(), 1).unwrap();
    }
    child.kill().unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert_eq!(said.matches("going on without a watchdog").count(), 1, "{said}");
}
