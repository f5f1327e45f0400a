//! What those are told who do not use our poolers: a load balancer that asks each host, and the command that follows the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Lab, eventually, host, text};

const HOSTS: [&str; 4] = ["db1", "db2", "db3", "db4"];
/// Every agent that has a cluster to follow.
const TOLD: [&str; 6] = ["db1", "db2", "db3", "db4", "pool1", "client"];

/// The line of the specification: each agent writes down, with its host's address, whom it was told of.
pub fn command(folder: &Path) -> String {
    let file = folder.join("told").display().to_string();
    let line = format!(
        "echo $(hostname -I) $HOLDFAST_TERM $HOLDFAST_WRITER $HOLDFAST_WRITER_ADDRESS:$HOLDFAST_WRITER_PORT >> {file}"
    );
    format!("route_command = [\"/bin/sh\", \"-c\", \"{line}\"]\n")
}

/// The hosts that were up in one round of questions, all of them asked at the same time, and those of them that were in
/// recovery a moment later.
#[derive(Debug, Default)]
struct Round {
    up: BTreeSet<String>,
    in_recovery: BTreeSet<String>,
}

/// Asks every host for as long as it lives, from the clients' network.
struct Watch {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Watch {
    fn start(lab: &Lab) -> Self {
        let described = lab.describe();
        let of = |name: &str| {
            let one = host(&described, name);
            (text(&one["address"]).to_owned(), text(&one["instances"][0]["socket_dir"]).to_owned())
        };
        let urls = HOSTS.map(|name| format!("-o /dev/null http://{}:7462/writer", of(name).0)).join(" ");
        let sockets = HOSTS.map(|name| of(name).1).join(" ");
        let script = format!(
            "sockets=({sockets})\n\
             while sleep 0.05; do\n\
             answers=$(curl -s -Z --max-time 0.4 -w '%{{urlnum}} %{{http_code}}\\n' {urls} 2>/dev/null)\n\
             echo round\n\
             while read n code; do [ \"$code\" = 200 ] || continue; echo \"up $n\"\n\
             echo \"recovery $n $(timeout 2 psql -qAtX -h ${{sockets[n]}} -U postgres -c 'select pg_is_in_recovery()' 2>/dev/null)\"\n\
             done <<<\"$answers\"\n\
             done\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        let netns = text(&host(&described, "client")["netns"]).to_owned();
        let child = Command::new("ip")
            .args(["netns", "exec", &netns, "bash", "-c", &script])
            .stdin(Stdio::null())
            .stdout(file.reopen().unwrap())
            .spawn()
            .unwrap();
        Self { child, file }
    }

    fn rounds(&self) -> Vec<Round> {
        let mut rounds: Vec<Round> = Vec::new();
        for line in std::fs::read_to_string(self.file.path()).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let of = |number: &str| HOSTS[number.parse::<usize>().unwrap()].to_owned();
            match words[..] {
                ["round"] => rounds.push(Round::default()),
                ["up", number] => {
                    rounds.last_mut().unwrap().up.insert(of(number));
                }
                ["recovery", number, "t"] => {
                    rounds.last_mut().unwrap().in_recovery.insert(of(number));
                }
                // Not in recovery, or gone meanwhile, or not written out yet.
                _ => {}
            }
        }
        rounds
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Loses the writer meanwhile. Never two hosts are up at once, and never one that is in recovery; the command is run once on
/// each host that lives, with the new writer.
pub fn checks_and_command_follow_a_writer(lab: &Lab, folder: &Path, lose_writer: impl Fn()) {
    let before = lab.status()["term"].clone();
    let writer = text(&before["holder"]).to_owned();
    only_the_writer_and_its_standbys_are_up(lab, &writer);
    let watch = Watch::start(lab);
    let is_up = |name: &str| watch.rounds().last().is_some_and(|round| round.up == [name.to_owned()].into());
    eventually("the writer is up and nobody else", || is_up(&writer));
    lose_writer();
    let after = lab.status()["term"].clone();
    let next = text(&after["holder"]).to_owned();
    assert_ne!(writer, next, "{after}");
    eventually("the next writer is up and nobody else", || is_up(&next));
    let rounds = watch.rounds();
    drop(watch);
    for round in &rounds {
        assert!(round.up.len() <= 1 && round.in_recovery.is_empty(), "{round:?}");
    }
    let count = |name: &str| rounds.iter().filter(|round| round.up.contains(name)).count();
    let (by_old, by_next) = (count(&writer), count(&next));
    eprintln!("/writer: {} rounds, {by_old} of {writer}, {by_next} of {next}", rounds.len());
    assert!(by_old > 0 && by_next > 0 && by_old + by_next < rounds.len(), "and nobody for a while");
    only_the_writer_and_its_standbys_are_up(lab, &next);
    told_once(lab, folder, &writer, &next, after["term"].as_u64().unwrap());
}

fn told_once(lab: &Lab, folder: &Path, lost: &str, next: &str, term: u64) {
    let described = lab.describe();
    let address = |name: &str| text(&host(&described, name)["address"]).to_owned();
    let said = format!("{term} {next} {}:5432", address(next));
    let told = || {
        let text = std::fs::read_to_string(folder.join("told")).unwrap();
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines().filter(|line| line.ends_with(&said)) {
            *count.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }
        count
    };
    eventually("every host has been told", || TOLD.iter().all(|name| told().contains_key(&address(name))));
    for name in TOLD.into_iter().filter(|name| *name != lost) {
        assert_eq!(told()[&address(name)], 1, "{name} was told once: {said}");
    }
    eventually("the incident says so of every host", || {
        let events = lab.events();
        let event = events.iter().find(|event| event["term"].as_u64() == Some(term - 1)).unwrap();
        let of = |name: &&str| event["route_commands"][*name].as_str().unwrap_or_default().to_owned();
        TOLD.iter().all(|name| of(name).starts_with(&format!("told of {next} in term {term}")))
    });
}

fn answer(lab: &Lab, name: &str, path: &str) -> String {
    let address = text(&host(&lab.describe(), name)["address"]).to_owned();
    let url = format!("http://{address}:7462{path}");
    lab.exec("client", &["curl", "-s", "--max-time", "2", "-X", "OPTIONS", "-w", " %{http_code}", &url])
        .stdout
}

fn only_the_writer_and_its_standbys_are_up(lab: &Lab, writer: &str) {
    for name in HOSTS {
        let (write, read) = if name == writer { ("200", "503") } else { ("503", "200") };
        for (path, code) in [("/writer", write), ("/replica", read), ("/replica?max_lag=16MB", read)] {
            eventually(&format!("{name}{path} says {code}"), || answer(lab, name, path).ends_with(code));
        }
    }
    let body = answer(lab, writer, "/writer");
    assert!(body.contains(&format!("\"writer\":\"{writer}\"")), "{body}");
}

/// Taken out of the way, the checks go on: whoever moves over to them may do so before arming, and stay after disarming.
pub fn checks_go_on_by_patronis_leader(lab: &Lab) {
    let up = || HOSTS.into_iter().filter(|name| answer(lab, name, "/writer").ends_with("200"));
    eventually("Patroni's leader is up", || up().count() == 1);
    let writer = up().next().unwrap();
    let said = answer(lab, writer, "/writer");
    assert!(said.contains("Patroni's leader key") && said.contains("disarmed"), "{said}");
}
