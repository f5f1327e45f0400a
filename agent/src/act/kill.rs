//! Ends processes: a hung Patroni alone, or everything of an instance. By cgroup and by process id, never by name.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use holdfast_agent_core::cluster::Cluster;
use holdfast_host::cgroup::Cgroup;
use holdfast_host::clock;
use holdfast_host::process::PidFd;
use holdfast_types::record::FenceCause;

use super::{attest, fenced as told, trace};
use crate::member::Member;
use crate::observe::processes;

/// A killed cgroup of a dozen processes was empty after 15-26 ms (`facts/baseline.md` section 1).
const EMPTY_DEADLINE: Duration = Duration::from_millis(2_000);

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
    attest::shut_gate(member).await?;
    all(member).await?;
    member.state().killed = true;
    Ok(())
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
