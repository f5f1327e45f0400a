//! Hosts that a person has disarmed locally beside hosts that are armed: a fence stands until it is named, a pooler lets its
//! clients go and follows nobody, and where one of two synchronous standbys is not counted any more, no armed host follows a
//! lost writer. Patroni alone may, on the host that is open; there is one writer all the time.

use std::fs;
use std::time::{Duration, Instant};

use super::{HOSTS, Region, SPEC};
use crate::support::load::Load;
use crate::support::{Lab, eventually, host, text};
use holdfast_lab::checker::monotonic_us;
use serde_json::{Value, json};

const POOLER: &str = "pool1";
/// Several looks of every agent, of Patroni and of the gates.
const A_WHILE: Duration = Duration::from_secs(6);

#[test]
#[ignore = "three minutes; tests/all --long"]
fn a_host_that_is_disarmed_locally_stands_alone_beside_armed_ones() {
    let lab = Lab::up("t_mixed", SPEC);
    let region = Region { described: lab.describe(), lab };
    region.is_whole();
    let load = Load::start(&region.lab, "mixed");
    let begin_us = monotonic_us();
    region.a_fence_is_lifted_only_by_its_name();
    load.goes_on(monotonic_us());
    region.a_pooler_lets_its_clients_go_and_follows_nobody();
    load.goes_on(monotonic_us());
    region.no_armed_host_follows_where_too_few_are_armed();
    load.goes_on(monotonic_us());
    let verdict = load.end(begin_us);
    eprintln!("{:?}", verdict.counts);
    assert!(verdict.is_clean(), "lost rows or two writers: {verdict:?}");
}

/// For a while, all the time.
fn stays(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + A_WHILE;
    while Instant::now() < until {
        assert!(condition(), "{what}");
        std::thread::sleep(Duration::from_millis(250));
    }
}

impl Region {
    /// I5: the order of a host says that Patroni alone decides there; that the data may be used is another word.
    fn a_fence_is_lifted_only_by_its_name(&self) {
        let name = self.synchronous_standby().unwrap();
        self.lab.order(&["fence", &name, "--reason", "a bad disk", "--yes", "--wait"]);
        let is_out = || self.lab.sql(&name, "SELECT 1").is_none();
        eventually("the fenced standby is out", is_out);
        let partly = self.on_host(&name, &["disarm", "--local", "--reason", "look", "--yes"]);
        assert_eq!(partly.code, Some(6), "{partly:?}");
        assert!(
            partly.stdout.contains("NOT DONE: fence") && partly.stdout.contains("--over-fence"),
            "{partly:?}"
        );
        stays("a fenced member stays out", is_out);
        let over = self.disarm_alone(&name, &["--over-fence", "--reason", "no etcd"]);
        assert!(over.contains("does not count here"), "{over}");
        eventually("it streams again", || self.lab.streams(&name));
        eventually("status says that it is disarmed there", || self.is_told_of(&name));
        self.lab.order(&["unfence", &name, "--reason", "looked at", "--yes"]);
        self.arm_again();
    }

    /// Clients wait at the pooler, because nobody may follow; the order lets them go, and from then on the pooler leads where it
    /// led last, until it is undone.
    fn a_pooler_lets_its_clients_go_and_follows_nobody(&self) {
        let writer = self.holder();
        let others: Vec<&str> = HOSTS.into_iter().filter(|name| *name != writer).collect();
        others.iter().for_each(|name| self.may_lead(name, false));
        eventually("the floor counts who is synchronous now", || {
            let floor = self.lab.status()["floor"].clone();
            floor["current"] == true && floor["members"].as_array().is_some_and(|members| !members.is_empty())
        });
        self.lab.run(&["fault", self.lab.name(), "host-death", &writer]);
        eventually("clients wait at the pooler", || self.is_paused());
        self.disarm_alone(POOLER, &["--reason", "routed by hand"]);
        eventually("they are let go", || !self.is_paused());
        let target = self.target();
        others.iter().for_each(|name| self.may_lead(name, true));
        eventually("another one writes", || self.lab.writes("libpq", None));
        stays("the pooler follows nobody", || self.target() == target && !self.is_paused());
        assert!(!self.lab.writes("pgbouncer", Some(POOLER)), "it leads to the lost writer");
        self.lab.run(&["heal", self.lab.name()]);
        // Nothing of a term stands on a pooler's host: it need not wait for the cluster.
        let undone = self.on_host(POOLER, &["disarm", "--local", "--undo", "--reason", "back", "--yes"]);
        assert_eq!(undone.code, Some(0), "{undone:?}");
        eventually("it follows the writer again", || self.lab.writes("pgbouncer", Some(POOLER)));
        self.is_whole();
    }

    /// One of two synchronous standbys is not counted: more than `quorum` of the others are not there any more.
    fn no_armed_host_follows_where_too_few_are_armed(&self) {
        let writer = self.holder();
        let open = self.synchronous_standby().unwrap();
        self.disarm_alone(&open, &["--reason", "by hand"]);
        eventually("status says so", || self.is_told_of(&open));
        // Patroni's race is to end the same way each time.
        let armed: Vec<&str> = HOSTS.into_iter().filter(|name| *name != writer && *name != open).collect();
        armed.iter().for_each(|name| self.may_lead(name, false));
        let reign = || {
            let term = self.lab.status()["term"].clone();
            (term["term"].clone(), term["state"].clone())
        };
        let before = reign();
        assert_eq!(before.1, "open");
        self.lab.run(&["fault", self.lab.name(), "host-death", &writer]);
        stays("no armed host closes the term", || {
            // A look at etcd may fail beside a host that dies.
            let seen = reign();
            seen == before || seen.0.is_null()
        });
        let is_writable =
            |name: &str| self.lab.sql(name, "SELECT pg_is_in_recovery()").as_deref() == Some("f");
        let begun = Instant::now();
        eventually("Patroni alone promotes the open one after its ttl", || is_writable(&open));
        eprintln!("{open}, disarmed, was promoted {:?} after the look; term {:?}", begun.elapsed(), reign());
        assert_eq!(reign(), before, "and no term is opened for it");
        self.lab.run(&["heal", self.lab.name()]);
        stays("one writes", || {
            is_writable(&open) && HOSTS.iter().all(|name| *name == open || !is_writable(name))
        });
        armed.iter().for_each(|name| self.may_lead(name, true));
        self.arm_again();
        assert_eq!(self.holder(), open, "its reign has a term now");
    }

    /// The order on one host, given again where a step of it took too long: what it says in the end.
    fn disarm_alone(&self, name: &str, more: &[&str]) -> String {
        let said = std::cell::RefCell::new(String::new());
        eventually("the order is done", || {
            let order = self.on_host(name, &[&["disarm", "--local", "--yes"], more].concat());
            *said.borrow_mut() = order.stdout.clone();
            order.success()
        });
        said.into_inner()
    }

    /// Patroni's tag `nofailover`.
    fn may_lead(&self, name: &str, may: bool) {
        let file = self.etc(name).join("patroni-main.yml");
        let mut settings: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        settings["tags"]["nofailover"] = json!(!may);
        fs::write(&file, serde_json::to_string_pretty(&settings).unwrap()).unwrap();
        let said = self.patronictl(&["reload", "main", name, "--force"]);
        assert!(said.success(), "{said:?}");
        let key = format!("/service/main/members/{name}");
        eventually("Patroni has taken the tag in", || {
            self.lab.etcdctl(&["get", &key]).stdout.contains("\"nofailover\":true") != may
        });
    }

    fn is_told_of(&self, name: &str) -> bool {
        self.causes().iter().any(|cause| cause.contains(&format!("{name} is disarmed on its host by")))
    }

    /// By PgBouncer's own log.
    fn is_paused(&self) -> bool {
        let log = fs::read_to_string(text(&host(&self.described, POOLER)["logs"]["pgbouncer"])).unwrap();
        let last = |command: &str| log.rfind(&format!("{command} command issued"));
        last("PAUSE") > last("RESUME")
    }

    fn target(&self) -> String {
        fs::read_to_string(text(&self.pooler()["target_file"])).unwrap()
    }

    fn pooler(&self) -> &Value {
        &host(&self.described, POOLER)["pooler"][0]
    }
}
