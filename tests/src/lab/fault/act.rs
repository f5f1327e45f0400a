//! Injects a fault. Each takes effect by one or two system calls or one short command.

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::record::{self, Fault};
use super::{Direction, Kind, Place, clock, disk, etcd, heal, memory, processes, torment};
use crate::lab::control::{self, Request};
use crate::lab::plan::{HostPlan, Plan, RegionPlan};
use crate::lab::render::etcd::CLIENT_PORT;
use crate::lab::spec::Role;
use crate::lab::{cgroup, down, network};

/// How long a power-cycled host is off.
const OFF_MS: u64 = 3_000;
/// A stopped postmaster forks no more, so the second look already finds nobody new.
const STOP_LOOKS_MAX: u32 = 5;

/// Breaks what the fault says.
pub async fn act(plan: &Plan, place: Place<'_>, peer: Option<&HostPlan>, fault: &mut Fault) -> Result<()> {
    match place {
        Place::Host(host) => on_host(plan, host, peer, fault).await,
        Place::Regions(regions) => in_regions(plan, regions, fault).await,
    }
}

async fn in_regions(plan: &Plan, regions: &[RegionPlan], fault: &mut Fault) -> Result<()> {
    match fault.kind {
        Kind::EtcdSlow | Kind::EtcdLeaderChurn => {
            fault.begins();
            torment::start(plan, fault)
        }
        Kind::EtcdFull => {
            fault.begins();
            for region in regions {
                etcd::raise_no_space(region).await?;
            }
            Ok(())
        }
        _ => {
            let hosts = regions.iter().flat_map(|region| region.of(Role::Etcd));
            etcd_down(&hosts.collect::<Vec<_>>(), fault).await
        }
    }
}

async fn on_host(plan: &Plan, host: &HostPlan, peer: Option<&HostPlan>, fault: &mut Fault) -> Result<()> {
    match fault.kind {
        Kind::HostDeath => die(plan, host, fault).await,
        Kind::PowerCycle => {
            die(plan, host, fault).await?;
            record::save(plan, fault)?;
            let log = host.logs().join("power-cycle.log");
            let log = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
            down::detached(plan, &["heal", &plan.lab, &fault.id, "--after-ms", &OFF_MS.to_string()], log)
        }
        Kind::Freeze => {
            fault.begins();
            cgroup::freeze(&host.cgroup, true)
        }
        Kind::Thaw => {
            fault.begins();
            heal::lasting(plan, host, |other| other.kind == Kind::Freeze).await
        }
        Kind::LinkCut => {
            fault.begins();
            cut(plan, host, peer, fault).await
        }
        Kind::EtcdCut => {
            fault.begins();
            let (input, output) = (format!("tcp sport {CLIENT_PORT}"), format!("tcp dport {CLIENT_PORT}"));
            network::drop_packets(host, &fault.id, Some(&input), Some(&output)).await
        }
        Kind::EtcdDown => etcd_down(&[host], fault).await,
        Kind::EtcdSlow | Kind::EtcdLeaderChurn | Kind::EtcdFull | Kind::CpuStarve => {
            fault.begins();
            torment::start(plan, fault)
        }
        Kind::DiskHang => {
            disk::must_be_own(plan, host)?;
            fault.begins();
            disk::hang(host).await
        }
        Kind::DiskReadonly => {
            disk::must_be_own(plan, host)?;
            fault.begins();
            disk::fail(host).await
        }
        Kind::MemoryPressure => {
            fault.begins();
            memory::limit(host).await
        }
        Kind::NftFlush => {
            fault.begins();
            network::flush(host).await
        }
        Kind::ClockJump => {
            let seconds = clock::seconds(fault.target.as_deref())?;
            clock::must_be_faked(plan)?;
            fault.begins();
            clock::set(host, seconds)
        }
        Kind::Kill | Kind::Stop | Kind::Continue => signal(plan, host, fault).await,
    }
}

/// The whole cable is pulled; everything less is a rule of the packet filter.
async fn cut(plan: &Plan, host: &HostPlan, peer: Option<&HostPlan>, fault: &Fault) -> Result<()> {
    let (input, output) = match (peer, fault.direction) {
        (None, None) => return network::set_link(plan, host, false).await,
        (Some(peer), _) => (format!("ip saddr {}", peer.address), format!("ip daddr {}", peer.address)),
        (None, _) => ("iifname eth0".to_owned(), "oifname eth0".to_owned()),
    };
    let input = (fault.direction != Some(Direction::Out)).then_some(input.as_str());
    let output = (fault.direction != Some(Direction::In)).then_some(output.as_str());
    network::drop_packets(host, &fault.id, input, output).await
}

/// The cable first: a host that loses power sends nothing any more, and the kernel would say goodbye for every socket of
/// a killed process.
async fn die(plan: &Plan, host: &HostPlan, fault: &mut Fault) -> Result<()> {
    control::ask(&host.control_socket(), &Request::Hold(Vec::new())).await?;
    fault.begins();
    network::set_link(plan, host, false).await?;
    cgroup::kill(&host.cgroup)?;
    // What waits for a hung disk does not die before it has been let go.
    disk::thaw(plan, host).await?;
    cgroup::wait_empty(&host.cgroup).await
}

async fn etcd_down(hosts: &[&HostPlan], fault: &mut Fault) -> Result<()> {
    for host in hosts {
        control::ask(&host.control_socket(), &Request::Hold(vec!["etcd".into()])).await?;
    }
    fault.begins();
    for host in hosts {
        cgroup::kill(&host.cgroup.join("etcd"))?;
    }
    for host in hosts {
        cgroup::wait_empty(&host.cgroup.join("etcd")).await?;
    }
    Ok(())
}

async fn signal(plan: &Plan, host: &HostPlan, fault: &mut Fault) -> Result<()> {
    let target = fault.target.clone().context("a signal has a target")?;
    let signal = match fault.kind {
        Kind::Kill => Signal::SIGKILL,
        Kind::Stop => Signal::SIGSTOP,
        _ => Signal::SIGCONT,
    };
    fault.pids = processes::find(plan, host, &target).await?;
    fault.begins();
    send(&fault.pids, signal, &target)?;
    if fault.kind == Kind::Stop {
        // Who was forked between the look and the stop of its parent.
        for _ in 0..STOP_LOOKS_MAX {
            let mut new = processes::find(plan, host, &target).await?;
            new.retain(|pid| !fault.pids.contains(pid));
            if new.is_empty() {
                break;
            }
            send(&new, signal, &target)?;
            fault.pids.extend(new);
        }
    }
    if fault.kind == Kind::Continue {
        heal::lasting(plan, host, |other| other.kind == Kind::Stop && other.target.as_ref() == Some(&target))
            .await?;
    }
    Ok(())
}

/// A process that is gone needs no signal, as long as one of them got it.
fn send(pids: &[i32], signal: Signal, target: &str) -> Result<()> {
    let mut sent = 0_usize;
    for pid in pids {
        match kill(Pid::from_raw(*pid), signal) {
            Ok(()) => sent += 1,
            Err(nix::errno::Errno::ESRCH) if pids.len() > 1 => {}
            Err(error) => {
                return Err(error).with_context(|| format!("{signal} to {target}, process {pid}"));
            }
        }
    }
    anyhow::ensure!(sent > 0, "no process of {target} was left for {signal}");
    Ok(())
}
