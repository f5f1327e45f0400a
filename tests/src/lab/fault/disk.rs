//! Breaks the file system of a data directory: it hangs (`fsfreeze`), or it meets an error and turns read-only, as ext4
//! does by `errors=remount-ro`.
//!
//! The host's file system is seen from inside its mount namespace only, so every step goes there. What waits for a hung
//! file system cannot be killed: whoever empties a cgroup calls [`thaw`] first.

use anyhow::{Context as _, Result};

use crate::lab::control::{self, Request};
use crate::lab::failure::Failure;
use crate::lab::plan::{HostPlan, Plan};
use crate::lab::{cgroup, shell};

/// A freeze waits for writers and writes back what is dirty.
const DEADLINE_MS: u64 = 15_000;

/// Refuses a host whose data directory lies on the disk of everybody.
pub fn must_be_own(plan: &Plan, host: &HostPlan) -> Result<()> {
    if plan.has_own_disk(host) {
        return Ok(());
    }
    let text = format!("{} has no disk of its own; bring the lab up with own_disk = true", host.name());
    Err(Failure::usage(text))
}

/// Every write waits from now on.
pub async fn hang(host: &HostPlan) -> Result<()> {
    let data = host.disk_mount().display().to_string();
    inside(host, &["fsfreeze", "--freeze", &data]).await.map(drop)
}

/// Ends [`hang`]; it does not matter whether the file system hangs, or is there.
pub async fn thaw(plan: &Plan, host: &HostPlan) -> Result<()> {
    if !plan.has_own_disk(host) {
        return Ok(());
    }
    let data = host.disk_mount().display().to_string();
    unless_not_frozen(inside(host, &["fsfreeze", "--unfreeze", &data]).await.map(drop))
}

/// The same for the supervisor, which is in the host's mount namespace already.
pub async fn thaw_here(plan: &Plan, host: &HostPlan) -> Result<()> {
    if !plan.has_own_disk(host) {
        return Ok(());
    }
    let data = host.disk_mount().display().to_string();
    unless_not_frozen(shell::run(DEADLINE_MS, &["fsfreeze", "--unfreeze", &data]).await.map(drop))
}

fn unless_not_frozen(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if format!("{error:#}").contains("Invalid argument") => Ok(()),
        other => other,
    }
}

/// Lets every disk of the lab go, as far as somebody is left through whom it can be reached.
pub async fn thaw_all(plan: &Plan) {
    for (_, host) in plan.hosts() {
        if let Err(error) = thaw(plan, host).await {
            eprintln!("holdfast-lab: warning: the disk of {}: {error:#}", host.name());
        }
    }
}

/// The kernel's own switch for an error of the file system: its journal ends, and nothing is written any more.
pub async fn fail(host: &HostPlan) -> Result<()> {
    let data = host.disk_mount().display().to_string();
    let device = inside(host, &["findmnt", "--noheadings", "--output", "SOURCE", &data]).await?;
    let device = device.trim().rsplit('/').next().unwrap_or_default().to_owned();
    let switch = format!("/sys/fs/ext4/{device}/trigger_fs_error");
    std::fs::write(&switch, "holdfast-lab").with_context(|| switch)
}

/// Runs a program in the host's mount namespace, through its supervisor or whoever of the host is left.
async fn inside(host: &HostPlan, line: &[&str]) -> Result<String> {
    let supervisor = control::ask(&host.control_socket(), &Request::Status).await.map(|status| status.pid);
    let pid = match supervisor {
        Ok(pid) => pid,
        Err(error) => *cgroup::pids(&host.cgroup).first().ok_or(error)?,
    };
    let pid = pid.to_string();
    let enter = ["nsenter", "--target", &pid, "--mount", "--"];
    let output = shell::run(DEADLINE_MS, &[&enter[..], line].concat()).await?;
    Ok(output.stdout)
}
