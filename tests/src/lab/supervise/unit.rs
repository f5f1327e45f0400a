//! One unit of a host: started into its cgroup, started again after its end, or kept down.

use std::fs::File;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::Child;
use tokio::sync::Notify;

use crate::lab::cgroup;
use crate::lab::control::UnitStatus;
use crate::lab::plan::{HostPlan, PG_BIN};
use crate::lab::units::Unit;

/// Enters the cgroup and becomes the command, so that the process that we wait for is the command's own.
const ENTER: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
const AS_POSTGRES: [&str; 8] =
    ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--inh-caps=-all", "--"];

/// A unit and the task that watches it.
pub struct Running {
    shared: Arc<Shared>,
}

struct Shared {
    unit: Unit,
    host: HostPlan,
    status: Mutex<UnitStatus>,
    /// Woken when `held` has changed.
    changed: Notify,
}

impl Running {
    /// Starts the task; the unit is kept down at first.
    pub fn spawn(unit: Unit, host: &HostPlan) -> Self {
        let status =
            UnitStatus { name: unit.name.clone(), pid: None, held: true, restarts: 0, last_end: None };
        let shared =
            Arc::new(Shared { unit, host: host.clone(), status: Mutex::new(status), changed: Notify::new() });
        tokio::spawn(watch(Arc::clone(&shared)));
        Self { shared }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.unit.name
    }

    /// What it is.
    pub fn unit(&self) -> &Unit {
        &self.shared.unit
    }

    /// How it is.
    pub fn status(&self) -> UnitStatus {
        self.shared.lock().clone()
    }

    /// Keeps it down from its next end on.
    pub fn hold(&self) {
        self.shared.set_held(true);
    }

    /// Starts it, and lets it come back.
    pub fn start(&self) {
        self.shared.set_held(false);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, UnitStatus> {
        self.status.lock().expect("nobody panics while holding the status of a unit")
    }

    fn set_held(&self, held: bool) {
        self.lock().held = held;
        self.changed.notify_one();
    }

    async fn until_started(&self) {
        while self.lock().held {
            self.changed.notified().await;
        }
    }
}

async fn watch(shared: Arc<Shared>) {
    loop {
        shared.until_started().await;
        match start(&shared.unit, &shared.host) {
            Ok(mut child) => {
                shared.lock().pid = child.id().and_then(|pid| i32::try_from(pid).ok());
                let end = child.wait().await;
                let mut status = shared.lock();
                status.pid = None;
                status.last_end = Some(end.as_ref().map_or_else(ToString::to_string, ToString::to_string));
                eprintln!("{}: {}", status.name, status.last_end.as_deref().unwrap_or_default());
            }
            Err(error) => eprintln!("{}: {error:#}", shared.unit.name),
        }
        if !shared.lock().held {
            tokio::time::sleep(Duration::from_millis(shared.unit.delay_ms)).await;
            shared.lock().restarts += 1;
        }
    }
}

/// Starts a process of the host, its output appended to the unit's log.
fn start(unit: &Unit, host: &HostPlan) -> Result<Child> {
    if unit.has_new_cgroup {
        cgroup::renew(&unit.cgroup)?;
    }
    let path = host.logs().join(format!("{}.log", unit.name));
    let log = File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| path.display().to_string())?;
    let user: &[&str] = if unit.user.is_some() { &AS_POSTGRES } else { &[] };
    // Not through the runner of holdfast_host: that one is for children that end within a deadline.
    #[allow(clippy::disallowed_methods)]
    tokio::process::Command::new("/bin/sh")
        .args(["-c", ENTER])
        .arg(&unit.cgroup)
        .args(user)
        .args(&unit.command)
        .env_clear()
        .env("PATH", format!("{PG_BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
        .env("LC_ALL", "C.UTF-8")
        .env("NO_COLOR", "1")
        .env("HOLDFAST_CONFIG", host.agent_config())
        .envs(unit.environment.iter().cloned())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("the log")?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| unit.command.join(" "))
}
