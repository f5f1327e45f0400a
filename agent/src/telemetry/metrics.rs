//! Metrics in Prometheus' text form, made of the host's own view at the moment of a scrape.
//!
//! Nothing is counted beside the agent's work: a scrape reads what `status` reads. Labels name instances, poolers and
//! states of the configuration, never anything that a client or an incident could make more of.

use std::fmt::Write as _;

use holdfast_proto::message::{HostStatus, InstanceName, InstanceStatus, Role};
use holdfast_types::Mode;

/// What a number means to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
}

type Labels = Vec<(&'static str, String)>;

/// One name with its values.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    values: Vec<(Labels, f64)>,
}

/// What is scraped beside the status.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// When our certificate ends, seconds since 1970.
    pub certificate_ends_unix_s: i64,
    /// Spans that were lost.
    pub spans_dropped: u64,
    /// Exports of spans that failed.
    pub span_export_failures: u64,
}

/// The whole exposition.
pub fn exposition(status: &HostStatus, counters: &Counters) -> String {
    let mut families = host(status, counters);
    families.extend(instances(&status.instances));
    families.extend(poolers(status));
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.values.is_empty()) {
        write(family, &mut text).expect("a String takes everything");
    }
    text
}

fn gauge(name: &'static str, help: &'static str, values: Vec<(Labels, f64)>) -> Family {
    Family { name, help, kind: Kind::Gauge, values }
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    Family { name, help, kind: Kind::Counter, values: vec![(Vec::new(), number(value))] }
}

/// Exact up to 2^53: a term, or nine petabytes of WAL.
fn number(value: u64) -> f64 {
    value as f64
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn host(status: &HostStatus, counters: &Counters) -> Vec<Family> {
    let name = vec![
        ("region", status.region.to_string()),
        ("host", status.host.to_string()),
        ("version", status.version.clone()),
    ];
    let plain = |value: f64| vec![(Vec::new(), value)];
    vec![
        gauge("holdfast_agent_info", "Always 1; its labels say who and what runs.", vec![(name, 1.0)]),
        gauge(
            "holdfast_agent_incarnation",
            "How often the agent of this host has started.",
            plain(number(status.incarnation.0)),
        ),
        gauge(
            "holdfast_agent_problems",
            "Problems of the host; holdfast status names them.",
            plain(number(status.problems.len() as u64)),
        ),
        gauge(
            "holdfast_etcd_reachable",
            "Whether etcd is heard; absent before its first answer.",
            status.etcd_reachable.map(|heard| (Vec::new(), truth(heard))).into_iter().collect(),
        ),
        gauge(
            "holdfast_certificate_end_seconds",
            "When the agent's certificate ends, seconds since 1970.",
            plain(counters.certificate_ends_unix_s as f64),
        ),
        counter("holdfast_spans_dropped_total", "Spans of incidents that were lost.", counters.spans_dropped),
        counter(
            "holdfast_span_export_failures_total",
            "Exports of spans that failed and were tried again.",
            counters.span_export_failures,
        ),
    ]
}

fn of_instance(name: &InstanceName) -> Labels {
    vec![
        ("namespace", name.namespace.to_string()),
        ("scope", name.scope.to_string()),
        ("member", name.member.to_string()),
    ]
}

/// One value for each instance for which `value` knows one.
fn each(instances: &[InstanceStatus], value: impl Fn(&InstanceStatus) -> Option<f64>) -> Vec<(Labels, f64)> {
    instances.iter().filter_map(|one| Some((of_instance(&one.name), value(one)?))).collect()
}

/// 1 for the state that holds and 0 for the others, so that a change is seen in both.
fn states<S: Copy + PartialEq>(
    instances: &[InstanceStatus],
    label: &'static str,
    all: &[(S, &str)],
    holds: impl Fn(&InstanceStatus) -> Option<S>,
) -> Vec<(Labels, f64)> {
    let mut values = Vec::new();
    for one in instances {
        let Some(present) = holds(one) else { continue };
        for (state, name) in all {
            let mut labels = of_instance(&one.name);
            labels.push((label, (*name).to_owned()));
            values.push((labels, truth(*state == present)));
        }
    }
    values
}

fn instances(all: &[InstanceStatus]) -> Vec<Family> {
    let modes = [(Mode::Observe, "observe"), (Mode::Armed, "armed"), (Mode::Disarmed, "disarmed")];
    let roles = [(Role::Primary, "primary"), (Role::Standby, "standby"), (Role::Stopped, "stopped")];
    let is_writer = |one: &InstanceStatus| {
        let term = one.term.as_ref()?;
        Some(truth(term.open && term.writable && term.holder == one.name.member))
    };
    vec![
        gauge(
            "holdfast_instance_mode",
            "1 for the mode of the instance's cluster.",
            states(all, "mode", &modes, |one| Some(one.mode)),
        ),
        gauge(
            "holdfast_instance_role",
            "1 for what PostgreSQL does; absent when unknown.",
            states(all, "role", &roles, |one| one.role),
        ),
        gauge(
            "holdfast_instance_term",
            "The term in force, as this host saw it last.",
            each(all, |one| Some(number(one.term.as_ref()?.term.0))),
        ),
        gauge(
            "holdfast_instance_is_writer",
            "Whether the term record names it as writer.",
            each(all, is_writer),
        ),
        gauge(
            "holdfast_instance_promised_term",
            "The term whose writer it has left; absent without a promise.",
            each(all, |one| Some(number(one.promise.as_ref()?.term.0))),
        ),
        gauge(
            "holdfast_instance_fenced",
            "Whether it is kept out until it has been validated.",
            each(all, |one| Some(truth(one.fenced.is_some()))),
        ),
        gauge(
            "holdfast_instance_wal_position_bytes",
            "WAL received (standby) or written (primary).",
            each(all, |one| Some(number(one.position?.lsn.0))),
        ),
        gauge(
            "holdfast_instance_waits",
            "How many things the last decision waits for.",
            each(all, |one| Some(number(one.waits.len() as u64))),
        ),
        gauge(
            "holdfast_instance_hung_seconds",
            "For how long the writer's PostgreSQL or its disk hangs; 0: it does not; absent when it is not the writer.",
            each(all, |one| Some(number(one.hung_ms?) / 1_000.0)),
        ),
        gauge(
            "holdfast_instance_problems",
            "Problems of the instance; holdfast status names them.",
            each(all, |one| Some(number(one.problems.len() as u64))),
        ),
    ]
}

fn poolers(status: &HostStatus) -> Vec<Family> {
    let values = status.poolers.iter().map(|one| {
        let labels = vec![
            ("namespace", one.namespace.to_string()),
            ("scope", one.scope.to_string()),
            ("pooler", one.name.clone()),
        ];
        (labels, truth(one.paused))
    });
    vec![gauge(
        "holdfast_pooler_paused",
        "Whether clients of the pooler wait for a writer.",
        values.collect(),
    )]
}

fn write(family: &Family, text: &mut String) -> std::fmt::Result {
    let kind = match family.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    };
    writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", family.name, family.help, family.name)?;
    for (labels, value) in &family.values {
        text.push_str(family.name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            write!(text, "{open}{label}=\"{}\"", escaped(value))?;
        }
        text.push_str(if labels.is_empty() { "" } else { "}" });
        writeln!(text, " {value}")?;
    }
    Ok(())
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::message::{PromiseHeld, TermSeen};
    use holdfast_types::{
        Class, HostName, Incarnation, Lsn, MemberName, Namespace, Position, RegionName, Scope, Term, Timeline,
    };

    fn status() -> HostStatus {
        let (namespace, scope) = (Namespace::new("service").unwrap(), Scope::new("main").unwrap());
        let member = MemberName::new("db\\1").unwrap();
        let one = InstanceStatus {
            name: InstanceName { namespace, scope, member: member.clone() },
            class: Class::Quorum,
            mode: Mode::Armed,
            role: Some(Role::Primary),
            position: Some(Position { timeline: Timeline(1), lsn: Lsn(4_096) }),
            term: Some(TermSeen { term: Term(7), holder: member, open: true, writable: true }),
            promise: Some(PromiseHeld { term: Term(6), position: None }),
            fenced: None,
            patroni_state: None,
            waits: vec!["a".into()],
            would: Vec::new(),
            problems: Vec::new(),
            hung_ms: Some(1_500),
        };
        HostStatus {
            region: RegionName::new("r1").unwrap(),
            host: HostName::new("db1").unwrap(),
            incarnation: Incarnation(3),
            version: "0.1.0".into(),
            at_wall_ms: 0,
            etcd_reachable: None,
            instances: vec![one],
            poolers: Vec::new(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_status_becomes_an_exposition() {
        let text = exposition(&status(), &Counters { spans_dropped: 2, ..Counters::default() });
        let labels = r#"{namespace="service",scope="main",member="db\\1""#;
        for line in [
            r#"holdfast_agent_info{region="r1",host="db1",version="0.1.0"} 1"#,
            "# TYPE holdfast_spans_dropped_total counter",
            "holdfast_spans_dropped_total 2",
            &format!("holdfast_instance_mode{labels},mode=\"armed\"}} 1"),
            &format!("holdfast_instance_mode{labels},mode=\"observe\"}} 0"),
            &format!("holdfast_instance_is_writer{labels}}} 1"),
            &format!("holdfast_instance_term{labels}}} 7"),
            &format!("holdfast_instance_wal_position_bytes{labels}}} 4096"),
            &format!("holdfast_instance_fenced{labels}}} 0"),
            &format!("holdfast_instance_hung_seconds{labels}}} 1.5"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_unknown_is_absent() {
        let mut sparse = status();
        let one = &mut sparse.instances[0];
        (one.role, one.term, one.position, one.promise) = (None, None, None, None);
        let text = exposition(&sparse, &Counters::default());
        for name in ["etcd_reachable", "instance_role", "instance_term", "wal_position", "promised_term"] {
            assert!(!text.contains(name), "{name} is in\n{text}");
        }
    }

    #[test]
    fn every_name_is_explained_once() {
        let text = exposition(&status(), &Counters::default());
        let helps: Vec<&str> = text.lines().filter(|line| line.starts_with("# HELP")).collect();
        let names: std::collections::BTreeSet<_> = helps.iter().map(|line| line.split(' ').nth(2)).collect();
        assert!(helps.len() > 10 && names.len() == helps.len(), "{text}");
    }
}
