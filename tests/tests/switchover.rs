//! `holdfast switchover` on real servers, through three poolers under load: no client meets an error, the wanted member writes,
//! what stands in the way refuses it, and a coordinator that is killed in the middle leaves no operation and no client
//! hanging. Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::time::{Duration, Instant};

use holdfast_lab::checker::monotonic_us;
use holdfast_lab::checker::record::Outcome;
use serde_json::Value;
use support::load::{Load, gap_ms};
use support::{Lab, Output, Session, eventually, route, text};

const SPEC: &str = r#"
holdfast = true
profile = "fast"
[patroni]
ttl = 20
loop_wait = 1
retry_timeout = 3
[pgbouncer]
server_login_retry = 0.1
[[region]]
name = "r1"
host = [
  { name = "e1", role = "etcd" },
  { name = "db1", role = "database" }, { name = "db2", role = "database" }, { name = "db3", role = "database" },
  { name = "pool1", role = "pooler" }, { name = "pool2", role = "pooler" }, { name = "pool3", role = "pooler" },
  { name = "backup1", role = "backup" }, { name = "client", role = "client" },
]
"#;
/// Two clients on each pooler, fifty rows a second each.
const PACE: [&str; 4] = ["--rate", "50", "--clients", "2"];
/// Clients wait no longer than a pooler's own deadline, and a moment of a busy machine.
const GAP_MS_MAX: u64 = 12_000;
/// Somebody else's lease must end before another coordinator works.
const END_DEADLINE: Duration = Duration::from_secs(60);

struct Region {
    lab: Lab,
}

#[test]
fn a_switchover_is_noticed_by_no_client_and_always_ends() {
    let region = Region { lab: Lab::up("t_switchover", SPEC) };
    region.hands_over_under_load();
    region.refuses_what_cannot_be();
    region.leaves_open_transactions_alone();
    region.is_asked_for_by_an_automation();
    region.survives_its_coordinator();
    region.says_that_nobody_works();
}

impl Region {
    fn term(&self) -> (String, u64) {
        let status = self.lab.status();
        (text(&status["term"]["holder"]).to_owned(), status["term"]["term"].as_u64().unwrap())
    }

    /// The writer, once everything is as it should be.
    fn settled(&self) -> (String, u64) {
        eventually("the region is healthy", || {
            let status = self.lab.status();
            let counting = status["sync"]["standbys"].as_array().map_or(0, Vec::len);
            status["healthy"] == true && status["term"]["writable"] == true && counting == 2
        });
        self.term()
    }

    /// A member that does not write.
    fn another(&self, writer: &str) -> &'static str {
        ["db1", "db2", "db3"].into_iter().find(|name| *name != writer).unwrap()
    }

    fn switchover(&self, more: &[&str]) -> Output {
        let order = ["switchover", "--reason", "test", "--yes", "--wait", "--timeout", "60"];
        let said = self.lab.holdfast(&[&order, more].concat());
        eprintln!("{}", said.stdout);
        said
    }

    fn operations(&self) -> Value {
        let said = self.lab.holdfast(&["operation", "list", "-o", "json"]).stdout;
        serde_json::from_str(&said).unwrap_or_default()
    }

    fn newest(&self) -> Value {
        self.operations()["operations"][0].clone()
    }

    fn hands_over_under_load(&self) {
        let (writer, term) = self.settled();
        let to = self.another(&writer);
        let load = Load::paced(&self.lab, "switchover", 1, &PACE, |kind| kind == "pgbouncer");
        let at_us = monotonic_us();
        let said = self.switchover(&["--to", to]);
        assert!(said.success(), "{said:?}");
        assert_eq!(self.term(), (to.to_owned(), term + 1));
        load.steady(monotonic_us());
        let (verdict, recording) = load.recorded(at_us);
        assert!(verdict.is_clean(), "{verdict:?}");
        let errors: Vec<_> =
            recording.attempts.iter().filter(|one| one.outcome != Outcome::Acknowledged).collect();
        assert!(errors.is_empty(), "clients met errors: {errors:?}");
        let gap_ms = gap_ms(&verdict).unwrap();
        eprintln!("switchover: gap {gap_ms} ms through three poolers, {} rows", verdict.counts.acknowledged);
        assert!(gap_ms < GAP_MS_MAX, "{gap_ms}");
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
        let load = Load::paced(&self.lab, "drain", 1, &PACE, |kind| kind == "pgbouncer");
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

    fn oldest_ms(&self, writer: &str) -> u64 {
        let sql = "select coalesce(max(1000 * extract(epoch from clock_timestamp() - xact_start)), 0)::bigint \
                   from pg_stat_activity where state = 'idle in transaction'";
        self.lab.sql(writer, sql).and_then(|ms| ms.parse().ok()).unwrap_or(0)
    }

    /// The documented JSON, put with etcdctl under the name of an automation.
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
        let load = Load::paced(&self.lab, "killed", 1, &PACE, |kind| kind == "pgbouncer");
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
