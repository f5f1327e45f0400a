//! Rules 11 and 18 with real servers: the writer and one of two synchronous standbys are dead, so nothing can be proved and
//! nobody is promoted. A person names a member that is behind: it is promoted, what is lost is stated, and the old writer
//! comes back as a standby.

use std::time::{Duration, Instant};

use crate::support::{COMMIT, Lab, eventually, text};
use serde_json::Value;

const SPEC: &str = include_str!("../../specs/quick.toml");
/// Longer than Patroni's lock (20 s): its own race has run, and the hook has refused or waits.
const NOBODY: Duration = Duration::from_secs(24);
/// Asynchronous by its tag.
const REPLICA: &str = "db4";

#[test]
fn what_cannot_be_proved_is_given_up_only_by_a_person() {
    let lab = Lab::up("t_override", SPEC);
    eventually("the region is healthy", || lab.is_healthy());
    let status = lab.status();
    let (writer, term) =
        (text(&status["term"]["holder"]).to_owned(), status["term"]["term"].as_u64().unwrap());
    let lost = text(&status["sync"]["standbys"][0]).to_owned();
    let lives = failover(&lab, &["--accept-data-loss", "--yes", "--wait"], 3);
    assert!(lives.contains("its agent lives"), "{lives}");

    lab.run(&["fault", lab.name(), "link-cut", &writer, "--peer", REPLICA]);
    for _ in 0..5 {
        assert!(lab.writes("libpq", None), "the writer needs no replica");
    }
    for host in [&writer, &lost] {
        lab.run(&["fault", lab.name(), "host-death", host]);
    }
    nobody_follows(&lab, term);
    let headline = lab.status()["findings"][0].clone();
    assert_eq!(headline["severity"], "outage", "{headline}");
    assert!(text(&headline["next"]).contains("holdfast failover"), "{headline}");

    let refused = failover(&lab, &["--yes"], 3);
    assert!(refused.contains("blocker 1: acknowledged writes may be lost"), "{refused}");
    failover(&lab, &["--accept-data-loss", "--dry-run"], 0);
    assert_eq!(lab.status()["term"]["term"], term, "a dry run changes nothing");
    failover(&lab, &["--accept-data-loss", "--yes", "--wait"], 0);
    eventually("clients write", || lab.writes("libpq", None));
    assert_eq!(lab.status()["term"]["holder"], REPLICA);
    is_told(&lab, term);

    lab.run(&["heal", lab.name()]);
    never_a_second_writer(&lab, &writer);
    eventually("the region is healthy again", || lab.is_healthy());
    assert_eq!(lab.status()["term"]["holder"], REPLICA);
}

/// The verb for the replica, which must end with that code; what it said.
fn failover(lab: &Lab, words: &[&str], code: i32) -> String {
    let said = lab.holdfast(&[&["failover", REPLICA, "--reason", "the site burns"], words].concat());
    assert_eq!(said.code, Some(code), "{words:?}: {said:?}");
    said.stdout + &said.stderr
}

fn nobody_follows(lab: &Lab, term: u64) {
    let begun = Instant::now();
    while begun.elapsed() < NOBODY {
        let found = lab.status()["term"]["term"].clone();
        assert!(found.is_null() || found == term, "term {found} was opened without a proof");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(!lab.writes("libpq", None), "nobody writes");
}

/// Who, why, and what was accepted stand with the order and with the incident.
fn is_told(lab: &Lab, term: u64) {
    let said = lab.holdfast(&["events", "-o", "json"]).stdout;
    let said: Value = serde_json::from_str(&said).unwrap();
    let order = &said["orders"][0];
    assert_eq!((&order["verb"], &order["node"]), (&"failover".into(), &REPLICA.into()), "{order}");
    assert!(text(&order["by"]).starts_with("holdfast://operator/"), "{order}");
    assert!(text(&order["accepted"]).contains(" of WAL, from "), "the loss is counted: {order}");
    let event = said["events"].as_array().unwrap().iter().find(|event| event["term"] == term).unwrap();
    for word in ["override by holdfast://operator/", "the site burns", " of WAL, from "] {
        assert!(text(&event["text"]).contains(word), "{word} is not in {event}");
    }
}

/// The old writer's host is back: its own sessions acknowledge nothing before it follows the new one.
fn never_a_second_writer(lab: &Lab, writer: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !lab.streams(writer) {
        assert!(Instant::now() < deadline, "the old writer never came back");
        assert_eq!(lab.sql(writer, COMMIT), None, "the old writer acknowledges");
    }
}
