//! An agent and its callers over real sockets and TLS.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_types::preflight::{
    Archiver, OpenTransaction, OpenTransactions, Preflight, StandbyLag, StandbyPreflight, WriterPreflight,
};
use holdfast_types::record::{ObservedReason, ObservedRecord, WouldLine};
use holdfast_types::renewals::RenewalDay;
use holdfast_types::{
    Class, HostName, Incarnation, Lsn, MemberName, Mode, Namespace, Position, Profile, RegionName, Scope,
    Term, Timeline,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::authorisation::Class::{Host, Operator, Viewer};
use crate::client::{AgentClient, CallError};
use crate::message::*;
use crate::server::{self, Asker, serve};
use crate::tls::testing::Authority;
use crate::tls::{Identity, Peer};
use crate::trace::TraceContext;

const DEADLINE: Duration = Duration::from_secs(20);
const SERVER: &str = "holdfast://r1/host/db1";
/// The number of a certificate that its authority has taken back.
const REVOKED: u64 = 4_711;

pub fn instance() -> InstanceName {
    InstanceName {
        namespace: Namespace::new("service").unwrap(),
        scope: Scope::new("main").unwrap(),
        member: MemberName::new("db1").unwrap(),
    }
}

/// A status with every field filled.
pub fn status() -> HostStatus {
    let position = Position { timeline: Timeline(3), lsn: Lsn(0x3000060) };
    let db2 = MemberName::new("db2").unwrap();
    let one = InstanceStatus {
        name: instance(),
        class: Class::Quorum,
        mode: Mode::Armed,
        role: Some(Role::Standby),
        position: Some(position),
        term: Some(TermSeen { term: Term(4), holder: db2.clone(), open: true, writable: true }),
        promise: Some(PromiseHeld { term: Term(3), position: Some(position) }),
        fenced: Some("deposed in term 3".into()),
        patroni_state: Some("streaming".into()),
        waits: vec!["etcd is not heard".into()],
        would: vec!["would have: promised".into()],
        problems: vec!["disk".into()],
        hung_ms: Some(0),
    };
    let InstanceName { namespace, scope, .. } = instance();
    let pooler = PoolerStatus {
        name: "pgbouncer".into(),
        namespace,
        scope,
        target: Some(db2),
        paused: false,
        clients_waiting: Some(3),
        waited_ms: Some(250),
        up: Some(true),
        why: Some("its clients reach the writer".into()),
    };
    HostStatus {
        region: RegionName::new("r1").unwrap(),
        host: HostName::new("db1").unwrap(),
        incarnation: Incarnation(9),
        version: "0.1.0".into(),
        at_wall_ms: 1_700_000_000_000,
        etcd_reachable: Some(false),
        instances: vec![one],
        poolers: vec![pooler],
        problems: vec!["etcd".into()],
    }
}

/// A report with every field filled.
pub fn report() -> HostReport {
    let InstanceName { namespace, scope, member } = instance();
    let incident = ObservedRecord {
        namespace,
        scope,
        member: member.clone(),
        writer: member,
        noticed_wall_ms: 1_700_000_000_000,
        reason: ObservedReason::PostmasterGone,
        last_sign_wall_ms: Some(1_699_999_999_990),
        would: vec![WouldLine { at_wall_ms: 1_700_000_000_000, text: "shut the start gate".into() }],
        waits: vec!["etcd".into()],
        would_close_wall_ms: Some(1_700_000_000_200),
        would_name: Some(MemberName::new("db2").unwrap()),
        next: Some(MemberName::new("db3").unwrap()),
        led_wall_ms: Some(1_700_000_020_000),
        writable_wall_ms: None,
    };
    let mut day = RenewalDay::new(19_675, Profile::Normal);
    day.add(1_234, 1_700_000_000_000);
    HostReport {
        region: RegionName::new("r1").unwrap(),
        host: HostName::new("db1").unwrap(),
        version: "0.1.0".into(),
        at_wall_ms: 1_700_000_100_000,
        profile: Some(Profile::Normal),
        incidents: vec![incident],
        renewals: vec![day],
        unreadable: 1,
    }
}

/// A preflight with every field filled, as no instance would: it is both a primary and a standby.
pub fn preflight() -> Preflight {
    let transaction = OpenTransaction {
        pid: 4_711,
        age_ms: 3_000,
        idle_in_transaction: true,
        user: "app".into(),
        application_name: "loader".into(),
    };
    let standby = StandbyLag {
        application_name: "db2".into(),
        state: Some("streaming".into()),
        flush_bytes: Some(0),
        replay_bytes: Some(8_192),
        replay_ms: Some(12),
    };
    Preflight {
        server_version_num: Some(150_018),
        data_free_bytes: Some(1 << 40),
        wal_free_bytes: Some(1 << 30),
        writer: Some(WriterPreflight {
            transactions: Some(OpenTransactions { count: 2, oldest: vec![transaction] }),
            prepared_transactions: Some(0),
            lost_slots: Some(vec!["cdc".into()]),
            archiver: Some(Archiver { is_on: true, fails: Some(false), waiting: Some(60) }),
            wal_since_redo_bytes: Some(1 << 24),
            standbys: Some(vec![standby]),
        }),
        standby: Some(StandbyPreflight { replay_bytes: Some(7), replay_paused: Some(false) }),
        operations: vec!["switchover".into()],
    }
}

/// A host that keeps who asked it.
#[derive(Default)]
struct Recorder(Mutex<Vec<(LifeQuestion, Asker)>>);

#[tonic::async_trait]
impl server::Host for Recorder {
    async fn status(&self) -> HostStatus {
        status()
    }
    async fn report(&self, _: i64) -> HostReport {
        report()
    }
    async fn preflight(&self, asked: InstanceName) -> Result<Preflight, Refusal> {
        match asked == instance() {
            true => Ok(preflight()),
            false => Err(Refusal::NotHere(asked.member.to_string())),
        }
    }
    async fn life(&self, question: LifeQuestion, asker: Asker) -> Result<LifeAnswer, Refusal> {
        if question.term == Term(9) {
            return Err(Refusal::NotHere("db1".into()));
        }
        self.0.lock().unwrap().push((question, asker));
        Ok(LifeAnswer { term: Term(4), life: Life::Stopped, age_ms: 12 })
    }
    async fn grant(&self, question: GrantQuestion, _: Asker) -> Result<GrantAnswer, Refusal> {
        match question.term {
            Term(4) => Ok(GrantAnswer { duration_ms: 5_000 }),
            term => Err(Refusal::Rule(format!("term {term} is closed"))),
        }
    }
}

/// A served agent; ends with the test.
struct Served {
    authority: Authority,
    address: String,
    recorder: Arc<Recorder>,
    _end: oneshot::Sender<()>,
}

impl Served {
    async fn new() -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (end, ended) = oneshot::channel::<()>();
        let recorder = Arc::new(Recorder::default());
        let host: Arc<dyn server::Host> = Arc::clone(&recorder) as _;
        let until = async move { drop(ended.await) };
        let region = RegionName::new("r1").unwrap();
        // It knows that one certificate has been revoked.
        let identity = authority.identity_knowing(SERVER, &[REVOKED]);
        tokio::spawn(serve(listener, identity, region, host, until));
        Self { authority, address, recorder, _end: end }
    }

    fn client(&self, uri: &str) -> AgentClient {
        self.client_of(self.authority.identity(uri))
    }

    fn client_of(&self, identity: Identity) -> AgentClient {
        AgentClient::new(identity, &self.address, Some(SERVER.parse::<Peer>().unwrap()), DEADLINE)
    }
}

fn question(term: u64) -> LifeQuestion {
    LifeQuestion { instance: instance(), term: Term(term) }
}

#[tokio::test]
async fn a_question_arrives_with_its_asker_and_its_trace() {
    let served = Served::new().await;
    let trace = TraceContext::new_root();
    let client = served.client("holdfast://r1/host/db2");
    let answer = client.life(&question(4), Some(&trace)).await.unwrap();
    assert_eq!(answer, LifeAnswer { term: Term(4), life: Life::Stopped, age_ms: 12 });
    let got = served.recorder.0.lock().unwrap();
    let (arrived, asker) = &got[0];
    assert_eq!(*arrived, question(4));
    assert_eq!(asker.caller.peer.to_string(), "holdfast://r1/host/db2");
    assert_eq!(asker.trace, Some(trace));
}

#[tokio::test]
async fn a_viewer_sees_and_may_not_ask_what_hosts_ask() {
    let served = Served::new().await;
    let viewer = served.client("holdfast://viewer/wall");
    assert_eq!(viewer.status().await.unwrap(), status());
    assert_eq!(viewer.report(0).await.unwrap(), report());
    let error = viewer.life(&question(4), None).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Refused { text, .. } if text.contains("holdfast://viewer/wall may not call")),
        "{error}"
    );
    assert!(served.recorder.0.lock().unwrap().is_empty());
}

/// Calls a method by its path. A new method needs a line here as well as in the table.
async fn call(client: &AgentClient, method: &str) -> Result<(), CallError> {
    match method {
        "/holdfast.v1.Agent/GetStatus" => client.status().await.map(drop),
        "/holdfast.v1.Agent/GetReport" => client.report(0).await.map(drop),
        "/holdfast.v1.Agent/Preflight" => {
            client.preflight(&instance()).await.map(|found| assert_eq!(found, preflight()))
        }
        "/holdfast.v1.Agent/Life" => client.life(&question(4), None).await.map(drop),
        "/holdfast.v1.Agent/Grant" => {
            let writer = MemberName::new("db2").unwrap();
            let question =
                GrantQuestion { instance: instance(), term: Term(4), writer, incarnation: Incarnation(3) };
            client.grant(&question).await.map(drop)
        }
        other => panic!("{other} has no call in this test"),
    }
}

/// Every line of the table, asked for with every certificate: whom the table names is answered, whom it does not is told
/// why, and whose certificate is wrong gets no further than the handshake. Nobody reaches the host beside the table.
#[tokio::test]
async fn every_line_of_the_table_holds_for_every_certificate() {
    let served = Served::new().await;
    let ours = &served.authority;
    let ended = ours.identity_numbered("holdfast://r1/host/db2", 7, 1);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let long = 86_400;
    let known = [
        (Host, ours.identity("holdfast://r1/host/db2")),
        (Host, ours.identity("holdfast://r1/host/pool1")),
        (Host, ours.identity("holdfast://r1/host/backup1")),
        (Operator, ours.identity("holdfast://operator/ann")),
        (Viewer, ours.identity("holdfast://viewer/wall")),
    ];
    let strangers = [
        ("other authority", Authority::new().identity("holdfast://r1/host/db2")),
        ("expired", ended),
        ("revoked host", ours.identity_numbered("holdfast://r1/host/db2", REVOKED, long)),
        ("revoked operator", ours.identity_numbered("holdfast://operator/ann", REVOKED, long)),
    ];
    let elsewhere = ours.identity("holdfast://r2/host/db2");
    for (method, allowed) in crate::authorisation::TABLE {
        for (class, identity) in &known {
            let client = served.client_of(identity.clone());
            let answer = call(&client, method).await;
            if allowed.contains(class) {
                assert!(answer.is_ok(), "{method} for {}: {answer:?}", identity.peer());
            } else {
                let told =
                    matches!(&answer, Err(CallError::Refused { text, .. }) if text.contains("may not call"));
                assert!(told, "{method} for {}: {answer:?}", identity.peer());
            }
        }
        let answer = call(&served.client_of(elsewhere.clone()), method).await;
        let told = matches!(&answer, Err(CallError::Refused { text, .. }) if text.contains("not a host of region r1"));
        assert!(told, "{method} for another region: {answer:?}");
        for (what, identity) in &strangers {
            let answer = call(&served.client_of(identity.clone()), method).await;
            assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{method}, {what}: {answer:?}");
        }
    }
    let asked = served.recorder.0.lock().unwrap();
    assert_eq!(asked.len(), 3, "one sign of life for each host of the region: {asked:?}");
}

/// Files that are swapped in time cost nothing; a certificate that has ended takes its connection with it.
#[tokio::test]
async fn a_connection_ends_with_its_certificate_and_the_next_has_the_new_one() {
    let served = Served::new().await;
    let (ours, folder) = (&served.authority, tempfile::tempdir().unwrap());
    let uri = "holdfast://r1/host/db2";
    let short = |seconds| ours.issue_numbered(Some(uri), (-60, seconds), None);
    let (cert, key) = short(4);
    let files = |cert: &str, key: &str| crate::tls::testing::write(folder.path(), &ours.pem(), cert, key);
    let renewed = Identity::load(files(&cert, &key)).unwrap();
    let forgotten = ours.identity_numbered(uri, 9, 4);
    let (renewed_client, forgotten_client) = (served.client_of(renewed), served.client_of(forgotten));
    renewed_client.status().await.unwrap();
    forgotten_client.status().await.unwrap();
    let (cert, key) = short(86_400);
    files(&cert, &key);
    let begin = std::time::Instant::now();
    let mut failed = 0;
    while begin.elapsed() < Duration::from_secs(9) {
        failed += u32::from(renewed_client.status().await.is_err());
        let _ = forgotten_client.status().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(failed <= 1, "only a call on the connection that ended may fail: {failed} did");
    let refused = forgotten_client.status().await;
    assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_lease_is_granted_or_refused_with_the_rule() {
    let served = Served::new().await;
    let client = served.client("holdfast://r1/host/db2");
    let ask = |term| GrantQuestion {
        instance: instance(),
        term: Term(term),
        writer: MemberName::new("db2").unwrap(),
        incarnation: Incarnation(3),
    };
    assert_eq!(client.grant(&ask(4)).await.unwrap(), GrantAnswer { duration_ms: 5_000 });
    let refused = client.grant(&ask(3)).await.unwrap_err();
    assert!(matches!(&refused, CallError::Refused { text, .. } if text == "term 3 is closed"), "{refused}");
}

#[tokio::test]
async fn refusals_keep_their_reason() {
    let served = Served::new().await;
    let host = served.client("holdfast://r1/host/db2");
    let elsewhere = host.life(&question(9), None).await.unwrap_err();
    assert!(elsewhere.to_string().contains("db1 is not on this host"), "{elsewhere}");
}

#[tokio::test]
async fn strangers_and_impostors_are_unreachable_to_each_other() {
    let served = Served::new().await;
    let stranger = served.client_of(Authority::new().identity(SERVER));
    assert!(matches!(stranger.status().await, Err(CallError::Unreachable { .. })));

    let expected: Peer = "holdfast://r1/host/db7".parse().unwrap();
    let identity = served.authority.identity("holdfast://operator/ann");
    let elsewhere = AgentClient::new(identity, &served.address, Some(expected), DEADLINE);
    let error = elsewhere.status().await.unwrap_err();
    assert!(error.to_string().contains("answers where holdfast://r1/host/db7 was expected"), "{error}");
}

#[tokio::test]
async fn a_silent_agent_costs_no_more_than_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let identity = Authority::new().identity("holdfast://operator/ann");
    let client = AgentClient::new(identity, address, None, Duration::from_millis(200));
    let answer = tokio::time::timeout(DEADLINE, client.status()).await.expect("it waited longer");
    assert!(matches!(answer, Err(CallError::Unreachable { .. })));
}

#[test]
fn a_status_is_readable_json() {
    let json = serde_json::to_value(status()).unwrap();
    assert_eq!(json["instances"][0]["role"], "standby");
    assert_eq!(json["instances"][0]["name"]["member"], "db1");
    assert_eq!(json["instances"][0]["position"]["lsn"], "0/3000060");
}
