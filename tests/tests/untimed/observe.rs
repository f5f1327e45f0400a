//! Watch first, then act: while observing, agents say what they would have done and touch nothing; once armed, a second
//! failover so soon pages a person and waits. With real servers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::{Lab, eventually, text};
use holdfast_types::Lsn;
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
    region.observes_what_moves_nobody();
    region.observes_a_failover_of_patronis();
    let unmeasured = region.lab.holdfast(&["arm", "--reason", "test", "--dry-run"]);
    assert_eq!(unmeasured.code, Some(3), "fast is not for hosts of which nothing is known: {unmeasured:?}");
    region.lab.order(&[
        "arm",
        "--reason",
        "test",
        "--yes",
        "--profile",
        "fast",
        "--accept-unmeasured",
        "--wait",
    ]);
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
        eventually("the incident is over in the report", || {
            self.newest_incident(&writer).is_some_and(|incident| incident["next"] == writer.as_str())
        });
        let incident = self.newest_incident(&writer).unwrap();
        eprintln!("crash: {incident}");
        assert_eq!(incident["reason"], "postmaster_gone", "{incident}");
        assert!(incident["outage_ms"].as_i64().is_some_and(|outage_ms| outage_ms > 0), "{incident}");
        let status = self.lab.status();
        assert_eq!(status["mode"]["mode"], "observe", "{status}");
        assert!(status["term"].is_null(), "no term is opened: {status}");
        for member in DATABASES {
            let tables = self.lab.exec(member, &["nft", "list", "tables"]).stdout;
            assert!(!tables.contains("holdfast"), "{member}: {tables}");
        }
    }

    /// What an armed agent mends without a failover closes nothing while observing either.
    fn observes_what_moves_nobody(&self) {
        let writer = self.leader();
        let before = self.incidents().len();
        self.lab.run(&["fault", self.lab.name(), "kill", &writer, "agent"]);
        eventually("the agent is back, with what it had kept", || {
            self.lab.status()["would"].is_array() && self.report()["silent"] == serde_json::json!([])
        });
        assert_eq!(self.incidents().len(), before, "a lost agent is no incident, and costs no record of one");
        self.lab.run(&["fault", self.lab.name(), "stop", &writer, "patroni"]);
        eventually("the hung Patroni is told", || {
            self.newest_incident(&writer).is_some_and(|incident| incident["reason"] == "patroni_hung")
        });
        self.lab.run(&["heal", self.lab.name(), &writer]);
        let incident = self.newest_incident(&writer).unwrap();
        assert!(text(&incident["would"][0]["text"]).contains("hung Patroni"), "{incident}");
        assert!(incident["would_close_at"].is_null(), "it is no reason to fail over: {incident}");
        eventually("Patroni is well", || {
            self.lab.writes("libpq", None) && self.streaming_facts() == 4 && self.leader() == writer
        });
    }

    /// The hook lets the promotion pass, and the standbys say that they would have left the writer.
    fn observes_a_failover_of_patronis(&self) {
        let writer = self.leader();
        self.lab.run(&["fault", self.lab.name(), "host-death", &writer]);
        let left = format!("left {writer}, ");
        eventually("the standbys would have left the dead writer", || {
            self.would().iter().filter(|(_, text)| text.starts_with(&left)).count() >= 2
        });
        // Both of those that count: one more than the quorum.
        eventually("what they would have promised is there", || {
            ["db1", "db2", "db3"].iter().filter(|member| self.promised().contains_key(**member)).count() == 2
        });
        let promised = self.promised();
        eventually("Patroni promotes another, through our hook", || {
            self.lab.writes("libpq", None) && self.leader() != writer
        });
        assert_eq!(self.lab.status()["mode"]["mode"], "observe");
        self.reports_the_failover(&writer, &self.leader(), &promised);
        self.lab.run(&["heal", self.lab.name(), &writer]);
        eventually("it comes back", || self.lab.streams(&writer));
    }

    /// The report names the writer, when its reign would have been closed, for whom (by the rule by which an armed agent
    /// names), and how long Patroni took.
    fn reports_the_failover(&self, lost: &str, next: &str, promised: &BTreeMap<String, (u64, Lsn)>) {
        eventually("the report knows who leads now", || {
            self.newest_incident(lost).is_some_and(|incident| incident["writable_at"].is_string())
        });
        let incident = self.newest_incident(lost).unwrap();
        eprintln!("host death: {incident}");
        assert_eq!(
            (&incident["reason"], &incident["next"]),
            (&"session_gone".into(), &next.into()),
            "{incident}"
        );
        let close_ms = incident["would_close_after_ms"].as_i64().expect("it would have been closed");
        let outage_ms = incident["outage_ms"].as_i64().unwrap();
        assert!(close_ms < outage_ms, "an armed agent is faster than Patroni's lock: {incident}");
        // Rule 16, with one priority for all: never the asynchronous one beside others, then the position, then the name.
        let may_lead = promised.iter().filter(|(member, _)| *member != "db4");
        let rule = may_lead.max_by(|(a, at_a), (b, at_b)| at_a.cmp(at_b).then(b.cmp(a)));
        assert_eq!(
            Some(text(&incident["would_name"])),
            rule.map(|(member, _)| member.as_str()),
            "{promised:?}"
        );
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
        let facts = self.values("facts/");
        facts.values().filter(|one| one["streaming"] == true && one["eligible"] == true).count()
    }

    fn report(&self) -> Value {
        let report = self.lab.holdfast(&["report", "--since", "1h", "-o", "json"]);
        serde_json::from_str(&report.stdout).unwrap_or_else(|error| panic!("{error}: {report:?}"))
    }

    /// Newest first.
    fn incidents(&self) -> Vec<Value> {
        self.report()["incidents"].as_array().unwrap().clone()
    }

    fn newest_incident(&self, writer: &str) -> Option<Value> {
        self.incidents().into_iter().find(|incident| incident["writer"] == writer)
    }

    /// Records of ours below this prefix.
    fn values(&self, prefix: &str) -> BTreeMap<String, Value> {
        let prefix = format!("/holdfast/v1/r1/service/main/{prefix}");
        let found = self.lab.etcdctl(&["get", "--prefix", &prefix]).stdout;
        let lines: Vec<&str> = found.lines().collect();
        let pairs = lines.chunks(2).filter_map(|pair| match pair {
            [key, value] => Some((key.strip_prefix(&prefix)?.to_owned(), serde_json::from_str(value).ok()?)),
            _ => None,
        });
        pairs.collect()
    }

    /// How far each member had come when it would have left the present writer.
    fn promised(&self) -> BTreeMap<String, (u64, Lsn)> {
        let position = |record: &Value| {
            let position = &record["promise"]["position"];
            Some((position["timeline"].as_u64()?, position["lsn"].as_str()?.parse().ok()?))
        };
        let said = self.values("would/").into_iter();
        said.filter_map(|(member, record)| Some((member, position(&record)?))).collect()
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
