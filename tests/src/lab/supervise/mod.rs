//! The supervisor of one host: its init. It owns the host's mount and IPC namespaces, starts the host's processes each
//! into its own cgroup, and brings them back as systemd would.
//!
//! It lives outside the host's cgroup, so it survives the death of its host. It never injects a fault: the commands kill,
//! stop and unplug, and tell it beforehand what shall stay down.

mod boot;
mod disk;
mod namespaces;
mod unit;

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

use super::control::{LINE_BYTES_MAX, Request, Response};
use super::plan::{HostPlan, Plan};
use super::units;
use unit::Running;

/// A client that says nothing is not waited for.
const CLIENT_DEADLINE: Duration = Duration::from_secs(5);

/// The supervisor.
struct Supervisor {
    plan: Plan,
    host: HostPlan,
    units: Vec<Running>,
    booting: Mutex<()>,
    /// Raised by every order to keep everything down: a boot that is under way then starts nothing more.
    generation: AtomicU64,
}

/// Runs until it is killed. Must be called before any thread is started: namespaces belong to threads.
pub fn run(plan: Plan, host: &str) -> Result<()> {
    let (region, host) = plan.host(host).with_context(|| format!("lab {} has no host {host}", plan.lab))?;
    let (host, units) = (host.clone(), units::units(&plan, region, host));
    namespaces::enter(&host)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if plan.has_own_disk(&host) {
            disk::attach(&host).await?;
        }
        let units = units.into_iter().map(|unit| Running::spawn(unit, &host)).collect();
        let supervisor = Arc::new(Supervisor {
            plan,
            host,
            units,
            booting: Mutex::new(()),
            generation: AtomicU64::new(0),
        });
        supervisor.serve().await
    })
}

impl Supervisor {
    async fn serve(self: Arc<Self>) -> Result<()> {
        let socket = self.host.control_socket();
        remove_if_there(&socket).with_context(|| socket.display().to_string())?;
        let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
        let first = Arc::clone(&self);
        tokio::spawn(async move {
            if let Err(error) = first.boot(&[]).await {
                eprintln!("the first boot: {error:#}");
            }
        });
        loop {
            let (stream, _) = listener.accept().await.context("the control socket")?;
            let supervisor = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(error) = supervisor.answer(stream).await {
                    eprintln!("a client of the control socket: {error:#}");
                }
            });
        }
    }

    async fn answer(&self, stream: UnixStream) -> Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut read = BufReader::new(read).take(LINE_BYTES_MAX);
        tokio::time::timeout(CLIENT_DEADLINE, read.read_line(&mut line)).await??;
        let result = match serde_json::from_str::<Request>(&line) {
            Ok(request) => self.perform(request).await,
            Err(error) => Err(error.into()),
        };
        let response = Response {
            error: result.err().map(|error| format!("{error:#}")),
            pid: i32::try_from(std::process::id()).context("process ids fit")?,
            units: self.units.iter().map(Running::status).collect(),
        };
        let text = format!("{}\n", serde_json::to_string(&response)?);
        tokio::time::timeout(CLIENT_DEADLINE, write.write_all(text.as_bytes())).await??;
        Ok(())
    }

    async fn perform(&self, request: Request) -> Result<()> {
        match request {
            Request::Status => Ok(()),
            Request::Hold(names) => {
                if names.is_empty() {
                    self.generation.fetch_add(1, Ordering::SeqCst);
                }
                self.named(&names)?.iter().for_each(|unit| unit.hold());
                Ok(())
            }
            Request::Start(names) => {
                self.named(&names)?.iter().for_each(|unit| unit.start());
                Ok(())
            }
            Request::Boot(keep_down) => self.boot(&keep_down).await,
        }
    }

    fn named(&self, names: &[String]) -> Result<Vec<&Running>> {
        if names.is_empty() {
            return Ok(self.units.iter().collect());
        }
        let find = |name: &String| {
            let unit = self.units.iter().find(|unit| unit.name() == name);
            unit.with_context(|| format!("host {} has no unit {name}", self.host.name()))
        };
        names.iter().map(find).collect()
    }
}

fn remove_if_there(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
