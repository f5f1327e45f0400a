//! `down`: takes a lab away, in whatever state it is, and nothing that is not its own.
//!
//! Everything of a lab hangs on its record, its cgroup, its namespaces (whose names stand in the record) and two
//! directories. Shared memory of its PostgreSQL lies in the hosts' own namespaces and goes with their last process.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::failure::{Exit, Failure};
use super::plan::{DATA_ROOT, Plan, dir};
use super::{cgroup, fault, files, network};

/// Enters the lab's cgroup for what is no part of a host, and leaves the caller's session.
const ENTER: &str = r#"echo $$ > "$0/cgroup.procs" && exec setsid "$@""#;

/// Takes the lab down.
pub async fn down(lab: &str) -> Result<()> {
    match files::load(lab) {
        Ok(plan) => {
            // What waits for a hung disk would not die.
            fault::thaw_all(&plan).await;
            cgroup::kill(&plan.cgroup)?;
            if let Err(error) = cgroup::wait_empty(&plan.cgroup).await {
                let left = cgroup::pids(&plan.cgroup);
                let text = format!("{error:#}; processes that do not end in spite of SIGKILL: {left:?}");
                return Err(Failure::with(Exit::TimedOut, text));
            }
            cgroup::remove(&plan.cgroup).await?;
            network::remove(&plan).await?;
        }
        // `up` was killed before it had written what it was going to make: it had made nothing else.
        Err(_) if dir(lab).is_dir() && !dir(lab).join("pki").exists() => return files::unclaim(lab),
        Err(error) => return Err(error),
    }
    files::remove(&Path::new(DATA_ROOT).join(lab))?;
    files::remove(&dir(lab))
}

/// Takes down every lab whose name begins so, and goes on when one resists.
pub async fn all(prefix: &str) -> Result<()> {
    let (mut gone, mut left) = (0_usize, Vec::new());
    for lab in files::labs()?.into_iter().filter(|lab| lab.starts_with(prefix)) {
        match down(&lab).await {
            Ok(()) => {
                eprintln!("lab {lab} is down");
                gone += 1;
            }
            Err(error) => left.push(format!("lab {lab} is left: {error:#}")),
        }
    }
    match left.as_slice() {
        [] => Ok(()),
        _ if gone > 0 => Err(Failure::with(Exit::PartlyDone, left.join("; "))),
        _ => bail!(left.join("; ")),
    }
}

/// Starts one of our own verbs so that it outlives this process, and dies with the lab.
pub fn detached(plan: &Plan, arguments: &[&str], log: File) -> Result<()> {
    detached_in(&plan.control_cgroup(), plan, arguments, log)
}

/// The same in a cgroup of the lab's choice.
pub fn detached_in(cgroup: &Path, plan: &Plan, arguments: &[&str], log: File) -> Result<()> {
    // Not through the runner of holdfast_host: that one is for children that end within a deadline.
    #[allow(clippy::disallowed_methods)]
    std::process::Command::new("/bin/sh")
        .args(["-c", ENTER])
        .arg(cgroup)
        .arg(plan.program("holdfast-lab"))
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("the log")?)
        .stderr(log)
        .spawn()
        .map(drop)
        .with_context(|| arguments.join(" "))
}
