//! Two regions in one lab with a limited link between them, and a second lab beside it with the same addresses.

use std::time::Duration;

use crate::support::{Lab, Session, eventually, host, leftovers, route, text, verb, within};
use serde_json::Value;

const SPEC: &str = include_str!("../../specs/two-regions.toml");
/// What the specification says of the link, in bits a second.
const RATE: u64 = 40_000_000;
/// Sent each way; and what the link lets through at once before it counts.
const BYTES: u64 = 10_000_000;
const BURST_BYTES: u64 = 256 * 1024;
/// A small lab under Holdfast with the addresses of the first one's first region, whose cluster cannot be armed.
const BESIDE: &str = r#"
holdfast = true
profile = "fast"
patroni = { ttl = 20, loop_wait = 1, retry_timeout = 3, failsafe_mode = false }
[[region]]
name = "r1"
host = [
  { name = "e1", role = "etcd" }, { name = "db1", role = "database" }, { name = "db2", role = "database" },
  { name = "pool1", role = "pooler" }, { name = "client", role = "client" },
]
"#;

#[test]
fn two_regions_are_apart_and_two_labs_too() {
    let lab = Lab::up("t_regions", SPEC);
    let described = lab.describe();
    each_region_is_whole(&lab, &described);
    the_link_is_limited_both_ways(&lab);
    the_second_region_is_broken_and_healed(&lab, &described);
    a_second_lab_comes_and_goes_beside_it(&lab, &described);
    lab.down();
    assert_eq!(leftovers("t_regions"), [""; 0]);
}

fn each_region_is_whole(lab: &Lab, described: &Value) {
    let regions = described["regions"].as_array().unwrap();
    let names = |region: &Value| region["name"].as_str().unwrap().to_owned();
    assert_eq!(regions.iter().map(names).collect::<Vec<_>>(), ["r1", "r2"]);
    let mut ids = Vec::new();
    for (region, client) in regions.iter().zip(["client", "r2-client"]) {
        let (etcd, cluster) = (&region["etcd"], &region["clusters"][0]);
        assert_eq!(etcd["endpoints"].as_array().unwrap().len(), 3);
        assert_eq!(cluster["armed"], "armed");
        for (kind, to) in
            [("libpq", None), ("pgbouncer", Some(if client == "client" { "pool1" } else { "r2-pool1" }))]
        {
            assert!(lab.commits(client, &route(cluster, kind, to)), "{client} writes through {kind}");
        }
        let endpoint = format!("https://{}", text(&etcd["endpoints"][0]));
        let [ca, cert, key] = ["ca", "cert", "key"].map(|file| text(&etcd[file]));
        let line = ["etcdctl", "--endpoints", &endpoint, "--cacert", ca, "--cert", cert, "--key", key];
        let members = lab.exec(client, &[&line[..], &["member", "list"]].concat());
        assert_eq!(members.stdout.lines().count(), 3, "{} {}", members.stdout, members.stderr);
        ids.push(members.stdout);
        let status = lab.exec(client, &["holdfast", "status", "--region", text(&region["name"])]);
        assert!(status.success(), "{} {}", status.stdout, status.stderr);
    }
    assert_ne!(ids[0], ids[1], "each region has an etcd of its own");
    let leaders = lab.run(&["list"]);
    let ours = leaders.as_array().unwrap().iter().find(|one| one["lab"] == "t_regions").unwrap();
    let clusters = ours["clusters"].as_array().unwrap();
    assert!(clusters.len() == 2 && clusters.iter().all(|one| one["leader"].is_string()), "{ours}");
    assert!(lab.exec("db1", &["ping", "-c1", "-W2", text(&host(described, "r2-db1")["address"])]).success());
    assert!(lab.exec("r2-db1", &["ping", "-c1", "-W2", text(&host(described, "db1")["address"])]).success());
}

/// The receiver prints the seconds from its first byte to its last.
const RECEIVE: &str = "import socket, sys, time
listener = socket.create_server((sys.argv[1], 5999)); listener.settimeout(30)
connection, _ = listener.accept(); connection.settimeout(30)
count = len(connection.recv(1)); began = time.monotonic()
while count < int(sys.argv[2]):
    chunk = connection.recv(65536)
    if not chunk: sys.exit('the sender went away')
    count += len(chunk)
print(time.monotonic() - began)";
const SEND: &str = "import socket, sys, time
for attempt in range(200):
    try: connection = socket.create_connection((sys.argv[1], 5999), 5); break
    except OSError: time.sleep(0.05)
connection.settimeout(30); connection.sendall(bytes(int(sys.argv[2]))); connection.recv(1)";

fn seconds(lab: &Lab, from: &str, to: &str) -> f64 {
    let address = text(&host(&lab.describe(), to)["address"]).to_owned();
    let bytes = BYTES.to_string();
    std::thread::scope(|scope| {
        let received = scope.spawn(|| lab.exec(to, &["/usr/bin/python3", "-c", RECEIVE, &address, &bytes]));
        let sent = lab.exec(from, &["/usr/bin/python3", "-c", SEND, &address, &bytes]);
        let received = received.join().unwrap();
        assert!(received.success() && sent.success(), "{} {}", received.stderr, sent.stderr);
        received.stdout.trim().parse().unwrap()
    })
}

fn the_link_is_limited_both_ways(lab: &Lab) {
    #[allow(clippy::cast_precision_loss)]
    let least = ((BYTES - BURST_BYTES) * 8) as f64 / RATE as f64;
    for (from, to) in [("client", "r2-client"), ("r2-client", "client")] {
        let took = seconds(lab, from, to);
        eprintln!("{BYTES} bytes from {from} to {to}: {took:.2} s, at least {least:.2} s");
        assert!(took >= least, "{from} to {to}: {took:.2} s is faster than the link");
        assert!(took < least * 5.0, "{from} to {to}: {took:.2} s is no link of this rate");
    }
    let took = seconds(lab, "client", "db2");
    assert!(took < least, "within a region nothing is limited: {took:.2} s");
}

fn the_second_region_is_broken_and_healed(lab: &Lab, described: &Value) {
    let refused = lab.fails(2, &["fault", lab.name(), "kill", "@leader", "postmaster"]);
    assert!(refused.contains("r1, r2"), "{refused}");
    let cluster = &described["regions"][1]["clusters"][0];
    let mut neighbour = Session::open(
        lab,
        "client",
        &route(&described["regions"][0]["clusters"][0], "pgbouncer", Some("pool1")),
    );
    neighbour.commit();

    let fault = lab.run(&["fault", lab.name(), "kill", "@leader@r2", "postmaster"]);
    assert!(text(&fault["host"]).starts_with("r2-db"), "{fault}");
    eventually("the second region writes again", || lab.commits("r2-client", &route(cluster, "libpq", None)));
    let down = lab.run(&["fault", lab.name(), "etcd-down", "@region:r2"]);
    let reaches = |from: &str, address: &str| {
        let connect = format!("exec 3<>/dev/tcp/{address}/2379");
        lab.exec(from, &["timeout", "1", "bash", "-c", &connect]).success()
    };
    assert!(!reaches("r2-db1", "10.77.1.11") && reaches("db1", "10.77.0.11"), "{down}");
    lab.run(&["heal", lab.name(), text(&down["id"])]);
    eventually("its etcd answers again", || reaches("r2-db1", "10.77.1.11"));
    let cut = lab.run(&["fault", lab.name(), "link-cut", "r2-client", "--peer", "client"]);
    assert!(!lab.exec("r2-client", &["ping", "-c1", "-W1", "10.77.0.61"]).success());
    lab.run(&["heal", lab.name(), text(&cut["id"])]);
    assert!(lab.exec("r2-client", &["ping", "-c1", "-W2", "10.77.0.61"]).success());
    neighbour.commit();
}

/// The same names and addresses at the same time; its clusters cannot be armed, which `up` says and survives.
fn a_second_lab_comes_and_goes_beside_it(lab: &Lab, described: &Value) {
    let beside = Lab::named("t_beside");
    let up = beside.try_up(BESIDE);
    assert_eq!(up.code, Some(6), "{}", up.stderr);
    assert!(up.stderr.contains("failsafe_mode is off") && up.stderr.contains("stays up"), "{}", up.stderr);
    let told: Value = serde_json::from_str(&up.stdout).unwrap();
    assert_eq!(told["not_armed"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(beside.try_up(BESIDE).code, Some(3), "the name is taken");

    let other = beside.describe();
    assert!(text(&other["regions"][0]["clusters"][0]["armed"]).starts_with("not armed"));
    assert_eq!(host(&other, "db1")["address"], host(described, "db1")["address"]);
    assert!(beside.writes("libpq", None) && lab.writes("libpq", None), "both write at the same addresses");
    let system = |lab: &Lab| {
        let sql = "SELECT system_identifier FROM pg_control_system()";
        let dsn = route(&lab.describe()["regions"][0]["clusters"][0], "pgbouncer", Some("pool1"));
        lab.exec("client", &["psql", "-qAtX", &dsn, "-c", sql]).stdout
    };
    assert_ne!(system(&beside), system(lab), "the same address is another server in each lab");

    let dsn = route(&described["regions"][0]["clusters"][0], "libpq", None);
    let mut open = Session::open(lab, "client", &dsn);
    let backend = open.commit();
    // Every lab whose name begins so: the machine may hold labs of other people.
    std::thread::scope(|scope| {
        let down = scope.spawn(|| verb(&["down", "--all", "--prefix", "t_beside"]));
        while !down.is_finished() {
            assert_eq!(open.commit(), backend, "the end of a lab is nothing to its neighbour");
            std::thread::sleep(Duration::from_millis(20));
        }
        let down = down.join().unwrap();
        assert!(down.success() && down.stderr.contains("lab t_beside is down"), "{}", down.stderr);
    });
    assert_eq!(leftovers("t_beside"), [""; 0]);
    assert_eq!(open.commit(), backend);
    assert!(lab.writes("pgbouncer", Some("pool1")));
    let nobody =
        within(10_000, &[env!("CARGO_BIN_EXE_holdfast-lab"), "down", "--prefix", "t_beside", "t_beside"]);
    assert_eq!(nobody.code, Some(2), "--prefix belongs to --all: {}", nobody.stderr);
}
