//! The chain once through, with real servers: a writer is lost in four ways under load, and each time a standby takes
//! over or nobody has to. Needs root, `tests/setup`, and the built workspace.

// The helpers of a test are a test.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "failover/routing.rs"]
mod routing;
mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_lab::checker::monotonic_us;
use holdfast_lab::checker::record::RouteKind;
use support::load::Load;
use support::{BENCH, Lab, eventually};

/// The spec `quick`, with a receiver of traces on the client's host, and a HAProxy.
const SPEC: &str = concat!(
    "otlp_endpoint = \"http://10.77.0.61:4317\"\nhaproxy = true\n",
    include_str!("../specs/quick.toml")
);
/// No figure is asserted here (that is the bench's): only that it was not Patroni's lock that ran out, which takes 20 s
/// with this spec, on a machine that may be busy.
const GAP_US_MAX: u64 = 15_000_000;
/// Longer than that lock, and Patroni's next looks at it.
const HUNG: Duration = Duration::from_secs(25);

struct Region {
    lab: Lab,
    folder: tempfile::TempDir,
    traces: Child,
}

impl Drop for Region {
    fn drop(&mut self) {
        let _ = self.traces.kill();
        let _ = self.traces.wait();
    }
}

#[test]
fn a_lost_writer_is_replaced_and_nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::up("t_failover", &format!("{}{SPEC}", routing::command(folder.path())));
    let traces = Command::new(env!("CARGO_BIN_EXE_holdfast-lab"))
        .args([
            "exec",
            lab.name(),
            "client",
            "--",
            BENCH,
            "traces",
            "--listen",
            "10.77.0.61:4317",
            "--folder",
        ])
        .arg(folder.path())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let region = Region { lab, folder, traces };
    region.lost_writer("postmaster-kill");
    region.hung_patroni();
    region.killed_agents();
    routing::checks_and_command_follow_a_writer(&region.lab, region.folder.path(), || {
        region.lost_writer("host-death");
    });
    region.lost_writer("link-cut");
    eventually("the region is healthy again", || region.lab.is_healthy());
    region.fenced_standby();
    region.disarmed();
    routing::checks_go_on_by_patronis_leader(&region.lab);
}

impl Region {
    fn lost_writer(&self, case: &str) {
        let before = self.lab.events().len();
        let record = self.lab.bench(case);
        assert_ne!(record["primary"], record["final_writer"], "{case}: the writer must have moved");
        for route in record["verdict"]["routes"].as_array().unwrap() {
            if route["kind"] != "socket" {
                let gap_us = route["gap"]["gap_us"].as_u64().expect("a route to a lost writer has a gap");
                assert!(gap_us < GAP_US_MAX, "{case}: {route}");
            }
        }
        eventually("the incident is recorded to its proof", || {
            let events = self.lab.events();
            events.len() > before && events.iter().all(|event| event["write_gap_ms"].is_number())
        });
        let events = self.lab.events();
        let newest = events.iter().max_by_key(|event| event["term"].as_u64()).unwrap();
        let trace = newest["trace_id"].as_str().unwrap().to_owned();
        let tree = self.folder.path().join(trace);
        eventually("the spans of at least three hosts are one tree", || hosts_of(&tree) >= 3);
        eprintln!("{case}: {}", std::fs::read_to_string(&tree).unwrap());
    }

    fn hung_patroni(&self) {
        eventually("the region is healthy", || self.lab.is_healthy());
        let (term, events) = (self.lab.status()["term"].clone(), self.lab.events().len());
        let writer = support::text(&term["holder"]);
        let load = Load::start(&self.lab, "patroni-hung");
        let fault_us = monotonic_us();
        self.lab.run(&["fault", self.lab.name(), "stop", writer, "patroni"]);
        std::thread::sleep(HUNG);
        self.lab.run(&["heal", self.lab.name(), writer]);
        load.steady(monotonic_us());
        let verdict = load.end(fault_us);
        assert!(verdict.is_clean(), "lost rows or two writers: {verdict:?}");
        // Patroni's own check takes the healthy writer out.
        let ours = verdict.routes.iter().filter(|route| route.kind != RouteKind::HaproxyPatroni);
        for counts in ours.map(|route| &route.counts) {
            assert_eq!((counts.refused, counts.unknown), (0, 0), "nobody may notice: {verdict:?}");
        }
        let now = self.lab.status()["term"].clone();
        assert_eq!(
            (&now["term"], &now["holder"]),
            (&term["term"], &term["holder"]),
            "no reason to fail over"
        );
        assert_eq!(self.lab.events().len(), events);
    }

    /// The agents of all hosts are killed: each comes back within its session, as a later start, and nothing else happens.
    fn killed_agents(&self) {
        let hosts = ["db1", "db2", "db3", "db4", "pool1"];
        let before = self.lab.status();
        let sessions = hosts.map(|host| self.session(host));
        for host in hosts {
            self.lab.run(&["fault", self.lab.name(), "kill", host, "agent"]);
        }
        for (host, (session, incarnation)) in hosts.into_iter().zip(sessions) {
            let later = (session, incarnation + 1);
            eventually("it goes on with its session, under the next incarnation", || {
                self.session(host) == later
            });
        }
        eventually("the region is healthy", || self.lab.is_healthy());
        let after = self.lab.status();
        assert_eq!(before["term"]["term"], after["term"]["term"], "{after}");
        assert_eq!(before["term"]["holder"], after["term"]["holder"], "{after}");
        assert!(self.lab.writes("libpq", None), "the writer must write");
    }

    /// The session and the incarnation that the agent of a host announced last.
    fn session(&self, host: &str) -> (String, u64) {
        let log = self.lab.log(host, "agent");
        let line = log.lines().rev().find(|line| line.contains("session announced")).unwrap();
        let field = |name: &str| {
            let plain = line.replace("\u{1b}[3m", "").replace("\u{1b}[0m", "").replace("\u{1b}[2m", "");
            let (_, rest) = plain.split_once(&format!("{name}=")).unwrap();
            rest.split(' ').next().unwrap().to_owned()
        };
        (field("session"), field("incarnation").parse().unwrap())
    }

    /// A fenced standby is ended and stays out, also when its agent and its Patroni start again; then it comes back.
    fn fenced_standby(&self) {
        let target =
            ["db2", "db3"].into_iter().find(|member| self.lab.streams(member)).expect("a standby streams");
        let yes = ["--reason", "test", "--yes"];
        assert!(self.lab.holdfast(&[&["fence", target], &yes[..]].concat()).success());
        eventually("the fenced standby is out", || !self.lab.streams(target));
        for unit in ["agent", "patroni"] {
            // Its Patroni was ended with its PostgreSQL and may be between two starts.
            eventually("there is something to kill", || {
                self.lab.tries(&["fault", self.lab.name(), "kill", target, unit])
            });
        }
        // Patroni's loop of a second tries again and again meanwhile.
        eventually("the start gate refuses it", || {
            self.lab.log(target, "patroni-main").contains("is fenced")
        });
        assert!(!self.lab.streams(target), "a fenced node must not start");
        eventually("it may come back", || {
            self.lab.holdfast(&["unfence", target, "--reason", "looked at", "--yes"]).success()
        });
        eventually("it streams again", || self.lab.streams(target));
    }

    /// Taken out of the way, nothing of ours is left in the packet filter.
    fn disarmed(&self) {
        assert!(self.lab.holdfast(&["disarm", "--reason", "test", "--yes"]).success());
        for member in ["db1", "db2", "db3", "db4"] {
            eventually("the packet filter is free", || {
                let tables = self.lab.exec(member, &["nft", "list", "tables"]);
                tables.success() && !tables.stdout.contains("holdfast_")
            });
        }
        assert!(self.lab.writes("libpq", None), "Patroni alone serves");
    }
}

/// The last line of a trace's file: `3 hosts: ...`.
fn hosts_of(tree: &Path) -> usize {
    let text = std::fs::read_to_string(tree).unwrap_or_default();
    text.lines().last().and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or_default()
}
