//! The fence of a writer's own host, on real servers: proved by commits on sessions that were open before the fault
//! (promise I4), with the agent hung, with etcd gone, and with the packet filter flushed by somebody else.
//! Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Lab, Session, eventually, eventually_proved, route, text};

const SPEC: &str = include_str!("../specs/quick.toml");
/// Longer than every lease, grace and session of the profile `fast` together.
const OUTAGE: Duration = Duration::from_secs(8);

/// A writer whose lease was away for a moment holds its sessions back: not for longer than its grace and the next grant,
/// with room for a busy machine.
const STALL_MAX: Duration = Duration::from_secs(3);

/// An etcd that is there, and of little use.
const TROUBLES: [(&str, &str); 3] = [
    ("etcd answers once in two seconds", "etcd-slow"),
    ("etcd elects a leader every three seconds", "etcd-leader-churn"),
    ("etcd is full", "etcd-full"),
];
const PATRONICTL: &str = "/opt/holdfast-lab/venv/bin/patronictl";
const HELD: &str = "/holdfast/v1/r1/service/main/held";
/// Longer than a session, silence, promises and CLOSE take.
const LOST_FOR: Duration = Duration::from_secs(8);

struct Region {
    lab: Lab,
    described: Value,
}

#[test]
fn a_writer_is_open_as_long_as_it_has_a_lease_and_no_longer() {
    let lab = Lab::up("t_fence", SPEC);
    let described = lab.describe();
    let region = Region { lab, described };
    region.survives("the writer alone loses etcd", |lab, writer| {
        lab.run(&["fault", lab.name(), "etcd-cut", writer]);
    });
    region.survives("etcd is down", |lab, _| etcd_down(lab));
    for (what, fault) in TROUBLES {
        region.survives(what, |lab, _| {
            lab.run(&["fault", lab.name(), fault]);
        });
    }
    region.survives_in_a_maintenance();
    region.waits_for_a_person_after_a_loss_in_a_pause();
    region.is_put_back_after_a_flush();
    region.ends_with_a_hung_agent();
}

fn etcd_down(lab: &Lab) {
    for server in ["e1", "e2", "e3"] {
        lab.run(&["fault", lab.name(), "etcd-down", server]);
    }
}

impl Region {
    fn writer(&self) -> Option<String> {
        let status = self.lab.status();
        let settled = status["term"]["writable"] == Value::Bool(true);
        let whole = status["healthy"] == Value::Bool(true) || !status["maintenance"].is_null();
        (settled && whole).then(|| text(&status["term"]["holder"]).to_owned())
    }

    fn settled_writer(&self) -> String {
        eventually("the region is healthy", || self.writer().is_some());
        self.writer().unwrap()
    }

    /// A client over TCP, and one over the Unix socket of the writer's own host.
    fn sessions(&self, writer: &str) -> [Session; 2] {
        let libpq = route(&self.described["regions"][0]["clusters"][0], "libpq", None);
        [Session::open(&self.lab, "client", &libpq), Session::local(&self.lab, &self.described, writer)]
    }

    /// The lease comes from the standbys, or needs nobody: no session ends, and none waits long.
    fn survives(&self, what: &str, fault: impl Fn(&Lab, &str)) {
        let writer = self.settled_writer();
        let mut sessions = self.sessions(&writer);
        let servers = sessions.each_mut().map(Session::commit);
        let mut go_on = || {
            let begin = Instant::now();
            while begin.elapsed() < OUTAGE {
                let asked = Instant::now();
                assert_eq!(sessions.each_mut().map(Session::commit), servers, "{what}");
                assert!(asked.elapsed() < STALL_MAX, "{what}: two commits took {:?}", asked.elapsed());
            }
        };
        fault(&self.lab, &writer);
        go_on();
        self.lab.run(&["heal", self.lab.name()]);
        // The session in etcd is a new one: the lease must go over to it.
        go_on();
        eventually("the writer is known to all", || self.lab.status()["term"]["holder"] == writer.as_str());
    }

    /// People suspend automatic action because they work on etcd: nothing is closed by that.
    fn survives_in_a_maintenance(&self) {
        let order = |words: &[&str]| {
            let said = self.lab.holdfast(&[&["maintenance"], words, &["--reason", "etcd", "--yes"]].concat());
            assert!(said.success(), "{said:?}");
        };
        order(&["on", "--for", "10m"]);
        eventually("the writer says that it is held", || self.is_held());
        self.survives("etcd is down in a maintenance", |lab, _| etcd_down(lab));
        order(&["off"]);
        eventually("its fence stands again", || !self.is_held());
    }

    /// As `patronictl pause` does, but in etcd: that one asks the leader's host first, and waits for a dead one.
    fn pause(&self, on: bool, away: &str) {
        let from = ["db1", "db2"].into_iter().find(|name| *name != away).unwrap();
        let file = format!("/run/holdfast-lab/{}/hosts/{from}/etc/patroni-main.yml", self.lab.name());
        let order = ["timeout", "60", PATRONICTL, "-c", &file, "edit-config", "main", "--force", "--set"];
        let said = self.lab.exec(from, &[&order[..], &[&format!("pause={on}")]].concat());
        assert!(said.success(), "{said:?}");
    }

    fn is_held(&self) -> bool {
        self.lab.etcdctl(&["get", "--print-value-only", HELD]).stdout.contains("holder")
    }

    /// Nobody can tell a host that died in a pause from one that has not heard that the pause is over, and still writes.
    fn waits_for_a_person_after_a_loss_in_a_pause(&self) {
        let writer = self.settled_writer();
        self.pause(true, &writer);
        eventually("the writer says that it is held", || self.is_held());
        self.lab.run(&["fault", self.lab.name(), "host-death", &writer]);
        std::thread::sleep(LOST_FOR);
        self.pause(false, &writer);
        std::thread::sleep(LOST_FOR);
        let status = self.lab.status();
        assert_eq!(status["term"]["holder"], writer.as_str(), "{status}");
        assert!(status.to_string().contains("could write without a lease"), "{status}");
        let said = self.lab.holdfast(&["hold", "end", "--reason", "its host is off", "--yes"]);
        assert!(said.success(), "{said:?}");
        eventually("another writes", || {
            let term = &self.lab.status()["term"];
            term["holder"].is_string() && term["holder"] != writer.as_str() && term["writable"] == true
        });
        self.lab.run(&["heal", self.lab.name()]);
        eventually("the deposed writer is a standby again", || self.lab.streams(&writer));
    }

    /// `nft flush ruleset` of another tool: noticed, and put back, and nobody loses a connection.
    fn is_put_back_after_a_flush(&self) {
        let writer = self.settled_writer();
        let mut sessions = self.sessions(&writer);
        let servers = sessions.each_mut().map(Session::commit);
        assert!(self.lab.exec(&writer, &["nft", "flush", "ruleset"]).success());
        eventually("the dead-man is put back", || self.dead_man(&writer).contains("expires"));
        assert_eq!(sessions.each_mut().map(Session::commit), servers);
    }

    fn dead_man(&self, writer: &str) -> String {
        self.lab.exec(writer, &["nft", "list", "table", "inet", "holdfast_lease_service_main"]).stdout
    }

    /// An agent that hangs renews nothing: the kernel closes the port, the guard ends PostgreSQL, and another follows. What
    /// was open before commits nothing any more, over the network or on the host itself.
    fn ends_with_a_hung_agent(&self) {
        let writer = self.settled_writer();
        let mut sessions = self.sessions(&writer);
        for session in &mut sessions {
            session.commit();
        }
        self.lab.run(&["fault", self.lab.name(), "stop", &writer, "agent"]);
        eventually("another writes", || {
            let status = self.lab.status();
            let term = &status["term"];
            term["holder"].is_string() && term["holder"] != writer.as_str() && term["writable"] == true
        });
        for session in &mut sessions {
            assert_eq!(session.try_commit(), None, "a session of the deposed writer commits");
        }
        eventually_proved(&self.described, &writer);
        self.lab.run(&["heal", self.lab.name()]);
        eventually("the deposed writer is a standby again", || self.lab.streams(&writer));
    }
}
