//! Ends processes: a hung Patroni alone, or everything of an instance, as far as the kernel lets it go. By cgroup and by process id, never by name.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::hung::Hung;
use holdfast_agent_core::lease::Fence;
use holdfast_host::cgroup::Cgroup;
use holdfast_host::clock;
use holdfast_host::process::{self, PidFd};
use holdfast_types::record::FenceCause;

use super::{attest, fence, fenced as told, trace};
use crate::gate::remembered::Remembered;
use crate::member::Member;
use crate::observe::processes;

/// A killed cgroup of a dozen processes was empty after 15-26 ms (`facts/baseline.md` section 1).
const EMPTY_DEADLINE: Duration = Duration::from_millis(2_000);
/// For so long all of them are waited for. Whatever is left then and can never run again is the kernel's, which may hold it
/// until its disk answers.
const ALL_DEADLINE: Duration = Duration::from_millis(200);
/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(5);

/// Kills Patroni and nothing else; the supervisor starts it again, and it takes the running PostgreSQL over.
pub fn restart_patroni(member: &Member, cluster: &Cluster) -> Result<()> {
    let start = member.state().patroni_hung_since.unwrap_or_else(SystemTime::now);
    let path = &member.instance.cgroup;
    let pids = processes::patroni(path).with_context(|| path.display().to_string())?;
    for pid in &pids {
        let pid_fd = PidFd::open(*pid).with_context(|| format!("Patroni's process {pid}"))?;
        pid_fd.kill().with_context(|| format!("Patroni's process {pid}"))?;
    }
    {
        let mut state = member.state();
        (state.patroni_hung, state.patroni_hung_since) = (false, None);
    }
    trace::restarted(&member.telemetry, cluster, &member.instance.member, (start, SystemTime::now()));
    tracing::warn!(cluster = %member.instance.cluster, ?pids, "Patroni was hung and has been killed; PostgreSQL runs on");
    Ok(())
}

/// Shuts the gate durably, then kills Patroni together with what is left of PostgreSQL: it may be starting it again.
pub async fn shut_gate_and_kill(member: &Member) -> Result<()> {
    if member.state().remembered.ends_hung {
        // Begun by an earlier start of the agent, or something has come through the gate since.
        return end_all_hung(member).await;
    }
    attest::shut_gate(member).await?;
    all(member).await?;
    member.state().killed = true;
    Ok(())
}

/// Rule 9: shuts the gate durably and the port, then kills PostgreSQL with its Patroni. What hangs on its disk cannot be
/// killed: it has ended once it can never run again.
pub async fn end_hung(member: &Member, hung: Hung) -> Result<()> {
    tracing::warn!(cluster = %member.instance.cluster, "{hung}: it is ended, so that another can write");
    let shut = |remembered: &mut Remembered| (remembered.attesting, remembered.ends_hung) = (true, true);
    if !member.remember(shut).await {
        bail!("the shut gate cannot be kept on disk; PostgreSQL is left as it is");
    }
    end_all_hung(member).await
}

async fn end_all_hung(member: &Member) -> Result<()> {
    // Nobody commits over the network from here on, whatever becomes of the kill. A port that cannot be shut keeps only
    // what the kernel holds from being attested.
    if let Err(error) = fence::set(member, Fence::Ended).await {
        tracing::warn!(cluster = %member.instance.cluster, "the port is not closed: {error:#}");
        member.fence_wake.notify_one();
    }
    let path = &member.instance.cgroup;
    let cgroup = Cgroup::open(path).with_context(|| path.display().to_string())?;
    let before = cgroup.pids().with_context(|| path.display().to_string())?;
    cgroup.kill().with_context(|| path.display().to_string())?;
    let stuck = ended(member, &before).await?;
    {
        let mut state = member.state();
        (state.killed, state.stuck) = (true, stuck.clone());
    }
    fence::release_guard(member);
    tracing::warn!(cluster = %member.instance.cluster, ?stuck, "PostgreSQL has ended; what is stuck can never run again");
    Ok(())
}

/// Waits until the killed ones and all of PostgreSQL's have ended. Returns those that the kernel still holds. A Patroni that
/// its supervisor has started meanwhile is none of them: the gate is shut.
async fn ended(member: &Member, killed: &[i32]) -> Result<Vec<i32>> {
    let path = &member.instance.cgroup;
    let started = Instant::now();
    loop {
        let present = Cgroup::open(path).and_then(|cgroup| cgroup.pids());
        let present = present.with_context(|| path.display().to_string())?;
        let postgres = processes::postgres(path).with_context(|| path.display().to_string())?;
        let is_one = |pid: &i32| killed.contains(pid) || postgres.iter().any(|(one, _)| one == pid);
        let left: Vec<i32> = present.into_iter().filter(is_one).collect();
        let held = |pid: &i32| process::is_held_by_kernel(*pid).unwrap_or(false);
        if left.is_empty() || started.elapsed() >= ALL_DEADLINE && left.iter().all(held) {
            return Ok(left);
        }
        if started.elapsed() >= EMPTY_DEADLINE {
            bail!("processes {left:?} are still there");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Kills a PostgreSQL that accepts writes although the term is another's. Patroni comes back and rejoins it.
pub async fn deposed(member: &Member, cluster: &Cluster) -> Result<()> {
    let begun_ms = clock::boottime_ms();
    tracing::warn!(
        cluster = %member.instance.cluster,
        "this node's PostgreSQL accepted writes in a term that is not its own; killed. Patroni rejoins it as a standby"
    );
    all(member).await?;
    told::killed(member, cluster, FenceCause::Deposed, begun_ms);
    Ok(())
}

/// Class `off`: as deposed, and the gate is shut before, so that the stop can be attested.
pub async fn end_deposed(member: &Member, cluster: &Cluster) -> Result<()> {
    let begun_ms = clock::boottime_ms();
    tracing::warn!(
        cluster = %member.instance.cluster,
        "Patroni has given the lock to another: this node's PostgreSQL is ended, so that the other can open its term"
    );
    shut_gate_and_kill(member).await?;
    told::killed(member, cluster, FenceCause::Deposed, begun_ms);
    Ok(())
}

/// Ends the PostgreSQL of a node that a person has fenced. Its Patroni comes back and finds the start gate shut.
pub async fn fenced(member: &Member, cluster: &Cluster) -> Result<()> {
    let begun_ms = clock::boottime_ms();
    tracing::warn!(cluster = %member.instance.cluster, "this node is fenced; its PostgreSQL is ended");
    all(member).await?;
    told::killed(member, cluster, told::order(member, cluster), begun_ms);
    Ok(())
}

async fn all(member: &Member) -> Result<()> {
    let path = &member.instance.cgroup;
    let cgroup = Cgroup::open(path).with_context(|| path.display().to_string())?;
    cgroup.kill().with_context(|| path.display().to_string())?;
    cgroup.wait_empty(EMPTY_DEADLINE).await.with_context(|| path.display().to_string())?;
    Ok(())
}
