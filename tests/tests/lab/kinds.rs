//! Each kind of fault that breaks less than a host does what it says, and its heal undoes it.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::support::{Lab, eventually, host, text, within};
use super::{state, unit};

const COMMAND_MS: u64 = 20_000;

pub fn every_smaller_kind_does_what_it_says(lab: &Lab) {
    a_link_is_cut_one_way(lab);
    all_of_postgresql_stands_still(lab);
    a_starved_host_runs_a_tenth_of_the_time(lab);
    no_new_session_without_memory(lab);
    a_flush_takes_the_rules_and_not_the_faults(lab);
    a_clock_jumps_and_the_others_do_not(lab);
    etcd_is_slow_and_full_and_has_another_leader(lab);
    a_disk_hangs(lab);
    a_disk_turns_read_only_until_the_next_boot(lab);
    what_makes_no_sense_is_refused(lab);
}

fn a_link_is_cut_one_way(lab: &Lab) {
    // Whether a datagram of one host reaches the other: a ping needs both ways.
    let arrives = |from: &str, to: &str, address: &str| {
        let listen = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9999)); \
                      s.settimeout(2); s.recv(9)";
        let send = format!(
            "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             for _ in range(15): s.sendto(b'x', ('{address}', 9999)); time.sleep(0.1)"
        );
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| lab.exec(to, &["/usr/bin/python3", "-c", listen]).success());
            // A packet that the filter drops is an error for its sender.
            lab.exec(from, &["/usr/bin/python3", "-c", &send]);
            listener.join().unwrap()
        })
    };
    lab.run(&["fault", lab.name(), "link-cut", "db4", "--peer", "db3", "--direction", "out"]);
    assert!(!arrives("db4", "db3", "10.77.0.23") && arrives("db3", "db4", "10.77.0.24"));
    lab.run(&["heal", lab.name()]);
    assert!(arrives("db4", "db3", "10.77.0.23"));
}

fn all_of_postgresql_stands_still(lab: &Lab) {
    let fault = lab.run(&["fault", lab.name(), "stop", "db4", "postgres"]);
    let pids: Vec<i64> = fault["pids"].as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap()).collect();
    assert!(pids.len() > 3, "{pids:?}");
    eventually("all are stopped", || pids.iter().all(|pid| state(*pid) == 'T'));
    lab.run(&["heal", lab.name()]);
    eventually("all run", || pids.iter().all(|pid| state(*pid) != 'T'));
}

fn a_starved_host_runs_a_tenth_of_the_time(lab: &Lab) {
    // Processor time of a busy loop of one second.
    let busy = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nprint(time.process_time())";
    let used = || {
        let said = lab.exec("db4", &["/usr/bin/python3", "-c", busy]).stdout;
        said.trim().parse::<f64>().unwrap()
    };
    lab.run(&["fault", lab.name(), "cpu-starve", "db4"]);
    let starved = used();
    lab.run(&["heal", lab.name()]);
    assert!(starved < 0.4, "{starved} s of a second");
    eventually("it runs again", || used() > starved);
    let frozen = format!("{}/patroni-main/cgroup.freeze", text(&host(&lab.describe(), "db4")["cgroup"]));
    assert_eq!(std::fs::read_to_string(frozen).unwrap().trim(), "0");
}

fn no_new_session_without_memory(lab: &Lab) {
    let socket = text(&host(&lab.describe(), "db4")["instances"][0]["socket_dir"]).to_owned();
    let ask = || {
        let dsn = format!("host={socket} user=app dbname=app");
        within(COMMAND_MS, &["timeout", "5", "psql", "-qAtX", &dsn, "-c", "select repeat('x', 20000000)"])
    };
    assert!(ask().success());
    lab.run(&["fault", lab.name(), "memory-pressure", "db4"]);
    let refused = ask();
    lab.run(&["heal", lab.name()]);
    assert!(refused.stderr.contains("memory"), "{}", refused.stderr);
    eventually("there is memory", || ask().success());
}

fn a_flush_takes_the_rules_and_not_the_faults(lab: &Lab) {
    let tables = || lab.exec("db4", &["nft", "list", "tables"]).stdout;
    assert!(lab.exec("db4", &["nft", "add", "table", "inet", "mine"]).success());
    lab.run(&["fault", lab.name(), "etcd-cut", "db4"]);
    lab.run(&["fault", lab.name(), "nft-flush", "db4"]);
    assert!(!tables().contains("mine") && tables().contains("lab_"), "{}", tables());
    assert_eq!(lab.run(&["heal", lab.name()]).as_array().unwrap().len(), 1, "a flush is over at once");
    assert_eq!(tables(), "");
}

fn a_clock_jumps_and_the_others_do_not(lab: &Lab) {
    let socket = |name: &str| text(&host(&lab.describe(), name)["instances"][0]["socket_dir"]).to_owned();
    let now = |name: &str| {
        let dsn = format!("host={} user=app dbname=app", socket(name));
        let sql = "select extract(epoch from clock_timestamp())::int8";
        let said = within(COMMAND_MS, &["timeout", "5", "psql", "-qAtX", &dsn, "-c", sql]).stdout;
        said.trim().parse::<i64>().unwrap_or_default()
    };
    let ahead = || now("db4") - now("db3");
    assert!(ahead().abs() < 3);
    lab.run(&["fault", lab.name(), "clock-jump", "db4", "-300"]);
    eventually("PostgreSQL of db4 is 300 s late", || (ahead() + 300).abs() < 3);
    // Patroni's own log: its time stamps are Python's.
    let log = text(&host(&lab.describe(), "db4")["logs"]["patroni-main"]).to_owned();
    let last_line = || std::fs::read_to_string(&log).unwrap().lines().last().unwrap_or_default().to_owned();
    eprintln!("Patroni of db4, 300 s late: {}", last_line());
    lab.run(&["heal", lab.name()]);
    eventually("the clock is right", || ahead().abs() < 3);
}

fn etcd_is_slow_and_full_and_has_another_leader(lab: &Lab) {
    let described = lab.describe();
    let etcd = &described["regions"][0]["etcd"];
    let endpoints: Vec<&str> = etcd["endpoints"].as_array().unwrap().iter().map(text).collect();
    let flag = |name: &str| format!("--{}={}", if name == "ca" { "cacert" } else { name }, text(&etcd[name]));
    let (ca, cert, key) = (flag("ca"), flag("cert"), flag("key"));
    let endpoints = format!("--endpoints={}", endpoints.join(","));
    let ctl =
        |words: &[&str]| lab.exec("client", &[&["etcdctl", &endpoints, &ca, &cert, &key], words].concat());
    lab.run(&["fault", lab.name(), "etcd-slow"]);
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(6) {
        let one = Instant::now();
        ctl(&["put", "lab-test", "x"]);
        slowest = slowest.max(one.elapsed());
    }
    lab.run(&["heal", lab.name()]);
    assert!((1_000..4_000).contains(&slowest.as_millis()), "{slowest:?}");

    let leader = || {
        let said = ctl(&["endpoint", "status", "-w", "json"]).stdout;
        let all: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        all[0]["Status"]["leader"].as_u64()
    };
    let before = leader();
    lab.run(&["fault", lab.name(), "etcd-leader-churn"]);
    eventually("etcd has another leader", || leader().is_some_and(|now| Some(now) != before));
    lab.run(&["heal", lab.name()]);

    lab.run(&["fault", lab.name(), "etcd-full"]);
    let refused = ctl(&["put", "lab-test", "x"]);
    assert!(refused.stderr.contains("database space exceeded"), "{}", refused.stderr);
    lab.run(&["heal", lab.name()]);
    assert!(ctl(&["put", "lab-test", "x"]).success());
}

fn a_disk_hangs(lab: &Lab) {
    let data = text(&host(&lab.describe(), "db4")["instances"][0]["data_dir"]).to_owned();
    let inside = data.split_once("/root").unwrap().1.to_owned();
    let to = format!("of={inside}/../probe");
    lab.run(&["fault", lab.name(), "disk-hang", "db4"]);
    // Whoever writes now waits, and a kill does not reach it.
    let writer = RefCell::new(lab.start("db4", &["dd", "if=/dev/zero", &to, "count=1"]));
    let has_ended = || writer.borrow_mut().try_wait().unwrap().is_some();
    std::thread::sleep(Duration::from_secs(1));
    writer.borrow_mut().kill().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(!has_ended(), "a write to a hung disk ended");
    lab.run(&["heal", lab.name()]);
    eventually("it ends", has_ended);
    // A host whose disk hangs dies all the same, and boots with a disk that does not.
    lab.run(&["fault", lab.name(), "disk-hang", "db4"]);
    lab.run(&["fault", lab.name(), "power-cycle", "db4"]);
    eventually("db4 has booted", || unit(&lab.describe(), "db4", "patroni-main")["pid"].is_i64());
    eventually("db4 streams again", || lab.streams("db4"));
}

fn a_disk_turns_read_only_until_the_next_boot(lab: &Lab) {
    let data = text(&host(&lab.describe(), "db4")["instances"][0]["data_dir"]).to_owned();
    let probe = format!("{data}/../probe");
    lab.run(&["fault", lab.name(), "disk-readonly", "db4"]);
    let refused = std::fs::write(&probe, "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    lab.run(&["heal", lab.name()]);
    std::fs::write(&probe, "").unwrap();
    eventually("db4 streams again", || lab.streams("db4"));
}

fn what_makes_no_sense_is_refused(lab: &Lab) {
    let name = lab.name();
    let refused = |line: &[&str], why: &str| {
        let said = lab.fails(2, &[&["fault", name], line].concat());
        assert!(said.contains(why), "{line:?}: {said}");
    };
    refused(&["kill", "db4", "guard"], "has no unit guard; it has patroni-main");
    refused(&["etcd-full", "e1"], "means etcd as a whole");
    refused(&["etcd-slow", "db4"], "no etcd host");
    refused(&["disk-hang", "pool1"], "for database hosts");
    refused(&["clock-jump", "db4"], "seconds belong to clock-jump");
    refused(&["clock-jump", "db4", "soon"], "such as 30 or -30");
    refused(&["freeze", "db4", "--direction", "in"], "link-cut only");
}
