//! Injects a fault. Each takes effect by one or two system calls or one short command.

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::record::{self, Fault};
use super::{Kind, Place, heal, processes};
use crate::lab::control::{self, Request};
use crate::lab::plan::{HostPlan, Plan};
use crate::lab::render::etcd::CLIENT_PORT;
use crate::lab::spec::Role;
use crate::lab::{cgroup, down, network};

/// How long a power-cycled host is off.
const OFF_MS: u64 = 3_000;

/// Breaks what the fault says.
pub async fn act(plan: &Plan, place: Place<'_>, peer: Option<&HostPlan>, fault: &mut Fault) -> Result<()> {
    let host = match place {
        Place::Host(host) => host,
        Place::Regions(regions) => {
            let hosts = regions.iter().flat_map(|region| region.of(Role::Etcd));
            return etcd_down(&hosts.collect::<Vec<_>>(), fault).await;
        }
    };
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
            let Some(peer) = peer else { return network::set_link(plan, host, false).await };
            let (input, output) =
                (format!("ip saddr {}", peer.address), format!("ip daddr {}", peer.address));
            network::drop_packets(host, &fault.id, &input, &output).await
        }
        Kind::EtcdCut => {
            fault.begins();
            let (input, output) = (format!("tcp sport {CLIENT_PORT}"), format!("tcp dport {CLIENT_PORT}"));
            network::drop_packets(host, &fault.id, &input, &output).await
        }
        Kind::EtcdDown => etcd_down(&[host], fault).await,
        Kind::Kill | Kind::Stop | Kind::Continue => signal(plan, host, fault).await,
    }
}

/// The cable first: a host that loses power sends nothing any more, and the kernel would say goodbye for every socket of
/// a killed process.
async fn die(plan: &Plan, host: &HostPlan, fault: &mut Fault) -> Result<()> {
    control::ask(&host.control_socket(), &Request::Hold(Vec::new())).await?;
    fault.begins();
    network::set_link(plan, host, false).await?;
    cgroup::kill(&host.cgroup)?;
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
    for pid in &fault.pids {
        kill(Pid::from_raw(*pid), signal).with_context(|| format!("{signal} to {target}, process {pid}"))?;
    }
    if fault.kind == Kind::Continue {
        heal::lasting(plan, host, |other| other.kind == Kind::Stop && other.target.as_ref() == Some(&target))
            .await?;
    }
    Ok(())
}
