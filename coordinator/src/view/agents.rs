//! `status` when etcd does not answer: what the agents say of themselves, host by host.
//!
//! Each host knows its own PostgreSQL and what it heard of the term last. That may be old; nothing here is compared
//! across hosts except who runs as primary.

use std::fmt::Write;

use holdfast_proto::message::{HostStatus, InstanceStatus, Role};
use holdfast_types::{RegionName, Scope};
use serde::Serialize;

use super::findings::{Finding, Severity};
use super::status::FORMAT;
use super::text;

/// One agent that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostAnswer {
    /// `host:port`.
    pub address: String,
    /// Its answer; absent if there is none.
    pub status: Option<HostStatus>,
    /// Why there is none.
    pub problem: Option<String>,
}

/// Everything that the agents say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentsReport {
    /// The version of the JSON; the same as that of the other form of `status`.
    pub format: u64,
    /// `agents`: etcd was not there.
    pub source: &'static str,
    /// The region.
    pub region: RegionName,
    /// The cluster that was asked for; all when absent.
    pub cluster: Option<Scope>,
    /// When it was asked, RFC 3339.
    pub read_at: String,
    /// Never: etcd does not answer.
    pub healthy: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Each agent.
    pub hosts: Vec<HostAnswer>,
}

impl AgentsReport {
    /// The report of these answers. Instances of other clusters are left out; `etcd_error` is what the store said.
    pub fn new(
        region: RegionName,
        cluster: Option<Scope>,
        etcd_error: &str,
        mut hosts: Vec<HostAnswer>,
        now_wall_ms: i64,
    ) -> Self {
        for status in hosts.iter_mut().filter_map(|host| host.status.as_mut()) {
            status.instances.retain(|one| cluster.as_ref().is_none_or(|scope| one.name.scope == *scope));
            status.poolers.retain(|one| cluster.as_ref().is_none_or(|scope| one.scope == *scope));
        }
        let finding = judge(&region, etcd_error, &hosts);
        Self {
            format: FORMAT,
            source: "agents",
            region,
            cluster,
            read_at: text::moment(now_wall_ms),
            healthy: false,
            findings: vec![finding],
            hosts,
        }
    }

    /// Whether anybody answered.
    pub fn has_answers(&self) -> bool {
        self.hosts.iter().any(|host| host.status.is_some())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for finding in &self.findings {
            let word = if finding.severity == Severity::Outage { "OUTAGE" } else { "AT RISK" };
            let _ = writeln!(out, "{word}: {}", finding.line());
        }
        out.push_str("etcd does not answer; this is what each agent says of its own host:\n");
        let header = ["Host", "Member", "Role", "Patroni", "Position", "Term", "Promise", "Fence", "etcd"];
        let mut table = text::table(&header);
        for status in self.hosts.iter().filter_map(|host| host.status.as_ref()) {
            for instance in &status.instances {
                table.add_row(row(status, instance));
            }
        }
        let _ = writeln!(out, "{table}");
        for host in &self.hosts {
            if let Some(problem) = &host.problem {
                let _ = writeln!(out, "{}: {problem}", host.address);
            }
            if let Some(status) = &host.status {
                let of_instances = status.instances.iter().flat_map(|one| &one.problems);
                for problem in status.problems.iter().chain(of_instances) {
                    let _ = writeln!(out, "{}: {problem}", status.host);
                }
                for instance in &status.instances {
                    for line in &instance.would {
                        let _ = writeln!(out, "{} (mode {}): {line}", instance.name.member, instance.mode);
                    }
                }
                for pooler in &status.poolers {
                    let target = pooler.target.as_ref().map_or("nobody".into(), ToString::to_string);
                    let paused = if pooler.paused { ", clients wait" } else { "" };
                    let waiting = pooler.clients_waiting.filter(|clients| *clients > 0);
                    let waiting = waiting.map(|clients| format!(", {clients} without a server connection"));
                    let down = pooler.why.as_ref().filter(|_| pooler.up == Some(false));
                    let down = down.map(|why| format!("; takes no clients: {why}"));
                    let _ = writeln!(
                        out,
                        "{}: pooler {} -> {target}{paused}{}{}",
                        status.host,
                        pooler.name,
                        waiting.unwrap_or_default(),
                        down.unwrap_or_default()
                    );
                }
            }
        }
        out
    }
}

fn row(status: &HostStatus, instance: &InstanceStatus) -> [String; 9] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let role = match instance.role {
        Some(Role::Primary) => "primary",
        Some(Role::Standby) => "standby",
        Some(Role::Stopped) => "stopped",
        None => text::UNKNOWN,
    };
    let term = instance.term.as_ref().map(|term| {
        let state = if term.open { "open" } else { "closed" };
        format!("{} {state}, {}", term.term, term.holder)
    });
    let promise = instance.promise.as_ref().map(|promise| match &promise.position {
        Some(position) => format!("term {} at {position}", promise.term),
        None => format!("term {}, on its way", promise.term),
    });
    [
        status.host.to_string(),
        instance.name.member.to_string(),
        role.to_owned(),
        instance.patroni_state.clone().unwrap_or_else(|| text::UNKNOWN.into()),
        or_dash(instance.position.map(|position| position.to_string())),
        or_dash(term),
        or_dash(promise),
        or_dash(instance.fenced.clone()),
        match status.etcd_reachable {
            Some(true) => "reached".into(),
            Some(false) => "lost".into(),
            None => text::UNKNOWN.into(),
        },
    ]
}

fn judge(region: &RegionName, etcd_error: &str, hosts: &[HostAnswer]) -> Finding {
    let answers: Vec<&HostStatus> = hosts.iter().filter_map(|host| host.status.as_ref()).collect();
    let reached = answers.iter().filter(|status| status.etcd_reachable == Some(true)).count();
    let primaries: Vec<String> = answers
        .iter()
        .flat_map(|status| &status.instances)
        .filter(|instance| instance.role == Some(Role::Primary))
        .map(|instance| instance.name.member.to_string())
        .collect();
    let finding = |severity, cause: String, effect: String, next: &str| Finding {
        severity,
        cause,
        effect,
        next: next.to_owned(),
    };
    if answers.is_empty() {
        let asked = if hosts.is_empty() { "and no agent is configured" } else { "and no agent does either" };
        let cause = format!("etcd of region {region} does not answer here ({etcd_error}), {asked}");
        let next = "check the network from here, then the hosts: holdfast doctor";
        return finding(Severity::Outage, cause, "nothing is known of the region from here".into(), next);
    }
    if reached > 0 {
        let cause = format!(
            "etcd of region {region} does not answer here ({etcd_error}), but {reached} of {} agents reach it",
            answers.len()
        );
        let effect = "the clusters are not affected, but no order can be given from here".into();
        return finding(
            Severity::Risk,
            cause,
            effect,
            "holdfast doctor, for the network and the certificate",
        );
    }
    let cause = format!("etcd of region {region} is lost, here and for {} agents", answers.len());
    let next = "start etcd; stop and restart no PostgreSQL, Patroni or agent before it is back";
    match primaries.as_slice() {
        [] => finding(Severity::Outage, cause, "no agent that answers has a primary".into(), next),
        [one] => {
            let effect = format!("{one} goes on as primary, but no failover and no order is possible");
            finding(Severity::Risk, cause, effect, next)
        }
        several => {
            let effect =
                format!("{} run as primary, no failover and no order is possible", text::list(several));
            finding(Severity::Risk, cause, effect, next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::host::{answer, silent};

    fn report(hosts: Vec<HostAnswer>) -> AgentsReport {
        let region = RegionName::new("r1").unwrap();
        AgentsReport::new(region, Scope::new("main").ok(), "refused", hosts, 0)
    }

    #[test]
    fn the_primary_goes_on_without_etcd() {
        let hosts = vec![
            answer("db1", Role::Primary, false),
            answer("db2", Role::Standby, false),
            silent("10.77.0.23:7460", "no route"),
        ];
        let report = report(hosts);
        let text = report.text();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("AT RISK: etcd of region r1 is lost, here and for 2 agents"), "{first}");
        assert!(first.contains("db1 goes on as primary"), "{first}");
        assert!(first.contains("stop and restart no PostgreSQL"), "{first}");
        assert!(text.contains("10.77.0.23:7460: no route"), "{text}");
        assert!(text.contains("| db2"), "{text}");
    }

    #[test]
    fn what_an_observing_agent_would_have_done_is_told_without_etcd_too() {
        let mut observing = answer("db1", Role::Primary, false);
        let instance = &mut observing.status.as_mut().unwrap().instances[0];
        instance.mode = holdfast_types::Mode::Observe;
        instance.would.push("would have: opened the first term".into());
        let text = report(vec![observing]).text();
        assert!(text.contains("db1 (mode observe): would have: opened the first term"), "{text}");
    }

    #[test]
    fn the_operators_own_network_is_told_from_a_loss() {
        let report = report(vec![answer("db1", Role::Primary, true)]);
        assert!(report.findings[0].cause.contains("but 1 of 1 agents reach it"), "{report:?}");
    }

    #[test]
    fn no_primary_and_no_answer_are_outages() {
        for hosts in [vec![answer("db2", Role::Standby, false)], vec![silent("a:1", "refused")], vec![]] {
            assert_eq!(report(hosts).findings[0].severity, Severity::Outage);
        }
        assert!(!report(vec![silent("a:1", "refused")]).has_answers());
    }

    #[test]
    fn instances_of_other_clusters_are_left_out() {
        let region = RegionName::new("r1").unwrap();
        let hosts = vec![answer("db1", Role::Primary, false)];
        let other = AgentsReport::new(region, Scope::new("other").ok(), "refused", hosts, 0);
        assert_eq!(other.hosts[0].status.as_ref().unwrap().instances, []);
    }
}
