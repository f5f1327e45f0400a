use super::*;

use std::path::{Path, PathBuf};

use holdfast_store::{MemoryStore, Read, Store, Txn, Write};
use holdfast_types::record::{
    EventRecord, Evidence, MemberFacts, ModeRecord, Reign, Stored, TermRecord, WouldRecord,
};
use holdfast_types::{Incarnation, Mode, Namespace, RegionName, Scope, SessionId};
use serde::Serialize;
use serde::de::DeserializeOwned;

const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

/// A cluster in etcd, armed, whose command adds a line to a file.
struct Bench {
    store: Arc<dyn Store>,
    keys: ClusterKeys,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let bench = Self {
            store: Arc::new(MemoryStore::new()),
            keys: ClusterKeys::new(&Self::cluster()),
            folder: tempfile::tempdir().unwrap(),
        };
        let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
        bench.put(bench.keys.mode(), mode).await;
        for member in ["a", "b"] {
            let facts = MemberFacts {
                host: HostName::new(member).unwrap(),
                address: format!("10.0.0.{member}"),
                port: 5432,
                rest_port: 8008,
                grpc: String::new(),
                patroni_state: None,
                eligible: None,
                failover_priority: 1,
                streaming: None,
                data_uuid: None,
                highest_term: Term(0),
                contradiction: None,
                setup: None,
                warned: None,
                local_disarm: None,
                certificate_ends_unix_s: None,
            };
            bench.put(bench.keys.facts(&name(member)), facts).await;
        }
        for term in [3, 5] {
            let event = EventRecord {
                number: term,
                term: Term(term),
                from: name("b"),
                to: None,
                floor: None,
                trace_id: None,
                steps_wall_ms: [].into(),
                text: String::new(),
                route_commands: [].into(),
            };
            bench.put(bench.keys.event(term), event).await;
        }
        bench
    }

    fn cluster() -> ClusterId {
        ClusterId {
            region: RegionName::new("r1").unwrap(),
            namespace: Namespace::new("service").unwrap(),
            scope: Scope::new("main").unwrap(),
        }
    }

    async fn put(&self, key: String, record: impl Serialize + DeserializeOwned) {
        let writes = vec![Write::put(key, Stored::new(record).encode())];
        self.store.txn(Txn { writes, ..Txn::default() }).await.unwrap();
    }

    async fn open(&self, holder: &str, term: u64, writable: bool) {
        let reign = Reign::Open {
            holder: name(holder),
            incarnation: Incarnation(1),
            session: SessionId(5),
            writable,
            floor: None,
        };
        self.put(self.keys.term(), TermRecord { term: Term(term), reign, trace: None, timeline: None }).await;
    }

    async fn close(&self, holder: &str, term: u64) {
        let (holder, evidence) = (name(holder), Evidence::AttestedClean);
        let reign =
            Reign::Closed { holder, floor: None, sync_version: 1, evidence, successor: None, at_wall_ms: 0 };
        self.put(self.keys.term(), TermRecord { term: Term(term), reign, trace: None, timeline: None }).await;
    }

    /// The file that the command writes.
    fn file(&self) -> PathBuf {
        self.folder.path().join("told")
    }

    fn start(&self, script: &str, deadline_ms: u64) {
        let script = script.replace("FILE", &self.file().display().to_string());
        let cluster = Self::cluster();
        let world =
            Arc::new(World::start(Arc::clone(&self.store), &cluster.region, std::slice::from_ref(&cluster)));
        let teller = Teller {
            host: HostName::new("pool1").unwrap(),
            command: RouteCommand { line: vec!["sh".into(), "-c".into(), script], deadline_ms },
            keys: ClusterKeys::new(&cluster),
            cluster,
            world,
        };
        tokio::spawn(teller.run());
    }

    /// What the incident that ended a term says of the command.
    async fn outcome(&self, ended: u64) -> String {
        let key = self.keys.event(ended);
        let found = self.store.read(vec![Read::Key(key.clone())]).await.unwrap();
        let event = holdfast_store::decode_from::<EventRecord>(&found, &key).unwrap().unwrap().body;
        event.route_commands.values().cloned().collect()
    }

    async fn until_outcome(&self, ended: u64, part: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.outcome(ended).await.contains(part) {
            assert!(tokio::time::Instant::now() < deadline, "{part:?}: {}", self.outcome(ended).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

async fn until_lines(file: &Path, count: usize) {
    let wait = async {
        while lines(file).len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

const TELL: &str = "echo $HOLDFAST_TERM $HOLDFAST_WRITER $HOLDFAST_WRITER_ADDRESS $HOLDFAST_WRITER_PORT \
                    $HOLDFAST_CLUSTER >> FILE; sleep 0.4";

#[tokio::test]
async fn changes_while_it_runs_cause_one_more_run_of_the_newest_writer() {
    let bench = Bench::new().await;
    bench.open("a", 4, true).await;
    bench.start(TELL, 5_000);
    until_lines(&bench.file(), 1).await;
    bench.close("a", 4).await;
    bench.open("b", 5, true).await;
    bench.close("b", 5).await;
    bench.open("a", 6, false).await;
    // The run is over, and nobody writes: nobody is told of.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(lines(&bench.file()).len(), 1);
    bench.open("a", 6, true).await;
    bench.until_outcome(5, "told of a in term 6").await;
    assert_eq!(
        lines(&bench.file()),
        ["4 a 10.0.0.a 5432 r1/service/main", "6 a 10.0.0.a 5432 r1/service/main"]
    );
    assert!(bench.outcome(3).await.contains("told of a in term 4"));
}

#[tokio::test]
async fn one_that_fails_is_run_again_and_one_that_hangs_is_killed() {
    let bench = Bench::new().await;
    bench.open("a", 4, true).await;
    bench.start("echo x >> FILE; [ $(wc -l < FILE) -ge 2 ] || { echo no such balancer >&2; exit 3; }", 5_000);
    bench.until_outcome(3, "not told of a in term 4: ended with exit code 3: no such balancer").await;
    // A change of something else does not make it run sooner.
    bench.put(bench.keys.would(&name("a")), WouldRecord::default()).await;
    assert_eq!(lines(&bench.file()).len(), 1);
    bench.until_outcome(3, "told of a in term 4").await;
    until_lines(&bench.file(), 2).await;

    let hangs = Bench::new().await;
    hangs.open("a", 4, true).await;
    hangs.start("exec sleep 60", 100);
    hangs.until_outcome(3, "had not ended after 100 ms").await;
}

#[tokio::test]
async fn nobody_is_told_of_while_it_is_not_armed() {
    let bench = Bench::new().await;
    let mode = ModeRecord { mode: Mode::Disarmed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
    bench.put(bench.keys.mode(), mode).await;
    bench.open("a", 4, true).await;
    bench.start(TELL, 5_000);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(lines(&bench.file()), [""; 0]);
}
