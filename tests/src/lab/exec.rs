//! `exec`: a command of the user on a host, in all of its namespaces and in its cgroup, so that it dies with the host.
//!
//! It finds our programs by their names, and `holdfast` finds the lab by itself: `exec LAB client -- holdfast status`.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use super::cgroup;
use super::control::Response;
use super::plan::{HostPlan, Plan};

const ENTER: &str = r#"echo $$ > "$0/cgroup.procs" && exec nsenter "$@""#;

/// Becomes the command; returns only when that failed.
pub fn exec(plan: &Plan, host: &HostPlan, supervisor: &Response, command: &[String]) -> Result<()> {
    let cgroup = host.cgroup.join("exec");
    cgroup::create(&cgroup)?;
    let here = std::env::current_dir().context("the current directory")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(plan.programs.clone()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders).context("PATH")?;
    // Not through the runner of holdfast_host: the command takes our place, with the user's terminal and time.
    #[allow(clippy::disallowed_methods)]
    let error = std::process::Command::new("/bin/sh")
        .args(["-c", ENTER])
        .arg(cgroup)
        .args(["--target", &supervisor.pid.to_string(), "--mount", "--net", "--ipc"])
        .arg(format!("--wdns={}", here.display()))
        .arg("--")
        .args(command)
        .env("PATH", path)
        .env("HOLDFAST_CONFIG", plan.operator_config())
        .exec();
    Err(error).context("nsenter")
}
