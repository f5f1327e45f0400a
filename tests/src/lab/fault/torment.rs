//! Faults that somebody has to keep up: a process of the lab that breaks the same thing again and again until it is killed.
//!
//! It stands still what it torments by the cgroups of single units, never by that of the host: whether a host is frozen is
//! another fault's business. It lives in a cgroup of its own beside the supervisors, so that the end of the fault, or of
//! the lab, ends it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::record::{self, Fault};
use super::{Kind, etcd, heal};
use crate::lab::plan::{HostPlan, Plan};
use crate::lab::spec::Role;
use crate::lab::{cgroup, down};

/// Nobody torments for longer, whatever became of those who ordered it.
const LONGEST: Duration = Duration::from_secs(1_800);
/// A tenth of the time: 20 ms of each 200 ms.
const STARVED: Pace = Pace { still: Duration::from_millis(180), runs: Duration::from_millis(20) };
/// A write takes about two seconds: whatever arrives waits for the next time that etcd runs.
const SLOW: Pace = Pace { still: Duration::from_millis(1_850), runs: Duration::from_millis(150) };
/// Elections in etcd take about a second.
const CHURN: Duration = Duration::from_secs(3);

struct Pace {
    still: Duration,
    runs: Duration,
}

/// Starts the process for a fault whose record is there.
pub fn start(plan: &Plan, fault: &Fault) -> Result<()> {
    let home = home(plan, fault);
    cgroup::create(&home)?;
    let log = plan.dir().join(format!("torment-{}.log", fault.id));
    let log = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
    down::detached_in(&home, plan, &["torment", &plan.lab, &fault.id], log)
}

/// Ends it, and lets run what stood still just then.
pub async fn end(plan: &Plan, fault: &Fault) -> Result<()> {
    let home = home(plan, fault);
    cgroup::kill(&home)?;
    cgroup::wait_empty(&home).await?;
    cgroup::remove(&home).await?;
    still(&victims(plan, fault), false)
}

/// The process itself.
pub async fn run(plan: &Plan, id: &str) -> Result<()> {
    let fault = record::all(plan)?.into_iter().find(|fault| fault.id == id);
    let fault = fault.with_context(|| format!("lab {} has no fault {id}", plan.lab))?;
    let until = Instant::now() + LONGEST;
    while Instant::now() < until {
        match fault.kind {
            Kind::EtcdLeaderChurn => churn(plan, &fault).await,
            Kind::EtcdSlow => turn(plan, &fault, &SLOW).await?,
            _ => turn(plan, &fault, &STARVED).await?,
        }
    }
    Ok(())
}

async fn turn(plan: &Plan, fault: &Fault, pace: &Pace) -> Result<()> {
    still(&victims(plan, fault), true)?;
    tokio::time::sleep(pace.still).await;
    still(&victims(plan, fault), false)?;
    tokio::time::sleep(pace.runs).await;
    Ok(())
}

/// An etcd that another fault has taken away cannot be asked to elect.
async fn churn(plan: &Plan, fault: &Fault) {
    for region in plan.regions.iter().filter(|region| fault.regions.contains(&region.name)) {
        if let Err(error) = etcd::move_leader(region).await {
            eprintln!("{}: {error:#}", region.name);
        }
    }
    tokio::time::sleep(CHURN).await;
}

/// The cgroups of the units that are meant.
fn victims(plan: &Plan, fault: &Fault) -> Vec<PathBuf> {
    let struck = plan.hosts().filter(|(region, host)| heal::strikes(fault, region, host));
    let units = struck.flat_map(|(_, host)| match fault.kind {
        Kind::EtcdSlow => vec![host.cgroup.join("etcd")],
        Kind::CpuStarve => units(host),
        _ => Vec::new(),
    });
    units.collect()
}

fn units(host: &HostPlan) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&host.cgroup).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()).collect();
    if host.host.role == Role::Client {
        // Its clients measure; a person's command on another host starves with it.
        found.clear();
    }
    found
}

fn still(cgroups: &[PathBuf], frozen: bool) -> Result<()> {
    for path in cgroups.iter().filter(|path| path.is_dir()) {
        cgroup::freeze(path, frozen)?;
    }
    Ok(())
}

fn home(plan: &Plan, fault: &Fault) -> PathBuf {
    plan.control_cgroup().join(&fault.id)
}
