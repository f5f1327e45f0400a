//! Faults on top of faults, faults of one etcd member, and scenarios.

use std::io::Write as _;

use serde_json::Value;

use super::support::{Lab, eventually, text};
use super::unit;

/// Healing one of two faults that pull the same cable, or kill the same host, leaves the other in force.
pub fn what_another_fault_breaks_stays_broken(lab: &Lab) {
    let ping = || lab.exec("db4", &["ping", "-c1", "-W1", "10.77.0.22"]).success();
    let fault = |kind: &str| text(&lab.run(&["fault", lab.name(), kind, "db4"])["id"]).to_owned();
    let heal = |id: &str| lab.run(&["heal", lab.name(), id]);
    assert!(ping());
    let (first, second) = (fault("link-cut"), fault("link-cut"));
    heal(&first);
    assert!(!ping(), "the second cut holds");
    let death = fault("host-death");
    heal(&second);
    let unplugged = || lab.exec("db4", &["ip", "link", "show", "eth0"]).stdout.contains("NO-CARRIER");
    assert!(unplugged(), "a dead host has no cable");
    let third = fault("link-cut");
    heal(&death);
    eventually("db4 has booted", || unit(&lab.describe(), "db4", "patroni-main")["pid"].is_i64());
    assert!(unplugged() && !ping(), "a boot plugs no cable in");
    heal(&third);
    eventually("db4 is plugged in", ping);
    assert_eq!(lab.run(&["heal", lab.name()]), Value::Array(Vec::new()));
    eventually("db4 streams again", || lab.streams("db4"));
}

pub fn one_member_of_etcd_goes_and_comes_back(lab: &Lab) {
    let refused = lab.fails(2, &["fault", lab.name(), "etcd-down", "db1"]);
    assert!(refused.contains("no etcd host"), "{refused}");
    let reaches = |address: &str| {
        let connect = format!("exec 3<>/dev/tcp/{address}/2379");
        lab.exec("db3", &["timeout", "1", "bash", "-c", &connect]).success()
    };
    lab.run(&["fault", lab.name(), "etcd-down", "e3"]);
    // Longer than its unit waits before it starts it again.
    std::thread::sleep(std::time::Duration::from_millis(1_200));
    let described = lab.describe();
    let etcd = unit(&described, "e3", "etcd");
    assert!(etcd["pid"].is_null() && etcd["held"] == true, "{etcd}");
    assert!(!reaches("10.77.0.13") && reaches("10.77.0.12"));
    assert!(lab.writes("libpq", None), "two of three are a quorum");
    lab.run(&["heal", lab.name(), "e3"]);
    eventually("the member answers again", || reaches("10.77.0.13"));
    for kind in ["etcd-full", "etcd-down"] {
        lab.run(&["fault", lab.name(), kind]);
    }
    let healed = lab.run(&["heal", lab.name()]);
    assert_eq!(healed.as_array().map(Vec::len), Some(2), "the alarm ends once etcd is there again: {healed}");
    eventually("etcd answers again", || lab.etcdctl(&["alarm", "list"]).success());
    assert_eq!(lab.etcdctl(&["alarm", "list"]).stdout.trim(), "");
}

/// One by its name, one from a file; both find the leader by themselves.
pub fn a_scenario_runs_step_by_step(lab: &Lab) {
    let refused = lab.fails(2, &["run", lab.name(), "earthquake"]);
    assert!(refused.contains("postmaster-kill"), "{refused}");
    let faults = lab.run(&["run", lab.name(), "postmaster-kill"]);
    assert_eq!(
        (faults[0]["kind"].as_str(), faults[0]["target"].as_str()),
        (Some("kill"), Some("postmaster"))
    );
    for (kind, pooler) in [("libpq", None), ("pgbouncer", Some("pool1"))] {
        eventually(&format!("a write through {kind}"), || lab.writes(kind, pooler));
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let steps = r#"step = [
        { fault = { kind = "stop", host = "@leader:main@r1", target = "patroni" } },
        { pause_ms = 200 },
        { heal = "all" },
        { fault = { kind = "kill", host = "nobody", target = "patroni" } },
    ]"#;
    file.write_all(steps.as_bytes()).unwrap();
    let partly = lab.fails(6, &["run", lab.name(), file.path().to_str().unwrap()]);
    assert!(partly.contains("step 4: lab t_faults has no host nobody"), "{partly}");
    assert_eq!(lab.run(&["heal", lab.name()]), Value::Array(Vec::new()), "step 3 has healed step 1");
}
