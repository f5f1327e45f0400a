//! Holdfast itself is the problem, on every host at once: all agents crash in a loop, all their certificates end, our prefix
//! in etcd is deleted, all clocks jump. Never two writers, nothing acknowledged is lost, and one command (on each host, where
//! etcd or the certificates are gone) gives the cluster back to Patroni alone, which then does its work by itself. With real
//! servers under load; needs root, `tests/setup`, and the built workspace.

mod broken;
mod mixed;

use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::{Lab, Output, Session, eventually, text};
use holdfast_lab::checker::monotonic_us;
use serde_json::Value;

const SPEC: &str = include_str!("../../specs/quick.toml");
const HOSTS: [&str; 4] = ["db1", "db2", "db3", "db4"];
const PATRONICTL: &str = "/opt/holdfast-lab/venv/bin/patronictl";
/// Back to Patroni alone: what the issue asks for.
const BACK_MAX: Duration = Duration::from_secs(60);
/// One order on one host, with everything that it waits for.
const ORDER_MAX: Duration = Duration::from_secs(10);
const AN_HOUR: &str = "+3600";

#[test]
#[ignore = "two minutes; tests/all --long"]
fn whatever_breaks_everywhere_at_once_patroni_alone_is_one_command_away() {
    let spec = format!("fake_clock = true\n{SPEC}");
    let lab = Lab::up("t_common", &spec);
    let region = Region { described: lab.describe(), lab };
    region.own_certificates();
    region.is_whole();
    let load = Load::start(&region.lab, "common");
    let begin_us = monotonic_us();
    region.all_agents_crash();
    load.steady(monotonic_us());
    region.all_certificates_end();
    load.steady(monotonic_us());
    region.our_prefix_is_deleted();
    load.steady(monotonic_us());
    region.all_clocks_jump();
    load.steady(monotonic_us());
    region.is_whole();
    let verdict = load.end(begin_us);
    eprintln!("{:?}", verdict.counts);
    assert!(verdict.is_clean(), "lost rows or two writers: {verdict:?}");
}

struct Region {
    lab: Lab,
    described: Value,
}

impl Region {
    /// A build that ends as soon as it runs, on every database host. The gates are programs of their own and work.
    fn all_agents_crash(&self) {
        let writer = self.holder();
        let mut session = Session::local(&self.lab, &self.described, &writer);
        session.commit();
        let begun = Instant::now();
        self.break_agents();
        // I3: the guard and the kernel end the writer, because nobody renews its lease.
        eventually("the writer's open session ends", || self.lab.sql(&writer, "select 1").is_none());
        assert_eq!(session.try_commit(), None, "a session of the old writer commits");
        eprintln!("agents crash: writing ended after {:?}", begun.elapsed());
        let back = self.disarm_every_host("a bad build");
        self.patroni_switches_over("agents crash");
        self.mend_agents();
        self.tells_of_the_local_disarm("a bad build");
        self.arm_again();
        eprintln!("agents crash: back to Patroni alone after {back:?}");
    }

    /// The agents have certificates of their own here, as they should: Patroni's go on. They warn before, then end, and the
    /// agents that are started anew do not start.
    fn all_certificates_end(&self) {
        let ends = Instant::now() + self.short_certificates();
        eventually("doctor and status warn of their end", || {
            let doctor = self.lab.holdfast(&["doctor"]).stdout;
            let warned = |name: &&str| doctor.contains(&format!("agent {name}"));
            HOSTS.iter().all(warned)
                && doctor.matches("the certificate of this agent ends in 0 days").count() >= HOSTS.len()
                && self.causes().iter().any(|cause| cause.contains("ends in 0 days"))
        });
        let writer = self.holder();
        let mut session = Session::local(&self.lab, &self.described, &writer);
        std::thread::sleep(ends.saturating_duration_since(Instant::now()));
        // What stands goes on: a certificate is shown when a connection begins.
        assert!(session.try_commit().is_some(), "the writer goes on with the connections that it has");
        self.kill_agents();
        eventually("the writer is ended", || self.lab.sql(&writer, "select 1").is_none());
        let back = self.disarm_every_host("certificates have ended");
        self.patroni_restarts_a_postmaster("certificates end");
        self.new_certificates();
        self.arm_again();
        eprintln!("certificates end: back to Patroni alone after {back:?}");
    }

    /// Rule 25: the writer goes on, nothing is promoted, and etcd takes a new order.
    fn our_prefix_is_deleted(&self) {
        let writer = self.holder();
        let mut session = Session::local(&self.lab, &self.described, &writer);
        let server = session.commit();
        assert!(self.lab.etcdctl(&["del", "--prefix", "/holdfast/v1/"]).success());
        eventually("doctor says what etcd has forgotten", || {
            self.lab.holdfast(&["doctor"]).stdout.contains("etcd has no mode record")
        });
        assert_eq!(session.commit(), server, "the last writer goes on");
        let back = self.disarm_the_cluster("our prefix was deleted");
        self.patroni_restarts_a_postmaster("prefix deleted");
        self.arm_again();
        eprintln!("prefix deleted: back to Patroni alone after {back:?}");
    }

    /// Leases count on the monotonic clock: nothing happens. The order works all the same.
    fn all_clocks_jump(&self) {
        let writer = self.holder();
        let mut session = Session::local(&self.lab, &self.described, &writer);
        let server = session.commit();
        for name in HOSTS {
            self.lab.run(&["fault", self.lab.name(), "clock-jump", name, AN_HOUR]);
        }
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            assert_eq!(session.commit(), server, "the writer goes on");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(self.holder(), writer, "no role changes");
        let back = self.disarm_the_cluster("all clocks jumped");
        self.patroni_restarts_a_postmaster("clocks jump");
        self.lab.run(&["heal", self.lab.name()]);
        self.arm_again();
        eprintln!("clocks jump: back to Patroni alone after {back:?}");
    }

    // --- what a person does

    /// The order on every host at once, as from a parallel shell; how long until a client writes again.
    fn disarm_every_host(&self, reason: &str) -> Duration {
        let begun = Instant::now();
        let order = |name: &'static str| {
            let said = self.on_host(name, &["disarm", "--local", "--reason", reason, "--yes"]);
            assert_eq!(said.code, Some(0), "{name}: {said:?}");
            assert!(said.stdout.contains("Patroni alone decides here"), "{said:?}");
        };
        std::thread::scope(|scope| HOSTS.iter().for_each(|name| drop(scope.spawn(|| order(name)))));
        eprintln!("every host answered after {:?}", begun.elapsed());
        assert!(begun.elapsed() < ORDER_MAX, "{:?}", begun.elapsed());
        self.writes_again(begun)
    }

    fn disarm_the_cluster(&self, reason: &str) -> Duration {
        let begun = Instant::now();
        let order = ["disarm", "--cluster", "main", "--reason", reason, "--yes", "--wait"];
        self.lab.order(&order);
        self.writes_again(begun)
    }

    fn writes_again(&self, begun: Instant) -> Duration {
        eventually("a client writes", || self.lab.writes("libpq", None));
        let back = begun.elapsed();
        assert!(back < BACK_MAX, "back to Patroni alone took {back:?}");
        back
    }

    /// From the leader to a synchronous standby; then a client writes.
    fn patroni_switches_over(&self, what: &str) {
        eventually("a synchronous standby follows", || self.synchronous_standby().is_some());
        let begun = Instant::now();
        let (from, to) = (self.leader().unwrap(), self.synchronous_standby().unwrap());
        let said = self.patronictl(&["switchover", "main", "--leader", &from, "--candidate", &to, "--force"]);
        let all = said.stdout + &said.stderr;
        assert!(all.contains("uccessfully") && !all.contains("Traceback"), "{what}: {all}");
        eventually("the new leader takes writes", || {
            self.leader().as_deref() == Some(to.as_str()) && self.lab.writes("libpq", None)
        });
        eprintln!("{what}: Patroni alone switched over in {:?}", begun.elapsed());
    }

    fn patroni_restarts_a_postmaster(&self, what: &str) {
        let begun = Instant::now();
        let leader = self.leader().unwrap();
        self.lab.run(&["fault", self.lab.name(), "kill", &leader, "postmaster"]);
        eventually("a client writes", || self.lab.writes("libpq", None));
        eprintln!("{what}: Patroni alone mended a killed postmaster in {:?}", begun.elapsed());
    }

    fn tells_of_the_local_disarm(&self, reason: &str) {
        eventually("status says it of every host, first", || {
            let causes = self.causes();
            let told =
                causes.iter().take(HOSTS.len()).filter(|cause| cause.contains("is disarmed on its host by"));
            told.filter(|cause| cause.contains(reason)).count() == HOSTS.len()
        });
        // A term of before the switchover must not come into force again by itself.
        let early = self.on_host("db1", &["disarm", "--local", "--undo", "--reason", "too early", "--yes"]);
        assert_eq!(early.code, Some(3), "{early:?}");
    }

    /// The way back: the cluster, then each host, then armed.
    fn arm_again(&self) {
        eventually("every agent has a session", || {
            let members = self.lab.status()["members"].as_array().cloned().unwrap_or_default();
            members.len() == HOSTS.len() && members.iter().all(|member| member["agent"] == "alive")
        });
        let order = ["disarm", "--reason", "tidy", "--yes", "--wait"];
        eventually("the cluster is disarmed", || self.lab.holdfast(&order).success());
        if self.causes().iter().any(|cause| cause.contains("is disarmed on its host by")) {
            let refused =
                self.lab.holdfast(&["arm", "--reason", "too early", "--yes", "--accept-unmeasured"]);
            assert_eq!(refused.code, Some(3), "{refused:?}");
            assert!(refused.stderr.contains("disarm --local --undo"), "{refused:?}");
            for name in HOSTS {
                eventually("the agent has seen the order", || {
                    self.on_host(name, &["disarm", "--local", "--undo", "--reason", "mended", "--yes"])
                        .success()
                });
            }
        }
        eventually("the region is armed", || {
            self.lab
                .holdfast(&["arm", "--reason", "mended", "--yes", "--accept-unmeasured", "--wait"])
                .success()
        });
        self.is_whole();
    }

    // --- what is seen

    fn is_whole(&self) {
        eventually("the region is healthy", || self.lab.is_healthy());
    }

    fn holder(&self) -> String {
        text(&self.lab.status()["term"]["holder"]).to_owned()
    }

    fn causes(&self) -> Vec<String> {
        let findings = self.lab.status()["findings"].as_array().cloned().unwrap_or_default();
        findings.iter().map(|finding| text(&finding["cause"]).to_owned()).collect()
    }

    fn leader(&self) -> Option<String> {
        self.with_role("leader")
    }

    fn synchronous_standby(&self) -> Option<String> {
        self.with_role("quorum_standby")
    }

    fn with_role(&self, role: &str) -> Option<String> {
        let members = self.lab.status()["members"].as_array().cloned()?;
        let found = members.iter().find(|member| member["role"] == role)?;
        Some(text(&found["member"]).to_owned())
    }

    /// By a database host's own patronictl, whose certificate is the host's.
    fn patronictl(&self, words: &[&str]) -> Output {
        let file = self.etc("db4").join("patroni-main.yml");
        self.lab.exec("db4", &[&["timeout", "80", PATRONICTL, "-c", file.to_str().unwrap()], words].concat())
    }

    /// The operator's command on a database host, which has no operator's configuration.
    fn on_host(&self, name: &str, words: &[&str]) -> Output {
        let config = self.etc(name).join("agent.toml");
        let line = [&["env", "HOLDFAST_CONFIG=/none", "holdfast"], words, &["--agent-config"]].concat();
        self.lab.exec(name, &[&line[..], &[config.to_str().unwrap()]].concat())
    }
}
