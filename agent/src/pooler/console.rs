//! The console of one PgBouncer as looks ask it, over a connection that stays, and the process behind it. Decides nothing.
//!
//! A connection that stays answers also where no new one is taken: a PgBouncer without a free file descriptor accepts nobody
//! for a while, and serves its clients. So it is given up only for another one that stands.

use std::future::Future;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::pooler::{Clients, Process};
use holdfast_host::process::{self, PidFd, TICK_MS};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::admin;
use crate::config::Pooler;

/// A connection that a look waits for, and an answer. PgBouncer gives it between two events of its clients.
const DEADLINE: Duration = Duration::from_millis(500);
/// A connection goes on with the process that it began with; another may have taken the socket since.
const KEPT: Duration = Duration::from_secs(60);
/// What the kernel calls the process.
const COMM: &str = "pgbouncer";

type Asked = Pin<Box<dyn Future<Output = Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>> + Send>>;

/// Why a console says nothing.
#[derive(Debug)]
pub enum Unanswered {
    /// It takes no connection, or refuses us.
    Dead(String),
    /// It takes one, and does not answer.
    Hangs,
}

/// A connection, and the question that is not answered yet: there is never a second one.
struct Kept {
    client: Arc<Client>,
    since: Instant,
    asked: Option<Asked>,
}

/// Who listens on the socket, as the kernel says.
struct Listener {
    pid: i32,
    handle: PidFd,
}

/// The console.
pub struct Console {
    socket: PathBuf,
    config: tokio_postgres::Config,
    kept: Option<Kept>,
    listener: Option<Listener>,
}

impl Console {
    /// Nothing is opened yet.
    pub fn new(pooler: &Pooler) -> Self {
        Self {
            socket: pooler.admin_socket_dir.join(format!(".s.PGSQL.{}", pooler.port)),
            config: admin::config(pooler),
            kept: None,
            listener: None,
        }
    }

    /// Which clients wait. Takes two seconds at most.
    pub async fn clients(&mut self) -> Result<Clients, Unanswered> {
        if self.kept.as_ref().is_some_and(Kept::is_doubtful)
            && let Ok(fresh) = self.connect().await
        {
            self.kept = Some(fresh);
        }
        if let Some(kept) = &mut self.kept {
            match timeout(DEADLINE, kept.answer()).await {
                Ok(Ok(messages)) => return Ok(waiting(&messages)),
                // It has ended: whether its process has, a new one says.
                Ok(Err(_)) => self.kept = None,
                Err(_) => return Err(Unanswered::Hangs),
            }
        }
        let kept = self.connect().await?;
        match timeout(DEADLINE, self.kept.insert(kept).answer()).await {
            Ok(Ok(messages)) => Ok(waiting(&messages)),
            Ok(Err(error)) => {
                self.kept = None;
                Err(Unanswered::Dead(why(error)))
            }
            Err(_) => Err(Unanswered::Hangs),
        }
    }

    async fn connect(&mut self) -> Result<Kept, Unanswered> {
        let Ok(connected) = timeout(DEADLINE, self.connect_in_time()).await else {
            return Err(Unanswered::Hangs);
        };
        connected
    }

    async fn connect_in_time(&mut self) -> Result<Kept, Unanswered> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            // Its queue of connections is full: nobody takes them.
            ErrorKind::WouldBlock => Unanswered::Hangs,
            _ => Unanswered::Dead(format!("{}: {error}", self.socket.display())),
        })?;
        let pid = stream.peer_cred().ok().and_then(|listener| listener.pid());
        if self.pid() != pid {
            // Opened while it listens: the handle stays with this process, whoever gets its number afterwards.
            let open = |pid| PidFd::open(pid).map(|handle| Listener { pid, handle }).ok();
            self.listener = pid.filter(|pid| *pid > 1).and_then(open);
        }
        let connected = self.config.connect_raw(stream, NoTls).await;
        let (client, connection) = connected.map_err(|error| Unanswered::Dead(why(error)))?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Kept { client: Arc::new(client), since: Instant::now(), asked: None })
    }

    /// Who was seen to listen last.
    pub fn pid(&self) -> Option<i32> {
        self.listener.as_ref().map(|listener| listener.pid)
    }

    /// The process behind it, as the kernel counts it now; `None` if that cannot be told.
    pub fn process(&self, at_ms: u64) -> Option<Process> {
        let pid = self.pid()?;
        let stat = process::stat(pid).ok()?;
        let waits = process::waits(pid).ok()?;
        Some(Process { pid, state: stat.state, ran_ms: stat.ran_ticks * TICK_MS, waits, at_ms })
    }

    /// SIGKILL: what is stopped or loops takes nothing else. Whoever the kernel names as the listener must be a PgBouncer:
    /// with socket activation it is the service manager.
    pub fn end(&self) -> Result<i32> {
        let Some(Listener { pid, handle }) = &self.listener else { bail!("its process is not known") };
        let comm = process::stat(*pid).with_context(|| format!("process {pid}"))?.comm;
        if comm != COMM {
            bail!("process {pid}, which listens on its socket, is {comm}");
        }
        handle.kill().with_context(|| format!("process {pid}"))?;
        Ok(*pid)
    }
}

impl Kept {
    /// It is old, or owes an answer.
    fn is_doubtful(&self) -> bool {
        self.since.elapsed() > KEPT || self.asked.is_some()
    }

    /// The answer to the question that is open, or else to a new one. May be given up and called again.
    async fn answer(&mut self) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        let client = Arc::clone(&self.client);
        let asked = self
            .asked
            .get_or_insert_with(|| Box::pin(async move { client.simple_query("SHOW POOLS").await }));
        let answer = asked.await;
        self.asked = None;
        answer
    }
}

fn why(error: tokio_postgres::Error) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

/// Adds up the rows of SHOW POOLS.
fn waiting(messages: &[SimpleQueryMessage]) -> Clients {
    let mut clients = Clients::default();
    for message in messages {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let number = |column| row.get(column).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        clients.waiting += number("cl_waiting");
        // Whole seconds, and the microseconds beside them.
        clients.waited_ms = clients.waited_ms.max(number("maxwait") * 1_000 + number("maxwait_us") / 1_000);
    }
    clients
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::{ClusterId, Namespace, RegionName, Scope};

    fn console(folder: &std::path::Path) -> Console {
        Console::new(&Pooler {
            name: "a".into(),
            cluster: ClusterId {
                region: RegionName::new("r1").unwrap(),
                namespace: Namespace::new("service").unwrap(),
                scope: Scope::new("main").unwrap(),
            },
            admin_socket_dir: folder.to_owned(),
            port: 6432,
            target_file: folder.join("target"),
            probe: None,
        })
    }

    #[tokio::test]
    async fn a_console_that_takes_connections_and_says_nothing_hangs_and_nobody_but_a_pgbouncer_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut console = console(folder.path());
        assert!(matches!(console.clients().await, Err(Unanswered::Dead(_))));
        assert!(console.end().unwrap_err().to_string().contains("is not known"));
        let _listener = tokio::net::UnixListener::bind(&console.socket).unwrap();
        assert!(matches!(console.clients().await, Err(Unanswered::Hangs)));
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(console.pid(), Some(own), "known though it does not answer");
        let process = console.process(7).unwrap();
        assert_eq!((process.pid, process.at_ms), (own, 7));
        let why = console.end().unwrap_err().to_string();
        assert!(why.contains("which listens on its socket, is"), "{why}");
    }
}
