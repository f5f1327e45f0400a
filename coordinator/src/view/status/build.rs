//! From a view to the report.

use holdfast_store::EtcdHealth;
use holdfast_types::record::{FenceReason, Reign};
use holdfast_types::{Class, MemberName};

use super::{
    EtcdReport, FORMAT, FloorReport, MemberReport, ModeReport, RouteReport, StatusReport, SyncReport,
    TermReport,
};
use crate::view::cluster::ClusterView;
use crate::view::{class, drained, findings, maintenance, text, warned, would};

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
            maintenance: maintenance::report(view),
            drained: drained::all(view),
            class: view.patroni.class(),
            loss: class::loss(&view.patroni),
            warned: warned::all(view),
            term: term(view),
            floor: floor(view),
            sync: view.patroni.sync.as_ref().map(|sync| SyncReport {
                standbys: sync.standbys.iter().map(ToString::to_string).collect(),
                quorum: sync.quorum,
            }),
            hold: hold(view),
            members: view.members().iter().map(|name| member(view, name)).collect(),
            routes: routes(view),
            would: would::all(view),
            etcd: etcd.map(etcd_report),
        }
    }
}

fn term(view: &ClusterView) -> Option<TermReport> {
    let record = view.term.as_ref()?.body();
    let session_alive = view.agent_alive(record.holder());
    let report = TermReport {
        term: record.term.0,
        state: "open",
        in_force: view.reign().is_some(),
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
    let hold = view.hold()?.body();
    Some(match &hold.released_by {
        None => hold.text.clone(),
        Some(by) => {
            let why = hold.released_why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("{} (released by {by}{why})", hold.text)
        }
    })
}

fn floor(view: &ClusterView) -> Option<FloorReport> {
    // What stands there in class off is left from another time.
    let record = view.floor.as_ref().filter(|_| view.patroni.class() != Some(Class::Off))?.body();
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
        drained: drained::is_drained(view, name.as_str()),
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
        drained: drained::is_drained(view, pooler),
        agent: if view.pooler_alive(pooler) { "alive" } else { "gone" },
        clients_waiting: None,
        waited_ms: None,
        up: None,
        why: None,
    };
    view.routes.iter().map(route).collect()
}

fn etcd_report(etcd: &EtcdHealth) -> EtcdReport {
    EtcdReport {
        members: etcd.members,
        answering: etcd.answering(),
        alarms: etcd.alarms.clone(),
        has_quorum: etcd.has_quorum(),
        db_size_bytes: etcd.db_size_bytes(),
        read_us: etcd.read_us(),
        fsync_p99_us: etcd.fsync_p99_us(),
    }
}
