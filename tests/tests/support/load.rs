//! A load for a test: the checker's clients on every route of a lab's first cluster, and the verdict over what they saw.
//!
//! The test says when it begins, when it must be steady again and when it ends; what happens in between is its affair.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use holdfast_lab::bench::tail::Tail;
use holdfast_lab::checker::clients::routes;
use holdfast_lab::checker::connect::{Session, Target};
use holdfast_lab::checker::describe::{Choice, Describe, Instance};
use holdfast_lab::checker::record::{Outcome, Recording, RouteKind, Standbys};
use holdfast_lab::checker::verdict::{Verdict, judge};
use holdfast_lab::checker::{monotonic_us, rows};

use super::{BENCH, Lab, PROGRAM, eventually};

/// Every route acknowledges for so long, without a pause of more than [`PAUSE_US`], to be steady.
const STEADY_US: u64 = 2_000_000;
/// Four missed turns of a client.
const PAUSE_US: u64 = 400_000;
/// The recorder flushes every 100 ms: what is older than two flushes is in the file.
const FLUSHED_US: u64 = 200_000;

/// Clients at work. They stop when their standard input closes, so also when the test dies.
pub struct Load {
    clients: Child,
    name: String,
    folder: tempfile::TempDir,
    describe: Describe,
    /// The redundancy before anything was done.
    wanted: Option<Standbys>,
}

impl Load {
    /// Starts a client on each route, ten rows a second, and waits until all of them acknowledge.
    pub fn start(lab: &Lab, name: &str) -> Self {
        Self::beside(lab, name, 2)
    }

    /// The same in a cluster that has so many synchronous standbys.
    pub fn beside(lab: &Lab, name: &str, synchronous: u32) -> Self {
        Self::paced(lab, name, synchronous, &["--rate", "10", "--clients", "1"], |_| true)
    }

    /// Clients of that pace on the routes of these kinds.
    pub fn paced(
        lab: &Lab,
        name: &str,
        synchronous: u32,
        pace: &[&str],
        wants: impl Fn(&str) -> bool,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("describe.json");
        let mut described = lab.describe();
        std::fs::write(&file, described.to_string()).unwrap();
        let describe = Describe::read(&file).unwrap();
        let routes = described["regions"][0]["clusters"][0]["routes"].as_array_mut().unwrap();
        routes.retain(|route| wants(route["kind"].as_str().unwrap()));
        std::fs::write(&file, described.to_string()).unwrap();
        on_writer(&describe, async |session| rows::create_table(&session.client).await.unwrap());
        let clients = Command::new(PROGRAM)
            .args(["exec", lab.name(), "client", "--", BENCH, "clients", "--until-stdin-closes"])
            .args(pace)
            .args(["--deadline-ms", "30000", "--run", name, "--describe"])
            .arg(&file)
            .arg("--out")
            .arg(folder.path().join("recording"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut load = Self { clients, name: name.to_owned(), folder, describe, wanted: None };
        load.steady(monotonic_us());
        let tail = load.tail();
        load.wanted = tail.standbys_of_writer(0);
        assert!(
            load.wanted.is_some_and(|standbys| standbys.sync_streaming >= synchronous),
            "{:?}",
            load.wanted
        );
        load
    }

    fn recording(&self) -> PathBuf {
        self.folder.path().join("recording")
    }

    fn tail(&self) -> Tail {
        let mut tail = Tail::new(self.recording());
        tail.advance().unwrap();
        tail
    }

    /// Waits until every route has acknowledged throughout a stretch that began after `since_us`, and the redundancy of the
    /// begin is there.
    pub fn steady(&self, since_us: u64) {
        eventually("every route acknowledges, with full redundancy", || {
            let now_us = monotonic_us() - FLUSHED_US;
            let tail = self.tail();
            let full = self.wanted.is_none_or(|wanted| {
                tail.standbys_of_writer(now_us - STEADY_US).is_some_and(|now| {
                    now.named >= wanted.named
                        && now.sync_streaming >= wanted.sync_streaming
                        && now.streaming >= wanted.streaming
                })
            });
            full && self.acknowledges(since_us, PAUSE_US)
        });
    }

    /// Waits until every route acknowledges again after `since_us`, however slowly: the moment at which that was seen.
    pub fn goes_on(&self, since_us: u64) -> u64 {
        eventually("every route acknowledges", || self.acknowledges(since_us, STEADY_US / 2));
        monotonic_us()
    }

    fn acknowledges(&self, since_us: u64, pause_us: u64) -> bool {
        let now_us = monotonic_us() - FLUSHED_US;
        now_us > since_us + STEADY_US && self.tail().all_acknowledge(now_us, STEADY_US, pause_us)
    }

    /// Stops the clients and judges: against the rows of the one who is the writer now, and from `fault_us` on.
    pub fn end(self, fault_us: u64) -> Verdict {
        self.recorded(fault_us).0
    }

    /// The same, and everything that the clients wrote down.
    pub fn recorded(mut self, fault_us: u64) -> (Verdict, Recording) {
        drop(self.clients.stdin.take());
        assert!(self.clients.wait().unwrap().success(), "the clients failed");
        let found =
            on_writer(&self.describe, async |session| rows::read(&session.client, &self.name).await.unwrap());
        let recording = Recording::read(&self.recording()).unwrap();
        (judge(&recording, &found, Some(fault_us)), recording)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.clients.kill();
        let _ = self.clients.wait();
    }
}

/// What the clients met, but in these stretches. For a load without routes over sockets: those of standbys refuse every row.
pub fn errors_outside(recording: &Recording, stretches: &[(u64, u64)]) -> Vec<String> {
    let within = |begin_us, end_us| stretches.iter().any(|(from, to)| end_us >= *from && begin_us <= *to);
    let errors = recording.attempts.iter().filter(|one| one.outcome != Outcome::Acknowledged);
    errors.filter(|one| !within(one.begin_us, one.end_us)).map(|one| format!("{one:?}")).collect()
}

/// The longest gap of the routes over TCP, in milliseconds; `None` when one of them did not come back.
pub fn gap_ms(verdict: &Verdict) -> Option<u64> {
    let routes = verdict.routes.iter().filter(|route| route.kind != RouteKind::Socket);
    let gaps: Option<Vec<u64>> =
        routes.map(|route| route.gap.filter(|gap| !gap.open).map(|gap| gap.gap_us / 1_000)).collect();
    gaps?.into_iter().max()
}

/// The sockets of the members as user postgres, in the database of the clients.
fn sockets(describe: &Describe) -> Vec<(String, Target)> {
    let choice = Choice::default();
    let (region, cluster) = describe.choose(&choice).unwrap();
    let routes = routes(describe, &choice).unwrap();
    let dbname = routes.iter().find(|route| route.kind == RouteKind::Libpq).unwrap().target.dbname();
    let target =
        |instance: &Instance| Target::socket(&instance.socket_dir, instance.port(), "postgres", dbname);
    let instances = region.instances(&cluster.scope).into_iter();
    instances.map(|(host, instance)| (host.to_owned(), target(instance))).collect()
}

/// Asks the one member that is out of recovery.
fn on_writer<T>(describe: &Describe, ask: impl AsyncFn(Session) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut writers = Vec::new();
        for (host, target) in sockets(describe) {
            let session = target.connect().await.unwrap();
            let answer = session.client.query_one("select pg_is_in_recovery()", &[]).await.unwrap();
            if !answer.get::<_, bool>(0) {
                writers.push((host, session));
            }
        }
        let hosts: Vec<&String> = writers.iter().map(|(host, _)| host).collect();
        assert_eq!(writers.len(), 1, "one writer is wanted, there are: {hosts:?}");
        ask(writers.pop().unwrap().1).await
    })
}
