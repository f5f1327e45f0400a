//! `status` and `list`: one report, as JSON with a version and as text. Columns are named as patronictl's.

use std::fmt::Write;

use holdfast_store::EtcdHealth;
use holdfast_types::record::{FenceReason, Reign};
use holdfast_types::{Class, MemberName, Mode};
use serde::Serialize;

use super::cluster::ClusterView;
use super::findings::{self, Finding, Severity};
use super::text;

/// The version of the JSON; raised when a field goes or changes its meaning, not when one comes.
pub const FORMAT: u64 = 1;

/// Everything that `status` shows of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// [`FORMAT`].
    pub format: u64,
    /// Where it comes from: `etcd`.
    pub source: &'static str,
    /// `region/namespace/scope`.
    pub cluster: String,
    /// PostgreSQL's system identifier, if known.
    pub system_id: Option<String>,
    /// When it was read, RFC 3339.
    pub read_at: String,
    /// etcd's revision at that moment.
    pub revision: i64,
    /// Whether nothing is wrong.
    pub healthy: bool,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// What Holdfast may do.
    pub mode: ModeReport,
    /// `quorum`, `on` or `off`; absent when unknown.
    pub class: Option<Class>,
    /// The reign; absent before the first term.
    pub term: Option<TermReport>,
    /// What the writer has published.
    pub floor: Option<FloorReport>,
    /// What Patroni asks of a commit; absent when unknown.
    pub sync: Option<SyncReport>,
    /// Why a failover waits for a person.
    pub hold: Option<String>,
    /// The members.
    pub members: Vec<MemberReport>,
    /// The poolers.
    pub routes: Vec<RouteReport>,
    /// The servers of etcd; absent when they were not asked.
    pub etcd: Option<EtcdReport>,
}

/// The mode and who set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModeReport {
    /// The mode.
    pub mode: Mode,
    /// Who set it; absent for the default.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When, RFC 3339.
    pub at: Option<String>,
}

/// The reign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TermReport {
    /// Its number.
    pub term: u64,
    /// `open` or `closed`.
    pub state: &'static str,
    /// The present or last writer.
    pub holder: String,
    /// The writer's session, hexadecimal as etcdctl prints leases; of an open term only.
    pub session: Option<String>,
    /// Whether the agent of the holder is alive; absent when unknown.
    pub session_alive: Option<bool>,
    /// Why it was closed.
    pub evidence: Option<String>,
    /// Who is to follow.
    pub successor: Option<String>,
    /// Whether the writer's PostgreSQL has left recovery; of an open term only.
    pub writable: Option<bool>,
}

/// The floor record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FloorReport {
    /// `timeline:LSN` that the next writer must have at least.
    pub position: String,
    /// The standbys that count.
    pub members: Vec<String>,
    /// How many of them may be missing.
    pub quorum: usize,
    /// Whether it belongs to the present term.
    pub current: bool,
    /// Whether `/sync` is still the one that it was written for. For a moment after each change it is not.
    pub follows_sync: bool,
}

/// Patroni's `/sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SyncReport {
    /// The standbys that count.
    pub standbys: Vec<String>,
    /// How many of them may be missing.
    pub quorum: usize,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // The names are patronictl's, or those of the records.
pub struct MemberReport {
    pub member: String,
    pub host: Option<String>,
    pub role: &'static str,
    pub writer: bool,
    pub state: Option<String>,
    pub timeline: Option<u32>,
    pub lsn: Option<String>,
    /// Bytes behind the leader's last published position.
    pub lag_bytes: Option<u64>,
    /// `alive`, `gone`, or `none` if it never had one.
    pub agent: &'static str,
    /// Position of its promise for the present term.
    pub promise: Option<String>,
    pub fence: Option<String>,
    pub tags: Vec<String>,
    pub patroni_version: Option<String>,
}

/// One pooler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct RouteReport {
    pub pooler: String,
    pub term: u64,
    pub target: Option<String>,
    pub paused: bool,
}

/// The servers of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EtcdReport {
    /// Members of its cluster; absent when unknown.
    pub members: Option<usize>,
    /// How many answer and know a leader.
    pub answering: usize,
    /// Alarms in force; absent when unknown.
    pub alarms: Option<Vec<String>>,
    /// The largest database file in bytes.
    pub db_size_bytes: u64,
}

impl StatusReport {
    /// The report of a view; `etcd` if the servers were asked.
    pub fn new(view: &ClusterView, etcd: Option<&EtcdHealth>) -> Self {
        let findings = findings::find(view, etcd);
        let mode = view.mode.as_ref().map(|mode| mode.body());
        Self {
            format: FORMAT,
            source: "etcd",
            cluster: view.cluster.to_string(),
            system_id: view.patroni.system_id.clone(),
            read_at: text::moment(view.read_wall_ms),
            revision: view.revision,
            healthy: findings.is_empty(),
            findings,
            mode: ModeReport {
                mode: view.mode(),
                by: mode.map(|mode| mode.by.clone()),
                reason: mode.map(|mode| mode.reason.clone()),
                at: mode.map(|mode| text::moment(mode.at_wall_ms)),
            },
            class: view.patroni.class(),
            term: term(view),
            floor: floor(view),
            sync: view.patroni.sync.as_ref().map(|sync| SyncReport {
                standbys: sync.standbys.iter().map(ToString::to_string).collect(),
                quorum: sync.quorum,
            }),
            hold: hold(view),
            members: view.members().iter().map(|name| member(view, name)).collect(),
            routes: routes(view),
            etcd: etcd.map(etcd_report),
        }
    }

    /// The first line: what is wrong, or that nothing is.
    pub fn headline(&self) -> String {
        match self.findings.first() {
            Some(first) => {
                let word = if first.severity == Severity::Outage { "OUTAGE" } else { "AT RISK" };
                format!("{word}: {}", first.line())
            }
            None => match (&self.mode.mode, &self.term) {
                (Mode::Armed, Some(term)) => format!("healthy: {} writes in term {}", term.holder, term.term),
                (mode, _) => format!("healthy, mode {mode}: Holdfast does not act here"),
            },
        }
    }

    /// The whole status for people.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.headline());
        for finding in self.findings.iter().skip(1) {
            let _ = writeln!(out, "  also: {}", finding.line());
        }
        out.push_str(&self.facts());
        out.push_str(&self.member_table());
        if !self.routes.is_empty() {
            let mut table = text::table(&["Pooler", "Term", "Target", "Clients"]);
            for route in &self.routes {
                let clients = if route.paused { "paused" } else { "served" };
                let target = route.target.clone().unwrap_or_else(|| "-".into());
                table.add_row([route.pooler.clone(), route.term.to_string(), target, clients.into()]);
            }
            let _ = writeln!(out, "{table}");
        }
        out
    }

    fn facts(&self) -> String {
        let mut out = String::new();
        let class = self.class.map_or(text::UNKNOWN, class_word);
        let _ = write!(out, "mode {}, class {class}", self.mode.mode);
        if let (Some(by), Some(reason)) = (&self.mode.by, &self.mode.reason) {
            let _ = write!(out, " (by {by}: {reason})");
        }
        match &self.term {
            None => out.push_str("\nno term yet"),
            Some(term) => {
                let alive = match term.session_alive {
                    Some(true) => "agent alive",
                    Some(false) => "agent gone",
                    None => "agent unknown",
                };
                let _ = write!(out, "\nterm {} {} by {}, {alive}", term.term, term.state, term.holder);
                if let Some(evidence) = &term.evidence {
                    let _ = write!(out, ", {evidence}");
                }
            }
        }
        if let Some(floor) = &self.floor {
            let old = match (floor.current, floor.follows_sync) {
                (true, true) => "",
                (true, false) => " (older than /sync)",
                (false, _) => " (of an older term)",
            };
            let (members, quorum) = (text::list(&floor.members), floor.quorum);
            let _ = write!(out, "\nfloor {}{old}, counting {members} with quorum {quorum}", floor.position);
        }
        if let Some(etcd) = &self.etcd {
            let members = etcd.members.map_or(text::UNKNOWN.into(), |members| members.to_string());
            let alarms = etcd.alarms.as_ref().map_or(text::UNKNOWN.into(), text::list);
            let size = text::bytes(etcd.db_size_bytes);
            let _ = write!(out, "\netcd {} of {members} answer, alarms {alarms}, {size}", etcd.answering);
        }
        out.push('\n');
        out
    }

    /// The table of `list`.
    pub fn member_table(&self) -> String {
        let header =
            ["Member", "Host", "Role", "State", "TL", "LSN", "Lag", "Agent", "Promise", "Fence", "Tags"];
        let mut table = text::table(&header);
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        for member in &self.members {
            let timeline = member.timeline.map(|timeline| timeline.to_string());
            let lag = if member.role == "leader" { None } else { member.lag_bytes.map(text::bytes) };
            table.add_row([
                member.member.clone(),
                or_dash(&member.host),
                if member.writer { format!("{} (writer)", member.role) } else { member.role.to_owned() },
                member.state.clone().unwrap_or_else(|| text::UNKNOWN.into()),
                or_dash(&timeline),
                or_dash(&member.lsn),
                or_dash(&lag),
                member.agent.to_owned(),
                or_dash(&member.promise),
                or_dash(&member.fence),
                text::list(&member.tags),
            ]);
        }
        let system = self.system_id.as_deref().unwrap_or(text::UNKNOWN);
        format!("+ Cluster: {} ({system})\n{table}\n", self.cluster)
    }
}

fn class_word(class: Class) -> &'static str {
    match class {
        Class::Quorum => "quorum",
        Class::On => "on",
        Class::Off => "off",
    }
}

fn term(view: &ClusterView) -> Option<TermReport> {
    let record = view.term.as_ref()?.body();
    let session_alive = view.agent_alive(record.holder());
    let report = TermReport {
        term: record.term.0,
        state: "open",
        holder: record.holder().to_string(),
        session: None,
        session_alive,
        evidence: None,
        successor: None,
        writable: None,
    };
    Some(match &record.reign {
        Reign::Open { session, writable, .. } => {
            TermReport { session: Some(session.to_string()), writable: Some(*writable), ..report }
        }
        Reign::Closed { evidence, successor, .. } => TermReport {
            state: "closed",
            evidence: Some(findings::evidence_word(evidence)),
            successor: successor.as_ref().map(ToString::to_string),
            ..report
        },
    })
}

fn hold(view: &ClusterView) -> Option<String> {
    let hold = view.hold.as_ref()?.body();
    Some(match &hold.released_by {
        None => hold.text.clone(),
        Some(by) => format!("{} (released by {by})", hold.text),
    })
}

fn floor(view: &ClusterView) -> Option<FloorReport> {
    let record = view.floor.as_ref()?.body();
    Some(FloorReport {
        position: record.floor.to_string(),
        members: record.configuration.members.iter().map(ToString::to_string).collect(),
        quorum: record.configuration.quorum,
        current: view.term.as_ref().is_some_and(|term| term.body().term == record.term),
        follows_sync: view
            .patroni
            .sync
            .as_ref()
            .is_some_and(|sync| sync.mod_revision == record.sync_mod_revision),
    })
}

fn member(view: &ClusterView, name: &MemberName) -> MemberReport {
    let patroni = view.patroni.members.get(name);
    let facts = view.facts.get(name);
    let state = patroni.and_then(|member| {
        let streams = member.replication_state.clone().filter(|_| view.patroni.leader.as_ref() != Some(name));
        streams.or_else(|| member.state.clone())
    });
    let tags =
        patroni.map(|member| member.tags.iter().map(|(tag, value)| format!("{tag}: {value}")).collect());
    MemberReport {
        member: name.to_string(),
        host: facts
            .map(|facts| facts.host.to_string())
            .or_else(|| patroni.and_then(|member| member.address()).map(str::to_owned)),
        role: view.patroni.role_of(name),
        writer: view.writer().is_some_and(|(_, writer)| writer == name),
        state: state.or_else(|| facts.and_then(|facts| facts.patroni_state.clone())),
        timeline: patroni.and_then(|member| member.timeline),
        lsn: patroni.and_then(|member| member.lsn()).map(|lsn| lsn.to_string()),
        lag_bytes: text::lag(view.patroni.leader_lsn, patroni.and_then(|member| member.lsn())),
        agent: match view.agent_alive(name) {
            Some(true) => "alive",
            Some(false) => "gone",
            None => "none",
        },
        promise: view.promise_of(name).map(|promise| promise.position.to_string()),
        fence: view.fences.get(name).map(|fence| match &fence.body().why {
            FenceReason::Operator { text, .. } => text.clone(),
            FenceReason::Deposed { term } => format!("deposed in term {term}"),
        }),
        tags: tags.unwrap_or_default(),
        patroni_version: patroni.and_then(|member| member.version.clone()),
    }
}

fn routes(view: &ClusterView) -> Vec<RouteReport> {
    let route = |(pooler, route): (&String, &holdfast_types::record::RouteRecord)| RouteReport {
        pooler: pooler.clone(),
        term: route.term.0,
        target: route.target.as_ref().map(ToString::to_string),
        paused: route.paused,
    };
    view.routes.iter().map(route).collect()
}

fn etcd_report(etcd: &EtcdHealth) -> EtcdReport {
    let sizes = etcd.endpoints.iter().filter_map(|one| one.status.as_ref().ok()).map(|one| one.db_size_bytes);
    EtcdReport {
        members: etcd.members,
        answering: etcd.answering(),
        alarms: etcd.alarms.clone(),
        db_size_bytes: sizes.max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{self, Built};

    #[test]
    fn a_healthy_status_is_short_and_says_who_writes() {
        let report = StatusReport::new(&testing::healthy(), None);
        assert_eq!(report.headline(), "healthy: db1 writes in term 4");
        let text = report.text();
        assert!(text.contains("mode armed, class quorum (by holdfast://operator/ann: go live)"), "{text}");
        assert!(text.contains("term 4 open by db1, agent alive"), "{text}");
        assert!(
            text.contains("floor 2:0/5000000 (older than /sync), counting db2, db3 with quorum 1"),
            "{text}"
        );
        assert!(text.contains("+ Cluster: r1/service/main (7345678901234567890)"), "{text}");
        let row = text.lines().find(|line| line.contains("| db2")).unwrap();
        for word in ["quorum_standby", "streaming", "2", "0/5000060", "0 B", "alive"] {
            assert!(row.contains(word), "{word} is missing in {row}");
        }
    }

    #[test]
    fn an_unhealthy_status_begins_with_cause_effect_and_command() {
        let mut built = Built::healthy();
        built.hold();
        built.promise(2, 4);
        let report = StatusReport::new(&built.view(), None);
        let first = report.text().lines().next().unwrap().to_owned();
        assert!(first.starts_with("OUTAGE: the failover of term 4 is held"), "{first}");
        assert!(first.ends_with("next: holdfast hold end --region r1 --cluster main"), "{first}");
        assert!(report.text().contains("also: db2 has left the writer of term 4"), "{}", report.text());
        assert_eq!(report.members[1].promise.as_deref(), Some("2:0/5000060"));
    }

    #[test]
    fn nothing_known_is_shown_as_such() {
        let report = StatusReport::new(&Built::empty().view(), None);
        assert!(!report.healthy);
        assert_eq!((report.class, report.term.clone()), (None, None));
        assert!(report.text().contains("class unknown"), "{}", report.text());
    }

    #[test]
    fn the_json_has_a_version_and_lower_case_words() {
        let mut built = Built::healthy();
        built.closed(4, 1);
        let json = serde_json::to_value(StatusReport::new(&built.view(), None)).unwrap();
        assert_eq!((json["format"].as_u64(), json["healthy"].as_bool()), (Some(1), Some(false)));
        assert_eq!((&json["mode"]["mode"], &json["class"]), (&"armed".into(), &"quorum".into()));
        assert_eq!((&json["term"]["state"], &json["term"]["successor"]), (&"closed".into(), &"db2".into()));
        assert_eq!(json["findings"][0]["severity"], "outage");
        assert_eq!(json["members"].as_array().unwrap().len(), 4);
    }
}
