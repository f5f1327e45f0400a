//! `holdfast switchover` on real servers, through three poolers under load: no client meets an error, the wanted member writes,
//! what stands in the way refuses it, and a coordinator that is killed in the middle leaves no operation and no client
//! hanging. Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::time::{Duration, Instant};

use holdfast_lab::checker::monotonic_us;
use holdfast_lab::checker::record::Outcome;
use support::load::gap_ms;
use support::region::{GAP_MS_MAX, Region, unnoticed};
use support::{Lab, Output, Session, eventually, host, route, text};

/// Somebody else's lease must end before another coordinator works.
const END_DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_switchover_is_noticed_by_no_client_and_always_ends() {
    let region = Region::up("t_switchover");
    region.hands_over_under_load();
    region.refuses_what_cannot_be();
    region.leaves_open_transactions_alone();
    region.is_dropped_by_patroni();
    region.is_asked_for_by_an_automation();
    region.survives_its_coordinator();
    region.says_that_nobody_works();
}

impl Region {
    fn switchover(&self, more: &[&str]) -> Output {
        let order = ["switchover", "--reason", "test", "--yes", "--wait", "--timeout", "60"];
        let said = self.lab.holdfast(&[&order, more].concat());
        eprintln!("{}", said.stdout);
        said
    }

    fn hands_over_under_load(&self) {
        let (writer, term) = self.settled();
        let to = self.another(&writer);
        let load = self.load("switchover");
        let at_us = monotonic_us();
        let said = self.switchover(&["--to", to]);
        assert!(said.success(), "{said:?}");
        assert_eq!(self.term(), (to.to_owned(), term + 1));
        load.steady(monotonic_us());
        unnoticed("switchover", &load.recorded(at_us));
        let log = self.lab.log(&writer, "agent");
        assert!(log.contains("PostgreSQL is told to stop: it hands over"), "{log}");
        let ended = self.newest();
        assert_eq!((text(&ended["ended"]["state"]), &ended["successor"]), ("done", &to.into()));
        assert!(text(&ended["by"]).starts_with("operator/"), "{ended}");
    }

    fn refuses_what_cannot_be(&self) {
        let (writer, term) = self.settled();
        let refused = self.switchover(&["--to", &writer]);
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.contains("is the writer already"), "{refused:?}");
        let dry = self.switchover(&["--dry-run"]);
        assert!(dry.success() && dry.stdout.contains("nothing stands in the way"), "{dry:?}");
        assert_eq!(self.term(), (writer, term));
    }

    /// By default nothing is changed, and the transaction goes on; with `--terminate` it is ended.
    fn leaves_open_transactions_alone(&self) {
        let (writer, term) = self.settled();
        let described = self.lab.describe();
        let dsn = route(&described["regions"][0]["clusters"][0], "pgbouncer", Some("pool1"));
        let load = self.load("drain");
        let at_us = monotonic_us();
        let mut idle = Idle::begin(&self.lab, &dsn);
        eventually("the transaction is old", || self.oldest_ms(&writer) > 1_500);
        let said = self.switchover(&["--drain-timeout", "1"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stdout.contains("failed, unchanged"), "{said:?}");
        assert_eq!(self.term(), (writer.clone(), term));
        assert!(idle.commits(), "its transaction was ended");
        let (verdict, recording) = load.recorded(at_us);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert!(recording.attempts.iter().all(|one| one.outcome == Outcome::Acknowledged));

        let mut idle = Idle::begin(&self.lab, &dsn);
        eventually("the transaction is old", || self.oldest_ms(&writer) > 1_500);
        let said = self.switchover(&["--drain-timeout", "1", "--terminate"]);
        assert!(said.success(), "{said:?}");
        assert_eq!(self.term().1, term + 1);
        assert!(!idle.commits(), "its transaction went over to another writer");
    }

    /// `postgresql.before_stop` in Patroni's `/config`.
    fn runs_before_a_stop(&self, program: Option<&str>) {
        let key = "/service/main/config";
        let found = self.lab.etcdctl(&["get", key, "--print-value-only"]);
        let mut config: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
        config["postgresql"]["before_stop"] = program.into();
        assert!(self.lab.etcdctl(&["put", key, &config.to_string()]).success());
    }

    fn oldest_ms(&self, writer: &str) -> u64 {
        let sql = "select coalesce(max(1000 * extract(epoch from clock_timestamp() - xact_start)), 0)::bigint \
                   from pg_stat_activity where state = 'idle in transaction'";
        self.lab.sql(writer, sql).and_then(|ms| ms.parse().ok()).unwrap_or(0)
    }

    /// A Patroni that does not reach the wanted member's drops the order, where it is Patroni that stops PostgreSQL. What it leaves
    /// behind in `/failover` stands in nobody's way afterwards.
    fn is_dropped_by_patroni(&self) {
        let (writer, term) = self.settled();
        let to = self.another(&writer);
        self.runs_before_a_stop(Some("/bin/true"));
        let described = self.lab.describe();
        let address = text(&host(&described, to)["address"]);
        let filter = format!(
            "add table ip test_rest; add chain ip test_rest out {{ type filter hook output priority 0; }}; \
             add rule ip test_rest out ip daddr {address} tcp dport 8008 drop"
        );
        let nft = |order: &str| assert!(self.lab.exec(&writer, &["nft", order]).success(), "{order}");
        nft(&filter);
        let said = self.switchover(&["--to", to]);
        nft("delete table ip test_rest");
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stdout.contains("has taken the order and dropped it"), "{said:?}");
        assert_eq!(self.term(), (writer, term));
    }

    /// The documented JSON, put with etcdctl under the name of an automation. What the user has run before a stop runs: Patroni
    /// stops PostgreSQL then, and not its agent.
    fn is_asked_for_by_an_automation(&self) {
        let (writer, term) = self.settled();
        let to = self.another(&writer);
        let intent = format!(
            r#"{{"format":1,"min_reader":1,"operation":"switchover","to":"{to}","reason":"kernel update"}}"#
        );
        let key = "/holdfast/v1/r1/service/main/intents/ansible/7f";
        assert!(self.lab.etcdctl(&["put", key, &intent]).success());
        eventually("it has ended", || {
            let newest = self.newest();
            newest["intent"] == "7f" && !newest["ended"].is_null()
        });
        let ended = self.newest();
        assert_eq!((text(&ended["by"]), text(&ended["ended"]["state"])), ("ansible", "done"), "{ended}");
        assert_eq!(self.term(), (to.to_owned(), term + 1));
        let log = self.lab.log(&writer, "patroni-main");
        assert!(log.contains("before_stop script `/bin/true` exited with 0"), "{log}");
        self.runs_before_a_stop(None);
        let damaged = "/holdfast/v1/r1/service/main/intents/ansible/80";
        let fence = r#"{"format":1,"min_reader":1,"operation":"fence","reason":"x"}"#;
        assert!(self.lab.etcdctl(&["put", damaged, fence]).success());
        eventually("what is no operation is left where it is, and shown", || {
            let request = &self.operations()["requests"][0];
            request.as_str().is_some_and(|line| line.contains("80 of ansible is left where it is"))
        });
        assert!(self.lab.etcdctl(&["del", damaged]).success());
    }

    /// It is killed as soon as clients wait. The next start goes on with what stands in etcd.
    fn survives_its_coordinator(&self) {
        let (writer, term) = self.settled();
        let number = self.newest()["number"].as_u64().unwrap();
        let load = self.load("killed");
        let at_us = monotonic_us();
        let ask = ["switchover", "--reason", "test", "--yes"];
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.lab.holdfast(&ask));
            let begun = Instant::now();
            while !matches!(self.newest()["phase"].as_str(), Some("pause" | "hand_over" | "verify"))
                || self.newest()["number"].as_u64() == Some(number)
            {
                assert!(begun.elapsed() < END_DEADLINE, "it never came so far: {}", self.newest());
            }
            self.lab.run(&["fault", self.lab.name(), "kill", "backup1", "coordinator"]);
            let said = asking.join().unwrap();
            assert!(said.success(), "{said:?}");
        });
        let begun = Instant::now();
        while self.newest()["ended"].is_null() {
            assert!(begun.elapsed() < END_DEADLINE, "it never ended: {}", self.newest());
            std::thread::sleep(Duration::from_millis(200));
        }
        let ended = self.newest();
        let now = self.term();
        match text(&ended["ended"]["state"]) {
            "done" | "partly_done" => assert_eq!(now.1, term + 1, "{ended}"),
            "unchanged" => assert_eq!(now, (writer, term), "{ended}"),
            other => panic!("{other}: {ended}"),
        }
        self.settled();
        load.steady(monotonic_us());
        let verdict = load.end(at_us);
        assert!(verdict.is_clean(), "{verdict:?}");
        let gap_ms = gap_ms(&verdict).unwrap();
        eprintln!("coordinator killed: gap {gap_ms} ms; {}", ended["ended"]);
        assert!(gap_ms < GAP_MS_MAX, "{gap_ms}");
    }

    fn says_that_nobody_works(&self) {
        self.settled();
        self.lab.run(&["fault", self.lab.name(), "stop", "backup1", "coordinator"]);
        eventually("no coordinator works", || self.operations()["coordinator"].is_null());
        let said = self.switchover(&[]);
        assert_eq!(said.code, Some(4), "{said:?}");
        assert!(said.stderr.contains("systemctl start holdfast-coordinator"), "{said:?}");
        self.lab.run(&["heal", self.lab.name()]);
        eventually("one works again", || self.operations()["coordinator"].is_string());
    }
}

/// A session that has begun a transaction and does nothing in it.
struct Idle(Session);

impl Idle {
    fn begin(lab: &Lab, dsn: &str) -> Self {
        let mut session = Session::open(lab, "client", dsn);
        session.begin().unwrap();
        Self(session)
    }

    fn commits(&mut self) -> bool {
        self.0.end().is_some()
    }
}
