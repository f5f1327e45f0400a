//! The keys of a cluster, built record by record: for unit tests as a reading, for others to be put into a real etcd.
#![allow(dead_code, clippy::unwrap_used)] // Each test uses a part; helpers of tests are not seen as tests.

use std::collections::BTreeMap;

use holdfast_types::keys::{self, ClusterKeys};
use holdfast_types::record::{
    Attestation, AuditRecord, EventRecord, Evidence, FenceReason, FenceRecord, FloorRecord, HeldRecord,
    HoldRecord, MaintenanceRecord, MemberFacts, ModeRecord, PatroniFile, Promise, Reign, RestartEnd,
    RestartRecord, RouteRecord, SessionRecord, SetupSeen, Step, StopKind, Stored, TermRecord, WouldLine,
    WouldRecord,
};
use holdfast_types::{
    ClusterId, Configuration, HostName, Incarnation, MemberName, Mode, Namespace, Position, Profile,
    RegionName, Scope, SessionId, Term, Timeline,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The wall clock of every view: 2026-11-24T00:00:00Z.
pub const NOW_WALL_MS: i64 = 1_795_478_400_000;

/// The n-th member, `db<n>` on host `db<n>`, address 10.77.0.2n.
pub fn db(n: u8) -> MemberName {
    MemberName::new(format!("db{n}")).unwrap()
}

/// A cluster's keys and values.
#[derive(Debug, Clone)]
pub struct Built {
    pub cluster: ClusterId,
    pub keys: ClusterKeys,
    pub pairs: BTreeMap<String, Vec<u8>>,
    /// Keys that are older than all others.
    pub stale: Vec<String>,
}

impl Built {
    /// No key at all.
    pub fn empty() -> Self {
        let cluster = ClusterId {
            region: RegionName::new("r1").unwrap(),
            namespace: Namespace::new("service").unwrap(),
            scope: Scope::new("main").unwrap(),
        };
        Self { keys: ClusterKeys::new(&cluster), cluster, pairs: BTreeMap::new(), stale: Vec::new() }
    }

    /// Patroni alone: db1 leads, db2 and db3 count (ANY 1), db4 is asynchronous. Agents live, nothing is armed.
    pub fn unarmed() -> Self {
        let mut built = Self::empty();
        built.raw(&built.keys.patroni_leader(), b"db1");
        built.patroni("config", &json!({"ttl": 20, "synchronous_mode": "quorum", "failsafe_mode": true}));
        built.patroni("sync", &json!({"leader": "db1", "quorum": 1, "sync_standby": "db2,db3"}));
        built.patroni("status", &json!({"optime": 0x0500_0060}));
        built.patroni("history", &json!([[1, 0x0400_0000, "no recovery target specified"]]));
        built.raw(&format!("{}initialize", built.keys.patroni_prefix()), b"7345678901234567890");
        for n in 1..=4 {
            built.patroni_member(n, json!({}));
            built.facts(n, |_| ());
            built.session(n);
        }
        built
    }

    /// The same, armed: term 4 is open for db1, with its floor.
    pub fn healthy() -> Self {
        let mut built = Self::unarmed();
        built.mode(Mode::Armed);
        built.open(4, 1);
        built.floor(4);
        built
    }

    pub fn raw(&mut self, key: &str, value: &[u8]) {
        self.pairs.insert(key.to_owned(), value.to_vec());
    }

    /// From now on this key is older than all others, the mode among them.
    pub fn stale(&mut self, key: &str) {
        self.stale.push(key.to_owned());
    }

    pub fn record<T: Serialize + DeserializeOwned>(&mut self, key: &str, body: T) {
        self.pairs.insert(key.to_owned(), Stored::new(body).encode());
    }

    pub fn patroni(&mut self, name: &str, value: &Value) {
        let key = format!("{}{name}", self.keys.patroni_prefix());
        self.pairs.insert(key, value.to_string().into_bytes());
    }

    /// Makes it class off: nobody counts, as Patroni leaves it.
    pub fn asynchronous(&mut self) {
        self.patroni("config", &json!({"ttl": 20, "failsafe_mode": true}));
        self.patroni("sync", &json!({"leader": null, "quorum": 0, "sync_standby": null}));
    }

    /// A member's key; `changes` replaces fields.
    pub fn patroni_member(&mut self, n: u8, changes: Value) {
        let mut data = json!({
            "conn_url": format!("postgres://10.77.0.2{n}:5432/postgres"), "state": "running", "version": "4.1.5",
            "role": if n == 1 { "primary" } else { "replica" }, "timeline": 2, "xlog_location": 0x0500_0060,
        });
        if n != 1 {
            data["replication_state"] = "streaming".into();
        }
        for (field, value) in changes.as_object().unwrap() {
            data[field] = value.clone();
        }
        self.patroni(&format!("members/db{n}"), &data);
    }

    /// Takes a member away: its Patroni key, facts and session.
    pub fn remove_member(&mut self, n: u8) {
        self.pairs.remove(&self.keys.patroni_member(&db(n)));
        self.pairs.remove(&self.keys.facts(&db(n)));
        self.remove_session(n);
    }

    pub fn facts(&mut self, n: u8, change: impl FnOnce(&mut MemberFacts)) {
        let mut facts = MemberFacts {
            host: HostName::new(format!("db{n}")).unwrap(),
            address: format!("10.77.0.2{n}"),
            port: 5432,
            rest_port: 8008,
            grpc: format!("10.77.0.2{n}:7460"),
            patroni_state: Some("running".into()),
            eligible: Some(true),
            failover_priority: 1,
            streaming: Some(n != 1),
            data_uuid: Some(format!("uuid-{n}")),
            highest_term: Term(0),
            contradiction: None,
            setup: Some(setup(n)),
            warned: None,
            local_disarm: None,
            certificate_ends_unix_s: None,
        };
        change(&mut facts);
        self.record(&self.keys.facts(&db(n)), facts);
    }

    /// Whoever asks an agent is refused at once.
    pub fn nobody_answers(&mut self) {
        for n in 1..=4 {
            self.facts(n, |facts| facts.grpc = "127.0.0.1:1".into());
        }
    }

    fn session_key(&self, n: u8) -> String {
        keys::session(&self.cluster.region, &HostName::new(format!("db{n}")).unwrap())
    }

    pub fn session(&mut self, n: u8) {
        self.session_of(&HostName::new(format!("db{n}")).unwrap());
    }

    /// The agent of a build that reads records up to this format.
    pub fn session_that_reads(&mut self, n: u8, reads_format: u64) {
        self.session_reading(&HostName::new(format!("db{n}")).unwrap(), reads_format);
    }

    fn session_of(&mut self, host: &HostName) {
        self.session_reading(host, 1);
    }

    fn session_reading(&mut self, host: &HostName, reads_format: u64) {
        let session = SessionRecord {
            host: host.clone(),
            boot_id: format!("boot-{host}"),
            incarnation: Incarnation(1),
            grpc: format!("{host}:7460"),
            version: "0.1.0".into(),
            reads_format,
        };
        self.record(&keys::session(&self.cluster.region, host), session);
    }

    pub fn remove_session(&mut self, n: u8) {
        self.pairs.remove(&self.session_key(n));
    }

    pub fn mode(&mut self, mode: Mode) {
        let by = "holdfast://operator/ann".into();
        let record = ModeRecord { mode, by, reason: "go live".into(), at_wall_ms: NOW_WALL_MS - 60_000 };
        self.record(&self.keys.mode(), record);
    }

    pub fn remove_mode(&mut self) {
        self.pairs.remove(&self.keys.mode());
    }

    pub fn open(&mut self, term: u64, writer: u8) {
        self.opening(term, writer, true);
    }

    pub fn opening(&mut self, term: u64, writer: u8, writable: bool) {
        let (incarnation, session) = (Incarnation(1), SessionId(0x1000 + 1));
        let reign = Reign::Open { holder: db(writer), incarnation, session, writable, floor: None };
        self.record(&self.keys.term(), TermRecord { term: Term(term), reign, trace: None, timeline: None });
    }

    pub fn closed(&mut self, term: u64, writer: u8) {
        let reign = Reign::Closed {
            holder: db(writer),
            floor: Some(position(2, 0x0500_0060)),
            sync_version: 3,
            evidence: Evidence::Revoked { promisers: [db(2), db(3)].into(), outside: None },
            successor: Some(db(2)),
            at_wall_ms: NOW_WALL_MS - 3_000,
        };
        self.record(&self.keys.term(), TermRecord { term: Term(term), reign, trace: None, timeline: None });
    }

    pub fn floor(&mut self, term: u64) {
        let floor = FloorRecord {
            term: Term(term),
            sync_version: 3,
            sync_mod_revision: 0,
            sync_create_revision: 1,
            configuration: Configuration { members: [db(2), db(3)].into(), quorum: 1 },
            data_uuids: std::collections::BTreeMap::new(),
            floor: position(2, 0x0500_0000),
        };
        self.record(&self.keys.floor(), floor);
    }

    pub fn promise(&mut self, n: u8, term: u64) {
        let promise = Promise {
            term: Term(term),
            writer: db(1),
            position: position(2, 0x0500_0060),
            data_uuid: format!("uuid-{n}"),
            incarnation: Incarnation(1),
            heard_wall_ms: None,
            at_wall_ms: NOW_WALL_MS - 4_000,
        };
        self.record(&self.keys.promise(&db(n), Term(term)), promise);
    }

    pub fn fence(&mut self, n: u8) {
        let why = FenceReason::Operator { by: "holdfast://operator/ann".into(), text: "bad disk".into() };
        self.record(&self.keys.fence(&db(n)), FenceRecord { why, at_wall_ms: NOW_WALL_MS - 9_000 });
    }

    pub fn fence_deposed(&mut self, n: u8, term: u64) {
        let why = FenceReason::Deposed { term: Term(term) };
        self.record(&self.keys.fence(&db(n)), FenceRecord { why, at_wall_ms: NOW_WALL_MS - 9_000 });
    }

    pub fn hold(&mut self) {
        self.hold_released_by(None);
    }

    pub fn held(&mut self) {
        let held = HeldRecord { term: Term(4), holder: db(1), until_wall_ms: None };
        self.record(&self.keys.held(), held);
    }

    pub fn released_hold(&mut self) {
        self.hold_released_by(Some("holdfast://operator/ann".into()));
    }

    fn hold_released_by(&mut self, released_by: Option<String>) {
        let hold = HoldRecord {
            term: Term(4),
            last_failover_wall_ms: NOW_WALL_MS - 120_000,
            text: "a second failover within 10 min".into(),
            released_by,
            released_why: None,
            paged: None,
        };
        self.record(&self.keys.hold(), hold);
    }

    /// A maintenance that ends at that moment.
    pub fn maintenance(&mut self, until_wall_ms: i64) {
        let record = MaintenanceRecord {
            until_wall_ms,
            since_wall_ms: NOW_WALL_MS - 120_000,
            by: "holdfast://operator/ann".into(),
            reason: "new switch".into(),
        };
        self.record(&self.keys.maintenance(), record);
    }

    /// db1 says that its PostgreSQL has stopped.
    pub fn attest(&mut self, term: u64) {
        let attestation = Attestation {
            term: Term(term),
            holder: db(1),
            incarnation: Incarnation(1),
            session: SessionId(0x1000 + 1),
            stop: StopKind::Stopped,
            stuck: Vec::new(),
            at_wall_ms: NOW_WALL_MS - 1_000,
        };
        self.record(&self.keys.attest(Term(term)), attestation);
    }

    pub fn route(&mut self, pooler: &str, target: Option<u8>) {
        let route =
            RouteRecord { term: Term(4), target: target.map(db), paused: target.is_none(), done: None };
        let host = HostName::new("pool1").unwrap();
        self.record(&self.keys.route(&host, pooler), route);
        self.session_of(&host);
    }

    /// The pooler's host has died; its routes stay.
    pub fn remove_pooler_session(&mut self) {
        self.pairs.remove(&keys::session(&self.cluster.region, &HostName::new("pool1").unwrap()));
    }

    /// An order about db4.
    pub fn audit(&mut self, number: u64, verb: &str, reason: &str) {
        let record = AuditRecord {
            number,
            verb: verb.into(),
            node: Some(db(4)),
            by: "holdfast://operator/ann".into(),
            from: "console".into(),
            reason: reason.into(),
            accepted: None,
            at_wall_ms: NOW_WALL_MS - 5_000,
        };
        self.record(&self.keys.audit(number), record);
    }

    /// A restart of db1 in place.
    pub fn restart(&mut self, gone_wall_ms: i64, away_ms: i64) {
        let record = RestartRecord {
            number: 0,
            member: db(1),
            term: Term(5),
            ended: RestartEnd::Crashed,
            gone_wall_ms,
            back_wall_ms: gone_wall_ms + away_ms,
            trace_id: None,
            text: "PostgreSQL of db1 crashed and was started again in its term".into(),
        };
        self.record(&self.keys.restart(&db(1), 0), record);
    }

    /// What the agent of a member would have done, the oldest first, a second apart.
    pub fn would(&mut self, n: u8, texts: &[&str]) {
        let line = |(text, at): (&&str, i64)| WouldLine {
            at_wall_ms: NOW_WALL_MS - 10_000 + at * 1_000,
            text: (*text).into(),
        };
        let lines = texts.iter().zip(0..).map(line).collect();
        self.record(&self.keys.would(&db(n)), WouldRecord { lines, ..WouldRecord::default() });
    }

    pub fn event(&mut self, number: u64, to: Option<u8>) {
        let at = NOW_WALL_MS - 30_000;
        let mut steps =
            BTreeMap::from([(Step::Detected, at), (Step::Promised, at + 900), (Step::Closed, at + 950)]);
        if to.is_some() {
            steps.extend([(Step::Opened, at + 1_100), (Step::Promoted, at + 1_300)]);
            steps.extend([(Step::Routed, at + 1_350), (Step::Proved, at + 1_420)]);
        }
        let event = EventRecord {
            number,
            term: Term(number + 3),
            from: db(1),
            to: to.map(db),
            floor: Some(position(2, 0x0500_0060)),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            steps_wall_ms: steps,
            text: "host of db1 died; db2 took over".into(),
            route_commands: BTreeMap::new(),
        };
        self.record(&self.keys.event(number), event);
    }
}

/// As it should be.
fn setup(n: u8) -> SetupSeen {
    SetupSeen {
        profile: Some(Profile::Fast),
        class: None,
        file: Some(PatroniFile {
            path: "/etc/patroni/main.yml".into(),
            watchdog_mode: Some("off".into()),
            pre_promote: Some("holdfast-agent promote-gate --namespace service --scope main".into()),
            bin_name_postgres: Some("/usr/lib/holdfast/postgres".into()),
            dcs: Some("etcd3".into()),
            citus: Some(false),
            acts_on_stop: Some(false),
        }),
        file_problem: None,
        through_gate: Some(true),
        gate_named: None,
        vip_manager: None,
        synchronous_standby_names: (n == 1).then(|| "ANY 1 (db2,db3)".into()),
        standbys_without_certificate: (n == 1).then(Vec::new),
        rest_problem: None,
        misplaced: Vec::new(),
    }
}

pub fn position(timeline: u32, lsn: u64) -> Position {
    Position { timeline: Timeline(timeline), lsn: holdfast_types::Lsn(lsn) }
}
