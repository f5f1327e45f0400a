//! The checker against real servers: what is planted behind its back is found, and nothing else.
//!
//! Each test starts its own PostgreSQL 15 (Unix socket only, as user postgres) and stops it, also when it fails.

// Clippy's exemption for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_host::run::{Command, run};
use holdfast_lab::checker::clients::{self, Options, Route};
use holdfast_lab::checker::connect::Target;
use holdfast_lab::checker::record::{Outcome, Recording, RouteKind};
use holdfast_lab::checker::rows;
use holdfast_lab::checker::verdict::{Verdict, judge};
use tokio_util::sync::CancellationToken;

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// A wait that takes longer has failed: generous, the machine is shared.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server of its own in a folder of its own.
struct Postgres {
    folder: tempfile::TempDir,
}

impl Postgres {
    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("hfc").tempdir().unwrap();
        let user =
            nix::unistd::User::from_name("postgres").unwrap().expect("tests/setup installs PostgreSQL");
        std::os::unix::fs::chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .expect("the tests run as root");
        let server = Self { folder };
        server.command("initdb", &["-A", "trust", "-U", "postgres", "--no-sync", "-D", &server.data()]).await;
        let socket = server.folder.path().display();
        // The server must not outlive the wait for its sessions: immediate shutdown in Drop.
        let options = format!("-c listen_addresses='' -c unix_socket_directories='{socket}' -c fsync=off");
        let log = format!("{socket}/log");
        server.command("pg_ctl", &["start", "-w", "-D", &server.data(), "-l", &log, "-o", &options]).await;
        let session = server.target().connect().await.unwrap();
        rows::create_table(&session.client).await.unwrap();
        server
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn target(&self) -> Target {
        Target::socket(self.folder.path(), 5432, "postgres", "postgres")
    }

    async fn command(&self, program: &str, arguments: &[&str]) {
        let as_postgres = ["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"];
        let program = format!("{BIN}/{program}");
        let all = as_postgres.into_iter().chain([program.as_str()]).chain(arguments.iter().copied());
        let output = run(Command::new("setpriv").args(all).deadline_ms(60_000)).await.unwrap();
        assert!(output.success(), "{program}: {}{}", output.stdout, output.stderr);
    }

    async fn execute(&self, sql: &str) {
        self.target().connect().await.unwrap().client.batch_execute(sql).await.unwrap();
    }

    fn route(&self, name: &str, kind: RouteKind) -> Route {
        let host = name.strip_prefix("socket:").map(str::to_owned);
        Route { name: name.into(), kind, host, target: self.target() }
    }
}

impl Drop for Postgres {
    // Drop cannot await the runner, and a server that is left behind would be worse than a blocking second.
    #[allow(clippy::disallowed_methods)]
    fn drop(&mut self) {
        let stop = ["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"];
        let mut command = std::process::Command::new("setpriv");
        command.args(stop).arg(format!("{BIN}/pg_ctl")).args(["stop", "-m", "immediate", "-t", "10", "-D"]);
        let _ = command.arg(self.data()).output();
    }
}

/// Clients that work while the test plants its faults.
struct Clients {
    file: PathBuf,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Clients {
    fn start(folder: &Path, routes: Vec<Route>) -> Self {
        let file = folder.join("recording");
        let stop = CancellationToken::new();
        let (path, token) = (file.clone(), stop.clone());
        let sockets = routes.iter().filter(|route| route.kind == RouteKind::Socket);
        let probes = sockets.map(|route| (route.host.clone().unwrap(), route.target.clone())).collect();
        let task = tokio::spawn(async move {
            let options = Options {
                deadline: Duration::from_secs(3),
                cancel_after: Duration::from_millis(300),
                ..Options::default()
            };
            clients::run(&routes, probes, "test", &options, &path, token).await
        });
        Self { file, stop, task }
    }

    /// Waits until the recording so far satisfies a condition.
    async fn until(&self, what: &str, condition: impl Fn(&Recording) -> bool) -> Recording {
        let begin = Instant::now();
        loop {
            if let Ok(recording) = Recording::read(&self.file)
                && condition(&recording)
            {
                return recording;
            }
            assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_acknowledged(&self, more: usize) -> Recording {
        let count = |recording: &Recording| {
            let all = recording.attempts.iter();
            all.filter(|attempt| attempt.outcome == Outcome::Acknowledged).count()
        };
        let before = Recording::read(&self.file).map_or(0, |recording| count(&recording));
        self.until("acknowledgements", |recording| count(recording) >= before + more).await
    }

    async fn judge(self, final_leader: &Postgres) -> Verdict {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
        let session = final_leader.target().connect().await.unwrap();
        let rows = rows::read(&session.client, "test").await.unwrap();
        judge(&Recording::read(&self.file).unwrap(), &rows, None)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_row_and_a_pause_are_found() {
    let server = Postgres::start().await;
    let routes = vec![server.route("libpq", RouteKind::Libpq), server.route("socket:db1", RouteKind::Socket)];
    let clients = Clients::start(server.folder.path(), routes);
    let recording = clients.until_acknowledged(60).await;
    let victim = recording.attempts.iter().find(|attempt| attempt.outcome == Outcome::Acknowledged).unwrap();
    let (client, seq) = (victim.client, victim.seq);
    server.execute(&format!("delete from {} where client = {client} and seq = {seq}", rows::TABLE)).await;
    server.execute(&format!("begin; lock table {}; select pg_sleep(1.5); commit", rows::TABLE)).await;
    clients.until_acknowledged(60).await;
    let verdict = clients.judge(&server).await;

    assert_eq!(verdict.lost.count, 1, "{verdict:?}");
    assert_eq!((verdict.lost.examples[0].client, verdict.lost.examples[0].seq), (client, seq));
    let gap_us = verdict.routes[0].gap.unwrap().gap_us;
    assert!((1_450_000..5_000_000).contains(&gap_us), "the planted pause is 1.5 s, found: {gap_us} us");
    // The impatient client of the socket cancelled its statement during the pause: refused, not unknown.
    assert!(verdict.routes[1].errors["57014"] >= 1, "{:?}", verdict.routes);
    assert_eq!(verdict.counts.unknown, 0);
    assert_eq!(verdict.appeared_though_refused.count, 0);
    assert_eq!(verdict.two_writable.certain_us, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_writer_is_found() {
    let (first, second) = (Postgres::start().await, Postgres::start().await);
    let routes =
        vec![first.route("socket:db1", RouteKind::Socket), second.route("socket:db2", RouteKind::Socket)];
    let clients = Clients::start(first.folder.path(), routes);
    let of_host = |recording: &Recording, client: u32| {
        let acknowledged = |attempt: &&holdfast_lab::checker::record::Attempt| {
            attempt.client == client && attempt.outcome == Outcome::Acknowledged
        };
        recording.attempts.iter().filter(acknowledged).count()
    };
    // Clients 0 and 2 are the plain ones of the two sockets.
    clients.until("both sides", |recording| of_host(recording, 0) >= 30 && of_host(recording, 2) >= 30).await;
    let verdict = clients.judge(&first).await;

    assert_eq!(verdict.two_writable.hosts, ["db1", "db2"]);
    assert!(verdict.two_writable.certain_us >= 500_000, "{:?}", verdict.two_writable);
    assert!(verdict.two_acknowledging.certain_us >= 500_000, "{:?}", verdict.two_acknowledging);
    // Everything that the second one acknowledged is absent from the first.
    let second_count: u64 =
        verdict.routes.iter().filter(|r| r.route == "socket:db2").map(|r| r.counts.acknowledged).sum();
    assert_eq!(verdict.lost.count, second_count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_wait_is_a_warning_and_a_hang_is_unknown() {
    let server = Postgres::start().await;
    let routes = vec![server.route("libpq", RouteKind::Libpq), server.route("socket:db1", RouteKind::Socket)];
    let clients = Clients::start(server.folder.path(), routes);
    clients.until_acknowledged(20).await;
    // A standby that never comes: commits wait in the server for it, after their commit record.
    server.execute("alter system set synchronous_standby_names = 'nobody'").await;
    server.execute("select pg_reload_conf()").await;
    let has = |recording: &Recording, wanted: &dyn Fn(&Outcome) -> bool| {
        recording.attempts.iter().any(|attempt| wanted(&attempt.outcome))
    };
    let unknown = |outcome: &Outcome| matches!(outcome, Outcome::Unknown { .. });
    clients
        .until("a warning and a deadline", |recording| {
            has(recording, &|outcome| *outcome == Outcome::Warned) && has(recording, &unknown)
        })
        .await;
    server.execute("alter system reset synchronous_standby_names").await;
    server.execute("select pg_reload_conf()").await;
    clients.until_acknowledged(20).await;
    let verdict = clients.judge(&server).await;

    assert!(verdict.counts.warned >= 1 && verdict.counts.unknown >= 1, "{:?}", verdict.counts);
    assert_eq!(verdict.counts.unknown_present, verdict.counts.unknown, "they were committed locally");
    assert_eq!((verdict.lost.count, verdict.lost_warned.count), (0, 0));
    assert!(verdict.is_clean());
}
