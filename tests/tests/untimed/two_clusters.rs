//! Two Patroni clusters on the same hosts and one etcd under Holdfast: what happens to one never touches the other. The same
//! lab shows every field of its description, the commands of an operator, and that nobody gets in without a certificate.

mod described;
mod locked;
use std::fs;

use crate::support::{Lab, Output, Session, eventually, host, leftovers, route, text};
use serde_json::Value;

const SPEC: &str = concat!(
    include_str!("../../specs/quick.toml"),
    r#"
[[cluster]]
scope = "main"
[[cluster]]
scope = "line-7"
namespace = "plant/hall-2"
[[region]]
name = "r1"
host = [
  { name = "e1", role = "etcd" },
  { name = "db1", role = "database" }, { name = "db2", role = "database" },
  { name = "db3", role = "database", tablespaces = ["cold"], tags = { clonefrom = true } },
  { name = "pool1", role = "pooler" }, { name = "backup1", role = "backup" }, { name = "client", role = "client" },
]
"#
);
const DATABASES: [&str; 3] = ["db1", "db2", "db3"];

#[test]
fn two_clusters_on_the_same_hosts_are_apart() {
    let lab = Lab::up("t_clusters", SPEC);
    let described = lab.describe();
    described::every_field_is_there_and_every_path_exists(&lab, &described);
    locked::nobody_gets_in_without_a_certificate(&lab, &described);
    targets_must_name_their_cluster(&lab);
    a_check_must_name_its_cluster(&lab);
    a_stopped_agent_goes_on_with_its_session(&lab);
    one_is_broken_and_fenced_and_the_other_does_not_notice(&lab, &described);
    lab.down();
    assert_eq!(leftovers("t_clusters"), [""; 0]);
}

/// The operator's command as README shows it: found by its name, and it finds the lab.
fn holdfast(lab: &Lab, arguments: &[&str]) -> Output {
    let output = lab.exec("client", &[&["holdfast"], arguments].concat());
    if !output.success() {
        eprintln!("{arguments:?}: {:?} {} {}", output.code, output.stdout, output.stderr);
    }
    output
}

fn status(lab: &Lab, scope: &str) -> Value {
    let output = holdfast(lab, &["status", "--cluster", scope, "-o", "json"]);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.stderr))
}

fn cluster<'d>(described: &'d Value, scope: &str) -> &'d Value {
    let clusters = described["regions"][0]["clusters"].as_array().unwrap();
    clusters.iter().find(|cluster| cluster["scope"] == scope).unwrap()
}

fn targets_must_name_their_cluster(lab: &Lab) {
    for line in [["kill", "@leader", "postmaster:main"], ["kill", "db1", "postmaster"]] {
        let refused = lab.fails(2, &[&["fault", lab.name()], &line[..]].concat());
        assert!(refused.contains("main, line-7"), "{refused}");
    }
}

/// Of a load balancer: there are two clusters on the host.
fn a_check_must_name_its_cluster(lab: &Lab) {
    let ask = |query: &str| {
        let url = format!("http://10.77.0.21:7462/writer{query}");
        lab.exec("client", &["curl", "-s", "--max-time", "2", "-w", " %{http_code}", &url]).stdout
    };
    let refused = ask("");
    assert!(refused.contains("plant/hall-2/line-7") && refused.ends_with(" 400"), "{refused}");
    for cluster in ["service/main", "plant/hall-2/line-7"] {
        let said = ask(&format!("?cluster={cluster}"));
        assert!(said.contains(&format!("r1/{cluster}")) && !said.ends_with(" 400"), "{said}");
    }
}

fn a_stopped_agent_goes_on_with_its_session(lab: &Lab) {
    let agents: Vec<&str> = [&DATABASES[..], &["pool1", "backup1"]].concat();
    let fault = lab.run(&["fault", lab.name(), "stop", agents[3], "agent"]);
    let pid = i32::try_from(fault["pids"][0].as_i64().unwrap()).unwrap();
    let state = || holdfast_host::process::stat(pid).map_or('-', |stat| stat.state);
    eventually("the agent is stopped", || state() == 'T');
    assert!(lab.commits("client", &route(cluster(&lab.describe(), "main"), "pgbouncer", Some("pool1"))));
    lab.run(&["fault", lab.name(), "continue", agents[3], "agent"]);
    eventually("the agent runs", || matches!(state(), 'S' | 'R'));
}

/// What may not change while the other cluster is broken.
#[derive(Debug, PartialEq, Eq)]
struct Calm {
    writer: String,
    term: String,
    postmasters: Vec<String>,
    tables: Vec<String>,
}

impl Calm {
    fn of(lab: &Lab, described: &Value) -> Self {
        let status = status(lab, "main");
        let postmaster = |name: &&str| {
            let data_dir = text(&instance(described, name, "main")["data_dir"]);
            let file = fs::read_to_string(format!("{data_dir}/postmaster.pid")).unwrap();
            // Process, directory and moment of its start.
            file.lines().take(3).collect::<Vec<_>>().join(" ")
        };
        // A writer follows nobody and has none.
        let table =
            |name: &&str| lab.exec(name, &["nft", "list", "table", "inet", "holdfast_service_main"]).stdout;
        let pooler = lab.exec("pool1", &["nft", "list", "table", "inet", "holdfast_pooler_pgbouncer"]).stdout;
        Self {
            writer: status["writer"].to_string(),
            term: status["term"].to_string(),
            postmasters: DATABASES.iter().map(postmaster).collect(),
            tables: DATABASES.iter().map(table).chain([pooler]).collect(),
        }
    }
}

fn instance<'d>(described: &'d Value, name: &str, scope: &str) -> &'d Value {
    let instances = host(described, name)["instances"].as_array().unwrap();
    instances.iter().find(|instance| instance["scope"] == scope).unwrap()
}

fn one_is_broken_and_fenced_and_the_other_does_not_notice(lab: &Lab, described: &Value) {
    let (main, line) = (cluster(described, "main"), cluster(described, "line-7"));
    let mut direct = Session::open(lab, "client", &route(main, "libpq", None));
    let mut pooled = Session::open(lab, "client", &route(main, "pgbouncer", Some("pool1")));
    let backends = (direct.commit(), pooled.commit());
    let before = Calm::of(lab, described);
    let filled = before.tables.iter().filter(|table| !table.is_empty()).count();
    assert!(filled >= DATABASES.len() - 1, "every standby has a table: {before:?}");
    let term = |lab: &Lab| status(lab, "line-7")["term"].to_string();
    let first = term(lab);
    assert!(before.term != "null" && first != "null", "{before:?} {first}");

    let killed = lab.run(&["fault", lab.name(), "kill", "@leader:line-7", "postmaster:line-7"]);
    let lost = text(&killed["host"]).to_owned();
    for (kind, to) in [("libpq", None), ("pgbouncer", Some("pool1"))] {
        eventually(&format!("line-7 writes through {kind}"), || {
            lab.commits("client", &route(line, kind, to))
        });
    }
    assert_eq!((direct.commit(), pooled.commit()), backends);
    eventually("line-7 has a new term", || term(lab) != first);

    let standby = standby_of_line_7(lab, described, &lost);
    let order = ["fence", &standby, "--cluster", "line-7", "--reason", "test", "--yes"];
    eventually("the standby can be spared and is fenced", || holdfast(lab, &order).success());
    let streams = || standbys(lab, described).contains(&standby);
    eventually("the fenced standby is out", || !streams());
    assert_eq!((direct.commit(), pooled.commit()), backends);
    assert_eq!(Calm::of(lab, described), before, "line-7's trouble is not main's");

    let order = ["unfence", &standby, "--cluster", "line-7", "--reason", "looked at", "--yes"];
    eventually("it may come back", || holdfast(lab, &order).success());
    eventually("it streams again", streams);
    assert_eq!((direct.commit(), pooled.commit()), backends);
}

/// A standby that has streamed all along.
fn standby_of_line_7(lab: &Lab, described: &Value, lost: &str) -> String {
    eventually("line-7 is whole", || standbys(lab, described).len() == DATABASES.len() - 1);
    let standing = standbys(lab, described);
    standing.into_iter().find(|name| name != lost).unwrap()
}

fn standbys(lab: &Lab, described: &Value) -> Vec<String> {
    let sql = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'";
    let port = instance(described, "db1", "line-7")["ports"]["postgres"].to_string();
    let ask = |name: &&str| {
        let socket = text(&instance(described, name, "line-7")["socket_dir"]);
        let line =
            ["psql", "-qAtX", "-h", socket, "-p", &port, "-U", "postgres", "-d", "postgres", "-c", sql];
        lab.exec(name, &[&["timeout", "5"], &line[..]].concat())
            .stdout
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    DATABASES.iter().flat_map(ask).collect()
}
