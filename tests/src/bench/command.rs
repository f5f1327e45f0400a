//! Short commands with a deadline, and the one long child: the clients in their network namespace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use holdfast_host::run::{Command, run};

/// Runs a program to its end; a failure carries what it said.
pub async fn output(
    program: impl Into<OsString>,
    arguments: &[impl AsRef<str>],
    deadline: Duration,
) -> anyhow::Result<String> {
    let program = program.into();
    let shown: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let what = || format!("{} {}", program.to_string_lossy(), shown.join(" "));
    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    let command = Command::new(program.clone()).args(shown.clone()).deadline_ms(deadline_ms);
    let output = run(command).await.with_context(what)?;
    if !output.success() {
        bail!("{} failed (exit code {:?}): {}", what(), output.code, output.stderr.trim());
    }
    Ok(output.stdout)
}

/// A program that stands beside our own executable.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where this program is")?;
    let path = own.parent().unwrap_or(Path::new("/")).join(name);
    if !path.exists() {
        bail!("{} is missing: build it with cargo build -p {}", path.display(), package(name));
    }
    Ok(path)
}

fn package(program: &str) -> &str {
    if ["holdfast-lab", "holdfast-bench"].contains(&program) { "holdfast-lab" } else { program }
}

/// The running clients: they stop when their standard input closes, so also when we die.
pub struct ClientsChild {
    child: tokio::process::Child,
}

/// After their input is closed the clients end the attempts under way, 2 s at most, and write the rest of the file.
const CLIENTS_END: Duration = Duration::from_secs(15);

impl ClientsChild {
    /// Starts them inside a network namespace.
    pub fn start(netns: &str, arguments: &[OsString]) -> anyhow::Result<Self> {
        let program = sibling("holdfast-bench")?;
        // It runs for as long as the fault lasts: the runner of short commands does not fit. Bounded by its stdin.
        #[allow(clippy::disallowed_methods)]
        let child = tokio::process::Command::new("ip")
            .args(["netns", "exec", netns])
            .arg(program)
            .arg("clients")
            .args(arguments)
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("ip netns exec holdfast-bench clients")?;
        Ok(Self { child })
    }

    /// Whether they are still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Stops them in order.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = tokio::time::timeout(CLIENTS_END, self.child.wait()).await;
        match status.context("the clients do not end")?.context("the clients")? {
            status if status.success() => Ok(()),
            status => bail!("the clients failed: {status}"),
        }
    }
}
