//! Scenarios that find a rule left out: each breaks what the rule is for, and looks at the one thing that must not happen.
//!
//! Against agents with every rule in them each finds nothing; that is the control. They break and look; they mend nothing
//! but what a fault of the lab does not know of.

mod close;
mod gate;
mod lease;
mod leave;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_agent_core::mutant::Mutant;

use crate::checker::monotonic_us;
use crate::scene::Scene;

/// Longer than every lease, grace and session of the profile `fast` together, and the failover after them.
const FAILOVER: Duration = Duration::from_secs(30);
/// Whoever is let pass is writable within this time, and most of a failover is over before it begins.
const PASSED: Duration = Duration::from_secs(10);
/// A host that boots has its PostgreSQL by then.
const BOOT: Duration = Duration::from_secs(20);
/// A hung Patroni is killed by its agent, so it is stopped again and again.
const STOP_AGAIN: Duration = Duration::from_millis(700);

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trap {
    /// Patroni's resolver hole: the one acknowledger is out of `/sync` when the writer dies.
    ResolverHole,
    /// The writer dies with the agent of the one acknowledger: nobody may follow without its promise.
    OneVoter,
    /// The writer dies, the acknowledger cannot lead, and the other gets the lock: it must not lead either.
    BehindFloor,
    /// A new floor is due while the writer alone has its WAL, then the writer dies: somebody must be able to follow.
    FloorAhead,
    /// The standbys have lost what they had flushed, then the writer dies: nobody may follow.
    FloorUnreached,
    /// `/sync` is put again between CLOSE and OPEN: the reign is closed again, and somebody follows.
    SyncTouched,
    /// `/sync` names one more between CLOSE and OPEN, which has promised nothing: nobody may follow.
    SyncMoved,
    /// The writer's host dies: the next one is writable, under a term of its own.
    HostDeath,
    /// All PostgreSQL processes of the writer hang: they are waited for with an end, and another writes.
    HungPostgres,
    /// The writer's agent and its Patroni hang: its PostgreSQL must be gone when another writes.
    HungAgent,
    /// Agent and guard of the writer hang: the kernel alone must close its port.
    HungAgentAndGuard,
    /// The writer's link is cut: its PostgreSQL must be gone when another writes.
    Isolated,
    /// etcd is down: the writer goes on.
    EtcdGone,
    /// The writer lives by its standbys' grants, then its link is cut: none may promise before its grant has run out.
    Granted,
    /// The session of a healthy writer is away for half a second: it stays the writer.
    SessionLost,
    /// Agent and guard of the writer hang, and on the standbys no local port is left to look for it: nothing is decided.
    NoPortLeft,
    /// A standby leaves a writer that goes on to write: it has promised all that it has, gets nothing more, and resumes
    /// after a kill where it was.
    LeftAlive,
    /// A fenced standby boots: its PostgreSQL stays out.
    FencedBoot,
    /// Somebody starts a postmaster as a primary on a standby's host.
    StartedByHand,
    /// Somebody promotes a standby: it is ended.
    PromotedByHand,
    /// After a failover etcd has the term before it again: the pooler's clients stay where they are.
    OlderTerm,
}

/// How many faults it took, and what was seen that must not be.
pub(super) type Outcome = Result<(u64, Option<String>)>;

impl Trap {
    const ALL: [Self; 21] = [
        Self::ResolverHole,
        Self::OneVoter,
        Self::BehindFloor,
        Self::FloorAhead,
        Self::FloorUnreached,
        Self::SyncTouched,
        Self::SyncMoved,
        Self::HostDeath,
        Self::HungPostgres,
        Self::HungAgent,
        Self::HungAgentAndGuard,
        Self::Isolated,
        Self::EtcdGone,
        Self::Granted,
        Self::SessionLost,
        Self::NoPortLeft,
        Self::LeftAlive,
        Self::FencedBoot,
        Self::StartedByHand,
        Self::PromotedByHand,
        Self::OlderTerm,
    ];

    /// The scenarios for a mutant; all of them for the control.
    pub(super) fn of(mutant: Option<Mutant>) -> Vec<Self> {
        let Some(mutant) = mutant else { return Self::ALL.to_vec() };
        let trap = match mutant {
            Mutant::PresentSyncOnly => Self::ResolverHole,
            Mutant::QuorumIsEnough => Self::OneVoter,
            Mutant::FloorNotReachedAtOpen => Self::BehindFloor,
            Mutant::FloorNotHeldBack => Self::FloorAhead,
            Mutant::FloorNotReached => Self::FloorUnreached,
            Mutant::NotClosedAgain => Self::SyncTouched,
            Mutant::SyncNotComparedAtOpen => Self::SyncMoved,
            Mutant::SyncNotBumped | Mutant::HookPasses => Self::HostDeath,
            Mutant::HungWaitedFor => Self::HungPostgres,
            Mutant::GuardNotTold => Self::HungAgent,
            Mutant::DeadManNotArmed => Self::HungAgentAndGuard,
            Mutant::LeaseNeverEnds => Self::Isolated,
            Mutant::GrantsNotAsked => Self::EtcdGone,
            Mutant::GrantDoesNotBlock => Self::Granted,
            Mutant::SilenceNotNeeded => Self::SessionLost,
            Mutant::UnknownProbeIsDeath => Self::NoPortLeft,
            Mutant::PositionBeforeCut | Mutant::PromiseDoesNotBind | Mutant::PromiseNotKept => {
                Self::LeftAlive
            }
            Mutant::FenceIgnored => Self::FencedBoot,
            Mutant::StartGateOpen => Self::StartedByHand,
            Mutant::OlderTermWrites => Self::PromotedByHand,
            Mutant::OlderTermRouted => Self::OlderTerm,
            // A race of milliseconds between a withdrawal and a CLOSE: the model finds it.
            Mutant::WithdrawnAlone
            // Of class off, which these scenarios are not.
            | Mutant::ExpiredNotAwaited
            // A session that somebody revokes, and a host that stands still at that moment: the simulator finds it.
            | Mutant::LeaseNotAwaited
            // The shell kills and waits for the end of all of it before it looks again: the pure test finds it.
            | Mutant::AttestedAlive => return Vec::new(),
        };
        vec![trap]
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ResolverHole => "resolver-hole",
            Self::OneVoter => "one-voter",
            Self::BehindFloor => "behind-floor",
            Self::FloorAhead => "floor-ahead",
            Self::FloorUnreached => "floor-unreached",
            Self::SyncTouched => "sync-touched",
            Self::SyncMoved => "sync-moved",
            Self::HostDeath => "host-death",
            Self::HungPostgres => "hung-postgres",
            Self::HungAgent => "hung-agent",
            Self::HungAgentAndGuard => "hung-agent-and-guard",
            Self::Isolated => "isolated",
            Self::EtcdGone => "etcd-gone",
            Self::Granted => "granted",
            Self::SessionLost => "session-lost",
            Self::NoPortLeft => "no-port-left",
            Self::LeftAlive => "left-alive",
            Self::FencedBoot => "fenced-boot",
            Self::StartedByHand => "started-by-hand",
            Self::PromotedByHand => "promoted-by-hand",
            Self::OlderTerm => "older-term",
        }
    }

    pub(super) async fn play(self, scene: &Scene) -> Outcome {
        match self {
            Self::ResolverHole => close::resolver_hole(scene).await,
            Self::OneVoter => close::one_voter(scene).await,
            Self::BehindFloor => close::behind_floor(scene).await,
            Self::FloorAhead => close::floor_ahead(scene).await,
            Self::FloorUnreached => close::floor_unreached(scene).await,
            Self::SyncTouched => close::sync_touched(scene).await,
            Self::SyncMoved => close::sync_moved(scene).await,
            Self::HostDeath => close::host_death(scene).await,
            Self::HungPostgres => lease::hung_postgres(scene).await,
            Self::HungAgent => lease::hung_agent(scene).await,
            Self::HungAgentAndGuard => lease::hung_agent_and_guard(scene).await,
            Self::Isolated => lease::isolated(scene).await,
            Self::EtcdGone => lease::etcd_gone(scene).await,
            Self::Granted => lease::granted(scene).await,
            Self::SessionLost => leave::session_lost(scene).await,
            Self::NoPortLeft => leave::no_port_left(scene).await,
            Self::LeftAlive => leave::left_alive(scene).await,
            Self::FencedBoot => gate::fenced_boot(scene).await,
            Self::StartedByHand => gate::started_by_hand(scene).await,
            Self::PromotedByHand => gate::promoted_by_hand(scene).await,
            Self::OlderTerm => gate::older_term(scene).await,
        }
    }
}

/// The asynchronous replica.
fn replica(scene: &Scene) -> Result<&str> {
    let mut others = scene.databases().filter(|host| *host != scene.writer);
    others
        .find(|host| !scene.standbys.iter().any(|standby| standby == host))
        .context("the lab has no replica")
}

/// A row that only the first standby has.
async fn row_of_one(scene: &Scene) -> Result<String> {
    let row = format!("row-{}", monotonic_us());
    scene.fault(&["freeze", replica(scene)?]).await?;
    scene.cut(&scene.standbys[1], &scene.writer).await?;
    anyhow::ensure!(scene.write_row(&row).await?, "one standby alone does not acknowledge");
    Ok(row)
}

/// Plays something while Patroni of these hosts hangs, and lets it go on then.
async fn with_hung_patroni<T>(
    scene: &Scene,
    hosts: &[&str],
    play: impl Future<Output = Result<T>>,
) -> Result<T> {
    let stop = async || {
        for host in hosts {
            // Between two starts there is nothing to stop.
            let _ = scene.fault(&["stop", host, "patroni"]).await;
        }
    };
    stop().await;
    let keep_stopped = async {
        loop {
            tokio::time::sleep(STOP_AGAIN).await;
            stop().await;
        }
    };
    let played = tokio::select! {
        played = play => played,
        () = keep_stopped => unreachable!("it has no end"),
    };
    for host in hosts {
        let _ = scene.fault(&["continue", host, "patroni"]).await;
    }
    played
}

/// Waits until the reign that the scene began with is closed.
async fn closed(scene: &Scene) -> Result<()> {
    let is_closed = async || {
        let term = scene.record("term").await?;
        Ok(term.is_some_and(|(term, _)| term["reign"]["state"] == "closed"))
    };
    if !scene.until(FAILOVER, is_closed).await? {
        bail!("the reign of {} is not closed", scene.writer);
    }
    Ok(())
}

/// Whether somebody else writes in time, under a term of its own.
async fn is_followed(scene: &Scene) -> Result<bool> {
    let follows = async || {
        let Some(next) = scene.writer_other_than(&scene.writer).await else { return Ok(false) };
        let Ok(status) = scene.status().await else { return Ok(false) };
        Ok(status["term"]["holder"] == next.as_str() && status["term"]["writable"] == true)
    };
    scene.until(FAILOVER, follows).await
}

fn unless_followed(followed: bool) -> Option<String> {
    (!followed).then(|| format!("no writer with a term of its own after {} s", FAILOVER.as_secs()))
}
