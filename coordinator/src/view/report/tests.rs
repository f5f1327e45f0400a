//! What three agents say of the same incidents becomes one line each.

use super::*;
use crate::view::testing::built_host::host_report;
use crate::view::testing::{NOW_WALL_MS, db};
use holdfast_types::record::WouldLine;
use holdfast_types::{Namespace, Profile};

fn record(of: u8, writer: u8, noticed_ms: i64) -> ObservedRecord {
    ObservedRecord {
        namespace: Namespace::new("service").unwrap(),
        scope: Scope::new("main").unwrap(),
        member: db(of),
        writer: db(writer),
        noticed_wall_ms: NOW_WALL_MS + noticed_ms,
        reason: ObservedReason::SessionGone,
        last_sign_wall_ms: None,
        would: Vec::new(),
        waits: Vec::new(),
        would_close_wall_ms: None,
        would_name: None,
        next: None,
        led_wall_ms: None,
        writable_wall_ms: None,
    }
}

fn at(ms: i64) -> Option<i64> {
    Some(NOW_WALL_MS + ms)
}

fn report(records: Vec<ObservedRecord>) -> Report {
    let mut answers = BTreeMap::new();
    for n in 1..=4 {
        let mut host = host_report(&format!("db{n}"), Profile::Normal, &[(10, 1_204)]);
        host.incidents = records.iter().filter(|one| one.member == db(n)).cloned().collect();
        answers.insert(format!("db{n}"), Ok(host));
    }
    answers.insert("db5".into(), Err("no route".into()));
    let (region, scope) = (RegionName::new("r1").unwrap(), Scope::new("main").ok());
    let question = Question { region, cluster: None, scope, since_wall_ms: NOW_WALL_MS };
    Report::new(&question, &answers)
}

#[test]
fn a_dead_host_that_two_saw_is_one_incident_with_its_outage() {
    let mut by_2 = record(2, 1, 3_000);
    by_2.last_sign_wall_ms = at(100);
    by_2.would = vec![WouldLine { at_wall_ms: NOW_WALL_MS + 3_000, text: "left db1".into() }];
    by_2.waits = vec!["CLOSE: 1 of 2".into()];
    let mut by_3 = record(3, 1, 3_010);
    (by_3.last_sign_wall_ms, by_3.would_close_wall_ms, by_3.would_name) = (at(0), at(3_200), Some(db(3)));
    (by_3.next, by_3.led_wall_ms) = (Some(db(2)), at(23_000));
    (by_2.next, by_2.led_wall_ms, by_2.writable_wall_ms) = (Some(db(2)), at(23_100), at(23_400));
    let report = report(vec![by_2.clone(), by_3.clone()]);
    assert_eq!(report.incidents.len(), 1);
    let one = &report.incidents[0];
    assert_eq!(one.seen_by, [db(2), db(3)]);
    assert_eq!((one.would_close_after_ms, &one.would_name), (Some(3_100), &Some(db(3))));
    assert_eq!((&one.next, one.outage_ms, one.outage_is_at_least), (&Some(db(2)), Some(23_300), false));
    assert!(one.waits.is_empty(), "it would have been closed");
    let text = report.text();
    assert!(text.contains("named db3") && text.contains("db2 led; nobody wrote for 23300 ms"), "{text}");
    assert!(text.contains("db2: would have left db1"), "{text}");
    assert!(
        text.contains("the agent of db5 does not answer, and what it saw is missing: no route"),
        "{text}"
    );
    // The next leader's own agent does not answer.
    by_3.member = db(4);
    let least = self::report(vec![by_3]);
    assert!(least.incidents[0].outage_is_at_least && least.text().contains("at least 23000 ms"), "{least:?}");
}

#[test]
fn the_writers_own_agent_knows_its_last_moment() {
    let mut own = record(1, 1, 0);
    (own.reason, own.last_sign_wall_ms) = (ObservedReason::PostmasterGone, at(-5));
    (own.next, own.led_wall_ms, own.writable_wall_ms) = (Some(db(1)), at(1_500), at(1_500));
    let mut by_2 = record(2, 1, 20);
    (by_2.last_sign_wall_ms, by_2.next, by_2.led_wall_ms) = (at(900), Some(db(1)), at(1_600));
    let report = report(vec![own, by_2]);
    let one = &report.incidents[0];
    assert_eq!((one.reason, one.outage_ms), (ObservedReason::PostmasterGone, Some(1_505)));
    assert!(report.text().contains("db1 itself went on; nobody wrote for 1505 ms"));
    assert!(report.text().contains("would not have closed its reign"));
}

#[test]
fn two_incidents_stay_two() {
    let twice = report(vec![record(2, 1, 0), record(2, 1, 5_000), record(3, 1, 5_010)]);
    assert_eq!(twice.incidents.len(), 2, "one agent saw two");
    assert_eq!(report(vec![record(2, 1, 0), record(3, 1, 31_000)]).incidents.len(), 2);
    assert_eq!(report(vec![record(2, 1, 0), record(3, 2, 0)]).incidents.len(), 2);
    // Patroni hung: its own agent noticed long before the others saw the lock go.
    let mut hung = record(1, 1, 0);
    (hung.next, hung.led_wall_ms) = (Some(db(2)), at(60_000));
    let one = report(vec![hung, record(2, 1, 60_010)]);
    assert_eq!(one.incidents.len(), 1);
    let newest = report(vec![record(2, 1, 0), record(2, 1, 100_000)]).incidents;
    assert!(newest[0].noticed_at > newest[1].noticed_at);
}

#[test]
fn what_was_not_asked_for_is_left_out() {
    let mut other = record(2, 1, 0);
    other.scope = Scope::new("other").unwrap();
    let report = report(vec![other, record(2, 1, -1)]);
    assert!(report.incidents.is_empty() && report.has_answers());
    assert!(report.text().starts_with("no incident was observed since 2026-11-24T00:00:00.000Z"));
    assert_eq!(report.hosts.len(), 4);
}
