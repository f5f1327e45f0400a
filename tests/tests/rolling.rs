//! Rolling work on real servers, through three poolers under load: a writer is drained, its host is switched off and on, and it
//! is taken back; PostgreSQL of all members is restarted; a command runs on one host after the other. No client meets an error,
//! and what stops half-way says so. Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_lab::checker::monotonic_us;
use serde_json::Value;
use support::region::{Region, unnoticed};
use support::{eventually, text};

const POSTMASTER_START: &str = "select pg_postmaster_start_time()";
const MEMBERS: [&str; 3] = ["db1", "db2", "db3"];

#[test]
fn nodes_are_taken_away_and_back_and_no_client_notices() {
    let region = Region::up("t_rolling");
    drains_the_writer(&region);
    drains_a_pooler(&region);
    restarts_everybody(&region);
    runs_a_command_host_by_host(&region);
}

fn member(status: &Value, name: &str) -> Value {
    let members = status["members"].as_array().cloned().unwrap_or_default();
    members.into_iter().find(|member| member["member"] == name).unwrap_or_default()
}

fn drains_the_writer(region: &Region) {
    let (writer, term) = region.settled();
    let load = region.load("drain");
    let at_us = monotonic_us();
    let said = region.orders(&["drain", &writer], &[]);
    assert!(said.success(), "{said:?}");
    let (next, after) = region.term();
    assert!(next != writer && after == term + 1, "{next} in term {after}");
    let status = region.lab.status();
    assert_eq!(member(&status, &writer)["drained"], true, "{status}");
    assert!(text(&status["drained"][0]["by"]).starts_with("operator/"), "{status}");
    let third = MEMBERS.into_iter().find(|name| *name != writer && *name != next).unwrap();
    for refused in [
        region.orders(&["drain", third], &[]),
        region.orders(&["switchover", "--to", &writer], &[]),
        region.orders(&["restart", "--rolling", "--all"], &[]),
    ] {
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.contains(&format!("{writer} is drained")), "{refused:?}");
    }
    let before = started(region, &writer);
    region.lab.run(&["fault", region.lab.name(), "power-cycle", &writer]);
    eventually("it has come back and streams", || {
        let now = region.lab.sql(&writer, POSTMASTER_START);
        let is_another = now.is_some_and(|now| now != before);
        is_another && region.lab.streams(&writer) && member(&region.lab.status(), &writer)["agent"] == "alive"
    });
    let said = region.orders(&["undrain", &writer], &[]);
    // What its agent has published of the stream may be older.
    assert!(said.success() && said.stdout.contains("done: "), "{said:?}");
    region.settled();
    assert_eq!(region.lab.status()["drained"], serde_json::json!([]));
    load.steady(monotonic_us());
    unnoticed("drain of the writer, power cycle", &load.recorded(at_us));
}

/// The mark alone: what its agent does with it is not looked at here.
fn drains_a_pooler(region: &Region) {
    let name = text(&region.lab.status()["routes"][0]["pooler"]).to_owned();
    assert!(region.orders(&["drain", &name], &[]).success());
    let status = region.lab.status();
    assert_eq!(
        (&status["drained"][0]["node"], &status["routes"][0]["drained"]),
        (&name.into(), &true.into())
    );
    let other = text(&status["routes"][1]["pooler"]).to_owned();
    assert_eq!(region.orders(&["drain", &other], &[]).code, Some(3), "one at a time");
    let name = text(&status["routes"][0]["pooler"]);
    assert!(region.orders(&["undrain", name], &[]).success());
}

fn started(region: &Region, name: &str) -> String {
    region.lab.sql(name, POSTMASTER_START).expect("PostgreSQL answers")
}

fn restarts_everybody(region: &Region) {
    let (writer, term) = region.settled();
    let before = MEMBERS.map(|name| started(region, name));
    let load = region.load("restart");
    let at_us = monotonic_us();
    let begun = Instant::now();
    let said = region.orders(&["restart", "--rolling", "--all"], &[]);
    assert!(said.success(), "{said:?}");
    eprintln!("restart --rolling --all: {:.1} s", begun.elapsed().as_secs_f32());
    for (name, before) in MEMBERS.iter().zip(&before) {
        assert_ne!(started(region, name), *before, "{name}");
    }
    let newest = region.newest();
    assert_eq!(text(&newest["ended"]["state"]), "done", "{newest}");
    assert_eq!(newest["rolling"]["now"], writer.as_str(), "the writer was last: {newest}");
    assert_eq!(newest["rolling"]["restarted"].as_array().map(Vec::len), Some(2), "{newest}");
    assert_eq!(region.term().1, term + 1);
    load.steady(monotonic_us());
    unnoticed("restart --rolling --all", &load.recorded(at_us));
    let nobody = region.orders(&["restart", "--rolling"], &[]);
    assert!(nobody.success() && nobody.stdout.contains("nobody"), "{nobody:?}");
}

/// A command that fails leaves its node drained; the call that it names goes on, and its command has each host switched off and
/// on, the writer's last.
fn runs_a_command_host_by_host(region: &Region) {
    let (writer, term) = region.settled();
    let standby = region.another(&writer);
    let both = format!("{standby},{writer}");
    let run = ["rolling", "run", "--reason", "test", "--yes", "--only", &both, "--"];
    let load = region.load("run");
    let at_us = monotonic_us();
    let failed = region.lab.holdfast(&[&run[..], &["false"]].concat());
    assert_eq!(failed.code, Some(6), "{failed:?}");
    let resume = format!("holdfast rolling run --only {both} ");
    assert!(failed.stdout.contains("is drained") && failed.stdout.contains(&resume), "{failed:?}");
    assert_eq!(member(&region.lab.status(), standby)["drained"], true);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("turn");
    let shown = file.display();
    let script = format!(
        "echo $HOLDFAST_NODE $HOLDFAST_HOST $HOLDFAST_ADDRESS $HOLDFAST_ROLE > {shown}.new && mv {shown}.new {shown} \
         && while [ -e {shown} ]; do sleep 0.1; done"
    );
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| region.lab.holdfast(&[&run[..], &["sh", "-c", &script]].concat()));
        for node in [standby, &writer] {
            let turn = turn_of(&file);
            assert!(turn.starts_with(&format!("{node} {node} 10.")), "{turn}");
            assert!(turn.ends_with(" database"), "{turn}");
            assert_ne!(region.term().0, node);
            region.lab.run(&["fault", region.lab.name(), "power-cycle", node]);
            std::fs::remove_file(&file).unwrap();
        }
        let said = asking.join().unwrap();
        eprintln!("{}{}", said.stderr, said.stdout);
        assert!(said.success() && said.stdout.contains(&format!("done: {standby}, {writer}")), "{said:?}");
    });
    let (_, after) = region.settled();
    assert_eq!(after, term + 1, "one hand-over, and no failover");
    load.steady(monotonic_us());
    unnoticed("rolling run, two power cycles", &load.recorded(at_us));
}

/// What the command has written once it runs.
fn turn_of(file: &Path) -> String {
    let begun = Instant::now();
    loop {
        if let Ok(turn) = std::fs::read_to_string(file) {
            return turn.trim().to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the command was not run");
        std::thread::sleep(Duration::from_millis(50));
    }
}
