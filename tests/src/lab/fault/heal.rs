//! Ends faults. Healing is done once: a fault that is over is left alone.

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Kind;
use super::record::{self, Fault, all, monotonic_ns};
use crate::lab::control::{self, Request};
use crate::lab::plan::{HostPlan, Plan};
use crate::lab::spec::Role;
use crate::lab::{cgroup, network};

/// Heals a fault by its id, every fault of a host by its name, or all. Returns those that it ended.
pub async fn heal(plan: &Plan, which: Option<&str>) -> Result<Vec<Fault>> {
    let faults = all(plan)?;
    let meant: Vec<Fault> = match which {
        None => faults,
        Some(id) if faults.iter().any(|fault| fault.id == id) => {
            faults.into_iter().filter(|fault| fault.id == id).collect()
        }
        Some(name) if plan.host(name).is_some() => {
            faults.into_iter().filter(|fault| fault.host.as_deref() == Some(name)).collect()
        }
        Some(other) => bail!("lab {} has neither a fault nor a host {other}", plan.lab),
    };
    let mut healed = Vec::new();
    for fault in meant.into_iter().filter(Fault::lasts) {
        healed.push(end(plan, fault).await?);
    }
    Ok(healed)
}

/// Heals those faults of a host that are meant.
pub async fn lasting(plan: &Plan, host: &HostPlan, meant: impl Fn(&Fault) -> bool) -> Result<()> {
    for fault in all(plan)? {
        if fault.lasts() && fault.host.as_deref() == Some(host.name()) && meant(&fault) {
            end(plan, fault).await?;
        }
    }
    Ok(())
}

async fn end(plan: &Plan, mut fault: Fault) -> Result<Fault> {
    let find = |name: &Option<String>| {
        let name = name.as_deref()?;
        plan.host(name).map(|(_, host)| host)
    };
    let (host, peer) = (find(&fault.host), find(&fault.peer));
    undo(plan, host, peer, &fault).await.with_context(|| format!("healing {}", fault.id))?;
    fault.healed_at_monotonic_ns = Some(monotonic_ns());
    record::save(plan, &fault)?;
    Ok(fault)
}

async fn undo(plan: &Plan, host: Option<&HostPlan>, peer: Option<&HostPlan>, fault: &Fault) -> Result<()> {
    let start_etcd = Request::Start(vec!["etcd".into()]);
    let Some(host) = host else {
        for host in plan.regions.iter().flat_map(|region| region.of(Role::Etcd)) {
            control::ask(&host.control_socket(), &start_etcd).await?;
        }
        return Ok(());
    };
    match fault.kind {
        Kind::HostDeath | Kind::PowerCycle => {
            network::set_link(plan, host, true).await?;
            control::ask(&host.control_socket(), &Request::Boot).await.map(drop)
        }
        Kind::Freeze => cgroup::freeze(&host.cgroup, false),
        Kind::LinkCut if peer.is_none() => network::set_link(plan, host, true).await,
        Kind::LinkCut | Kind::EtcdCut => network::undrop(host, &fault.id).await,
        Kind::EtcdDown => control::ask(&host.control_socket(), &start_etcd).await.map(drop),
        Kind::Stop => {
            for pid in &fault.pids {
                match kill(Pid::from_raw(*pid), Signal::SIGCONT) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error).with_context(|| format!("SIGCONT to process {pid}")),
                }
            }
            Ok(())
        }
        Kind::Kill | Kind::Continue | Kind::Thaw => Ok(()),
    }
}
