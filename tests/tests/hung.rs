//! A writer whose PostgreSQL hangs, or whose disk does, on real servers under load: another writes, nothing acknowledged is
//! lost, what was open before commits nothing any more, and the old one comes back as a standby. A stall moves nobody.
//! Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::time::{Duration, Instant};

use holdfast_lab::checker::monotonic_us;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::load::{Load, gap_ms};
use support::{Lab, Session, eventually, host, route, text};

const QUICK: &str = include_str!("../specs/quick.toml");
/// What the profile `normal` must bear (issue of the fencing): 3 s, less what the verbs of the lab take.
const STALL: Duration = Duration::from_millis(2_500);
/// Longer than a hang is waited for in that profile.
const AFTERWARDS: Duration = Duration::from_secs(8);
/// The first and the last word of an agent that ends a writer.
const BEGUN: &str = "it is ended, so that another can write";
const DONE: &str = "what is stuck can never run again";
/// No figure is asserted here (that is the bench's): only that it was not Patroni's lock that ran out, which takes 20 s.
const GAP_MS_MAX: u64 = 15_000;

struct Region {
    lab: Lab,
    described: Value,
}

#[test]
fn a_writer_that_hangs_is_replaced() {
    let region = Region::up("t_hung", &format!("own_disk = true\n{QUICK}"));
    region.is_replaced("postgres", &["stop"], &["postgres"]);
    region.is_replaced_by_two_agents("agent killed", Signal::SIGKILL);
    region.is_replaced_by_two_agents("agent ended", Signal::SIGTERM);
    region.is_replaced("disk", &["disk-hang"], &[]);
    region.is_replaced("read-only", &["disk-readonly"], &[]);
}

#[test]
fn a_stall_moves_nobody() {
    let normal = QUICK.replace("\"fast\"", "\"normal\"");
    let region = Region::up("t_hung_stall", &format!("own_disk = true\n{normal}"));
    region.bears(&["stop"], &["postgres"]);
    region.bears(&["disk-hang"], &[]);
}

impl Region {
    fn up(name: &str, spec: &str) -> Self {
        let lab = Lab::up(name, spec);
        let described = lab.describe();
        Self { lab, described }
    }

    fn settled_writer(&self) -> String {
        eventually("the region is healthy", || self.lab.is_healthy());
        self.holder()
    }

    fn holder(&self) -> String {
        text(&self.lab.status()["term"]["holder"]).to_owned()
    }

    /// A client over TCP, and one over the Unix socket of the writer's own host.
    fn sessions(&self, writer: &str) -> [Session; 2] {
        let libpq = route(&self.described["regions"][0]["clusters"][0], "libpq", None);
        [Session::open(&self.lab, "client", &libpq), Session::local(&self.lab, &self.described, writer)]
    }

    fn fault(&self, kind: &[&str], writer: &str, target: &[&str]) {
        self.lab.run(&[&["fault", self.lab.name()], kind, &[writer], target].concat());
    }

    fn is_replaced(&self, name: &str, kind: &[&str], target: &[&str]) {
        self.is_replaced_meanwhile(name, kind, target, |_, _| ());
    }

    /// The writer's agent ends, by this signal, while it is ending the writer. The next start takes that up, or the guard does:
    /// nobody acknowledges after a stop that was left half done.
    fn is_replaced_by_two_agents(&self, name: &str, signal: Signal) {
        self.is_replaced_meanwhile(name, &["stop"], &["postgres"], |writer, from| {
            let said = |word: &str| self.lab.log(writer, "agent")[from..].contains(word);
            let begun = Instant::now();
            while !said(BEGUN) {
                assert!(begun.elapsed() < AFTERWARDS, "its agent does not end it");
                std::thread::sleep(Duration::from_millis(1));
            }
            let cgroup = text(&host(&self.described, writer)["cgroup"]).to_owned() + "/agent/cgroup.procs";
            let pids = std::fs::read_to_string(cgroup).unwrap();
            let is_agent = |pid: &&str| {
                std::fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|comm| comm.starts_with("holdfast-agent"))
            };
            let pid: i32 = pids.lines().find(is_agent).unwrap().parse().unwrap();
            kill(Pid::from_raw(pid), signal).unwrap();
            eprintln!("{name}: it was {}", if said(DONE) { "done already" } else { "half done" });
            eventually("it is done", || said(DONE));
        });
    }

    /// `meanwhile` is told the writer and how long its agent's log was before the fault.
    fn is_replaced_meanwhile(
        &self,
        name: &str,
        kind: &[&str],
        target: &[&str],
        meanwhile: impl FnOnce(&str, usize),
    ) {
        let writer = self.settled_writer();
        let load = Load::start(&self.lab, name);
        let mut sessions = self.sessions(&writer);
        for session in &mut sessions {
            session.commit();
        }
        let (fault_us, log_from) = (monotonic_us(), self.lab.log(&writer, "agent").len());
        self.fault(kind, &writer, target);
        meanwhile(&writer, log_from);
        eventually("another writes", || {
            let term = &self.lab.status()["term"];
            term["holder"].is_string() && term["holder"] != writer.as_str() && term["writable"] == true
        });
        for session in &mut sessions {
            assert_eq!(session.try_commit(), None, "{name}: a session of the old writer commits");
        }
        self.lab.run(&["heal", self.lab.name()]);
        for session in &mut sessions {
            assert_eq!(
                session.try_commit(),
                None,
                "{name}: a session of the old writer commits after the heal"
            );
        }
        eventually("the old writer is a standby", || self.lab.streams(&writer));
        load.steady(monotonic_us());
        let verdict = load.end(fault_us);
        eprintln!("{name}: longest gap over TCP {:?} ms", gap_ms(&verdict));
        assert_eq!(verdict.lost.count, 0, "{name}: acknowledged rows are lost: {verdict:?}");
        assert_eq!(verdict.two_acknowledging.certain_us, 0, "{name}: two writers: {verdict:?}");
        assert!(gap_ms(&verdict).is_some_and(|gap_ms| gap_ms < GAP_MS_MAX), "{name}: {verdict:?}");
    }

    fn bears(&self, kind: &[&str], target: &[&str]) {
        let writer = self.settled_writer();
        let term = self.lab.status()["term"]["term"].clone();
        let mut sessions = self.sessions(&writer);
        let servers = sessions.each_mut().map(Session::commit);
        let begin = Instant::now();
        self.fault(kind, &writer, target);
        std::thread::sleep(STALL.saturating_sub(begin.elapsed()));
        self.lab.run(&["heal", self.lab.name()]);
        eprintln!("{kind:?}: stood still for {:?}", begin.elapsed());
        let begin = Instant::now();
        while begin.elapsed() < AFTERWARDS {
            assert_eq!(sessions.each_mut().map(Session::commit), servers, "{kind:?}");
        }
        assert_eq!((self.holder(), &self.lab.status()["term"]["term"]), (writer, &term), "{kind:?}");
    }
}
