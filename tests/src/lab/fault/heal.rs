//! Ends faults. Healing is done once: a fault that is over is left alone, and what another fault still breaks stays broken.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::record::{self, Fault, all, monotonic_ns};
use super::still::Still;
use super::{Kind, clock, disk, etcd, memory, torment};
use crate::lab::control::{self, Request};
use crate::lab::failure::{Exit, Failure};
use crate::lab::plan::{HostPlan, Plan, RegionPlan};
use crate::lab::spec::Role;
use crate::lab::{cgroup, network};

/// For so long what could not be healed beside the others is tried again.
const OTHERS_DEADLINE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(500);

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
    let begin = Instant::now();
    let mut healed: Vec<Fault> = Vec::new();
    let mut left: Vec<Fault> = meant.into_iter().filter(Fault::lasts).collect();
    loop {
        let mut failed = Vec::new();
        for fault in std::mem::take(&mut left) {
            match end(plan, fault.clone()).await {
                Ok(fault) => healed.push(fault),
                Err(error) => failed.push((fault, error)),
            }
        }
        // One may stand in another's way: a full etcd that is down takes no order, and needs a leader when it is back.
        let is_late = healed.is_empty() || begin.elapsed() > OTHERS_DEADLINE;
        for (fault, error) in failed {
            if is_late {
                return Err(not_healed(plan, &healed, error));
            }
            left.push(fault);
        }
        if left.is_empty() {
            return Ok(healed);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn not_healed(plan: &Plan, healed: &[Fault], error: anyhow::Error) -> anyhow::Error {
    if healed.is_empty() {
        return error;
    }
    let done = healed.iter().map(|fault| fault.id.as_str()).collect::<Vec<_>>().join(", ");
    let text = format!("{error:#}; healed before: {done}; try again: holdfast-lab heal {}", plan.lab);
    Failure::with(Exit::PartlyDone, text)
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
        undo(plan, region, host, &fault, &still).await.with_context(|| format!("healing {}", fault.id))?;
    }
    fault.healed_at_monotonic_ns = Some(monotonic_ns());
    record::save(plan, &fault)?;
    Ok(fault)
}

/// Whether a fault means that host.
pub fn strikes(fault: &Fault, region: &RegionPlan, host: &HostPlan) -> bool {
    match &fault.host {
        Some(name) => name == host.name(),
        None => host.host.role == Role::Etcd && fault.regions.contains(&region.name),
    }
}

async fn undo(plan: &Plan, region: &RegionPlan, host: &HostPlan, fault: &Fault, still: &Still) -> Result<()> {
    match fault.kind {
        Kind::HostDeath | Kind::PowerCycle => {
            if !still.unplugged {
                network::set_link(plan, host, true).await?;
            }
            boot(plan, host, still).await
        }
        Kind::DiskReadonly => boot(plan, host, still).await,
        Kind::Freeze if still.frozen => Ok(()),
        Kind::Freeze => cgroup::freeze(&host.cgroup, false),
        Kind::LinkCut if fault.peer.is_some() || fault.direction.is_some() => {
            network::undrop(host, &fault.id).await
        }
        Kind::LinkCut if still.unplugged => Ok(()),
        Kind::LinkCut => network::set_link(plan, host, true).await,
        Kind::EtcdCut => network::undrop(host, &fault.id).await,
        Kind::EtcdDown if still.dead || still.etcd_down => Ok(()),
        Kind::EtcdDown => {
            let start = Request::Start(vec!["etcd".into()]);
            control::ask(&host.control_socket(), &start).await.map(drop)
        }
        // Its one tormentor, and the alarm, belong to all hosts alike: to end them again does nothing.
        Kind::EtcdSlow | Kind::EtcdLeaderChurn | Kind::CpuStarve => torment::end(plan, fault).await,
        Kind::EtcdFull => etcd::disarm(region).await,
        Kind::DiskHang if still.disk_hangs => Ok(()),
        Kind::DiskHang => disk::thaw(plan, host).await,
        Kind::MemoryPressure if still.no_memory => Ok(()),
        Kind::MemoryPressure => memory::unlimit(host).await,
        Kind::ClockJump => {
            let seconds = still.clock.as_deref().map(|text| clock::seconds(Some(text)));
            clock::set(host, seconds.transpose()?.unwrap_or(0))
        }
        Kind::Stop => go_on(host, fault.pids.iter().filter(|pid| !still.stopped.contains(pid))),
        Kind::Kill | Kind::Continue | Kind::Thaw | Kind::NftFlush => Ok(()),
    }
}

/// Starts the host again, unless another fault keeps it off, and notes what ends with that.
async fn boot(plan: &Plan, host: &HostPlan, still: &Still) -> Result<()> {
    if still.dead {
        return Ok(());
    }
    let keep_down = if still.etcd_down { vec!["etcd".into()] } else { Vec::new() };
    control::ask(&host.control_socket(), &Request::Boot(keep_down)).await?;
    for mut gone in all(plan)? {
        let ended = gone.kind.ends_with_a_boot() && gone.lasts();
        if ended && gone.host.as_deref() == Some(host.name()) {
            gone.healed_at_monotonic_ns = Some(monotonic_ns());
            record::save(plan, &gone)?;
        }
    }
    Ok(())
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
