//! Watch first, then act: while observing, agents say what they would have done and touch nothing; once armed, a second
//! failover so soon pages a person and waits. With real servers.

use std::fs;
use std::path::Path;

use crate::support::{Lab, eventually, text};
use serde_json::Value;

const DATABASES: [&str; 4] = ["db1", "db2", "db3", "db4"];

struct Region {
    lab: Lab,
    page: tempfile::TempDir,
}

#[test]
fn an_observing_agent_only_tells_and_a_second_failover_waits_for_a_person() {
    let page = tempfile::tempdir().unwrap();
    let pager = format!("cat > {}/incident.json", page.path().display());
    let spec = format!(
        "profile = \"fast\"\narm = false\nsecond_failover_hold_ms = 600000\n\
         paging_command = [\"/bin/sh\", \"-c\", \"{pager}\"]\n\
         [patroni]\nttl = 20\nloop_wait = 1\nretry_timeout = 3\n"
    );
    let region = Region { lab: Lab::up("t_observe", &spec), page };
    region.observes_a_crash();
    region.observes_a_failover_of_patronis();
    region.lab.order(&["arm", "--reason", "test", "--yes", "--wait"]);
    region.fails_over();
    region.holds_the_second();
    region.has_two_error_lines();
}

impl Region {
    /// Patroni alone deals with it; the agent says what it would have done.
    fn observes_a_crash(&self) {
        // With fewer than two standbys that stream, by what their agents have published, nothing would be given away.
        eventually("the agents have published that their members stream", || self.streaming_facts() == 4);
        let writer = self.leader();
        self.lab.run(&["fault", self.lab.name(), "kill", &writer, "postmaster"]);
        eventually("what the writer's agent would have done is told", || {
            self.would()
                .iter()
                .any(|(member, text)| *member == writer && text.starts_with("shut the start gate"))
        });
        eventually("Patroni's own recovery serves", || self.lab.writes("libpq", None));
        let status = self.lab.status();
        assert_eq!(status["mode"]["mode"], "observe", "{status}");
        assert!(status["term"].is_null(), "no term is opened: {status}");
        for member in DATABASES {
            let tables = self.lab.exec(member, &["nft", "list", "tables"]).stdout;
            assert!(!tables.contains("holdfast"), "{member}: {tables}");
        }
    }

    /// The hook lets the promotion pass, and the standbys say that they would have left the writer.
    fn observes_a_failover_of_patronis(&self) {
        let writer = self.leader();
        self.lab.run(&["fault", self.lab.name(), "host-death", &writer]);
        let left = format!("left {writer}, ");
        eventually("the standbys would have left the dead writer", || {
            self.would().iter().filter(|(_, text)| text.starts_with(&left)).count() >= 2
        });
        eventually("Patroni promotes another, through our hook", || {
            self.lab.writes("libpq", None) && self.leader() != writer
        });
        assert_eq!(self.lab.status()["mode"]["mode"], "observe");
        self.lab.run(&["heal", self.lab.name(), &writer]);
        eventually("it comes back", || self.lab.streams(&writer));
    }

    fn fails_over(&self) {
        let writer = self.leader();
        self.lab.run(&["fault", self.lab.name(), "host-death", &writer]);
        eventually("the next writer is in office", || self.is_writable_without(&writer));
        self.lab.run(&["heal", self.lab.name(), &writer]);
        eventually("full redundancy is back", || {
            self.lab.streams(&writer) && self.lab.status()["healthy"] == Value::Bool(true)
        });
    }

    fn holds_the_second(&self) {
        let writer = self.leader();
        self.lab.run(&["fault", self.lab.name(), "host-death", &writer]);
        eventually("it is held", || self.lab.status()["hold"].is_string());
        let incident = self.page.path().join("incident.json");
        eventually("a person is paged", || incident.exists() && !fs::read(&incident).unwrap().is_empty());
        let paged: Value = serde_json::from_slice(&fs::read(&incident).unwrap()).unwrap();
        assert_eq!((&paged["format"], &paged["cluster"]), (&1.into(), &"r1/service/main".into()), "{paged}");
        assert_eq!(paged["incident"]["term"], self.lab.status()["term"]["term"], "{paged}");
        assert!(!self.lab.writes("libpq", None), "nothing is promoted while it is held");
        let finding = text(&self.lab.status()["findings"][0]["next"]).to_owned();
        assert!(finding.contains("hold end"), "the next safe command: {finding}");
        self.lab.order(&["hold", "end", "--reason", "looked at it", "--yes"]);
        eventually("the next writer is in office", || self.is_writable_without(&writer));
        self.lab.run(&["heal", self.lab.name(), &writer]);
        eventually("full redundancy is back", || self.lab.streams(&writer));
    }

    /// ERROR means that a person must act: one line for each incident, and the hold's was that of the second.
    fn has_two_error_lines(&self) {
        let described = self.lab.describe();
        let hosts = described["regions"][0]["hosts"].as_array().unwrap();
        let logs = hosts.iter().filter_map(|host| host["logs"]["agent"].as_str());
        let lines: Vec<String> = logs
            .flat_map(|log| {
                let log = fs::read_to_string(Path::new(log)).unwrap();
                log.lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(lines.len(), 2, "{lines:#?}");
    }

    fn is_writable_without(&self, lost: &str) -> bool {
        let status = self.lab.status();
        status["term"]["writable"] == Value::Bool(true)
            && status["term"]["holder"] != *lost
            && self.lab.writes("libpq", None)
    }

    /// How many members are said to stream and to be eligible by their own agents.
    fn streaming_facts(&self) -> usize {
        let etcd = self.lab.describe()["regions"][0]["etcd"].clone();
        let endpoints = etcd["endpoints"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join(",");
        let line = [
            "env",
            "ETCDCTL_API=3",
            "etcdctl",
            "--endpoints",
            &endpoints,
            "--cacert",
            text(&etcd["ca"]),
            "--cert",
            text(&etcd["cert"]),
            "--key",
            text(&etcd["key"]),
            "get",
            "--prefix",
            "--print-value-only",
            "/holdfast/v1/r1/service/main/facts/",
        ];
        let facts = self.lab.exec("client", &line).stdout;
        let facts = facts.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        facts.filter(|one| one["streaming"] == true && one["eligible"] == true).count()
    }

    fn leader(&self) -> String {
        let members = self.lab.status()["members"].clone();
        let leads =
            |member: &&Value| member["role"].as_str().is_some_and(|role| role.eq_ignore_ascii_case("leader"));
        let leader = members.as_array().unwrap().iter().find(leads);
        text(&leader.unwrap_or_else(|| panic!("no leader: {members}"))["member"]).to_owned()
    }

    fn would(&self) -> Vec<(String, String)> {
        let lines = self.lab.status()["would"].clone();
        let lines = lines.as_array().unwrap().iter();
        lines.map(|line| (text(&line["member"]).to_owned(), text(&line["text"]).to_owned())).collect()
    }
}
