//! Sets the fence of a writer's own host: the kernel's dead-man and the guard (DESIGN section 4, layers 1 and 2).
//!
//! Both hold a deadline and need nobody at it. What the deadline is, is decided in `holdfast-agent-core`'s `lease`.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::PoisonError;

use anyhow::{Context as _, Result};
use holdfast_agent_core::lease::Fence;
use holdfast_agent_core::mutant::{Mutant, left_out};
use holdfast_guard::client::{Client, GuardError};
use holdfast_guard::wire::{Name, Refusal, State};
use holdfast_host::clock;
use holdfast_host::nftables::{DeadMan, DeadManError, Door};
use holdfast_types::Term;
use holdfast_types::record::FenceCause;
use tokio::sync::Mutex;

use super::fenced;
use crate::config::{Config, Instance};
use crate::member::Member;

/// A guard that did not answer is left alone for this long.
const SILENCE_MS: u64 = 1_000;
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
    /// It hangs.
    #[error(
        "the guard did not answer in time and is not asked again at once; see: systemctl status holdfast-guard"
    )]
    Silent,
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
    link: std::sync::Mutex<Link>,
    grace_ms: u64,
}

/// The connection to the guard.
#[derive(Default)]
struct Link {
    /// The standing one, and the cgroup directory that was registered on it, by its inode.
    registered: Option<(Client, u64)>,
    /// It was asked and did not answer; `CLOCK_BOOTTIME` in milliseconds.
    silent_until_ms: u64,
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
                link: std::sync::Mutex::default(),
                grace_ms: config.timings.guard_grace_ms(),
            },
        }
    }
}

/// Sets what was decided.
pub async fn set(member: &Member, fence: Fence) -> Result<()> {
    let mut dead_man = member.ladder.dead_man.lock().await;
    let before = {
        let mut state = member.state();
        // Unknown until it is done.
        let before = state.fence.take();
        state.fence_until_done = before.filter(|_| !matches!(fence, Fence::Closed | Fence::Ended));
        before
    };
    tell_if_closed(member, &mut dead_man, before);
    let done = put(member, &mut dead_man, fence, before).await;
    member.state().fence_until_done = None;
    member.state().fence = done?;
    Ok(())
}

/// A deadline that has passed closed the port, whatever is set now. Told once for each deadline.
fn tell_if_closed(member: &Member, dead_man: &mut DeadMan, before: Option<Fence>) {
    let Some(Fence::Until { term, deadline_ms }) = before else { return };
    let is_new = member.state().closure_told_ms != Some(deadline_ms);
    if is_new && clock::boottime_ms() > deadline_ms {
        fenced::closed_by_itself(member, dead_man, term, deadline_ms);
        member.state().closure_told_ms = Some(deadline_ms);
    }
}

/// Returns what stands now.
async fn put(
    member: &Member,
    dead_man: &mut DeadMan,
    fence: Fence,
    before: Option<Fence>,
) -> Result<Option<Fence>> {
    match fence {
        // What closes by itself is left alone. What was lifted would not: it is shut.
        Fence::Expiring if matches!(before, Some(Fence::Paused | Fence::Kept)) => {
            shut(member, dead_man, "there is no lease any more", FenceCause::LeaseOver).await
        }
        Fence::Expiring => Ok(before),
        Fence::None | Fence::Paused | Fence::Kept | Fence::Closed | Fence::Ended if before == Some(fence) => {
            Ok(before)
        }
        Fence::Kept if matches!(dead_man.door()?, Door::Closed) => {
            member.ladder.guard.release(member)?;
            Ok(Some(fence))
        }
        Fence::None | Fence::Paused | Fence::Kept => {
            lift(member, dead_man, before).await?;
            Ok(Some(fence))
        }
        Fence::Until { term, deadline_ms } => {
            let open = open_until(member, dead_man, deadline_ms, before).await;
            // The guard is told whatever became of the packet filter: each layer stands alone.
            if !matches!(open, Ok(false)) {
                extend(member, term, deadline_ms);
            }
            open?;
            Ok(Some(fence))
        }
        Fence::Closed => shut(member, dead_man, "the term is not ours", FenceCause::Deposed).await,
        Fence::Ended => {
            shut(member, dead_man, "PostgreSQL hung and is ended", FenceCause::Hung).await?;
            Ok(Some(fence))
        }
    }
}

async fn shut(
    member: &Member,
    dead_man: &mut DeadMan,
    why: &str,
    cause: FenceCause,
) -> Result<Option<Fence>> {
    let begun_ms = clock::boottime_ms();
    tracing::warn!(cluster = %member.instance.cluster, "{why}: PostgreSQL's port is closed");
    dead_man.arm(None).await.context("the kernel's dead-man")?;
    fenced::shut(member, cause, clock::boottime_ms().saturating_sub(begun_ms));
    Ok(Some(Fence::Closed))
}

/// The kernel's part of it alone, for a term that is not ours yet.
pub async fn prepare(member: &Member, term: Term, deadline_ms: u64) -> Result<()> {
    let mut dead_man = member.ladder.dead_man.lock().await;
    let before = std::mem::take(&mut member.state().fence);
    open_until(member, &mut dead_man, deadline_ms, before).await?;
    member.state().fence = Some(Fence::Until { term, deadline_ms });
    Ok(())
}

/// Before PostgreSQL starts as a primary: the port is closed unless a lease already holds it open.
pub async fn close_before_start(member: &Member) -> Result<()> {
    let mut dead_man = member.ladder.dead_man.lock().await;
    if dead_man.door()? == Door::Absent && !left_out(Mutant::DeadManNotArmed) {
        dead_man.arm(None).await.context("the kernel's dead-man")?;
        member.state().fence = Some(Fence::Closed);
    }
    // Patroni's unit may have a new cgroup, of which the guard has not heard: it is told before anybody can write there, for an
    // agent that hangs in the next moment. The lease is not made longer by it.
    let stands = member.state().fence;
    if let Some(Fence::Until { term, deadline_ms }) = stands
        && clock::boottime_ms() < deadline_ms
    {
        extend(member, term, deadline_ms);
    }
    Ok(())
}

/// Whether the kernel keeps the port closed now. A door that somebody has taken away is put back by the next look at the
/// lease.
pub async fn is_closed(member: &Member) -> bool {
    let mut dead_man = member.ladder.dead_man.lock().await;
    let closed = matches!(dead_man.door(), Ok(Door::Closed));
    if !closed {
        member.state().fence = None;
        member.fence_wake.notify_one();
    }
    closed
}

/// What was guarded has been seen ended: nothing is owed any more, not even to the watchdog.
pub fn release_guard(member: &Member) {
    if let Err(error) = member.ladder.guard.release(member) {
        tracing::warn!(cluster = %member.instance.cluster, "the guard is not released after the stop: {error}");
    }
}

/// The guard first: it would end a writer whose fence takes long to lift. One that does not answer keeps nobody closed; one
/// whose deadline has passed kills in this moment, and until then nobody is let in.
async fn lift(member: &Member, dead_man: &mut DeadMan, before: Option<Fence>) -> Result<()> {
    let released = member.ladder.guard.release(member);
    if matches!(released, Err(Trouble::Guard(GuardError::Refused(Refusal::Killing)))) {
        return Ok(released?);
    }
    if !matches!(dead_man.door(), Ok(Door::Absent)) {
        dead_man.remove().await.context("the kernel's dead-man")?;
        tracing::info!(cluster = %member.instance.cluster, ?before, "no write lease any more: nothing of ours closes the port");
    }
    released?;
    member.state().guard_problem = None;
    Ok(())
}

/// Returns whether the port is open now: a deadline that has passed meanwhile opens nothing.
async fn open_until(
    member: &Member,
    dead_man: &mut DeadMan,
    deadline_ms: u64,
    before: Option<Fence>,
) -> Result<bool> {
    if left_out(Mutant::DeadManNotArmed) {
        return dead_man.remove().await.map(|()| true).context("the kernel's dead-man");
    }
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
        // It closes by itself, or there is none yet and it begins closed; the next renewal opens it.
        Err(DeadManError::Past { .. }) => {
            if dead_man.door()? == Door::Absent {
                dead_man.arm(None).await.context("the kernel's dead-man")?;
            }
            Ok(false)
        }
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
    if left_out(Mutant::GuardNotTold) {
        return;
    }
    let guard = &member.ladder.guard;
    let deadline_ns = (deadline_ms + guard.grace_ms) * 1_000_000;
    let postmaster = member.state().postmaster;
    let extended = guard.with(member, |client, name| client.extend(name, term.0, deadline_ns, postmaster));
    if let Ok(state) = &extended {
        fenced::guard(member, state);
    }
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
    /// Releases whatever the guard holds of this instance, also for an earlier start of the agent. A guard that has started
    /// anew since is told by a registration that nothing is owed any more. Without a guard there is nothing to release.
    fn release(&self, member: &Member) -> Result<(), Trouble> {
        let release = |client: &Client, name: Name| match client.query(name)? {
            Some(state) => client.release(name, state.term).map(Some),
            None => Ok(None),
        };
        let released = match self.with(member, release) {
            // Patroni's unit does not run; what was registered of it before is released all the same.
            Err(Trouble::Cgroup(..)) => Client::connect(&self.socket)
                .and_then(|client| release(&client, self.name))
                .map_err(Trouble::from),
            other => other,
        };
        match released {
            Err(Trouble::Guard(GuardError::Io(error))) if is_nobody_there(&error) => Ok(()),
            other => other.map(|state: Option<State>| {
                if let Some(state) = &state {
                    fenced::guard(member, state);
                }
            }),
        }
    }

    /// Asks over the standing connection, or over a new one after it has ended. On a new one, and when Patroni's unit has
    /// a new cgroup, the instance is registered first.
    ///
    /// The guard answers within microseconds. One that did not is not asked again for a while: the agent has other leases
    /// to renew than this one.
    fn with<T>(
        &self,
        member: &Member,
        ask: impl Fn(&Client, Name) -> Result<T, GuardError>,
    ) -> Result<T, Trouble> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if clock::boottime_ms() < link.silent_until_ms {
            return Err(Trouble::Silent);
        }
        let asked = self.ask(member, &mut link, ask);
        if let Err(Trouble::Guard(GuardError::Io(error))) = &asked
            && error.kind() == ErrorKind::TimedOut
        {
            link.silent_until_ms = clock::boottime_ms() + SILENCE_MS;
        }
        asked
    }

    fn ask<T>(
        &self,
        member: &Member,
        link: &mut Link,
        ask: impl Fn(&Client, Name) -> Result<T, GuardError>,
    ) -> Result<T, Trouble> {
        let path = &member.instance.cgroup;
        let no_cgroup = |error| Trouble::Cgroup(path.display().to_string(), error);
        let cgroup = match File::open(path) {
            Ok(cgroup) => cgroup,
            Err(error) => return self.ask_without_unit(link, ask).unwrap_or_else(|| Err(no_cgroup(error))),
        };
        let inode = cgroup.metadata().map_err(no_cgroup)?.ino();
        if let Some((client, registered)) = link.registered.take()
            && registered == inode
        {
            match ask(&client, self.name) {
                Err(GuardError::Io(error)) if error.kind() == ErrorKind::TimedOut => {
                    return Err(GuardError::Io(error).into());
                }
                // The guard has ended or was started anew, or it does not know what was registered any more.
                Err(
                    GuardError::Io(_) | GuardError::Answer | GuardError::Refused(Refusal::UnknownInstance),
                ) => {}
                answered => {
                    link.registered = Some((client, inode));
                    return Ok(answered?);
                }
            }
        }
        let client = Client::connect(&self.socket)?;
        let postmaster = member.state().postmaster;
        client.register(self.name, cgroup.as_fd(), member.instance.port, postmaster)?;
        let answer = ask(&client, self.name);
        link.registered = Some((client, inode));
        Ok(answer?)
    }
}

impl Guard {
    /// Patroni's unit is stopped, and its cgroup was removed with it. A postmaster that somebody has started by hand meanwhile is
    /// guarded by its number, under what was registered last. `None`: there is nobody to guard, or nothing was registered.
    fn ask_without_unit<T>(
        &self,
        link: &Link,
        ask: impl Fn(&Client, Name) -> Result<T, GuardError>,
    ) -> Option<Result<T, Trouble>> {
        let (client, _) = link.registered.as_ref()?;
        match ask(client, self.name) {
            Err(GuardError::Refused(Refusal::CgroupGone)) => None,
            answered => Some(answered.map_err(Trouble::from)),
        }
    }
}

/// There is no guard on this host, or it does not run at the moment.
fn is_nobody_there(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}
