//! Shapes of clusters that people have: names with dots, two acknowledgements, a member that may not lead, a PgBouncer on
//! each database host, and a cluster of two.

use crate::support::{Lab, Session, eventually, leftovers, route, text};
use serde_json::Value;

const WIDE: &str = concat!(
    include_str!("../../specs/quick.toml"),
    r#"
[[cluster]]
scope = "pg.main"
namespace = "plant.7/hall-2"
synchronous_node_count = 2
[[region]]
name = "r1"
host = [
  { name = "e1", role = "etcd" },
  { name = "db.1", role = "database", pgbouncer = true }, { name = "db.2", role = "database", pgbouncer = true },
  { name = "db.3", role = "database", pgbouncer = true }, { name = "db.4", role = "database", pgbouncer = true },
  { name = "db.5", role = "database", tags = { nofailover = true } },
  { name = "pool.1", role = "pooler" }, { name = "client", role = "client" },
]
"#
);
const TWO: &str = r#"
holdfast = true
profile = "fast"
[patroni]
ttl = 20
loop_wait = 1
retry_timeout = 3
[[region]]
name = "r1"
host = [
  { name = "e1", role = "etcd" }, { name = "client", role = "client" },
  { name = "db1", role = "database" }, { name = "db2", role = "database" },
]
"#;
const NEVER_LEADS: &str = "db.5";
const ROWS: &str = "select count(*) from kept";

#[test]
#[ignore = "two minutes; tests/all --long"]
fn the_shapes_that_people_have_are_failed_over_and_fenced() {
    wide();
    two();
}

/// Five members with dots in all their names, of whom two acknowledge each commit.
fn wide() {
    let lab = Lab::up("t_shapes", WIDE);
    let first = writer(&lab);
    let setting = lab.sql(&first, "SHOW synchronous_standby_names").unwrap();
    assert!(setting.starts_with("ANY 2 (") && setting.contains("\"db."), "{setting}");
    lab.sql(&first, "create table kept (n int)").unwrap();
    lab.sql(&first, "insert into kept select generate_series(1, 50)").unwrap();

    lab.run(&["fault", lab.name(), "host-death", &first]);
    let second = another_writer(&lab, &first);
    assert_ne!(second, NEVER_LEADS);
    assert_eq!(lab.sql(&second, ROWS).as_deref(), Some("50"), "acknowledged rows are gone");
    assert!(lab.writes("pgbouncer", Some("pool.1")), "the pooler leads to the next writer");
    lab.run(&["heal", lab.name()]);
    eventually("the first writer is a standby", || lab.streams(&first));

    isolated(&lab, &second);
    lab.down();
    assert_eq!(leftovers("t_shapes"), [""; 0]);
}

/// Who is on the writer's own host, on its PgBouncer or on its socket, is not cut off by any link: once another writes, nothing
/// is acknowledged there, whether a standby is waited for or not.
fn isolated(lab: &Lab, writer: &str) {
    eventually("all acknowledge", || lab.is_healthy());
    let described = lab.describe();
    let pooled = format!(
        "host=/run/holdfast-lab/{}/hosts/{writer}/run/pgbouncer port=6432 user=app dbname=app",
        lab.name()
    );
    let mut sessions = [
        Session::open(lab, writer, &pooled),
        Session::open(lab, writer, &pooled),
        Session::local(lab, &described, writer),
    ];
    for session in &mut sessions {
        session.commit();
        assert!(session.try_commit_alone().is_some(), "a commit that waits for nobody");
    }
    lab.run(&["fault", lab.name(), "link-cut", writer]);
    let next = another_writer(lab, writer);
    assert_ne!(next, NEVER_LEADS);
    let [first, second, third] = &mut sessions;
    assert_eq!(first.try_commit(), None, "a session through the local PgBouncer commits");
    assert_eq!(second.try_commit_alone(), None, "it does, waiting for nobody");
    assert_eq!(third.try_commit_alone(), None, "a session on the socket does");
    assert!(!lab.commits(writer, &pooled), "a new one through the local PgBouncer does");
    lab.run(&["heal", lab.name()]);
    eventually("the isolated writer is a standby", || lab.streams(writer));
}

/// One standby: its promise alone ends a term, and while it is away nobody acknowledges beside the writer.
fn two() {
    let lab = Lab::up("t_pair", TWO);
    let first = writer(&lab);
    lab.sql(&first, "create table kept as select 1 as n").unwrap();
    lab.run(&["fault", lab.name(), "host-death", &first]);
    let second = another_writer(&lab, &first);
    assert_eq!(lab.sql(&second, ROWS).as_deref(), Some("1"), "an acknowledged row is gone");
    let libpq = route(&lab.describe()["regions"][0]["clusters"][0], "libpq", None);
    eventually("it goes on alone", || lab.commits("client", &libpq));
    lab.run(&["heal", lab.name()]);
    eventually("there are two again", || lab.streams(&first) && lab.is_healthy());
    lab.down();
}

fn holder(lab: &Lab) -> Option<String> {
    let status = lab.status();
    let term = &status["term"];
    (term["writable"] == Value::Bool(true)).then(|| text(&term["holder"]).to_owned())
}

fn writer(lab: &Lab) -> String {
    eventually("the cluster is healthy", || lab.is_healthy());
    holder(lab).unwrap()
}

fn another_writer(lab: &Lab, than: &str) -> String {
    eventually("another writes", || holder(lab).is_some_and(|holder| holder != than));
    holder(lab).unwrap()
}
