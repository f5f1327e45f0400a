//! Two builds side by side: the agents of a cluster under load are replaced one host at a time, as the upgrade of a package does
//! it. With half of the hosts done the writer's host dies; with all of them done, its PostgreSQL; on the way back, half done,
//! once more. Then the newer format is finalised, a writer is lost in it, and an old build that comes back after that acts on
//! nothing. No row is lost, and no client meets an error outside the failovers. Needs root, `tests/setup`, the built workspace, and `tests/newer`.
//!
//! The other build is what `tests/newer` makes: records and messages with a field more, and a format more that it writes once a
//! person has finalised it. By hand, `HOLDFAST_OTHER_BUILD=FOLDER` names the programs of any other build, for example an older
//! one; what is known of the newer alone is not asserted then.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::support::load::{Load, errors_outside};
use crate::support::{Lab, Output, eventually, text};
use holdfast_lab::checker::monotonic_us;
use holdfast_lab::lab::control::{self, Request};
use holdfast_lab::lab::files;
use holdfast_lab::lab::plan::Plan;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SPEC: &str = include_str!("../../specs/quick.toml");
const DATABASES: [&str; 4] = ["db1", "db2", "db3", "db4"];
/// Every host with an agent, in the order in which they are replaced.
const HOSTS: [&str; 7] = ["db4", "pool1", "db3", "client", "db2", "backup1", "db1"];
/// What an agent of each build says of itself.
const ORDINARY: (&str, u64) = ("0.1.0", 1);
const NEWER: (&str, u64) = ("999.0.0-test", 2);
/// The field that only the newer build knows.
const FIELD: &str = "newer";
const PACE: [&str; 4] = ["--rate", "20", "--clients", "2"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Build {
    Ordinary,
    Other,
}

#[test]
#[ignore = "three minutes, and a build of its own; tests/all --long"]
fn hosts_are_upgraded_and_put_back_one_at_a_time_through_failovers() {
    let lab = Lab::up("t_builds", SPEC);
    let plan = files::load(lab.name()).unwrap();
    let region = Region::new(lab, plan);
    let load = Load::paced(&region.lab, "builds", 2, &PACE, |kind| kind != "socket");
    let mut failovers = Vec::new();
    let begin_us = monotonic_us();

    let (first, rest) = HOSTS.split_at(4);
    region.told(&[]);
    first.iter().for_each(|name| region.replace(name, Build::Other));
    region.told(first);
    region.refuses_to_finalise(rest);
    failovers.push(region.fails_over(&load, Loss::Host));
    rest.iter().for_each(|name| region.replace(name, Build::Other));
    region.told(&HOSTS);
    failovers.push(region.fails_over(&load, Loss::Postmaster));
    region.writes_what_an_older_build_reads();

    first.iter().for_each(|name| region.replace(name, Build::Ordinary));
    region.told(rest);
    failovers.push(region.fails_over(&load, Loss::Postmaster));
    rest.iter().for_each(|name| region.replace(name, Build::Ordinary));
    region.told(&[]);
    region.keeps_what_it_does_not_know();

    HOSTS.iter().for_each(|name| region.replace(name, Build::Other));
    if region.is_newer {
        region.finalises();
        failovers.push(region.fails_over(&load, Loss::Postmaster));
        region.writes_what_an_older_build_cannot_read();
        region.an_old_build_acts_on_nothing("db4");
        load.goes_on(monotonic_us());
    }

    let (verdict, recording) = load.recorded(begin_us);
    eprintln!("{:?}", verdict.counts);
    assert!(verdict.is_clean(), "lost rows or two writers: {verdict:?}");
    assert_eq!(errors_outside(&recording, &failovers), Vec::<String>::new(), "outside the failovers");
}

/// How a writer is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Host,
    Postmaster,
}

struct Region {
    lab: Lab,
    plan: Plan,
    other: PathBuf,
    /// The other build is that of `tests/newer`.
    is_newer: bool,
}

impl Region {
    fn new(lab: Lab, plan: Plan) -> Self {
        let named = std::env::var_os("HOLDFAST_OTHER_BUILD").map(PathBuf::from);
        let is_newer = named.is_none();
        let other = named.unwrap_or_else(|| plan.programs.parent().unwrap().join("newer").join("debug"));
        assert!(other.join("holdfast-agent").exists(), "{}: tests/newer builds it", other.display());
        let region = Self { lab, plan, other, is_newer };
        if !is_newer {
            region.forget_settings_of_today();
        }
        region
    }

    /// A setting that an older build does not know is a problem to it: whoever goes back to it takes the setting out first.
    fn forget_settings_of_today(&self) {
        for name in HOSTS {
            let file = self.plan.host(name).unwrap().1.agent_config();
            let mut table: toml::Table = fs::read_to_string(&file).unwrap().parse().unwrap();
            table.remove("routing");
            fs::write(&file, toml::to_string(&table).unwrap()).unwrap();
        }
    }

    // --- what a package does

    /// One host of a rolling upgrade: the next one's turn comes when the region is healthy with it.
    fn replace(&self, name: &str, build: Build) {
        self.put(name, build);
        eventually("the region is well with it", || self.is_well(&self.lab.status()));
    }

    /// Healthy, but for what an older build does not tell of its start gate.
    fn is_well(&self, status: &Value) -> bool {
        let findings = status["findings"].as_array().cloned().unwrap_or_default();
        let is_untold =
            |finding: &Value| text(&finding["cause"]).contains("was not started through the start gate");
        status["healthy"] == true || !self.is_newer && !findings.is_empty() && findings.iter().all(is_untold)
    }

    /// Puts the programs of a build into the place of the present ones, on one host, and restarts guard and agent.
    fn put(&self, name: &str, build: Build) {
        for program in ["holdfast-guard", "holdfast-agent"] {
            let place = self.plan.program(program).display().to_string();
            // What runs keeps the file that it was started from.
            self.lab.exec(name, &["umount", "--lazy", &place]);
            if build == Build::Other {
                let other = self.other.join(program).display().to_string();
                let said = self.lab.exec(name, &["mount", "--bind", &other, &place]);
                assert!(said.success(), "{name}: {said:?}");
            }
        }
        let units: &[&str] = if DATABASES.contains(&name) { &["guard", "agent"] } else { &["agent"] };
        units.iter().for_each(|unit| self.restart(name, unit));
        let folder = if build == Build::Other { &self.other } else { &self.plan.programs };
        let wanted = file_id(&folder.join("holdfast-agent"));
        eventually("the agent of that build runs", || {
            let pid = self.pid(name, "agent");
            pid.is_some_and(|pid| file_id(&PathBuf::from(format!("/proc/{pid}/exe"))) == wanted)
        });
    }

    fn pid(&self, name: &str, unit: &str) -> Option<i32> {
        let socket = self.plan.host(name).unwrap().1.control_socket();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(control::ask(&socket, &Request::Status)).unwrap().pid_of(unit)
    }

    fn restart(&self, name: &str, unit: &str) {
        let before = self.pid(name, unit).expect("it runs");
        kill(Pid::from_raw(before), Signal::SIGTERM).unwrap();
        eventually("it is started again", || self.pid(name, unit).is_some_and(|pid| pid != before));
    }

    // --- what people see

    fn newer(&self, words: &[&str]) -> Output {
        let program = self.other.join("holdfast").display().to_string();
        self.lab.exec("client", &[&[program.as_str()], words].concat())
    }

    fn report(said: &Output) -> Value {
        assert!(said.success(), "{said:?}");
        serde_json::from_str(&said.stdout).unwrap()
    }

    /// `upgrade status` of both builds, when exactly these hosts have the newer one; and both builds understand what the agents
    /// of both say.
    fn told(&self, newer: &[&str]) {
        for said in [self.lab.holdfast(&["doctor"]), self.newer(&["doctor"])] {
            assert!(!said.stdout.contains("needs a reader"), "{said:?}");
        }
        if !self.is_newer {
            return;
        }
        let expected: BTreeMap<String, (String, u64)> = HOSTS
            .iter()
            .map(|name| {
                let (version, reads) = if newer.contains(name) { NEWER } else { ORDINARY };
                ((*name).to_owned(), (version.to_owned(), reads))
            })
            .collect();
        eventually("upgrade status names every build", || {
            let report = Self::report(&self.newer(&["upgrade", "status", "-o", "json"]));
            let of = |agent: &Value| {
                let reads = agent["reads_format"].as_u64().unwrap();
                (text(&agent["host"]).to_owned(), (text(&agent["version"]).to_owned(), reads))
            };
            let agents = report["agents"].as_array().unwrap().iter().map(of).collect::<BTreeMap<_, _>>();
            agents == expected
        });
        let report = Self::report(&self.newer(&["upgrade", "status", "-o", "json"]));
        assert_eq!(
            (&report["written_format"], &report["command_format"]),
            (&1.into(), &2.into()),
            "{report}"
        );
        let mut problems: Vec<String> = problems(&report);
        let old = HOSTS.iter().filter(|name| !newer.contains(*name));
        let mut wanted: Vec<String> = old.map(|name| too_old(name)).collect();
        problems.sort();
        wanted.sort();
        assert_eq!(problems, wanted);
        let ordinary = Self::report(&self.lab.holdfast(&["upgrade", "status", "-o", "json"]));
        assert_eq!(
            self::problems(&ordinary),
            Vec::<String>::new(),
            "what the ordinary build writes, all read"
        );
    }

    fn refuses_to_finalise(&self, old: &[&str]) {
        if self.is_newer {
            let said = self.newer(&["upgrade", "finalize", "--reason", "too early", "--yes"]);
            assert_eq!(said.code, Some(3), "{said:?}");
            assert!(old.iter().all(|name| said.stderr.contains(&too_old(name))), "{said:?}");
        }
    }

    /// By the newer command where there is one: once the format is finalised it alone can read the term.
    fn status(&self) -> Value {
        if !self.is_newer {
            return self.lab.status();
        }
        serde_json::from_str(&self.newer(&["status", "-o", "json"]).stdout).unwrap_or_default()
    }

    fn holder(&self) -> Option<String> {
        let term = &self.status()["term"];
        term["holder"].as_str().filter(|_| term["state"] == "open").map(str::to_owned)
    }

    /// Every record of ours, by its key below the region.
    fn records(&self) -> BTreeMap<String, Value> {
        let said = self.lab.etcdctl(&["get", "--prefix", "/holdfast/v1/r1/"]);
        assert!(said.success(), "{said:?}");
        let lines: Vec<&str> = said.stdout.lines().collect();
        let pair = |pair: &[&str]| {
            let key = pair[0].strip_prefix("/holdfast/v1/r1/").unwrap().to_owned();
            (key, serde_json::from_str(pair[1]).unwrap())
        };
        lines.chunks(2).map(pair).collect()
    }

    // --- what happens

    /// From when until when clients may have met errors.
    fn fails_over(&self, load: &Load, loss: Loss) -> (u64, u64) {
        let writer = self.holder().expect("somebody writes");
        let fault_us = monotonic_us();
        match loss {
            Loss::Host => self.lab.run(&["fault", self.lab.name(), "host-death", &writer]),
            Loss::Postmaster => self.lab.run(&["fault", self.lab.name(), "kill", &writer, "postmaster"]),
        };
        let end_us = load.goes_on(fault_us);
        let next = self.holder().expect("somebody writes");
        assert_ne!(next, writer, "another one writes");
        eprintln!("{loss:?}: from {writer} to {next}");
        if loss == Loss::Host {
            self.lab.run(&["heal", self.lab.name()]);
        }
        eventually("the region is well again", || self.is_well(&self.status()));
        (fault_us, end_us)
    }

    /// The newer build, on every host and through a failover, before anybody has finalised anything.
    fn writes_what_an_older_build_reads(&self) {
        if self.is_newer {
            let records = self.records();
            let term = &records["service/main/term"];
            assert!(term.get(FIELD).is_some(), "the newer build has written it: {term}");
            for (key, record) in &records {
                assert_eq!(
                    (&record["format"], &record["min_reader"]),
                    (&1.into(), &1.into()),
                    "{key}: {record}"
                );
            }
        }
    }

    /// The ordinary build has taken over the term of the newer: its agent's new start is in the record, and what it does not
    /// know is still there.
    fn keeps_what_it_does_not_know(&self) {
        let holder = self.holder().unwrap();
        eventually("the present start of the holder's agent is in the term record", || {
            let records = self.records();
            let session = &records[&format!("session/{holder}")];
            records["service/main/term"]["reign"]["incarnation"] == session["incarnation"]
        });
        if self.is_newer {
            let records = self.records();
            assert!(records["service/main/term"].get(FIELD).is_some(), "{records:#?}");
            assert!(records.values().all(|record| record["format"] == 1));
        }
    }

    /// From here on there is no way back.
    fn finalises(&self) {
        let said = self.newer(&["upgrade", "finalize", "--reason", "all hosts done", "--yes"]);
        assert!(said.success(), "{said:?}");
        let refused = self.lab.holdfast(&["upgrade", "finalize", "--reason", "back", "--yes"]);
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.contains("format 2 is written already"), "{refused:?}");
    }

    fn writes_what_an_older_build_cannot_read(&self) {
        let term = &self.records()["service/main/term"];
        assert_eq!((&term["format"], &term["min_reader"]), (&2.into(), &2.into()), "{term}");
    }

    /// It cannot read the term, says so, and everybody else goes on.
    fn an_old_build_acts_on_nothing(&self, name: &str) {
        let log = self.plan.host(name).unwrap().1.logs().join("agent.log");
        let before = fs::metadata(&log).unwrap().len();
        let writer = self.holder().expect("somebody writes");
        self.put(name, Build::Ordinary);
        eventually("it says that it is too old", || {
            let text = fs::read_to_string(&log).unwrap();
            text.get(before as usize..).is_some_and(|new| {
                new.contains("needs a reader of format 2") && new.contains("upgrade this host")
            })
        });
        let report = Self::report(&self.newer(&["upgrade", "status", "-o", "json"]));
        assert_eq!(report["written_format"], 2, "{report}");
        eventually("upgrade status names it", || {
            let report = Self::report(&self.newer(&["upgrade", "status", "-o", "json"]));
            problems(&report) == [too_old(name)]
        });
        assert_eq!(self.holder(), Some(writer));
        self.put(name, Build::Other);
        eventually("the region is healthy with the newer build", || self.status()["healthy"] == true);
    }
}

fn problems(report: &Value) -> Vec<String> {
    report["blockers"].as_array().unwrap().iter().map(|one| text(&one["problem"]).to_owned()).collect()
}

fn too_old(host: &str) -> String {
    format!("the agent of {host} (version 0.1.0) reads records up to format 1")
}

/// Which file a path leads to, whatever it is called.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}
