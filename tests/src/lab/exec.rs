//! `exec`: a command of the user on a host, in all of its namespaces and in its cgroup, so that it dies with the host.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use super::cgroup;
use super::control::Response;
use super::plan::HostPlan;

const ENTER: &str = r#"echo $$ > "$0/cgroup.procs" && exec nsenter "$@""#;

/// Becomes the command; returns only when that failed.
pub fn exec(host: &HostPlan, supervisor: &Response, command: &[String]) -> Result<()> {
    let cgroup = host.cgroup.join("exec");
    cgroup::create(&cgroup)?;
    let here = std::env::current_dir().context("the current directory")?;
    // Not through the runner of holdfast_host: the command takes our place, with the user's terminal and time.
    #[allow(clippy::disallowed_methods)]
    let error = std::process::Command::new("/bin/sh")
        .args(["-c", ENTER])
        .arg(cgroup)
        .args(["--target", &supervisor.pid.to_string(), "--mount", "--net", "--ipc"])
        .arg(format!("--wdns={}", here.display()))
        .arg("--")
        .args(command)
        .exec();
    Err(error).context("nsenter")
}
