//! Ends faults. Healing is done once: a fault that is over is left alone, and what another fault still breaks stays broken.

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Kind;
use super::record::{self, Fault, all, monotonic_ns};
use crate::lab::control::{self, Request};
use crate::lab::failure::{Exit, Failure};
use crate::lab::plan::{HostPlan, Plan, RegionPlan};
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
        Some(other) => {
            return Err(Failure::usage(format!("lab {} has neither a fault nor a host {other}", plan.lab)));
        }
    };
    let mut healed: Vec<Fault> = Vec::new();
    for fault in meant.into_iter().filter(Fault::lasts) {
        match end(plan, fault).await {
            Ok(fault) => healed.push(fault),
            Err(error) if healed.is_empty() => return Err(error),
            Err(error) => {
                let done = healed.iter().map(|fault| fault.id.as_str()).collect::<Vec<_>>().join(", ");
                let text =
                    format!("{error:#}; healed before: {done}; try again: holdfast-lab heal {}", plan.lab);
                return Err(Failure::with(Exit::PartlyDone, text));
            }
        }
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
    let others: Vec<Fault> =
        all(plan)?.into_iter().filter(|other| other.lasts() && other.id != fault.id).collect();
    for (region, host) in plan.hosts().filter(|(region, host)| strikes(&fault, region, host)) {
        let still = Still::of(&others, region, host);
        undo(plan, host, &fault, &still).await.with_context(|| format!("healing {}", fault.id))?;
    }
    fault.healed_at_monotonic_ns = Some(monotonic_ns());
    record::save(plan, &fault)?;
    Ok(fault)
}

fn strikes(fault: &Fault, region: &RegionPlan, host: &HostPlan) -> bool {
    match &fault.host {
        Some(name) => name == host.name(),
        None => host.host.role == Role::Etcd && fault.regions.contains(&region.name),
    }
}

/// What the other faults of a host still break.
#[derive(Debug, Default, PartialEq, Eq)]
struct Still {
    unplugged: bool,
    dead: bool,
    frozen: bool,
    etcd_down: bool,
    stopped: Vec<i32>,
}

impl Still {
    fn of(others: &[Fault], region: &RegionPlan, host: &HostPlan) -> Self {
        let mut still = Self::default();
        for fault in others.iter().filter(|fault| strikes(fault, region, host)) {
            match fault.kind {
                Kind::HostDeath | Kind::PowerCycle => {
                    still.unplugged = true;
                    still.dead = true;
                }
                Kind::LinkCut => still.unplugged |= fault.peer.is_none(),
                Kind::Freeze => still.frozen = true,
                Kind::EtcdDown => still.etcd_down = true,
                Kind::Stop => still.stopped.extend(&fault.pids),
                Kind::EtcdCut | Kind::Thaw | Kind::Kill | Kind::Continue => {}
            }
        }
        still
    }
}

async fn undo(plan: &Plan, host: &HostPlan, fault: &Fault, still: &Still) -> Result<()> {
    match fault.kind {
        Kind::HostDeath | Kind::PowerCycle => {
            if !still.unplugged {
                network::set_link(plan, host, true).await?;
            }
            if still.dead {
                return Ok(());
            }
            let keep_down = if still.etcd_down { vec!["etcd".into()] } else { Vec::new() };
            control::ask(&host.control_socket(), &Request::Boot(keep_down)).await?;
            // A host that has booted is neither frozen nor has it the processes that were stopped.
            for mut gone in all(plan)? {
                let of_before = matches!(gone.kind, Kind::Freeze | Kind::Stop) && gone.lasts();
                if of_before && gone.host.as_deref() == Some(host.name()) {
                    gone.healed_at_monotonic_ns = Some(monotonic_ns());
                    record::save(plan, &gone)?;
                }
            }
            Ok(())
        }
        Kind::Freeze if still.frozen => Ok(()),
        Kind::Freeze => cgroup::freeze(&host.cgroup, false),
        Kind::LinkCut if fault.peer.is_none() && still.unplugged => Ok(()),
        Kind::LinkCut if fault.peer.is_none() => network::set_link(plan, host, true).await,
        Kind::LinkCut | Kind::EtcdCut => network::undrop(host, &fault.id).await,
        Kind::EtcdDown if still.dead || still.etcd_down => Ok(()),
        Kind::EtcdDown => {
            let start = Request::Start(vec!["etcd".into()]);
            control::ask(&host.control_socket(), &start).await.map(drop)
        }
        Kind::Stop => go_on(host, fault.pids.iter().filter(|pid| !still.stopped.contains(pid))),
        Kind::Kill | Kind::Continue | Kind::Thaw => Ok(()),
    }
}

/// Lets stopped processes run, unless they are gone: their numbers may be somebody else's by now.
fn go_on<'a>(host: &HostPlan, pids: impl Iterator<Item = &'a i32>) -> Result<()> {
    let of_host = cgroup::pids(&host.cgroup);
    for pid in pids.filter(|pid| of_host.contains(pid)) {
        match kill(Pid::from_raw(*pid), Signal::SIGCONT) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("SIGCONT to process {pid}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;
    use crate::lab::spec::Spec;

    #[test]
    fn what_another_fault_breaks_stays_broken() {
        let plan = Plan::new("a", Spec::default(), std::path::Path::new("/cg"), "/bin".into());
        let (region, db1) = plan.host("db1").unwrap();
        let (_, db2) = plan.host("db2").unwrap();
        let (_, e1) = plan.host("e1").unwrap();
        let fault = |kind, host, peer| Fault::new(kind, Place::Host(host), None, peer);
        let unplugged = Still { unplugged: true, ..Still::default() };
        assert_eq!(Still::of(&[fault(Kind::LinkCut, db1, None)], region, db1), unplugged);
        assert_eq!(Still::of(&[fault(Kind::LinkCut, db1, Some(db2))], region, db1), Still::default());
        assert_eq!(Still::of(&[fault(Kind::LinkCut, db1, None)], region, db2), Still::default());
        let dead = Still { dead: true, ..unplugged };
        assert_eq!(Still::of(&[fault(Kind::HostDeath, db1, None)], region, db1), dead);
        let everywhere = Fault::new(Kind::EtcdDown, Place::Regions(&plan.regions), None, None);
        let etcd_down = Still { etcd_down: true, ..Still::default() };
        assert_eq!(Still::of(std::slice::from_ref(&everywhere), region, e1), etcd_down);
        assert_eq!(Still::of(&[everywhere], region, db1), Still::default());
    }
}
