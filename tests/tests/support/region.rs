//! A region with three poolers under load, for operations that no client may notice.

use holdfast_lab::checker::record::{Outcome, Recording};
use holdfast_lab::checker::verdict::Verdict;
use serde_json::Value;

use super::load::{Load, gap_ms};
use super::{Lab, Output, eventually, text};

/// Three database hosts, all of which count for commits, and three poolers.
pub const SPEC: &str = concat!(
    include_str!("../../specs/quick.toml"),
    r#"
[pgbouncer]
server_login_retry = 0.1
[[region]]
name = "r1"
host = [
  { name = "e1", role = "etcd" },
  { name = "db1", role = "database" }, { name = "db2", role = "database" }, { name = "db3", role = "database" },
  { name = "pool1", role = "pooler" }, { name = "pool2", role = "pooler" }, { name = "pool3", role = "pooler" },
  { name = "backup1", role = "backup" }, { name = "client", role = "client" },
]
"#
);
/// Two clients on each pooler, fifty rows a second each.
pub const PACE: [&str; 4] = ["--rate", "50", "--clients", "2"];
/// Clients wait no longer than a pooler's own deadline, and a moment of a busy machine.
pub const GAP_MS_MAX: u64 = 12_000;

/// The region.
pub struct Region {
    pub lab: Lab,
}

impl Region {
    pub fn up(name: &str) -> Self {
        Self { lab: Lab::up(name, SPEC) }
    }

    /// The holder of the term, and its number.
    pub fn term(&self) -> (String, u64) {
        let status = self.lab.status();
        (text(&status["term"]["holder"]).to_owned(), status["term"]["term"].as_u64().unwrap())
    }

    /// The writer, once everything is as it should be.
    pub fn settled(&self) -> (String, u64) {
        eventually("the region is healthy", || {
            let status = self.lab.status();
            let counting = status["sync"]["standbys"].as_array().map_or(0, Vec::len);
            status["healthy"] == true && status["term"]["writable"] == true && counting == 2
        });
        self.term()
    }

    /// A member that does not write.
    pub fn another(&self, writer: &str) -> &'static str {
        ["db1", "db2", "db3"].into_iter().find(|name| *name != writer).unwrap()
    }

    /// An order that is waited for.
    pub fn orders(&self, order: &[&str], more: &[&str]) -> Output {
        let common = ["--reason", "test", "--yes", "--wait", "--timeout", "80"];
        let said = self.lab.holdfast(&[order, &common, more].concat());
        eprintln!("{}{}", said.stderr, said.stdout);
        said
    }

    pub fn operations(&self) -> Value {
        let said = self.lab.holdfast(&["operation", "list", "-o", "json"]).stdout;
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// The operation that runs, or ran last.
    pub fn newest(&self) -> Value {
        self.operations()["operations"][0].clone()
    }

    /// Clients on every pooler.
    pub fn load(&self, name: &str) -> Load {
        Load::paced(&self.lab, name, 1, &PACE, |kind| kind == "pgbouncer")
    }
}

/// Nobody met an error, nothing is lost, and nobody waited for longer than a pooler holds.
pub fn unnoticed(what: &str, (verdict, recording): &(Verdict, Recording)) {
    assert!(verdict.is_clean(), "{what}: {verdict:?}");
    let errors: Vec<_> =
        recording.attempts.iter().filter(|one| one.outcome != Outcome::Acknowledged).collect();
    assert!(errors.is_empty(), "{what}: clients met errors: {errors:?}");
    let gap_ms = gap_ms(verdict).unwrap();
    eprintln!("{what}: gap {gap_ms} ms through three poolers, {} rows", verdict.counts.acknowledged);
    assert!(gap_ms < GAP_MS_MAX, "{what}: {gap_ms}");
}
