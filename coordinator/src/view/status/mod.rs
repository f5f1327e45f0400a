//! `status` and `list`: one report, as JSON with a version and as text. Columns are named as patronictl's.

mod build;
mod poolers;
mod print;

use holdfast_types::{Class, Mode};
use serde::Serialize;

use super::drained::DrainedReport;
use super::findings::Finding;
use super::maintenance::MaintenanceReport;
use super::warned::WarnedReport;
use super::would::WouldReport;

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
    /// The maintenance that suspends automatic action; absent when there is none.
    pub maintenance: Option<MaintenanceReport>,
    /// The nodes that a person is about to stop.
    pub drained: Vec<DrainedReport>,
    /// `quorum`, `on` or `off`; absent when unknown.
    pub class: Option<Class>,
    /// What a failover may cost, where Holdfast does not bound it (class `off`); one line.
    pub loss: Option<String>,
    /// Commits that ended with a warning, of each member.
    pub warned: Vec<WarnedReport>,
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
    /// What the members' agents would have done in mode observe, newest first.
    pub would: Vec<WouldReport>,
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
    /// Whether it counts: the cluster is armed, and the record is younger than the arming.
    pub in_force: bool,
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
    pub drained: bool,
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
    pub drained: bool,
    /// `alive`, or `gone`: then the rest is what was last known, and may be long over.
    pub agent: &'static str,
    /// Clients without a server connection, and for how long the first of them waits; absent if its agent did not say.
    pub clients_waiting: Option<u64>,
    pub waited_ms: Option<u64>,
    /// Whether clients should come to it, as `holdfast check pooler` says there, and why.
    pub up: Option<bool>,
    pub why: Option<String>,
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
    /// Whether more than half of its members answer; absent when unknown.
    pub has_quorum: Option<bool>,
    /// The largest database file in bytes; absent when nobody answered.
    pub db_size_bytes: Option<u64>,
    /// The slowest answer to one linearizable read, in microseconds: the way to the server and its question to a quorum,
    /// without a write to any disk. Absent when nobody answered one.
    pub read_us: Option<u64>,
    /// The slowest server's time within which 99 of 100 fsyncs of its log were done since it started, in microseconds,
    /// rounded up to a bound of its histogram. Absent when no server tells.
    pub fsync_p99_us: Option<u64>,
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
    fn the_route_of_a_dead_pooler_is_said_to_be_old() {
        let mut built = Built::healthy();
        built.route("a", Some(2));
        built.remove_pooler_session();
        let report = StatusReport::new(&built.view(), None);
        assert!(report.healthy, "{:?}", report.findings);
        assert_eq!(report.routes[0].agent, "gone");
        let text = report.text();
        assert!(text.contains("| pool1.a | 4    | db2    | unknown: its agent is gone |"), "{text}");
    }

    #[test]
    fn an_unhealthy_status_begins_with_cause_effect_and_command() {
        let mut built = Built::healthy();
        built.hold();
        built.promise(2, 4);
        let report = StatusReport::new(&built.view(), None);
        let first = report.text().lines().next().unwrap().to_owned();
        assert!(first.starts_with("OUTAGE: the failover of term 4 is held"), "{first}");
        assert!(
            first.ends_with("next: holdfast hold end --reason WHY --region r1 --cluster main"),
            "{first}"
        );
        assert!(report.text().contains("also: db2 has left the writer of term 4"), "{}", report.text());
        assert_eq!(report.members[1].promise.as_deref(), Some("2:0/5000060"));
    }

    #[test]
    fn an_asynchronous_cluster_states_its_loss_and_wants_no_floor() {
        let mut built = Built::healthy();
        built.asynchronous();
        let report = StatusReport::new(&built.view(), None);
        assert_eq!(
            (report.findings.as_slice(), &report.floor),
            (&[][..], &None),
            "the old floor means nothing"
        );
        let text = report.text();
        assert!(text.contains("mode armed, class off ("), "{text}");
        assert!(
            text.contains("\nclass off: acknowledged writes can be lost in a failover; Patroni"),
            "{text}"
        );
        assert!(!StatusReport::new(&testing::healthy(), None).text().contains("can be lost"));
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
