//! `doctor`: faults of an installation, each with its remedy. The command line looks; this judges.

use holdfast_store::{EndpointStatus, EtcdHealth};
use holdfast_types::{Mode, certificate};
use serde::Serialize;

use super::agents::HostAnswer;
use super::arming;
use super::cluster::ClusterView;
use super::status::FORMAT;
use super::{drained, maintenance, text};

/// etcd's default quota is 2 GiB; past it every write is refused.
pub const DB_SIZE_BYTES_MAX: u64 = 3 * 512 * 1_024 * 1_024;
/// A server within the region answers in a few milliseconds; a slower one eats into every lease.
pub const ETCD_ANSWER_MS_MAX: u64 = 100;

/// How a look turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but should be changed.
    Warn,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Look {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What to do; empty when nothing is to do.
    pub remedy: String,
}

/// All looks, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The version of the JSON.
    pub format: u64,
    /// What was looked at, in order.
    pub looks: Vec<Look>,
}

impl DoctorReport {
    /// Nothing looked at yet.
    pub fn new() -> Self {
        Self { format: FORMAT, looks: Vec::new() }
    }

    /// Adds what is as it should be.
    pub fn ok(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.add(Verdict::Ok, what, found, "");
    }

    /// Adds one look.
    pub fn add(
        &mut self,
        verdict: Verdict,
        what: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (what, found, remedy) = (what.into(), found.into(), remedy.into());
        self.looks.push(Look { verdict, what, found, remedy });
    }

    /// Whether something does not work.
    pub fn has_faults(&self) -> bool {
        self.looks.iter().any(|look| look.verdict == Verdict::Bad)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut table = text::table(&["", "Looked at", "Found", "Remedy"]);
        for look in &self.looks {
            let word = match look.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "WARN",
                Verdict::Bad => "BAD",
            };
            table.add_row([word, look.what.as_str(), look.found.as_str(), look.remedy.as_str()]);
        }
        format!("{table}\n")
    }

    /// The operator's certificate: whose, and for how long.
    pub fn certificate(&mut self, name: &str, ends_unix_s: i64, now_unix_s: i64) {
        let what = "certificate";
        let days = certificate::days_left(ends_unix_s, now_unix_s);
        let renew = "issue a new one: holdfast pki operator";
        if days < 0 {
            self.add(Verdict::Bad, what, format!("{name} ended {} days ago", -days), renew);
        } else if days < certificate::WARNED_DAYS {
            self.add(Verdict::Warn, what, format!("{name} ends in {days} days"), renew);
        } else if !name.starts_with("holdfast://operator/") {
            let remedy = "orders need a name of the form holdfast://operator/NAME";
            self.add(Verdict::Warn, what, format!("{name} is no operator"), remedy);
        } else {
            self.ok(what, format!("{name}, for {days} days"));
        }
    }

    /// etcd: each server, and all of them together.
    pub fn etcd(&mut self, etcd: &EtcdHealth) {
        for one in &etcd.endpoints {
            let what = format!("etcd {}", one.endpoint);
            match &one.status {
                Ok(status) => self.etcd_server(what, status),
                Err(why) => {
                    self.add(Verdict::Bad, what, why, "start it, or look at its certificate and the network");
                }
            }
        }
        let versions =
            distinct(etcd.endpoints.iter().filter_map(|one| Some(one.status.as_ref().ok()?.version.clone())));
        if versions.len() > 1 {
            self.add(
                Verdict::Warn,
                "etcd",
                format!("versions {}", text::list(versions)),
                "finish the upgrade",
            );
        }
        match etcd.members {
            Some(members) if members < 3 || members % 2 == 0 => {
                let remedy = "3 or 5 servers on hosts of their own survive the loss of 1 or 2";
                self.add(Verdict::Warn, "etcd", format!("{members} members"), remedy);
            }
            Some(members) => self.ok("etcd", format!("{members} members, {} answer here", etcd.answering())),
            None => self.add(Verdict::Bad, "etcd", "no server answers", "start at least two of three"),
        }
        for alarm in etcd.alarms.iter().flatten() {
            let remedy = "compact and defragment, then etcdctl alarm disarm";
            self.add(Verdict::Bad, "etcd", format!("alarm {alarm}: every write is refused"), remedy);
        }
    }

    fn etcd_server(&mut self, what: String, status: &EndpointStatus) {
        let size = text::bytes(status.db_size_bytes);
        let found = format!(
            "{}, {} ms with its connection, linearizable read {}, fsync p99 {}, {size}{}",
            status.version,
            status.took_ms,
            status.read_us.map_or("without answer".into(), text::micros),
            status.fsync_p99_us.map_or(text::UNKNOWN.into(), text::micros),
            if status.leads { ", leads" } else { "" }
        );
        if !status.has_leader {
            self.add(Verdict::Bad, what, "knows no leader", "start the other servers");
        } else if status.read_us.is_none() {
            let remedy = "start the other servers; without a quorum no server answers one";
            self.add(Verdict::Bad, what, found, remedy);
        } else if status.db_size_bytes > DB_SIZE_BYTES_MAX {
            self.add(
                Verdict::Warn,
                what,
                found,
                "compact and defragment before its quota (2 GiB by default) is full",
            );
        } else if status.took_ms > ETCD_ANSWER_MS_MAX {
            self.add(Verdict::Warn, what, found, "slow: look at its disk, its load and the network");
        } else {
            self.ok(what, found);
        }
    }

    /// One agent: whether it answers, and what it finds wrong with its host.
    pub fn agent(&mut self, answer: &HostAnswer) {
        let Some(status) = &answer.status else {
            let why = answer.problem.as_deref().unwrap_or(text::UNKNOWN);
            let remedy = "systemctl status holdfast-agent on that host; check the network";
            return self.add(Verdict::Bad, format!("agent {}", answer.address), why, remedy);
        };
        let what = format!("agent {}", status.host);
        if status.etcd_reachable == Some(false) {
            let remedy = "check the network between that host and etcd";
            self.add(Verdict::Bad, &what, "does not reach etcd", remedy);
        }
        let of_instances = status.instances.iter().flat_map(|instance| &instance.problems);
        for problem in status.problems.iter().chain(of_instances) {
            self.add(Verdict::Warn, &what, problem, "see the agent's log on that host");
        }
        self.ok(what, format!("answers, version {}", status.version));
    }

    /// The cluster: what arming rests on, agents of one version, records that can be read.
    pub fn cluster(&mut self, view: &ClusterView) {
        let what = format!("cluster {}", view.cluster);
        let check = arming::check(view);
        let verdict = if view.mode() == Mode::Armed { Verdict::Bad } else { Verdict::Warn };
        for blocker in &check.blockers {
            self.add(verdict, &what, &blocker.problem, &blocker.fix);
        }
        for warning in &check.warnings {
            self.add(Verdict::Warn, &what, warning, "");
        }
        if check.blockers.is_empty() {
            self.ok(&what, format!("mode {}, nothing stands in the way of arming", view.mode()));
        }
        if let Some(report) = maintenance::report(view) {
            self.add(
                Verdict::Warn,
                "maintenance",
                report.text,
                text::order("maintenance off", &view.cluster),
            );
        }
        for (cause, _, next) in drained::findings(view) {
            self.add(Verdict::Warn, "drained", cause, next);
        }
        self.reach(view);
        let versions = distinct(view.sessions.values().map(|session| session.version.clone()));
        match versions.as_slice() {
            [] => self.add(
                Verdict::Bad,
                "agents",
                "no agent has a session",
                "start holdfast-agent on every host",
            ),
            [one] => self.ok("agents", format!("{} sessions, version {one}", view.sessions.len())),
            _ => self.add(
                Verdict::Warn,
                "agents",
                format!("versions {}", text::list(versions)),
                "finish the upgrade",
            ),
        }
    }
}

impl DoctorReport {
    /// Who can reach the agents of the members: those who reach the address that they listen on.
    fn reach(&mut self, view: &ClusterView) {
        let mut beside = Vec::new();
        let mut apart = Vec::new();
        for (member, facts) in &view.facts {
            let host = facts.grpc.rsplit_once(':').map_or(facts.grpc.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let is_everywhere = ["0.0.0.0", "::"].contains(&host);
            let place = format!("{member} on {}", facts.grpc);
            if is_everywhere || host == facts.address { beside.push(place) } else { apart.push(place) }
        }
        let what = "reach of gRPC";
        if !apart.is_empty() {
            self.ok(what, format!("{}: not the address of their PostgreSQL", text::list(apart)));
        }
        if !beside.is_empty() {
            self.add(
                Verdict::Warn,
                what,
                format!(
                    "{}: the address of their PostgreSQL too, so every client reaches it; it answers certificates of the \
                     fleet alone",
                    text::list(beside)
                ),
                "grpc.listen on an address of the management network, or a packet filter before its port",
            );
        }
    }
}

fn distinct(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = items.collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::host::{answer, silent};
    use crate::view::testing::{self, Built};
    use holdfast_proto::message::Role;
    use holdfast_store::EndpointHealth;

    const DAY_S: i64 = 86_400;

    fn verdicts(report: &DoctorReport) -> Vec<Verdict> {
        report.looks.iter().map(|look| look.verdict).collect()
    }

    #[test]
    fn a_certificate_is_judged_by_its_days_and_its_name() {
        let judge = |name: &str, days: i64| {
            let mut report = DoctorReport::new();
            report.certificate(name, days * DAY_S + 10, 0);
            report.looks[0].verdict
        };
        assert_eq!(judge("holdfast://operator/ann", 90), Verdict::Ok);
        assert_eq!(judge("holdfast://operator/ann", 29), Verdict::Warn);
        assert_eq!(judge("holdfast://operator/ann", -1), Verdict::Bad);
        assert_eq!(judge("holdfast://viewer/bob", 90), Verdict::Warn);
    }

    fn server(version: &str, size: u64, took_ms: u64) -> EndpointHealth {
        let status = EndpointStatus {
            version: version.into(),
            leads: false,
            has_leader: true,
            db_size_bytes: size,
            took_ms,
            read_us: Some(800),
            fsync_p99_us: None,
        };
        EndpointHealth { endpoint: "e:2379".into(), status: Ok(status) }
    }

    #[test]
    fn servers_that_are_full_slow_or_mixed_are_named() {
        let mut report = DoctorReport::new();
        let endpoints =
            vec![server("3.4.23", 1, 1), server("3.4.23", DB_SIZE_BYTES_MAX + 1, 1), server("3.5.0", 1, 500)];
        report.etcd(&EtcdHealth { endpoints, members: Some(3), alarms: Some(vec!["NOSPACE".into()]) });
        use Verdict::{Bad, Ok, Warn};
        assert_eq!(verdicts(&report), [Ok, Warn, Warn, Warn, Ok, Bad], "{}", report.text());
        assert!(report.has_faults());
    }

    #[test]
    fn one_server_is_no_redundancy_and_none_is_a_fault() {
        let mut report = DoctorReport::new();
        report.etcd(&EtcdHealth { endpoints: vec![server("3.4.23", 1, 1)], members: Some(1), alarms: None });
        assert_eq!(verdicts(&report), [Verdict::Ok, Verdict::Warn]);
        let dead = EndpointHealth { endpoint: "e:2379".into(), status: Err("refused".into()) };
        let mut report = DoctorReport::new();
        report.etcd(&EtcdHealth { endpoints: vec![dead], members: None, alarms: None });
        assert_eq!(verdicts(&report), [Verdict::Bad, Verdict::Bad]);
    }

    #[test]
    fn an_agent_that_is_silent_or_cut_off_is_a_fault() {
        let mut report = DoctorReport::new();
        report.agent(&answer("db1", Role::Primary, true));
        assert!(!report.has_faults());
        report.agent(&answer("db2", Role::Standby, false));
        report.agent(&silent("10.77.0.23:7460", "no route"));
        use Verdict::{Bad, Ok};
        assert_eq!(verdicts(&report), [Ok, Bad, Ok, Bad]);
    }

    #[test]
    fn who_reaches_the_agents_is_said() {
        let look = |grpc: &str| {
            let mut built = Built::healthy();
            for n in 1..=4 {
                built.facts(n, |facts| facts.grpc = grpc.replace('N', &n.to_string()));
            }
            let mut report = DoctorReport::new();
            report.cluster(&built.view());
            let looks = report.looks.into_iter().filter(|look| look.what == "reach of gRPC");
            looks.map(|look| (look.verdict, look.found)).collect::<Vec<_>>()
        };
        let apart = look("10.99.0.2N:7460");
        assert!(
            matches!(&apart[..], [(Verdict::Ok, found)] if found.contains("db1 on 10.99.0.21:7460")),
            "{apart:?}"
        );
        let beside = look("10.77.0.2N:7460");
        assert!(matches!(&beside[..], [(Verdict::Warn, _)]), "{beside:?}");
        assert!(matches!(&look("0.0.0.0:7460")[..], [(Verdict::Warn, _)]));
    }

    #[test]
    fn what_arming_rests_on_is_a_fault_once_armed() {
        let mut report = DoctorReport::new();
        report.cluster(&testing::healthy());
        assert!(!report.has_faults(), "{}", report.text());
        let mut built = Built::healthy();
        built.remove_session(3);
        report.cluster(&built.view());
        assert!(report.has_faults());
        built.mode(Mode::Observe);
        let mut report = DoctorReport::new();
        report.cluster(&built.view());
        assert!(!report.has_faults(), "{}", report.text());
    }
}
