//! Poolers that go wrong: what the check of a pooler host, its web answer and `status` say, and what becomes of a PgBouncer that
//! hangs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::region::Region;
use crate::support::{Output, Session, eventually, host, route, text};

const POOLER: &str = "pool1";
/// More than the pool has connections to the writer: at least one client waits for another.
const CLIENTS: usize = 6;

#[test]
#[ignore = "two minutes; tests/all --long"]
fn a_pooler_says_whether_clients_should_come_and_one_that_hangs_is_ended() {
    let case = Case { region: Region::up("t_poolers") };
    let (writer, _) = case.region.settled();
    case.is_up("its clients reach ");
    assert_eq!(case.web().1, "200");
    case.drained();
    case.does_not_run();
    case.hangs();
    case.is_cut_from(&writer);
    case.agent_hangs();
    case.hangs_where_nobody_may_act();
}

struct Case {
    region: Region,
}

impl Case {
    fn check(&self) -> Output {
        let lab = &self.region.lab;
        let run_dir = self.folder().join("run/holdfast").display().to_string();
        lab.exec(POOLER, &["holdfast", "check", "pooler", "--run-dir", &run_dir])
    }

    /// The host's own.
    fn folder(&self) -> PathBuf {
        let described = self.region.lab.describe();
        let log = PathBuf::from(text(&host(&described, POOLER)["logs"]["agent"]));
        log.parent().unwrap().parent().unwrap().to_owned()
    }

    /// What a load balancer is told: body and status.
    fn web(&self) -> (String, String) {
        let lab = &self.region.lab;
        let described = lab.describe();
        let address = text(&host(&described, POOLER)["address"]).to_owned();
        let url = format!("http://{address}:7462/pooler");
        let said = lab.exec("client", &["curl", "-s", "--max-time", "2", "-w", " %{http_code}", &url]).stdout;
        let (body, status) = said.rsplit_once(' ').unwrap();
        (body.to_owned(), status.to_owned())
    }

    fn says(&self, code: i32, why: &str) {
        let begun = Instant::now();
        eventually(&format!("check pooler ends with {code}: {why}"), || {
            let said = self.check();
            said.code == Some(code) && format!("{}{}", said.stdout, said.stderr).contains(why)
        });
        eprintln!("check pooler: {code} ({why}) after {:.1} s", begun.elapsed().as_secs_f32());
    }

    fn is_up(&self, why: &str) {
        self.says(0, why);
    }

    fn is_down(&self, why: &str) {
        self.says(1, why);
        let (body, status) = self.web();
        assert_eq!(status, "503", "{body}");
    }

    fn fault(&self, words: &[&str]) {
        self.region.lab.run(&[&["fault", self.region.lab.name()], words].concat());
    }

    fn heal(&self) {
        self.region.lab.run(&["heal", self.region.lab.name()]);
    }

    fn dsn(&self) -> String {
        route(&self.region.lab.describe()["regions"][0]["clusters"][0], "pgbouncer", Some(POOLER))
    }

    fn clients_write(&self) {
        eventually("clients write through it", || self.region.lab.writes("pgbouncer", Some(POOLER)));
    }

    fn route(&self) -> Value {
        let status = self.region.lab.status();
        let routes = status["routes"].as_array().cloned().unwrap_or_default();
        let is_it = |route: &Value| route["pooler"].as_str().is_some_and(|name| name.starts_with(POOLER));
        routes.into_iter().find(is_it).unwrap_or_default()
    }

    fn drained(&self) {
        let route = self.route();
        assert_eq!((&route["up"], &route["clients_waiting"]), (&true.into(), &0.into()), "{route}");
        let name = text(&route["pooler"]).to_owned();
        assert!(self.region.orders(&["drain", &name], &[]).success());
        self.is_down("it is drained: test");
        self.clients_write(); // Those who are there are served until it is stopped.
        assert!(self.region.orders(&["undrain", &name], &[]).success());
        self.is_up("its clients reach ");
    }

    /// Its unit starts it again and again, and it does not find its file.
    fn does_not_run(&self) {
        let file = self.folder().join("etc/pgbouncer.ini");
        let away = file.with_extension("away");
        std::fs::rename(&file, &away).unwrap();
        self.fault(&["kill", POOLER, "pgbouncer"]);
        self.is_down("PgBouncer cannot be asked");
        std::fs::rename(&away, &file).unwrap();
        self.is_up("its clients reach ");
        self.clients_write();
    }

    fn hangs(&self) {
        let mut client = Session::open(&self.region.lab, "client", &self.dsn());
        client.commit();
        let begun = Instant::now();
        self.fault(&["stop", POOLER, "pgbouncer"]);
        self.is_down("PgBouncer hangs");
        self.is_up("its clients reach ");
        self.clients_write();
        eprintln!("a PgBouncer that was stopped: clients write after {:.1} s", begun.elapsed().as_secs_f32());
        assert_eq!(client.try_commit(), None, "its connections have gone with it");
        let log = self.region.lab.log(POOLER, "agent");
        assert!(
            log.contains("PgBouncer hangs: its console does not answer and its process stands still"),
            "{log}"
        );
        self.heal();
    }

    fn is_cut_from(&self, writer: &str) {
        let begun = Instant::now();
        self.fault(&["link-cut", POOLER, "--peer", writer]);
        let dsn = self.dsn();
        let mut clients: Vec<Session> =
            (0..CLIENTS).map(|_| Session::open(&self.region.lab, "client", &dsn)).collect();
        for client in &mut clients {
            client.begin_commit().unwrap();
        }
        eventually("status shows clients that wait", || {
            self.route()["clients_waiting"].as_u64().is_some_and(|waiting| waiting > 0)
        });
        let text = self.region.lab.holdfast(&["status"]).stdout;
        assert!(text.contains("Waiting") && text.contains(", for "), "{text}");
        self.is_down("the writer takes no connection from this host");
        eprintln!("cut from its writer: seen after {:.1} s", begun.elapsed().as_secs_f32());
        self.heal();
        self.is_up("its clients reach ");
        self.clients_write();
    }

    fn agent_hangs(&self) {
        self.fault(&["stop", POOLER, "agent"]);
        self.says(4, "has not answered in 500 ms");
        self.heal();
        self.is_up("its clients reach ");
    }

    /// It is said, and nobody is ended.
    fn hangs_where_nobody_may_act(&self) {
        self.region.lab.order(&["disarm", "--reason", "test", "--yes"]);
        self.is_up("mode disarmed");
        self.fault(&["stop", POOLER, "pgbouncer"]);
        self.is_down("PgBouncer hangs");
        eventually("a person is called", || {
            self.region.lab.log(POOLER, "agent").contains("PgBouncer does not answer its agent")
        });
        std::thread::sleep(Duration::from_secs(2));
        self.is_down("PgBouncer hangs");
        self.heal();
        self.is_up("mode disarmed");
    }
}
