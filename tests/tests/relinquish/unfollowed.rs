//! Rule 14 with real servers: a writer that nobody could follow. It opens its term, is promoted, writes what reaches nobody,
//! and its host dies. The next one is promoted from the history before, to another timeline id, and so the first one can
//! be told from it: it is rewound.

use std::time::{Duration, Instant};

use holdfast_lab::checker::monotonic_us;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::late::Late;
use super::support::load::Load;
use super::support::{Lab, eventually, host, text};
use super::{DATABASES, LATE, processes, term, wait_for_open};

const TERM: &str = "/holdfast/v1/r1/service/main/term";
/// Its answer is there within milliseconds; a busy machine may take longer.
const HOOK_ENDS: Duration = Duration::from_secs(60);

/// Of a healthy region, whose agents hear etcd late when they are to.
pub fn leaves_the_next_a_timeline_of_its_own(lab: &Lab, described: &Value, lates: &[Late]) {
    let load = Load::start(lab, "unfollowed");
    let (at_us, before) = (monotonic_us(), lab.status());
    let first = text(&before["term"]["holder"]).to_owned();
    let others: Vec<&str> = DATABASES.into_iter().filter(|name| *name != first).collect();
    lab.run(&["fault", lab.name(), "link-cut", others[0], "--peer", others[1]]);
    lates.iter().for_each(|late| late.set(LATE));
    let unfollowed = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let holder = wait_for_open(described, term(&before) + 1);
            stop_patroni_after_its_hook(text(&host(described, &holder)["cgroup"]), lates);
            holder
        });
        lab.run(&["fault", lab.name(), "host-death", &first]);
        opened.join().unwrap()
    });
    // Its Patroni may have ordered it before it stopped.
    lab.sql(&unfollowed, "SELECT pg_promote() WHERE pg_is_in_recovery()");
    // Told to its client, on its own disk alone.
    lab.sql(&unfollowed, "SET synchronous_commit = local; CREATE TABLE unfollowed ()");
    let lost = lab.timeline_of(&unfollowed);
    lab.run(&["fault", lab.name(), "host-death", &unfollowed]);
    lab.run(&["heal", lab.name(), &first]);
    eventually("the next one is promoted, from the history before", || {
        let now = lab.status();
        now["term"]["holder"] != unfollowed.as_str() && now["term"]["writable"] == true
    });
    let next = text(&lab.status()["term"]["holder"]).to_owned();
    eprintln!(
        "{first} was lost, {unfollowed} wrote on timeline {lost}, {next} writes on {}",
        lab.timeline_of(&next)
    );
    assert_ne!(lab.timeline_of(&next), lost, "two histories have one timeline id");
    assert_eq!(
        lab.timeline_of(&next),
        recorded(lab).to_string(),
        "the record says on which timeline it writes"
    );
    lab.run(&["heal", lab.name()]);
    eventually("the region is healthy", || lab.is_healthy());
    eventually("who was not followed streams from the next", || lab.streams(&unfollowed));
    let log = std::fs::read_to_string(text(&host(described, &unfollowed)["logs"]["patroni-main"])).unwrap();
    assert!(log.contains("running pg_rewind"), "its history is another one");
    for name in DATABASES {
        assert_eq!(
            lab.sql(name, "SELECT to_regclass('unfollowed') IS NULL").as_deref(),
            Some("t"),
            "{name} has what reached nobody"
        );
    }
    load.steady(monotonic_us());
    let verdict = load.end(at_us);
    assert_eq!(verdict.lost.count, 0, "acknowledged rows are lost: {verdict:?}");
    assert_eq!(verdict.two_acknowledging.certain_us, 0, "two writers: {verdict:?}");
}

/// Its hook waits for the answer of OPEN, and is let go. Then its Patroni stops, before it can see that nobody follows: it
/// would take everybody out of `/sync`, and go on alone.
fn stop_patroni_after_its_hook(cgroup: &str, lates: &[Late]) {
    let hooks = processes(cgroup, "promote-gate");
    assert!(!hooks.is_empty(), "its hook waits");
    lates.iter().for_each(|late| late.set(Duration::ZERO));
    let let_go = Instant::now();
    while hooks.iter().any(|pid| kill(*pid, None).is_ok()) {
        assert!(let_go.elapsed() < HOOK_ENDS, "its hook does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    for pid in processes(cgroup, "patroni-main.yml") {
        kill(pid, Signal::SIGSTOP).unwrap();
    }
}

/// The timeline that the term record reserves.
fn recorded(lab: &Lab) -> u64 {
    let said = lab.etcdctl(&["get", "--print-value-only", TERM]).stdout;
    let record: Value = serde_json::from_str(&said).unwrap_or_default();
    record["timeline"].as_u64().unwrap_or_default()
}
