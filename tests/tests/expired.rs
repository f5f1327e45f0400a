//! Class `off` on real servers: the next writer opens only once the last one's lease is over, and nothing is acknowledged by
//! that one any more, over TCP or over its Unix socket, on sessions that were open before. A planned switchover waits for
//! nothing, and a loss of etcd stops nobody. Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Lab, Session, eventually, eventually_proved, route};

const QUICK: &str = include_str!("../specs/quick.toml");
const CLASS_OFF: &str = "\n[[cluster]]\nscope = \"main\"\nclass = \"off\"\n";
/// Longer than every lease, grace and session of the profile `fast` together.
const OUTAGE: Duration = Duration::from_secs(6);
/// Patroni's lock would run out after 20 s.
const FAILOVER_MAX: Duration = Duration::from_secs(18);
/// An order by hand, from its first word to a writer that all know.
const SWITCHOVER_MAX: Duration = Duration::from_secs(15);
const PATRONICTL: &str = "/opt/holdfast-lab/venv/bin/patronictl";

struct Region {
    lab: Lab,
    described: Value,
}

#[test]
fn an_asynchronous_writer_is_over_before_the_next_one_opens() {
    let lab = Lab::up("t_expired", &format!("{QUICK}{CLASS_OFF}"));
    let described = lab.describe();
    let region = Region { lab, described };
    region.states_its_loss();
    // Before etcd is away: for one ttl after that Patroni 4.1 says "Leader key released", and the key stays.
    region.is_switched_over();
    region.outlives_etcd();
    region.ends_before_another_opens("freeze", &[]);
    region.ends_before_another_opens("stop", &["agent"]);
}

impl Region {
    fn term(&self) -> (String, u64) {
        let term = &self.lab.status()["term"];
        (term["holder"].as_str().unwrap_or_default().to_owned(), term["term"].as_u64().unwrap_or_default())
    }

    fn settled_writer(&self) -> String {
        eventually("the region is healthy", || self.lab.is_healthy());
        self.term().0
    }

    /// A client over TCP, and one over the Unix socket of the writer's own host, each with a commit behind it.
    fn sessions(&self, writer: &str) -> [Session; 2] {
        let libpq = route(&self.described["regions"][0]["clusters"][0], "libpq", None);
        let mut sessions =
            [Session::open(&self.lab, "client", &libpq), Session::local(&self.lab, &self.described, writer)];
        let _ = sessions.each_mut().map(Session::commit);
        sessions
    }

    fn states_its_loss(&self) {
        self.settled_writer();
        let said = self.lab.holdfast(&["status"]).stdout;
        assert!(said.contains("maximum_lag_on_failover bounds the loss"), "{said}");
    }

    /// Every other member grants the lease.
    fn outlives_etcd(&self) {
        let writer = self.settled_writer();
        let before = self.term();
        let mut sessions = self.sessions(&writer);
        self.lab.run(&["fault", self.lab.name(), "etcd-cut", &writer]);
        let begin = Instant::now();
        while begin.elapsed() < OUTAGE {
            let _ = sessions.each_mut().map(Session::commit);
        }
        self.lab.run(&["heal", self.lab.name()]);
        eventually("its session is back", || self.lab.is_healthy());
        let _ = sessions.each_mut().map(Session::commit);
        assert_eq!(self.term(), before);
    }

    fn is_switched_over(&self) {
        let writer = self.settled_writer();
        let (_, term) = self.term();
        let to = ["db1", "db2", "db3"].into_iter().find(|name| *name != writer).unwrap();
        let file = format!("/run/holdfast-lab/{}/hosts/{to}/etc/patroni-main.yml", self.lab.name());
        let order = ["switchover", "main", "--leader", &writer, "--candidate", to, "--force"];
        let begin = Instant::now();
        let said = self.lab.exec(to, &[&["timeout", "60", PATRONICTL, "-c", &file], &order[..]].concat());
        let all = said.stdout + &said.stderr;
        assert!(all.contains("uccessfully") && !all.contains("Traceback"), "{all}");
        eventually("the one that was named writes", || self.writes_since(&writer));
        let took = begin.elapsed();
        eprintln!("switchover: {took:?}");
        assert!(took < SWITCHOVER_MAX, "{took:?}");
        assert_eq!(self.term(), (to.to_owned(), term + 1));
        eventually("the last writer is a standby again", || self.lab.streams(&writer));
    }

    fn writes_since(&self, last: &str) -> bool {
        let term = &self.lab.status()["term"];
        term["holder"].is_string() && term["holder"] != last && term["writable"] == true
    }

    /// A host that stands still, or an agent that does: nothing is acknowledged by the old writer once another has opened.
    fn ends_before_another_opens(&self, kind: &str, target: &[&str]) {
        let writer = self.settled_writer();
        let (_, term) = self.term();
        let mut sessions = self.sessions(&writer);
        self.lab.run(&[&["fault", self.lab.name(), kind, &writer], target].concat());
        let begin = Instant::now();
        eventually("another writes", || self.writes_since(&writer));
        eprintln!("{kind}: another writes after {:?}", begin.elapsed());
        assert!(begin.elapsed() < FAILOVER_MAX, "{kind}: it was Patroni's ttl that ran out");
        assert_eq!(self.term().1, term + 1, "{kind}");
        if kind == "freeze" {
            // What was on its way before the host goes on.
            sessions[0].begin_commit();
            self.lab.run(&["fault", self.lab.name(), "thaw", &writer]);
            assert_eq!(sessions[0].answer(), None, "{kind}: a commit of the deposed writer is acknowledged");
        }
        for session in &mut sessions {
            assert_eq!(session.try_commit(), None, "{kind}: a session of the deposed writer commits");
        }
        eventually_proved(&self.described, &writer);
        self.lab.run(&["heal", self.lab.name()]);
        eventually("the deposed writer is a standby again", || self.lab.streams(&writer));
    }
}
