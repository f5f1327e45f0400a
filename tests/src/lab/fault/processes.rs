//! Which process a fault means: by the supervisor's knowledge and by `postmaster.pid`, never by a name alone.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::lab::cgroup;
use crate::lab::control::{self, Request};
use crate::lab::failure::Failure;
use crate::lab::files;
use crate::lab::plan::{HostPlan, Instance, Plan};

/// The processes behind `target`, for example `postmaster`, `patroni`, `agent`, `postmaster:second`.
pub async fn find(plan: &Plan, host: &HostPlan, target: &str) -> Result<Vec<i32>> {
    let (what, scope) = target.split_once(':').map_or((target, None), |(what, scope)| (what, Some(scope)));
    match what {
        "postmaster" => Ok(vec![postmaster(plan, host, &plan.named_instance(scope)?).await?]),
        "postgres" => postgres(plan, host, &plan.named_instance(scope)?).await,
        "patroni" => unit(host, &plan.named_instance(scope)?.unit()).await,
        "pgbouncer" => unit(host, &plan.named_instance(scope)?.pooler_unit()).await,
        other if scope.is_none() => unit(host, other).await,
        other => Err(Failure::usage(format!("{other} belongs to the whole host, not to a cluster"))),
    }
}

async fn unit(host: &HostPlan, unit: &str) -> Result<Vec<i32>> {
    let response = control::ask(&host.control_socket(), &Request::Status).await?;
    if !response.units.iter().any(|status| status.name == unit) {
        let units: Vec<&str> = response.units.iter().map(|status| status.name.as_str()).collect();
        let there = units.join(", ");
        return Err(Failure::usage(format!("host {} has no unit {unit}; it has {there}", host.name())));
    }
    let pid = response.pid_of(unit);
    pid.map(|pid| vec![pid]).with_context(|| format!("{unit} does not run on {}", host.name()))
}

/// The first line of `postmaster.pid`, if that process belongs to the instance.
async fn postmaster(plan: &Plan, host: &HostPlan, instance: &Instance<'_>) -> Result<i32> {
    let file = files::data_dir_from_outside(plan, host, &instance.cluster.scope).await?;
    let file = file.join("postmaster.pid");
    let text = fs::read_to_string(&file)
        .with_context(|| format!("PostgreSQL does not run on {}: {}", host.name(), file.display()))?;
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
    match pid.filter(|pid| cgroup::pids(&host.cgroup.join(instance.unit())).contains(pid)) {
        Some(pid) => Ok(pid),
        None => {
            bail!("PostgreSQL does not run on {}: {} names no living process", host.name(), file.display())
        }
    }
}

/// The postmaster and all of its children.
async fn postgres(plan: &Plan, host: &HostPlan, instance: &Instance<'_>) -> Result<Vec<i32>> {
    let postmaster = postmaster(plan, host, instance).await?;
    let mut pids = vec![postmaster];
    pids.extend(
        cgroup::pids(&host.cgroup.join(instance.unit()))
            .into_iter()
            .filter(|pid| holdfast_host::process::stat(*pid).is_ok_and(|stat| stat.ppid == postmaster)),
    );
    Ok(pids)
}
