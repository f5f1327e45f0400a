//! Rule 10 with real servers: the promotion hook of the next writer is killed after its term is open and before it was
//! answered. The term is given back, and somebody becomes the writer although the old one, without which no promises
//! would be enough, stays dead. Needs root, `tests/setup`, and the built workspace.
//!
//! The moment between OPEN and the answer is a millisecond. It is made longer from outside: what etcd says reaches the
//! agents of the database hosts later than it reaches this test.

// The helpers of a test are a test.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "relinquish/late.rs"]
mod late;
mod support;
#[path = "relinquish/unfollowed.rs"]
mod unfollowed;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use late::Late;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Lab, eventually, host, lines_of, text};

const SPEC: &str = concat!(include_str!("../specs/quick.toml"), include_str!("../specs/three_members.toml"));
const DATABASES: [&str; 3] = ["db1", "db2", "db3"];
/// Less than an agent waits for etcd (1 s), more than it takes to see the record and to kill a process.
const LATE: Duration = Duration::from_millis(500);
/// A failover with late answers took 7 s; this is for a machine that is busy.
const OPEN_DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn a_hook_that_is_killed_between_open_and_its_answer_costs_no_writer() {
    let lab = Lab::up("t_relinquish", SPEC);
    let described = lab.describe();
    let lates = DATABASES.map(|name| Late::new(&lab, &described, name));
    for name in DATABASES {
        lab.run(&["fault", lab.name(), "kill", name, "agent"]);
    }
    eventually("the agents hear etcd late", || lates.iter().all(Late::is_used));
    eventually("the region is healthy", || lab.is_healthy());
    let (before, events) = (term(&lab.status()), lab.events().len());
    lates.iter().for_each(|late| late.set(LATE));

    let killed = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let holder = wait_for_open(&described, before + 1);
            let killed = kill_hooks(text(&host(&described, &holder)["cgroup"]));
            lates.iter().for_each(|late| late.set(Duration::ZERO));
            (holder, killed)
        });
        lab.bench("host-death");
        killer.join().unwrap()
    });
    assert_eq!(killed.1, 1, "the hook of {} must have been there to be killed", killed.0);

    let log = std::fs::read_to_string(text(&host(&described, &killed.0)["logs"]["agent"])).unwrap();
    assert!(log.contains("term given back"), "{log}");
    eventually("one incident is recorded to its proof", || {
        let all = lab.events();
        all.len() == events + 1 && all.iter().all(|event| event["write_gap_ms"].is_number())
    });
    let incident = lab.events().into_iter().max_by_key(|event| event["term"].as_u64()).unwrap();
    eprintln!("{incident:#}");
    assert_eq!(incident["term"], before + 1, "the term that was given back is the last that ended");
    assert!(text(&incident["text"]).contains("given back"), "{incident}");
    assert!(DATABASES.contains(&text(&incident["to"])), "{incident}");
    assert_ne!(incident["from"], incident["to"], "{incident}");
    eventually("the region is healthy", || lab.is_healthy());
    unfollowed::leaves_the_next_a_timeline_of_its_own(&lab, &described, &lates);
}

/// Waits until the record says that this term is open, and returns for whom.
fn wait_for_open(described: &Value, term: u64) -> String {
    let etcd = &described["regions"][0]["etcd"];
    let netns = text(&host(described, "client")["netns"]);
    let flag = |name: &str| format!("--{name}={}", text(&etcd[name]));
    let mut watch = Command::new("ip")
        .args(["netns", "exec", netns, "etcdctl", "--endpoints", text(&etcd["endpoints"][0])])
        .args([format!("--cacert={}", text(&etcd["ca"])), flag("cert"), flag("key")])
        .args(["watch", "/holdfast/v1/r1/service/main/term"])
        .env("ETCDCTL_API", "3")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + OPEN_DEADLINE;
    let lines = lines_of(watch.stdout.take().unwrap());
    let next = || lines.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    let mut records = std::iter::from_fn(next).filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let open = records.find(|record| record["term"] == term && record["reign"]["state"] == "open");
    watch.kill().unwrap();
    watch.wait().unwrap();
    text(&open.unwrap()["reign"]["holder"]).to_owned()
}

/// Kills every promotion hook below a cgroup; how many there were.
fn kill_hooks(cgroup: &str) -> usize {
    let hooks = processes(cgroup, "promote-gate").into_iter();
    hooks.filter(|pid| kill(*pid, Signal::SIGKILL).is_ok()).count()
}

/// The processes below a cgroup whose command line has this word.
fn processes(cgroup: &str, word: &str) -> Vec<Pid> {
    let below = cgroup.split_once("/holdfast-lab/").unwrap().1;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if read("cmdline").contains(word) && read("cgroup").contains(&format!("/{below}/")) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

fn term(status: &Value) -> u64 {
    status["term"]["term"].as_u64().unwrap()
}
