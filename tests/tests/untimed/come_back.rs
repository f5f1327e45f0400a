//! Rule 15 with real servers: the writer's agent hangs until its term is closed, then both standbys' hosts die before
//! anybody has opened the next one. The old writer is the only one left that has everything; it leads again by itself, and
//! nothing is lost.
//!
//! That nobody opens in between is made sure of by tags: the standbys promise, and may not lead. So a writer that crashes is
//! started again in its own term before that: no reign ends, and it is told as an incident all the same. Its unit has a new
//! cgroup then, and the guard must know it: an agent that hangs afterwards costs the writer its life.

use std::time::Instant;

use crate::support::load::Load;
use crate::support::{Lab, eventually, eventually_proved, text};
use holdfast_lab::checker::monotonic_us;
use serde_json::Value;

const SPEC: &str = concat!(
    include_str!("../../specs/quick.toml"),
    r#"
[[region]]
name = "r1"
host = [
  { name = "e1", role = "etcd" },
  { name = "db1", role = "database" },
  { name = "db2", role = "database", tags = { nofailover = true } },
  { name = "db3", role = "database", tags = { nofailover = true, nosync = true } },
  { name = "pool1", role = "pooler" }, { name = "client", role = "client" },
]
"#
);
const TERM: &str = "/holdfast/v1/r1/service/main/term";

#[test]
fn the_old_writer_leads_again_when_nobody_else_is_left() {
    let lab = Lab::up("t_come_back", SPEC);
    eventually("db1 is the writer", || lab.status()["term"]["writable"] == true);
    let before = record(&lab);
    assert_eq!(text(&before["reign"]["holder"]), "db1", "the others may not lead");
    let load = Load::beside(&lab, "come-back", 1);
    let at_us = monotonic_us();
    restarts_in_place(&lab, before["term"].as_u64().unwrap());
    load.steady(monotonic_us());
    lab.run(&["fault", lab.name(), "stop", "db1", "agent"]);
    eventually("the term is closed", || record(&lab)["reign"]["state"] == "closed");
    for standby in ["db2", "db3"] {
        lab.run(&["fault", lab.name(), "host-death", standby]);
    }
    eventually_proved(&lab.describe(), "db1");
    let closed = record(&lab);
    assert_eq!((&closed["term"], &closed["reign"]["state"]), (&before["term"], &"closed".into()));
    let thawed = Instant::now();
    lab.run(&["fault", lab.name(), "continue", "db1", "agent"]);
    eventually("db1 leads again", || {
        let now = record(&lab);
        now["term"].as_u64() > before["term"].as_u64() && now["reign"]["writable"] == true
    });
    let now = record(&lab);
    eprintln!("{} opens term {} {:?} after the thaw", now["reign"]["holder"], now["term"], thawed.elapsed());
    assert_eq!(now["reign"]["holder"], "db1");
    eventually("it writes alone", || lab.writes("libpq", None));
    lab.run(&["heal", lab.name()]);
    load.steady(monotonic_us());
    let verdict = load.end(at_us);
    assert!(verdict.is_clean(), "lost rows or two writers: {verdict:?}");
}

/// Everything of its unit is killed, and nobody may follow: the same term goes on, and `events` tells how long it was away.
fn restarts_in_place(lab: &Lab, term: u64) {
    for target in ["postgres", "patroni"] {
        // Its agent ends Patroni with a crashed PostgreSQL, if it is faster.
        lab.tries(&["fault", lab.name(), "kill", "db1", target]);
    }
    eventually("the restart is told", || !restarts(lab).is_empty());
    let told = restarts(lab);
    eprintln!("{:#}", told[0]);
    assert_eq!((told.len(), &told[0]["node"], &told[0]["term"]), (1, &"db1".into(), &term.into()));
    assert_eq!(told[0]["ended"], "crashed");
    assert!(told[0]["away_ms"].as_i64().is_some_and(|away_ms| (100..60_000).contains(&away_ms)));
    assert_eq!(text(&told[0]["trace_id"]).len(), 32);
    assert_eq!(record(lab)["term"], term, "no reign has ended");
    assert!(lab.events().is_empty(), "nobody was replaced");
    let written = lab.timeline_of("db1");
    eprintln!("it writes on timeline {written}");
    assert_eq!(
        record(lab)["timeline"].to_string(),
        written,
        "a second promotion in a term takes a reserved id"
    );
}

fn restarts(lab: &Lab) -> Vec<Value> {
    let said = lab.holdfast(&["events", "-o", "json"]).stdout;
    let found: Value = serde_json::from_str(&said).unwrap_or_default();
    found["restarts"].as_array().cloned().unwrap_or_default()
}

/// The term record; null while it cannot be read.
fn record(lab: &Lab) -> Value {
    let said = lab.etcdctl(&["get", "--print-value-only", TERM]).stdout;
    serde_json::from_str(&said).unwrap_or_default()
}
