//! What a fence leaves behind, on real servers: one record of who, why, which layer and what was verified, that survives the
//! agent and the host; a fenced node that stays out over a reboot (promise I5); and the commits that ended with a warning,
//! counted by the agent as the clients count them. Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::time::{Duration, Instant};

use holdfast_lab::checker::monotonic_us;
use serde_json::Value;
use support::load::Load;
use support::{Lab, Session, eventually, text};

const SPEC: &str = include_str!("../specs/quick.toml");
/// The guard's last process is gone within this time of its deadline (issue 4), on a machine that is not measured here.
const GUARD_MS_MAX: u64 = 2_000;
/// A node that is to stay out is watched for so long: Patroni tries to start it every second.
const WATCHED: Duration = Duration::from_secs(8);
const REASON: &str = "its disk makes noises";

#[test]
fn each_fence_leaves_a_record_that_outlives_agent_and_host() {
    let lab = Lab::up("t_record", SPEC);
    let region = Region { described: lab.describe(), lab };
    region.counts_warned_commits();
    let writer = region.tells_the_guards_kill();
    region.keeps_a_fenced_standby_out(&writer);
    region.keeps_a_fenced_writer_out();
}

struct Region {
    lab: Lab,
    described: Value,
}

impl Region {
    fn writer(&self) -> String {
        let status = || self.lab.status();
        eventually("the region is healthy", || {
            let status = status();
            status["term"]["writable"] == true && status["healthy"] == true
        });
        text(&status()["term"]["holder"]).to_owned()
    }

    /// What is told of a node, newest first.
    fn fences(&self, node: &str) -> Vec<Value> {
        let said = self.lab.holdfast(&["events", "--limit", "50", "-o", "json"]).stdout;
        let found: Value = serde_json::from_str(&said).unwrap_or_default();
        let all = found["fences"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|fence| fence["node"] == node).collect()
    }

    fn fence_by(&self, node: &str, layer: &str) -> Option<Value> {
        self.fences(node).into_iter().find(|fence| fence["layer"] == layer)
    }

    fn warned(&self, node: &str, count: &str) -> u64 {
        let status = self.lab.status();
        let all = status["warned"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|warned| warned["member"] == node);
        found.and_then(|warned| warned[count].as_u64()).unwrap_or(0)
    }

    /// Commits wait for standbys that stand still, and their waits are given up: by a cancelled statement, whose client is
    /// told of success, and by the end of the connection.
    fn counts_warned_commits(&self) {
        let writer = self.writer();
        eventually("the agent counts", || {
            let status = self.lab.status();
            let all = status["warned"].as_array().cloned().unwrap_or_default();
            all.iter().any(|warned| warned["member"] == writer.as_str() && warned["problem"].is_null())
        });
        let status = self.lab.status();
        let standbys = status["sync"]["standbys"].as_array().unwrap();
        let load = Load::start(&self.lab, "warned");
        let at_us = monotonic_us();
        let stopped: Vec<Value> = standbys
            .iter()
            .map(|standby| self.lab.run(&["fault", self.lab.name(), "stop", text(standby), "postgres"]))
            .collect();
        assert_eq!(stopped.len(), standbys.len());
        let waiting = "from pg_stat_activity where wait_event = 'SyncRep'";
        let ask = |what: &str| self.lab.sql(&writer, &format!("select {what}")).unwrap();
        let number = |what: &str| -> u64 { ask(what).parse().unwrap() };
        eventually("commits wait for a standby", || number(&format!("count(*) {waiting}")) >= 3);
        let cancelled = ask(&format!("count(pg_cancel_backend(pid)) || ' ' || max(query_start) {waiting}"));
        let (cancelled, last) = cancelled.split_once(' ').unwrap();
        // One that was cancelled is seen waiting until it has left: only later statements are ended.
        let later = format!("{waiting} and query_start > '{last}'");
        eventually("others wait", || number(&format!("count(*) {later}")) >= 3);
        let ended = number(&format!("count(pg_terminate_backend(pid)) {later}"));
        self.lab.run(&["heal", self.lab.name()]);
        load.steady(monotonic_us());
        let verdict = load.end(at_us);
        assert!(verdict.is_clean(), "{verdict:?}");
        eprintln!("cancelled {cancelled}, ended {ended}, clients: {:?}", verdict.counts);
        assert!(verdict.counts.warned > 0 && ended > 0, "nobody was warned: {:?}", verdict.counts);
        eventually("the agent has counted them", || {
            self.warned(&writer, "answered") >= verdict.counts.warned
                && self.warned(&writer, "cut_off") >= ended
        });
        // A client may have cancelled one itself.
        let answered = verdict.counts.warned;
        assert_eq!(self.warned(&writer, "answered"), answered, "each cancelled wait is one");
        assert_eq!(self.warned(&writer, "cut_off"), ended, "each ended session that waited is one");
        let shown = self.lab.holdfast(&["status"]).stdout;
        assert!(shown.contains("commits ended with a warning, not replicated, since"), "{shown}");
        // The agent that starts again goes on from there.
        self.lab.run(&["fault", self.lab.name(), "kill", &writer, "agent"]);
        eventually("the agent is back", || self.lab.status()["term"]["session_alive"] == true);
        self.writer();
        assert_eq!(self.warned(&writer, "answered"), answered);
    }

    /// The agent hangs, so the guard kills. It tells so once it runs again; so does whoever closed the term meanwhile.
    fn tells_the_guards_kill(&self) -> String {
        let writer = self.writer();
        let term = self.lab.status()["term"]["term"].as_u64().unwrap();
        let warned = self.warned(&writer, "in_term");
        let kills = || self.fences(&writer).iter().filter(|fence| fence["layer"] == "guard").count();
        let before = kills();
        self.lab.run(&["fault", self.lab.name(), "stop", &writer, "agent"]);
        eventually("another writes", || {
            let status = self.lab.status();
            let term = &status["term"];
            term["holder"].is_string() && term["holder"] != writer.as_str() && term["writable"] == true
        });
        eventually("its standbys' part is told", || self.fence_by(&writer, "standbys").is_some());
        let closed = self.fence_by(&writer, "standbys").unwrap();
        assert_eq!((closed["term"].as_u64(), &closed["cause"]["cause"]), (Some(term), &"closed".into()));
        assert!(text(&closed["cause"]["evidence"]).starts_with("revoked, left by"), "{closed}");
        assert_ne!(closed["told_by"], writer.as_str());
        self.lab.run(&["heal", self.lab.name()]);
        eventually("the guard's kill is told", || kills() > before);
        let guard = self.fence_by(&writer, "guard").unwrap();
        eprintln!("{guard}");
        assert_eq!((guard["term"].as_u64(), &guard["cause"]["cause"]), (Some(term), &"lease_over".into()));
        assert!(text(&guard["verified"]).contains("ms after the deadline"), "{guard}");
        assert!(guard["took_ms"].as_u64().unwrap() < GUARD_MS_MAX, "{guard}");
        assert!(text(&guard["due"]) <= text(&guard["at"]), "{guard}");
        assert_eq!(guard["warned_in_term"].as_u64(), Some(warned), "{guard}");
        let incident = self.lab.events().into_iter().find(|event| event["term"].as_u64() == Some(term));
        assert_eq!(guard["trace_id"], incident.unwrap()["trace_id"], "both belong to one incident");
        // By itself, when the lease was over; once more by the agent, which is back and finds the term another's.
        eventually("the closed port is told", || {
            self.fences(&writer).iter().any(|fence| {
                fence["layer"] == "kernel" && text(&fence["verified"]).contains("the port was found closed")
            })
        });

        let told = self.fences(&writer).len();
        self.lab.run(&["fault", self.lab.name(), "kill", &writer, "agent"]);
        self.power_cycle(&writer);
        eventually("the deposed writer is a standby again", || self.lab.streams(&writer));
        assert_eq!(self.fences(&writer).len(), told, "each is told once, and stays");
        assert_eq!(self.fence_by(&writer, "guard").unwrap(), guard);
        writer
    }

    fn power_cycle(&self, node: &str) {
        self.lab.run(&["fault", self.lab.name(), "power-cycle", node]);
        eventually("the host is up again", || {
            let status = self.lab.status();
            let members = status["members"].as_array().cloned().unwrap_or_default();
            members.iter().any(|member| member["member"] == node && member["agent"] == "alive")
        });
    }

    fn order_fence(&self, node: &str, more: &[&str]) {
        self.lab.order(&[&["fence", node, "--reason", REASON, "--yes", "--wait"], more].concat());
    }

    /// I5: neither a start of its agent nor a boot of its host lets it in.
    fn stays_out(&self, node: &str) {
        let begun = Instant::now();
        while begun.elapsed() < WATCHED {
            assert_eq!(self.lab.sql(node, "select 1"), None, "{node} is fenced, and its PostgreSQL answers");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn is_ordered(&self, fence: &Value) {
        assert_eq!(fence["cause"]["cause"], "ordered", "{fence}");
        assert_eq!(fence["cause"]["text"], REASON, "{fence}");
        assert!(text(&fence["cause"]["by"]).starts_with("holdfast://operator/"), "{fence}");
    }

    fn keeps_a_fenced_standby_out(&self, node: &str) {
        self.writer();
        self.order_fence(node, &[]);
        eventually("its agent tells", || self.fence_by(node, "agent").is_some());
        let fence = self.fence_by(node, "agent").unwrap();
        self.is_ordered(&fence);
        self.stays_out(node);
        self.lab.run(&["fault", self.lab.name(), "kill", node, "agent"]);
        self.power_cycle(node);
        self.stays_out(node);
        assert_eq!(self.fence_by(node, "agent").unwrap(), fence);
        let said = self.lab.holdfast(&["unfence", node, "--reason", "new disk", "--yes", "--wait"]);
        assert!(said.success(), "{said:?}");
        eventually("it is a standby again", || self.lab.streams(node));
    }

    /// The present writer, by a person who takes the outage: another follows, and it stays out over a boot of its host. What
    /// was open on it before commits nothing.
    fn keeps_a_fenced_writer_out(&self) {
        let node = self.writer();
        let mut session = Session::local(&self.lab, &self.described, &node);
        session.commit();
        self.order_fence(&node, &["--accept-outage"]);
        assert_eq!(session.try_commit(), None, "a session of the fenced writer commits");
        eventually("another writes", || {
            let term = &self.lab.status()["term"];
            term["holder"].is_string() && term["holder"] != node.as_str() && term["writable"] == true
        });
        eventually("its agent tells", || {
            self.fence_by(&node, "agent").is_some_and(|fence| fence["term"].is_u64())
        });
        self.is_ordered(&self.fence_by(&node, "agent").unwrap());
        self.power_cycle(&node);
        self.stays_out(&node);
    }
}
