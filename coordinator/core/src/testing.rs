//! A healthy cluster of one writer, two synchronous standbys, an asynchronous one and two poolers, for tests.

use std::collections::BTreeMap;

use holdfast_types::preflight::{OPERATIONS, OpenTransactions, Preflight, StandbyPreflight, WriterPreflight};
use holdfast_types::record::{
    DRAIN_TIMEOUT_MS, Drain, DrainedRecord, IntentRecord, OperationPhase, OperationRecord, OperationStep,
    PhaseDone, Restart, Switchover, Wanted,
};
use holdfast_types::{Class, HostName, MemberName, Mode, Term};

use crate::observation::{MemberSeen, Observation, PoolerSeen, ReignSeen, ReignState};
use crate::request::{Request, Taker};

pub fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

pub fn coordinator() -> HostName {
    HostName::new("backup1").unwrap()
}

pub fn request(wanted: Wanted) -> Request {
    let intent = IntentRecord { wanted, reason: "kernel".into(), from: None, until_wall_ms: None };
    Request { user: "operator/ann".into(), id: "i1".into(), intent }
}

/// Who takes a request as operation 7.
pub fn taker(host: &HostName) -> Taker<'_> {
    Taker { host, number: 7, now_wall_ms: 1_000 }
}

/// A drain with nothing asked for beside it.
pub fn drain(node: &str) -> Drain {
    Drain {
        node: node.into(),
        to: None,
        beside_drained: false,
        drain_timeout_ms: DRAIN_TIMEOUT_MS,
        terminate: false,
    }
}

/// A restart of these; of none: of those that need one.
pub fn restart(only: &[&str]) -> Restart {
    Restart {
        only: only.iter().map(|member| name(member)).collect(),
        all: false,
        drain_timeout_ms: DRAIN_TIMEOUT_MS,
        terminate: false,
    }
}

/// The mark of a drained node.
pub fn drained() -> DrainedRecord {
    DrainedRecord { by: "operator/ann".into(), reason: "kernel".into(), since_wall_ms: 0, operation: 1 }
}

/// A writer with nothing open.
fn quiet() -> WriterPreflight {
    WriterPreflight {
        transactions: Some(OpenTransactions::default()),
        prepared_transactions: Some(0),
        lost_slots: Some(Vec::new()),
        ..WriterPreflight::default()
    }
}

/// db1 writes in term 4.
pub fn healthy() -> Observation {
    let member = |synchronous: bool, streaming: Option<bool>, priority: i64| MemberSeen {
        agent_alive: true,
        preflight: Some(Preflight {
            server_version_num: Some(150_018),
            data_free_bytes: Some(1 << 40),
            wal_free_bytes: Some(1 << 40),
            writer: streaming.is_none().then(quiet),
            standby: streaming
                .map(|_| StandbyPreflight { replay_bytes: Some(0), replay_paused: Some(false) }),
            operations: OPERATIONS.map(str::to_owned).to_vec(),
        }),
        eligible: Some(true),
        synchronous,
        streaming,
        priority,
        ..MemberSeen::default()
    };
    let pooler =
        || PoolerSeen { alive: true, term: Term(4), target: Some(name("db1")), paused: false, done: None };
    Observation {
        mode: Some(Mode::Armed),
        unreadable: Vec::new(),
        class: Some(Class::Quorum),
        suspended: None,
        requested_of_patroni: false,
        reign: Some(ReignSeen { term: Term(4), holder: name("db1"), state: ReignState::Writable }),
        members: BTreeMap::from([
            (name("db1"), member(false, None, 1)),
            (name("db2"), member(true, Some(true), 1)),
            (name("db3"), member(true, Some(true), 1)),
            (name("db4"), MemberSeen { eligible: Some(false), ..member(false, Some(true), 1) }),
        ]),
        poolers: BTreeMap::from([("pool1.a".into(), pooler()), ("pool2.a".into(), pooler())]),
        drained: BTreeMap::new(),
    }
}

/// Operation 3: from db1 to db2, in this phase.
pub fn running(phase: OperationPhase) -> OperationRecord {
    OperationRecord {
        number: 3,
        wanted: Wanted::Switchover(Switchover::default()),
        by: "operator/ann".into(),
        intent: "i0".into(),
        from: None,
        reason: "kernel".into(),
        coordinator: coordinator(),
        term: Some(Term(4)),
        writer: Some(name("db1")),
        successor: Some(name("db2")),
        poolers: vec!["pool1.a".into(), "pool2.a".into()],
        rolling: None,
        phase,
        steps: vec![OperationStep { phase, at_wall_ms: 0 }],
        findings: Vec::new(),
        given_up: None,
        traceparent: None,
        ended: None,
    }
}

/// The word for a phase of operation 3.
pub fn done(phase: OperationPhase, problem: Option<&str>) -> Option<PhaseDone> {
    Some(PhaseDone { operation: 3, phase, problem: problem.map(str::to_owned), remark: None })
}

/// Another reign than that of [`healthy`].
pub fn reign(seen: &mut Observation, term: u64, holder: &str, state: ReignState) {
    seen.reign = Some(ReignSeen { term: Term(term), holder: name(holder), state });
}
