//! Sets the fence of a writer's own host: the kernel's dead-man and the guard (DESIGN section 4, layers 1 and 2).
//!
//! Both hold a deadline and need nobody at it. What the deadline is, is decided in `holdfast-agent-core`'s `lease`.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::PoisonError;

use anyhow::{Context as _, Result};
use holdfast_agent_core::lease::Fence;
use holdfast_guard::client::{Client, GuardError};
use holdfast_guard::wire::Name;
use holdfast_host::nftables::{DeadMan, DeadManError, Door};
use holdfast_types::Term;
use tokio::sync::Mutex;

use crate::config::{Config, Instance};
use crate::member::Member;

/// The longest part of a scope that goes into the guard's name of an instance.
const SCOPE_CHARS_MAX: usize = 50;

/// Why the guard does not do what it should.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// Patroni's unit does not run, or the configuration names another.
    #[error(
        "the cgroup {0} cannot be opened: {1}; does the instance's `cgroup` name that of Patroni's unit?"
    )]
    Cgroup(String, std::io::Error),
    /// The guard.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// What holds the fence of one instance.
pub struct Ladder {
    /// Held over each change: two of them never overlap.
    dead_man: Mutex<DeadMan>,
    guard: Guard,
}

/// The guard's side of it; a host without a guard has layer 1 alone, and `status` says so.
struct Guard {
    socket: PathBuf,
    name: Name,
    /// The standing connection, and the cgroup directory that was registered on it, by its inode.
    registered: std::sync::Mutex<Option<(Client, u64)>>,
    grace_ms: u64,
}

impl Ladder {
    /// The fence of an instance. Sets nothing.
    pub fn new(config: &Config, instance: &Instance) -> Self {
        let (namespace, scope) = (instance.cluster.namespace.as_str(), instance.cluster.scope.as_str());
        let short: String = scope.chars().take(SCOPE_CHARS_MAX).collect();
        Self {
            dead_man: Mutex::new(DeadMan::new(namespace, scope, instance.port)),
            guard: Guard {
                socket: config.run_dir.join("guard.sock"),
                name: Name::new(&format!("{short}:{}", instance.port))
                    .expect("a scope is ASCII without space, and the port makes it unique on a host"),
                registered: std::sync::Mutex::default(),
                grace_ms: config.timings.guard_grace_ms(),
            },
        }
    }
}

/// Sets what was decided.
pub async fn set(member: &Member, fence: Fence) -> Result<()> {
    let mut dead_man = member.ladder.dead_man.lock().await;
    // Unknown until it is done.
    let before = std::mem::take(&mut member.state().fence);
    put(member, &mut dead_man, fence, before).await?;
    // What expires is still what was set before.
    member.state().fence = if fence == Fence::Expiring { before } else { Some(fence) };
    Ok(())
}

async fn put(member: &Member, dead_man: &mut DeadMan, fence: Fence, before: Option<Fence>) -> Result<()> {
    match fence {
        Fence::Expiring => Ok(()),
        Fence::None | Fence::Paused | Fence::Closed if before == Some(fence) => Ok(()),
        Fence::None | Fence::Paused => lift(member, dead_man, before).await,
        Fence::Until { term, deadline_ms } => {
            if open_until(member, dead_man, deadline_ms, before).await? {
                extend(member, term, deadline_ms);
            }
            Ok(())
        }
        Fence::Closed => {
            tracing::warn!(cluster = %member.instance.cluster, "the term is not ours: PostgreSQL's port is closed");
            dead_man.arm(None).await.context("the kernel's dead-man")
        }
    }
}

/// Before PostgreSQL starts as a primary: the port is closed unless a lease already holds it open.
pub async fn close_before_start(member: &Member) -> Result<()> {
    let mut dead_man = member.ladder.dead_man.lock().await;
    if dead_man.door()? == Door::Absent {
        dead_man.arm(None).await.context("the kernel's dead-man")?;
        member.state().fence = Some(Fence::Closed);
    }
    Ok(())
}

async fn lift(member: &Member, dead_man: &mut DeadMan, before: Option<Fence>) -> Result<()> {
    if dead_man.door()? != Door::Absent {
        dead_man.remove().await.context("the kernel's dead-man")?;
        tracing::info!(cluster = %member.instance.cluster, ?before, "no write lease any more: nothing of ours closes the port");
    }
    // A guard that was armed by an earlier start of the agent is released as well.
    let released = member.ladder.guard.with(member, |client, name| match client.query(name)? {
        Some(state) => client.release(name, state.term).map(drop),
        None => Ok(()),
    });
    member.state().guard_problem = None;
    match released {
        // Without a guard, or without a Patroni, there is nothing to release.
        Ok(()) | Err(Trouble::Cgroup(..) | Trouble::Guard(GuardError::Io(_))) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether the port is open now: a deadline that has passed meanwhile opens nothing.
async fn open_until(
    member: &Member,
    dead_man: &mut DeadMan,
    deadline_ms: u64,
    before: Option<Fence>,
) -> Result<bool> {
    let refreshed = match before {
        Some(Fence::Until { .. }) => refresh(member, dead_man, deadline_ms),
        _ => dead_man.arm(Some(deadline_ms)).await,
    };
    let done = match refreshed {
        Err(DeadManError::Gone(table)) => {
            tracing::warn!(
                cluster = %member.instance.cluster, table,
                "somebody has changed the packet filter: the kernel's dead-man is put back"
            );
            dead_man.arm(Some(deadline_ms)).await
        }
        other => other,
    };
    match done {
        Ok(()) => Ok(true),
        // It has closed, or is about to; the next renewal opens it again.
        Err(DeadManError::Past { .. }) => Ok(false),
        Err(error) => Err(error).context("the kernel's dead-man"),
    }
}

/// A refresh is a change of the packet filter like any other. Where nobody else's lies between, what was read back of our
/// other table still holds: listing it again would cost a process at every renewal.
fn refresh(member: &Member, dead_man: &mut DeadMan, deadline_ms: u64) -> Result<(), DeadManError> {
    let before = dead_man.verified_at();
    dead_man.refresh(deadline_ms)?;
    let after = dead_man.verified_at();
    let mut state = member.state();
    if state.network_generation.is_some()
        && state.network_generation == before
        && matches!((before, after), (Some(before), Some(after)) if after.follows(before))
    {
        state.network_generation = after;
    }
    Ok(())
}

fn extend(member: &Member, term: Term, deadline_ms: u64) {
    let guard = &member.ladder.guard;
    let deadline_ns = (deadline_ms + guard.grace_ms) * 1_000_000;
    let postmaster = member.state().postmaster;
    let extended =
        guard.with(member, |client, name| client.extend(name, term.0, deadline_ns, postmaster).map(drop));
    let problem = extended.err().map(|error| error.to_string());
    let mut state = member.state();
    if state.guard_problem != problem {
        if let Some(problem) = &problem {
            tracing::warn!(cluster = %member.instance.cluster, "{problem}; a writer that hangs is closed by the kernel alone");
        }
        state.guard_problem = problem;
    }
}

impl Guard {
    /// Asks over the standing connection, or over a new one after it has ended. On a new one, and when Patroni's unit has
    /// a new cgroup, the instance is registered first.
    fn with<T>(
        &self,
        member: &Member,
        ask: impl Fn(&Client, Name) -> Result<T, GuardError>,
    ) -> Result<T, Trouble> {
        let mut slot = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &member.instance.cgroup;
        let no_cgroup = |error| Trouble::Cgroup(path.display().to_string(), error);
        let cgroup = File::open(path).map_err(no_cgroup)?;
        let inode = cgroup.metadata().map_err(no_cgroup)?.ino();
        if let Some((client, registered)) = slot.as_ref()
            && *registered == inode
        {
            match ask(client, self.name) {
                Err(GuardError::Io(_) | GuardError::Answer) => *slot = None,
                answered => return Ok(answered?),
            }
        }
        let client = match slot.take() {
            Some((client, _)) => client,
            None => Client::connect(&self.socket)?,
        };
        let postmaster = member.state().postmaster;
        client.register(self.name, cgroup.as_fd(), member.instance.port, postmaster)?;
        let answer = ask(&client, self.name);
        *slot = Some((client, inode));
        Ok(answer?)
    }
}
