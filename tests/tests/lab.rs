//! The lab itself, against the real programs: it comes up, breaks what it is told to break, heals it, and leaves nothing
//! behind. Needs root, `tests/setup`, and the built workspace.

// The helpers of a test are a test.
#![allow(clippy::unwrap_used)]

#[path = "lab/bystander.rs"]
mod bystander;
#[path = "lab/kinds.rs"]
mod kinds;
#[path = "lab/overlap.rs"]
mod overlap;
mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{Lab, eventually, host, leftovers, text};

/// Patroni alone, so that nothing but the lab is under test, and with a pace that wastes no time.
const PATRONI: &str = "holdfast = false\n[patroni]\nttl = 20\nloop_wait = 1\nretry_timeout = 3\n";
/// The same on hosts whose disks and clocks can break too.
const BREAKABLE: &str = "holdfast = false\nown_disk = true\nfake_clock = true\n\
    [patroni]\nttl = 20\nloop_wait = 1\nretry_timeout = 3\n";

#[test]
fn a_lab_breaks_and_heals_and_leaves_nothing() {
    let lab = Lab::up("t_faults", BREAKABLE);
    let list = lab.run(&["list"]);
    assert!(list.to_string().contains("\"t_faults\""), "{list}");

    a_killed_process_comes_back(&lab);
    a_stopped_process_stands_still(&lab);
    a_frozen_host_stands_still(&lab);
    cut_links_carry_nothing(&lab);
    etcd_goes_and_comes_back(&lab);
    a_power_cycle_is_a_boot(&lab);
    a_dead_host_stays_dead_until_it_is_healed(&lab);
    kinds::every_smaller_kind_does_what_it_says(&lab);
    overlap::what_another_fault_breaks_stays_broken(&lab);
    overlap::one_member_of_etcd_goes_and_comes_back(&lab);
    overlap::a_scenario_runs_step_by_step(&lab);

    bystander::a_killed_supervisor_is_told_and_down_takes_only_what_is_the_labs(lab);
}

fn a_killed_process_comes_back(lab: &Lab) {
    let fault = lab.run(&["fault", lab.name(), "kill", "db4", "patroni"]);
    let killed = fault["pids"][0].as_i64().unwrap();
    eventually("Patroni of db4 is started again", || {
        let pid = unit(&lab.describe(), "db4", "patroni-main")["pid"].as_i64();
        pid.is_some_and(|pid| pid != killed)
    });
    let refused = lab.fails(2, &["fault", lab.name(), "kill", "db4", "horse"]);
    assert!(refused.contains("has no unit horse"), "{refused}");
}

fn a_stopped_process_stands_still(lab: &Lab) {
    for target in ["postmaster", "patroni"] {
        let fault = lab.run(&["fault", lab.name(), "stop", "db4", target]);
        let pid = fault["pids"][0].as_i64().unwrap();
        eventually("it is stopped", || state(pid) == 'T');
        if target == "postmaster" {
            lab.run(&["heal", lab.name(), text(&fault["id"])]);
        } else {
            lab.run(&["fault", lab.name(), "continue", "db4", target]);
            assert_eq!(lab.run(&["heal", lab.name()]), Value::Array(Vec::new()), "continue was a heal");
        }
        eventually("it runs", || matches!(state(pid), 'S' | 'R'));
    }
}

fn a_frozen_host_stands_still(lab: &Lab) {
    let cgroup = text(&host(&lab.describe(), "db4")["cgroup"]).to_owned();
    let frozen = || fs::read_to_string(format!("{cgroup}/cgroup.events")).unwrap().contains("frozen 1");
    lab.run(&["fault", lab.name(), "freeze", "db4"]);
    eventually("db4 is frozen", frozen);
    lab.run(&["fault", lab.name(), "thaw", "db4"]);
    eventually("db4 is thawed", || !frozen());
    assert_eq!(lab.run(&["heal", lab.name()]), Value::Array(Vec::new()), "the thaw was a heal");
}

fn cut_links_carry_nothing(lab: &Lab) {
    let ping = |from: &str, to: &str| lab.exec(from, &["ping", "-c1", "-W1", to]).success();
    assert!(ping("db4", "10.77.0.21"));
    lab.run(&["fault", lab.name(), "link-cut", "db4", "--peer", "db1"]);
    assert!(!ping("db4", "10.77.0.21") && ping("db4", "10.77.0.22"));
    lab.run(&["fault", lab.name(), "link-cut", "db4"]);
    assert!(!ping("db4", "10.77.0.22"));
    let healed = lab.run(&["heal", lab.name(), "db4"]);
    assert_eq!(healed.as_array().unwrap().len(), 2);
    assert!(ping("db4", "10.77.0.21"));
}

fn etcd_goes_and_comes_back(lab: &Lab) {
    let reaches = |from: &str| {
        let connect = "timeout 1 bash -c 'exec 3<>/dev/tcp/10.77.0.11/2379'";
        lab.exec(from, &["bash", "-c", connect]).success()
    };
    lab.run(&["fault", lab.name(), "etcd-cut", "db4"]);
    assert!(!reaches("db4") && reaches("db3"));
    lab.run(&["heal", lab.name(), "db4"]);
    assert!(reaches("db4"));
    lab.run(&["fault", lab.name(), "etcd-down"]);
    assert!(!reaches("db3"));
    lab.run(&["heal", lab.name()]);
    eventually("etcd answers again", || reaches("db3"));
}

fn a_power_cycle_is_a_boot(lab: &Lab) {
    let boot_id = || lab.exec("db4", &["cat", "/proc/sys/kernel/random/boot_id"]).stdout;
    let tables = || lab.exec("db4", &["nft", "list", "tables"]).stdout;
    let run = text(&host(&lab.describe(), "db4")["instances"][0]["socket_dir"]).to_owned();
    let mark = Path::new(&run).parent().unwrap().join("mark");
    fs::write(&mark, "lost at a boot").unwrap();
    assert!(lab.exec("db4", &["nft", "add", "table", "inet", "mine"]).success());
    let before = boot_id();
    assert_ne!(before, fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap());

    lab.run(&["fault", lab.name(), "power-cycle", "db4"]);
    eventually("db4 has booted", || {
        unit(&lab.describe(), "db4", "patroni-main")["pid"].is_i64() && boot_id() != before
    });
    assert!(!mark.exists() && !tables().contains("mine"), "{}", tables());
}

fn a_dead_host_stays_dead_until_it_is_healed(lab: &Lab) {
    let clients = [("libpq", None), ("pgbouncer", Some("pool1"))];
    lab.run(&["fault", lab.name(), "host-death", "db4"]);
    let description = lab.describe();
    let dead = host(&description, "db4");
    assert_eq!(
        fs::read_to_string(format!("{}/cgroup.events", text(&dead["cgroup"]))).unwrap(),
        "populated 0\nfrozen 0\n"
    );
    assert!(unit(&description, "db4", "patroni-main")["held"].as_bool().unwrap());
    for (kind, pooler) in clients {
        eventually(&format!("a write through {kind}"), || lab.writes(kind, pooler));
    }
    lab.run(&["heal", lab.name(), "db4"]);
    eventually("db4 streams again", || lab.streams("db4"));
}

#[test]
fn a_lab_whose_up_was_killed_is_taken_down() {
    let lab = Lab::named("t_killed");
    let mut up = lab.start_up(PATRONI);
    let data = Path::new("/var/lib/holdfast-lab/t_killed/db2/data");
    eventually("db2 has been started", || data.exists());
    up.kill().unwrap();
    up.wait().unwrap();
    assert_ne!(leftovers("t_killed"), [""; 0], "it had made something");
    lab.down();
    assert_eq!(leftovers("t_killed"), [""; 0]);
}

#[test]
fn what_cannot_come_up_is_refused_with_its_reason() {
    let lab = Lab::named("t_refused");
    for (spec, why) in [("holdfst = true", "holdfst"), ("[patroni]\nttl = 5", "at least 20")] {
        let refused = lab.try_up(spec);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    assert!(lab.fails(2, &["describe", "t_refused"]).contains("there is no lab t_refused"));
    assert_eq!(leftovers("t_refused"), [""; 0]);
}

pub fn unit<'d>(described: &'d Value, name: &str, unit: &str) -> &'d Value {
    let units = host(described, name)["units"].as_array().unwrap();
    units.iter().find(|one| one["name"] == unit).unwrap()
}

pub fn state(pid: i64) -> char {
    holdfast_host::process::stat(i32::try_from(pid).unwrap()).map_or('-', |stat| stat.state)
}
