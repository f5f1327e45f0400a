//! A cluster that was made by hand with Patroni alone is brought in, watched, armed, fails over once, is disarmed and taken out
//! again, by the very texts that `holdfast adopt plan` and `remove plan` print, under clients that ask for 200 transactions a second through PgBouncer
//! and HAProxy all the time: no PostgreSQL is restarted by it, and no client meets an error but in the failover. HAProxy's check
//! goes from Patroni to our agents, over TLS, and back. What is left is Patroni
//! alone, with nothing of ours on the hosts. Needs root, `tests/setup`, and the built workspace.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::load::{Load, errors_outside, gap_ms};
use crate::support::{Lab, Output, eventually, text};
use holdfast_lab::checker::monotonic_us;
use holdfast_lab::checker::record::Outcome;
use holdfast_lab::lab::control::{self, Request};
use holdfast_lab::lab::files;
use holdfast_lab::lab::plan::{HostPlan, Plan};
use holdfast_lab::lab::render::haproxy;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// As somebody may run it: one synchronous standby by name, no failsafe mode, Patroni's own watchdog setting, none of our hooks.
/// Patroni's command line.
const PATRONICTL: &str = "/opt/holdfast-lab/venv/bin/patronictl";
const BY_HAND: &str = r#"
holdfast = false
adoptable = true
profile = "fast"
haproxy = true
[patroni]
ttl = 20
loop_wait = 1
retry_timeout = 3
failsafe_mode = false
[[cluster]]
scope = "main"
class = "on"
"#;
const DATABASES: [&str; 4] = ["db1", "db2", "db3", "db4"];
/// Two clients on each route, fifty rows a second each.
const PACE: [&str; 4] = ["--rate", "50", "--clients", "2"];
/// The one that HAProxy has where Holdfast does not run: its check is moved.
const ROUTES: [&str; 2] = ["pgbouncer", "haproxy-patroni"];

struct Walk {
    lab: Lab,
    plan: Plan,
}

#[test]
fn a_running_cluster_is_brought_in_and_out_without_a_client_noticing() {
    let lab = Lab::up("t_adopt", BY_HAND);
    let plan = files::load(lab.name()).unwrap();
    let walk = Walk { lab, plan };
    let load = Load::paced(&walk.lab, "adopt", 1, &PACE, |kind| ROUTES.contains(&kind));
    let before = walk.postmasters();

    walk.brings_in();
    assert_eq!(walk.postmasters(), before, "bringing it in restarts no PostgreSQL");
    walk.arms();
    assert_eq!(walk.postmasters(), before, "nor does arming");
    let failover = walk.fails_over(&load);
    let before = walk.postmasters();
    walk.disarms();
    walk.takes_out();
    assert_eq!(walk.postmasters(), before, "taking it out restarts no PostgreSQL");
    let switchover = walk.is_patroni_alone(&load);

    let (verdict, recording) = load.recorded(failover.0);
    assert_eq!(verdict.lost.count, 0, "{verdict:?}");
    let outside = errors_outside(&recording, &[failover, switchover]);
    assert_eq!(outside, Vec::<String>::new(), "client errors outside the failover");
    let acknowledged =
        recording.attempts.iter().filter(|attempt| attempt.outcome == Outcome::Acknowledged).count();
    let us = recording.attempts.last().unwrap().end_us - recording.attempts.first().unwrap().begin_us;
    let rate = acknowledged as u64 * 1_000_000 / us;
    eprintln!(
        "{acknowledged} rows, {rate}/s through PgBouncer and HAProxy; failover gap {:?} ms",
        gap_ms(&verdict)
    );
    assert!(rate > 100, "{rate} transactions a second are no load");
}

impl Walk {
    fn host(&self, name: &str) -> &HostPlan {
        self.plan.host(name).unwrap().1
    }

    fn databases(&self) -> impl Iterator<Item = &HostPlan> {
        DATABASES.iter().map(|name| self.host(name))
    }

    /// The process of each member's PostgreSQL.
    fn postmasters(&self) -> BTreeMap<String, String> {
        let pid = |host: &HostPlan| {
            let file = fs::read_to_string(host.data_dir("main").join("postmaster.pid")).unwrap();
            (host.name().to_owned(), file.lines().next().unwrap().to_owned())
        };
        self.databases().map(pid).collect()
    }

    fn leader(&self) -> String {
        let is_leader =
            |name: &&&str| self.lab.sql(name, "SELECT pg_is_in_recovery()").as_deref() == Some("f");
        let leaders = || DATABASES.iter().filter(is_leader).copied().collect::<Vec<&str>>();
        let found = std::cell::RefCell::new(Vec::new());
        // One that is asked may not answer in time on a busy machine.
        eventually("somebody leads", || {
            *found.borrow_mut() = leaders();
            !found.borrow().is_empty()
        });
        let found = found.into_inner();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].to_owned()
    }

    fn said(&self, words: &[&str]) -> Output {
        self.lab.holdfast(&[words, &["--cluster", "main"]].concat())
    }

    fn steps(&self, verb: &str) -> Vec<Value> {
        let words = [verb, "plan", "-o", "json"];
        let profile: &[&str] = if verb == "adopt" { &["--profile", "fast"] } else { &[] };
        let said = self.said(&[&words, profile].concat());
        assert!(said.success(), "{said:?}");
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(report["refused"].as_array().map_or(0, Vec::len), 0, "{report}");
        report["steps"].as_array().unwrap().clone()
    }

    /// The one step whose place and sentence contain these words.
    fn step(&self, verb: &str, place: &str, what: &str) -> Value {
        let steps = self.steps(verb);
        let fits = |step: &&Value| text(&step["where"]).contains(place) && text(&step["what"]).contains(what);
        steps.iter().find(fits).unwrap_or_else(|| panic!("no {place}: {what} in {steps:#?}")).clone()
    }

    fn is_done(&self, verb: &str, what: &str) -> bool {
        let steps = self.steps(verb);
        let mut fitting = steps.iter().filter(|step| text(&step["what"]).contains(what)).peekable();
        assert!(fitting.peek().is_some(), "no {what} in {steps:#?}");
        fitting.all(|step| step["done"] == true)
    }

    /// Runs the `patronictl` line of a step on a host, with the lab's program and that host's own file.
    fn patronictl(&self, host: &HostPlan, step: &Value) {
        let line = text(&step["text"]).lines().find_map(|line| line.find("patronictl").map(|at| &line[at..]));
        let words: Vec<&str> = line.expect("the step names a command").split(' ').collect();
        assert_eq!((words[0], words[1]), ("patronictl", "-c"), "{words:?}");
        let file = file_of(host).display().to_string();
        let said = self.lab.exec(host.name(), &[&[PATRONICTL, "-c", &file], &words[3..]].concat());
        assert!(said.success(), "{words:?}: {said:?}");
    }

    /// Puts what a step says into a host's patroni.yml.
    fn edit(&self, host: &HostPlan, step: &Value) {
        let agent = self.plan.program("holdfast-agent").display().to_string();
        let gate = host.dir.join("bin").join("postgres").display().to_string();
        let lines = text(&step["text"]).lines().filter(|line| !line.starts_with('#'));
        let yaml = lines.collect::<Vec<_>>().join("\n");
        let yaml =
            yaml.replace("/usr/bin/holdfast-agent", &agent).replace("/usr/lib/holdfast/postgres", &gate);
        let change: Value = serde_saphyr::from_str(&yaml).unwrap();
        change_file(&file_of(host), |file| merge(file, change));
    }

    fn ask(&self, host: &HostPlan, request: &Request) -> control::Response {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(control::ask(&host.control_socket(), request)).unwrap()
    }

    /// `systemctl stop`.
    fn stop(&self, host: &HostPlan, units: &[&str]) {
        let names: Vec<String> = units.iter().map(|unit| (*unit).to_owned()).collect();
        let pids = self.ask(host, &Request::Hold(names));
        for unit in units {
            let Some(pid) = pids.pid_of(unit) else { continue };
            kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
            eventually("the unit ends", || self.ask(host, &Request::Status).pid_of(unit).is_none());
        }
    }

    fn start(&self, host: &HostPlan, units: &[&str]) {
        let names = units.iter().map(|unit| (*unit).to_owned()).collect();
        self.ask(host, &Request::Start(names));
    }

    fn brings_in(&self) {
        let missing = self.said(&["adopt", "check"]);
        assert_eq!(missing.code, Some(3), "{missing:?}");
        assert!(missing.stdout.contains("db3 has no agent"), "{missing:?}");

        let role = self.step("adopt", "PostgreSQL", "the role of the agents");
        self.lab.sql(&self.leader(), text(&role["text"])).expect("the role is made");
        let login = self.step("adopt", "patroni.yml", "how that role gets in");
        self.databases().for_each(|host| self.edit(host, &login));
        self.patronictl(self.host("db1"), &login);

        for host in self.databases() {
            let agent =
                self.step("adopt", &format!("the host of {}", host.name()), "the agent's configuration");
            configure(host, text(&agent["text"]));
            self.start(host, &["guard", "agent"]);
        }
        self.start(self.host("pool1"), &["agent"]);
        eventually("every agent watches", || self.is_done("adopt", "guard and agent are started"));

        self.haproxy_asks_the_agents();
        let settings = self.step("adopt", "any database host", "shared settings");
        assert!(
            text(&settings["text"]).contains("failsafe_mode=true -s synchronous_mode=quorum"),
            "{settings}"
        );
        self.patronictl(self.host("db2"), &settings);
        for host in self.databases() {
            let hooks = self.step("adopt", &format!("the host of {}", host.name()), "the hooks");
            self.edit(host, &hooks);
            self.patronictl(host, &hooks);
        }
        eventually("nothing is missing", || {
            let said = self.said(&["adopt", "check"]);
            if said.code != Some(0) {
                eprintln!("{}", said.stdout);
            }
            said.code == Some(0)
        });
        eventually("the plan says so too", || {
            let left: Vec<Value> =
                self.steps("adopt").into_iter().filter(|step| step["done"] == false).collect();
            // What is done at the moment of arming, and arming itself.
            left.len() == 2
        });
        assert_eq!(self.lab.status()["mode"]["mode"], "observe");
    }

    fn haproxy_asks_the_agents(&self) {
        let step = self.step("adopt", "haproxy.cfg", "its check asks our agents");
        let lines = text(&step["text"]).lines();
        let table: Vec<&str> = lines.skip_while(|line| *line != "[routing]").take(3).collect();
        for host in self.databases() {
            let table = table.join("\n").replace("ADDRESS", &host.address.to_string());
            let routing: toml::Table = table.parse().unwrap();
            let own = fs::read_to_string(host.agent_config()).unwrap();
            let mut own: toml::Table = own.parse().unwrap();
            own.extend(routing);
            fs::write(host.agent_config(), toml::to_string(&own).unwrap()).unwrap();
            self.stop(host, &["agent"]);
            self.start(host, &["agent"]);
        }
        eventually("every agent answers load balancers", || {
            let of = |host: &HostPlan| self.routing_answer(host).starts_with("HTTP/1.1");
            self.databases().all(of)
        });
        let up = |host: &&HostPlan| self.routing_answer(host).starts_with("HTTP/1.1 200");
        eventually("Patroni's leader is up", || self.databases().filter(up).count() == 1);
        self.move_check(&step);
    }

    /// The head of what an agent says to a load balancer that knows our authority.
    fn routing_answer(&self, host: &HostPlan) -> String {
        let ca = self.host("pool1").certs().join("ca.crt").display().to_string();
        let url = format!("https://{}:7462/writer", host.address);
        let line = ["curl", "-s", "-i", "--max-time", "2", "--cacert", &ca, "-X", "OPTIONS", &url];
        self.lab.exec("pool1", &line).stdout
    }

    /// Puts a step's lines into the place of their like in haproxy.cfg, and reloads HAProxy.
    fn move_check(&self, step: &Value) {
        let pool1 = self.host("pool1");
        let (ca, own) = (pool1.certs().join("ca.crt"), haproxy::identity(pool1));
        let of_patroni = format!("{} crt {}", ca.display(), own.display());
        let printed = text(&step["text"]).replace("/etc/holdfast/tls/ca.crt", &ca.display().to_string());
        let printed = printed.replace("PATRONI-CA", &of_patroni);
        let begin = |line: &str| line.trim_start().split(' ').take(2).collect::<Vec<_>>().join(" ");
        let file = fs::read_to_string(haproxy::file(pool1)).unwrap();
        let moved: Vec<String> = file
            .lines()
            .map(|line| match printed.lines().find(|one| begin(one) == begin(line)) {
                Some(one) => format!("    {one}"),
                None => line.to_owned(),
            })
            .collect();
        let moved = moved.join("\n") + "\n";
        assert_ne!(moved, file);
        fs::write(haproxy::file(pool1), moved).unwrap();
        let master = self.ask(pool1, &Request::Status).pid_of("haproxy").unwrap();
        kill(Pid::from_raw(master), Signal::SIGUSR2).unwrap();
    }

    fn arms(&self) {
        self.stop(self.host("pool1"), &["repoint-main"]);
        let armed = self.said(&["arm", "--reason", "test", "--yes", "--accept-unmeasured", "--wait"]);
        assert!(armed.success(), "{armed:?}");
        eventually("it is healthy", || self.lab.is_healthy());
    }

    /// From when until when clients may have met errors.
    fn fails_over(&self, load: &Load) -> (u64, u64) {
        let writer = self.leader();
        let fault_us = monotonic_us();
        self.lab.run(&["fault", self.lab.name(), "kill", &writer, "postmaster"]);
        load.steady(fault_us);
        let end_us = monotonic_us();
        assert_ne!(self.leader(), writer, "another one writes");
        eventually("it is healthy again", || self.lab.is_healthy());
        let said = fs::read(format!("/proc/{}/cmdline", self.postmasters()[&writer])).unwrap();
        let program = said.split(|byte| *byte == 0).next().unwrap();
        assert!(program.ends_with(b"/./postgres"), "it came back through the start gate");
        (fault_us, end_us)
    }

    fn disarms(&self) {
        let disarmed = self.said(&["disarm", "--reason", "test", "--yes", "--wait"]);
        assert!(disarmed.success(), "{disarmed:?}");
        self.start(self.host("pool1"), &["repoint-main"]);
        for host in DATABASES {
            eventually("no table of ours is left", || {
                !self.lab.exec(host, &["nft", "list", "tables"]).stdout.contains("holdfast")
            });
        }
    }

    fn takes_out(&self) {
        self.move_check(&self.step("remove", "haproxy.cfg", "it asks Patroni again"));
        for host in self.databases() {
            change_file(&file_of(host), |file| {
                let section = file["postgresql"].as_object_mut().unwrap();
                assert!(section.remove("pre_promote").is_some() && section.remove("bin_name").is_some());
            });
            let out = self.step("remove", &format!("the host of {}", host.name()), "go out");
            self.patronictl(host, &out);
        }
        eventually("the hooks are seen to be out", || self.is_done("remove", "go out"));
        for host in self.databases() {
            self.stop(host, &["agent", "guard"]);
        }
        self.stop(self.host("pool1"), &["agent"]);
        eventually("no session is left", || self.is_done("remove", "agents and guards are stopped"));

        let role = self.step("remove", "PostgreSQL", "the role of the agents");
        let role = text(&role["text"]);
        self.lab.sql(&self.leader(), role).expect("the role goes");
        let keys = self.step("remove", "etcd", "our keys");
        let words: Vec<&str> = text(&keys["text"]).split(' ').skip(1).collect();
        assert!(self.lab.etcdctl(&words).success(), "{words:?}");
        assert!(self.is_done("remove", "our keys"));
        for host in self.databases() {
            // As the package's end takes them: whoever still called one of them would fail.
            fs::remove_file(host.dir.join("bin").join("postgres")).unwrap();
            fs::remove_file(host.agent_config()).unwrap();
        }
    }

    /// Patroni alone hands over, and starts the old leader again, which no program of ours is there for.
    fn is_patroni_alone(&self, load: &Load) -> (u64, u64) {
        let (leader, host) = (self.leader(), self.host("db1"));
        let candidate = DATABASES[..3].iter().find(|name| **name != leader).unwrap();
        let file = file_of(host).display().to_string();
        let begin_us = monotonic_us();
        let line = [
            PATRONICTL,
            "-c",
            &file,
            "switchover",
            "main",
            "--leader",
            &leader,
            "--candidate",
            candidate,
            "--force",
        ];
        let said = self.lab.exec("db1", &line);
        assert!(said.success(), "{said:?}");
        load.steady(begin_us);
        assert_eq!(self.leader(), *candidate);
        (begin_us, monotonic_us())
    }
}

fn file_of(host: &HostPlan) -> PathBuf {
    host.etc().join("patroni-main.yml")
}

/// The lab writes Patroni's file as JSON, which is YAML.
fn change_file(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut file: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut file);
    fs::write(path, serde_json::to_string_pretty(&file).unwrap()).unwrap();
}

/// Maps are merged, what a list has new stands first, and everything else is replaced.
fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(change)) => {
            into.splice(0..0, change);
        }
        (into, change) => *into = change,
    }
}

/// The printed configuration, but for the paths that a lab has elsewhere. What the plan knows must be what is true of the host.
fn configure(host: &HostPlan, printed: &str) {
    let own: toml::Table = fs::read_to_string(host.agent_config()).unwrap().parse().unwrap();
    let mut table: toml::Table = printed.parse().unwrap();
    for known in ["region", "host", "etcd", "grpc"] {
        assert_eq!(table[known], own[known], "{known}");
    }
    assert_eq!(table["timings"]["profile"], own["timings"]["profile"]);
    for path in ["run_dir", "state_dir", "tls", "metrics", "timings"] {
        table.insert(path.into(), own[path].clone());
    }
    let (instance, own) = (&mut table["instance"][0], &own["instance"][0]);
    for known in ["namespace", "scope", "member", "port", "address", "patroni_url"] {
        assert_eq!(instance[known], own[known], "{known}");
    }
    for path in ["data_dir", "bin_dir", "socket_dir", "cgroup"] {
        instance[path] = own[path].clone();
    }
    assert_eq!(json!(instance["class"]), "quorum");
    fs::write(host.agent_config(), toml::to_string(&table).unwrap()).unwrap();
}
