//! Planted faults: each must be found, and nothing else.

use super::super::record::{ClientInfo, NodeState, Probe};
use super::*;

fn client(number: u32, route: &str, kind: RouteKind, host: Option<&str>) -> ClientInfo {
    ClientInfo { client: number, route: route.into(), kind, host: host.map(str::to_owned) }
}

/// 400 attempts of each of three clients, 40 ms apart, all acknowledged within 3 ms by db1.
fn healthy() -> (Recording, RowSet) {
    let clients = vec![
        client(0, "libpq", RouteKind::Libpq, None),
        client(1, "libpq", RouteKind::Libpq, None),
        client(2, "socket:db1", RouteKind::Socket, Some("db1")),
    ];
    let mut recording = Recording { run: "r".into(), clients, end_us: 16_000_000, ..Recording::default() };
    let mut rows = RowSet::new();
    for seq in 0..400 {
        let begin_us = seq * 40_000;
        for client in 0..3 {
            let end_us = begin_us + 3_000;
            recording.attempts.push(Attempt {
                client,
                seq,
                begin_us,
                end_us,
                outcome: Outcome::Acknowledged,
            });
            rows.insert((client, seq));
        }
        let end_us = begin_us + 1_000;
        recording.probes.push(Probe {
            host: "db1".into(),
            begin_us,
            end_us,
            state: NodeState::Writable,
            standbys: None,
        });
    }
    (recording, rows)
}

fn attempt_mut(recording: &mut Recording, client: u32, seq: u64) -> &mut Attempt {
    let mut attempts = recording.attempts.iter_mut();
    attempts.find(|attempt| (attempt.client, attempt.seq) == (client, seq)).expect("planted by the test")
}

#[test]
fn a_healthy_run_is_clean() {
    let (recording, rows) = healthy();
    let verdict = judge(&recording, &rows, Some(8_000_000));
    assert!(verdict.is_clean());
    assert_eq!(verdict.counts.acknowledged, 1200);
    assert_eq!(verdict.two_writable, Overlap::default());
    assert_eq!(verdict.writable_hosts, ["db1".to_owned()].into());
    let libpq = &verdict.routes[0];
    assert_eq!((libpq.route.as_str(), libpq.gap.unwrap().gap_us), ("libpq", 40_000));
    assert_eq!(verdict.routes[1].gap, None);
}

#[test]
fn a_planted_lost_row_is_found() {
    let (mut recording, mut rows) = healthy();
    rows.remove(&(1, 77));
    rows.remove(&(2, 78));
    attempt_mut(&mut recording, 2, 78).outcome = Outcome::Warned;
    let verdict = judge(&recording, &rows, None);
    assert_eq!(verdict.lost.count, 1);
    assert_eq!((verdict.lost.examples[0].client, verdict.lost.examples[0].seq), (1, 77));
    assert_eq!(verdict.lost_warned.count, 1);
    assert!(!verdict.is_clean());
}

#[test]
fn unknown_is_neither_lost_nor_absent() {
    let (mut recording, mut rows) = healthy();
    for seq in [10, 11] {
        attempt_mut(&mut recording, 0, seq).outcome = Outcome::Unknown { reason: "closed".into() };
    }
    rows.remove(&(0, 10));
    let verdict = judge(&recording, &rows, None);
    assert!(verdict.is_clean());
    assert_eq!((verdict.counts.unknown, verdict.counts.unknown_present), (2, 1));
    assert_eq!(verdict.routes[0].errors["closed"], 2);
}

#[test]
fn errors_are_counted_by_client() {
    let (mut recording, rows) = healthy();
    for (client, seq) in [(0, 10), (0, 11), (1, 10)] {
        attempt_mut(&mut recording, client, seq).outcome = Outcome::Unknown { reason: "closed".into() };
    }
    let verdict = judge(&recording, &rows, None);
    let most: Vec<Option<u64>> = verdict.routes.iter().map(|route| route.errors_of_one_client_max).collect();
    assert_eq!(most, [Some(2), Some(0)]);
    assert_eq!(verdict.routes[0].errors["closed"], 3);
}

#[test]
fn a_row_that_appears_though_refused_is_found() {
    let (mut recording, _) = healthy();
    let refused = Outcome::Refused { reason: "25006".into() };
    attempt_mut(&mut recording, 0, 5).outcome = refused.clone();
    attempt_mut(&mut recording, 0, 6).outcome = refused;
    let rows: RowSet = recording
        .attempts
        .iter()
        .map(|attempt| (attempt.client, attempt.seq))
        .filter(|key| *key != (0, 6))
        .collect();
    let verdict = judge(&recording, &rows, None);
    assert_eq!(verdict.appeared_though_refused.count, 1);
    assert_eq!(verdict.routes[0].errors["25006"], 2);
    assert!(!verdict.is_clean());
}

#[test]
fn a_planted_second_writer_is_found() {
    let (mut recording, mut rows) = healthy();
    recording.clients.push(client(3, "socket:db2", RouteKind::Socket, Some("db2")));
    for seq in 0..50 {
        let begin_us = 4_000_000 + seq * 40_000;
        let end_us = begin_us + 3_000;
        recording.attempts.push(Attempt { client: 3, seq, begin_us, end_us, outcome: Outcome::Acknowledged });
        rows.insert((3, seq));
        let state = NodeState::Writable;
        recording.probes.push(Probe { host: "db2".into(), begin_us, end_us, state, standbys: None });
    }
    let verdict = judge(&recording, &rows, None);
    assert_eq!(verdict.two_writable.hosts, ["db1", "db2"]);
    // 49 steps of 40 ms, less the 3 ms that the first answer took.
    assert_eq!(verdict.two_writable.certain_us, 1_957_000);
    assert_eq!(verdict.two_acknowledging.certain_us, 1_957_000);
    assert_eq!(verdict.lost.count, 0);
    assert!(!verdict.is_clean());
}

#[test]
fn a_planted_gap_is_found_on_its_route_only() {
    let (mut recording, rows) = healthy();
    let dark = 200..275;
    recording.attempts.retain(|attempt| attempt.client == 2 || !dark.contains(&attempt.seq));
    recording.clients.push(client(4, "pgbouncer:pool1", RouteKind::Pgbouncer, None));
    let mut pooled: Vec<Attempt> =
        recording.attempts.iter().filter(|attempt| attempt.client == 2).cloned().collect();
    pooled.iter_mut().for_each(|attempt| attempt.client = 4);
    recording.attempts.append(&mut pooled);
    let rows = rows.iter().copied().chain((0..400).map(|seq| (4, seq))).collect();
    let verdict = judge(&recording, &rows, Some(8_000_000));
    let gap_of = |name: &str| {
        let mut routes = verdict.routes.iter();
        routes.find(|route| route.route == name).and_then(|route| route.gap).expect("the route is there")
    };
    assert_eq!(gap_of("libpq").gap_us, 76 * 40_000);
    assert_eq!(gap_of("pgbouncer:pool1").gap_us, 40_000);
    assert!(!gap_of("libpq").open);
}

#[test]
fn the_json_form_names_its_format_and_comes_back() {
    let (recording, rows) = healthy();
    let verdict = judge(&recording, &rows, Some(8_000_000));
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(serde_json::from_value::<Verdict>(json).unwrap(), verdict);
}
