//! What people do with patronictl goes on to work in an armed cluster: each order under load, with the checker's verdict,
//! and with the same rules after it: one writer, nothing acknowledged is lost, the term is that of Patroni's leader,
//! redundancy is back. Beside it: a maintenance suspends, and a restart of an agent costs nothing. With real servers; needs
//! root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::path::Path;

use holdfast_lab::checker::monotonic_us;
use holdfast_lab::checker::verdict::Verdict;
use support::load::{Load, gap_ms};
use support::{Lab, Output, eventually, host, text};

const PATRONICTL: &str = "/opt/holdfast-lab/venv/bin/patronictl";
const SPEC: &str = include_str!("../specs/quick.toml");
/// No figure is asserted where Patroni works at its own pace: only that it was not its lock that ran out (20 s).
const HANDOVER_MS_MAX: u64 = 15_000;
/// What a restart of an agent may cost: less than anybody notices.
const AGENT_RESTART_MS_MAX: u64 = 1_000;

struct Region {
    lab: Lab,
}

#[test]
fn orders_given_by_hand_work_beside_an_armed_holdfast() {
    let region = Region { lab: Lab::up("t_beside", SPEC) };
    region.setup_is_watched();
    region.planned("switchover");
    region.planned("failover");
    region.pause_and_resume();
    region.restarts();
    region.reinit();
    region.quorum_changes();
    region.agent_restarts();
    region.maintenance();
}

impl Region {
    /// One order under load. What must hold after each of them is asked here.
    fn under_load(&self, name: &str, order: impl FnOnce()) -> Verdict {
        let load = Load::start(&self.lab, name);
        let at_us = monotonic_us();
        order();
        load.steady(monotonic_us());
        self.is_whole(name);
        let verdict = load.end(at_us);
        let gap = gap_ms(&verdict).map_or("not back".into(), |gap| format!("{gap} ms"));
        eprintln!("{name}: longest gap {gap}, {:?}", verdict.counts);
        assert!(verdict.is_clean(), "{name}: lost rows or two writers: {verdict:?}");
        assert!(gap_ms(&verdict).is_some_and(|gap| gap < HANDOVER_MS_MAX), "{name}: {verdict:?}");
        assert!(verdict.full_redundancy_after_us.is_some(), "{name}: redundancy is not back: {verdict:?}");
        verdict
    }

    /// Healthy means: no finding, so every member streams, and the term is that of Patroni's leader.
    fn is_whole(&self, after: &str) {
        eventually(&format!("the region is healthy after {after}"), || {
            let status = self.lab.status();
            status["healthy"] == true
                && self.leader().is_some_and(|leader| status["term"]["holder"] == *leader)
        });
    }

    /// What each host's agent sees of Patroni's setup is good in a lab; a change for the worse is found.
    fn setup_is_watched(&self) {
        self.is_whole("the start");
        eventually("every agent has told of its host's setup", || {
            let doctor = self.lab.exec("client", &["holdfast", "doctor"]);
            doctor.success() && !doctor.stdout.contains("unknown")
        });
        assert!(self.patronictl(&["edit-config", "main", "--force", "-s", "failsafe_mode=false"]).success());
        eventually("it is found", || self.findings().iter().any(|cause| cause == "failsafe_mode is off"));
        assert!(self.patronictl(&["edit-config", "main", "--force", "-s", "failsafe_mode=true"]).success());
        self.is_whole("the change");
    }

    /// To a synchronous standby, by `switchover` (from a leader that works) and by `failover` (whoever leads).
    fn planned(&self, verb: &str) {
        let (from, term) = self.term();
        let to = self.synchronous_standby();
        let verdict = self.under_load(verb, || {
            let leader = ["--leader", from.as_str()];
            let leader = if verb == "switchover" { &leader[..] } else { &[] };
            let order = [&[verb, "main", "--candidate", &to, "--force"], leader].concat();
            let said = self.patronictl(&order);
            let all = said.stdout + &said.stderr;
            assert!(all.contains("uccessfully") && !all.contains("Traceback"), "{verb}: {all}");
        });
        assert_eq!(self.term(), (to, term + 1), "{verb}: the one that was named leads, one term later");
        let failed: Vec<_> =
            verdict.routes.iter().filter_map(|route| route.errors_of_one_client_max).collect();
        eprintln!("{verb}: at most {failed:?} failed statements of one client by route");
    }

    fn pause_and_resume(&self) {
        let before = self.term();
        let verdict = self.under_load("pause", || {
            assert!(self.patronictl(&["pause", "main", "--wait"]).success());
            eventually("status says it", || self.findings().iter().any(|cause| cause == "Patroni is paused"));
            assert!(self.patronictl(&["resume", "main", "--wait"]).success());
        });
        assert_unnoticed(&verdict);
        assert_eq!(self.term(), before);
    }

    fn restarts(&self) {
        let before = self.term();
        let standby = self.synchronous_standby();
        self.under_load("restart-standby", || {
            let said = self.patronictl(&["restart", "main", &standby, "--force"]);
            assert!(said.stdout.contains("Success"), "{said:?}");
        });
        self.under_load("restart-leader", || {
            let said = self.patronictl(&["restart", "main", &before.0, "--force"]);
            assert!(said.stdout.contains("Success"), "{said:?}");
        });
        assert_eq!(self.term(), before, "a restart by order is no reason to fail over");
    }

    fn reinit(&self) {
        let verdict = self.under_load("reinit", || {
            let said = self.patronictl(&["reinit", "main", "db4", "--force", "--wait"]);
            assert!(said.stdout.contains("completed"), "{said:?}");
        });
        assert_unnoticed(&verdict);
    }

    /// Two acknowledgements for each commit, and one again: the floor record follows.
    fn quorum_changes(&self) {
        let before = self.term();
        for (count, quorum) in [(2, 0), (1, 1)] {
            let verdict = self.under_load(&format!("synchronous_node_count-{count}"), || {
                let set = format!("synchronous_node_count={count}");
                assert!(self.patronictl(&["edit-config", "main", "--force", "-s", &set]).success());
                eventually("the floor record follows", || {
                    let status = self.lab.status();
                    status["sync"]["quorum"] == quorum
                        && status["floor"]["quorum"] == quorum
                        && status["floor"]["follows_sync"] == true
                });
            });
            assert_unnoticed(&verdict);
        }
        assert_eq!(self.term(), before);
    }

    /// As systemd restarts it: SIGTERM, and the unit's policy brings it back.
    fn agent_restarts(&self) {
        let before = self.term();
        let verdict = self.under_load("agent-restart", || {
            let agents = self.processes_of_agent(&before.0);
            for pid in &agents {
                let pid = nix::unistd::Pid::from_raw(*pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            }
            eventually("another start of the agent is there", || {
                let now = self.processes_of_agent(&before.0);
                !now.is_empty() && now.iter().all(|pid| !agents.contains(pid))
            });
        });
        assert_unnoticed(&verdict);
        assert!(gap_ms(&verdict).unwrap() < AGENT_RESTART_MS_MAX, "{verdict:?}");
        assert_eq!(self.term(), before, "no change of role");
    }

    fn processes_of_agent(&self, member: &str) -> Vec<i32> {
        let described = self.lab.describe();
        let cgroup = Path::new(text(&host(&described, member)["cgroup"])).join("agent/cgroup.procs");
        let pids = std::fs::read_to_string(cgroup).unwrap_or_default();
        pids.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// While it is in force a crash is Patroni's affair, and a planned handover is refused; after it a crash fails over.
    fn maintenance(&self) {
        let before = self.term();
        self.lab.order(&["maintenance", "on", "--for", "30m", "--reason", "new switch", "--yes", "--wait"]);
        let first = self.lab.exec("client", &["holdfast", "status"]).stdout;
        assert!(first.starts_with("AT RISK: maintenance by holdfast://operator/lab until"), "{first}");
        let load = Load::start(&self.lab, "maintenance-crash");
        let at_us = monotonic_us();
        self.lab.run(&["fault", self.lab.name(), "kill", &before.0, "postmaster"]);
        load.steady(monotonic_us() + 1_000_000);
        let verdict = load.end(at_us);
        eprintln!("maintenance-crash: longest gap {:?} ms", gap_ms(&verdict));
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!(self.term(), before, "nothing is closed, and Patroni starts it on the spot");
        self.eventually_serves("the crash in maintenance");
        self.refuses_a_handover(&before);
        self.lab.order(&["maintenance", "off", "--reason", "done", "--yes"]);
        self.is_whole("the maintenance");
        self.under_load("crash", || {
            self.lab.run(&["fault", self.lab.name(), "kill", &before.0, "postmaster"]);
            eventually("another leads", || self.term().1 == before.1 + 1);
        });
        assert_ne!(self.term().0, before.0);
    }

    /// Nobody closes a term now: the hook of the one that was named refuses with the reason, and the writer goes on.
    fn refuses_a_handover(&self, before: &(String, u64)) {
        let to = self.synchronous_standby();
        let load = Load::start(&self.lab, "maintenance-switchover");
        let at_us = monotonic_us();
        let said =
            self.patronictl(&["switchover", "main", "--leader", &before.0, "--candidate", &to, "--force"]);
        load.steady(monotonic_us());
        let verdict = load.end(at_us);
        eprintln!("maintenance-switchover: longest gap {:?} ms; {}", gap_ms(&verdict), said.stdout);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!(self.term(), *before, "no term was opened");
        let log = text(&host(&self.lab.describe(), &to)["logs"]["agent"]).to_owned();
        let log = std::fs::read_to_string(log).unwrap();
        assert!(
            log.contains("not promoted: the last reign is not closed, and nobody closes it: maintenance by")
        );
    }

    fn eventually_serves(&self, after: &str) {
        eventually(&format!("full redundancy after {after}"), || {
            let findings = self.findings();
            findings.len() == 1 && findings[0].starts_with("maintenance by")
        });
    }

    fn patronictl(&self, arguments: &[&str]) -> Output {
        // Any member's own file has the right certificate.
        let file = format!("/run/holdfast-lab/{}/hosts/db4/etc/patroni-main.yml", self.lab.name());
        self.lab.exec("db4", &[&["timeout", "80", PATRONICTL, "-c", &file], arguments].concat())
    }

    /// The holder of the term, and the term.
    fn term(&self) -> (String, u64) {
        let term = self.lab.status()["term"].clone();
        (text(&term["holder"]).to_owned(), term["term"].as_u64().unwrap())
    }

    fn leader(&self) -> Option<String> {
        self.with_role("leader")
    }

    fn synchronous_standby(&self) -> String {
        self.with_role("quorum_standby").expect("a synchronous standby")
    }

    fn with_role(&self, role: &str) -> Option<String> {
        let members = self.lab.status()["members"].as_array().cloned()?;
        let found = members.iter().find(|member| member["role"] == role)?;
        Some(text(&found["member"]).to_owned())
    }

    fn findings(&self) -> Vec<String> {
        let findings = self.lab.status()["findings"].as_array().cloned().unwrap_or_default();
        findings.iter().map(|finding| text(&finding["cause"]).to_owned()).collect()
    }
}

/// No client saw an error.
fn assert_unnoticed(verdict: &Verdict) {
    let tcp = verdict.routes.iter().filter(|route| route.gap.is_some());
    let failed: u64 = tcp.map(|route| route.counts.refused + route.counts.unknown).sum();
    assert_eq!(failed, 0, "{verdict:?}");
}
