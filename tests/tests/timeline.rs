//! Rule 14's timelines with real servers: after reigns that nobody followed, whose history files are on no disk here, the
//! next writer takes the id that OPEN reserved, its standbys follow, the old writer is rewound, and the next failover goes
//! on from there. Needs root, `tests/setup`, and the built workspace.
//!
//! The reigns themselves are only in the term record: what counts is that no file of theirs is there.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use serde_json::{Value, json};
use support::{Lab, eventually, host, text, within};

const SPEC: &str = include_str!("../specs/quick.toml");
const TERM: &str = "/holdfast/v1/r1/service/main/term";
const DEADLINE_MS: u64 = 10_000;

#[test]
fn the_id_of_a_reign_that_nobody_followed_is_not_taken_again() {
    let lab = Lab::up("t_timeline", SPEC);
    assert_eq!(record(&lab)["timeline"], timeline(&lab), "the first OPEN records where the leader writes");
    let skipped = timeline(&lab) + 3;
    let mut changed = record(&lab);
    changed["timeline"] = json!(skipped);
    assert!(lab.etcdctl(&["put", TERM, &changed.to_string()]).success());
    eventually("the region is healthy", || lab.is_healthy());

    lab.bench("host-death");
    eventually("the region is healthy", || lab.is_healthy());
    assert_eq!(timeline(&lab), skipped + 1);
    assert_eq!(record(&lab)["timeline"], skipped + 1);
    let log = std::fs::read_to_string(text(&host(&lab.describe(), &writer(&lab))["logs"]["agent"])).unwrap();
    assert!(log.contains("were reserved by reigns that this node has not followed"), "{log}");

    lab.bench("host-death");
    eventually("the region is healthy", || lab.is_healthy());
    assert_eq!(timeline(&lab), skipped + 2, "PostgreSQL has seen every file that it needs");
    let writer = writer(&lab);
    for standby in ["db1", "db2", "db3"].into_iter().filter(|name| *name != writer) {
        eventually("the standby streams", || lab.streams(standby));
    }
}

fn record(lab: &Lab) -> Value {
    serde_json::from_str(&lab.etcdctl(&["get", TERM, "--print-value-only"]).stdout).unwrap()
}

fn writer(lab: &Lab) -> String {
    text(&lab.status()["term"]["holder"]).to_owned()
}

/// Where the writer writes.
fn timeline(lab: &Lab) -> u64 {
    let described = lab.describe();
    let writer = writer(lab);
    let socket = text(&host(&described, &writer)["instances"][0]["socket_dir"]);
    let sql = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    let said = within(DEADLINE_MS, &["psql", "-qAtX", "-h", socket, "-U", "postgres", "-c", sql]).stdout;
    u64::from_str_radix(&said[..8], 16).unwrap()
}
