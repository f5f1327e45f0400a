//! Scenarios that find a rule left out: each breaks what the rule is for, and looks at the one thing that must not happen.
//!
//! Against agents with every rule in them each finds nothing; that is the control. They break and look; they mend nothing.

use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_agent_core::mutant::Mutant;

use crate::checker::monotonic_us;
use crate::scene::{COMMIT_ALONE, Scene, hole};

/// Longer than every lease, grace and session of the profile `fast` together, and the failover after them.
const FAILOVER: Duration = Duration::from_secs(30);
/// Longer than a lease and its grace.
const EXPIRED: Duration = Duration::from_secs(6);
/// An outage of etcd that a healthy primary must not notice.
const OUTAGE: Duration = Duration::from_secs(8);
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
    /// The writer dies, the acknowledger cannot lead: the other must not either.
    BehindFloor,
    /// The writer's agent and its Patroni hang: its PostgreSQL must be gone when another writes.
    HungAgent,
    /// Agent and guard of the writer hang: the kernel alone must close its port.
    HungAgentAndGuard,
    /// The writer's link is cut: its PostgreSQL must be gone when another writes.
    Isolated,
    /// etcd is down: the writer goes on.
    EtcdGone,
    /// The session of a healthy writer ends in etcd: it stays the writer.
    SessionLost,
    /// A fenced standby boots: its PostgreSQL stays out.
    FencedBoot,
    /// Somebody starts a postmaster as a primary on a standby's host.
    StartedByHand,
    /// The writer's host dies: the next one is writable, under a term of its own.
    HostDeath,
}

/// How many faults it took, and what was seen that must not be.
pub(super) type Outcome = Result<(u64, Option<String>)>;

impl Trap {
    const ALL: [Self; 11] = [
        Self::ResolverHole,
        Self::OneVoter,
        Self::BehindFloor,
        Self::HungAgent,
        Self::HungAgentAndGuard,
        Self::Isolated,
        Self::EtcdGone,
        Self::SessionLost,
        Self::FencedBoot,
        Self::StartedByHand,
        Self::HostDeath,
    ];

    /// The scenarios for a mutant; all of them for the control.
    pub(super) fn of(mutant: Option<Mutant>) -> Vec<Self> {
        let Some(mutant) = mutant else { return Self::ALL.to_vec() };
        let trap = match mutant {
            Mutant::PresentSyncOnly => Self::ResolverHole,
            Mutant::QuorumIsEnough => Self::OneVoter,
            Mutant::FloorNotReachedAtOpen => Self::BehindFloor,
            Mutant::GuardNotTold => Self::HungAgent,
            Mutant::DeadManNotArmed => Self::HungAgentAndGuard,
            Mutant::LeaseNeverEnds => Self::Isolated,
            Mutant::GrantsNotAsked => Self::EtcdGone,
            Mutant::SilenceNotNeeded => Self::SessionLost,
            Mutant::FenceIgnored => Self::FencedBoot,
            Mutant::StartGateOpen => Self::StartedByHand,
            Mutant::SyncNotBumped | Mutant::HookPasses => Self::HostDeath,
            // Races of milliseconds, or second lines behind another rule: the simulator, the model and the pure tests.
            Mutant::FloorNotHeldBack
            | Mutant::UnknownProbeIsDeath
            | Mutant::PositionBeforeCut
            | Mutant::PromiseNotKept
            | Mutant::PromiseDoesNotBind
            | Mutant::WithdrawnAlone
            | Mutant::FloorNotReached
            | Mutant::AttestedAlive
            | Mutant::NotClosedAgain
            | Mutant::SyncNotComparedAtOpen
            | Mutant::GrantDoesNotBlock
            | Mutant::OlderTermWrites
            | Mutant::OlderTermRouted
            // Of class off, which these scenarios are not.
            | Mutant::ExpiredNotAwaited => return Vec::new(),
        };
        vec![trap]
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ResolverHole => "resolver-hole",
            Self::OneVoter => "one-voter",
            Self::BehindFloor => "behind-floor",
            Self::HungAgent => "hung-agent",
            Self::HungAgentAndGuard => "hung-agent-and-guard",
            Self::Isolated => "isolated",
            Self::EtcdGone => "etcd-gone",
            Self::SessionLost => "session-lost",
            Self::FencedBoot => "fenced-boot",
            Self::StartedByHand => "started-by-hand",
            Self::HostDeath => "host-death",
        }
    }

    pub(super) async fn play(self, scene: &Scene) -> Outcome {
        match self {
            Self::ResolverHole => {
                // Whoever has the row would be named even by too few promises: it is away, and comes back in the end.
                let away = [scene.standbys[0].as_str(), replica(scene)?];
                let ended = hole::play(scene, &away).await?;
                Ok((6, ended.is_lost().then(|| format!("a row is lost: {ended:?}"))))
            }
            Self::OneVoter => one_voter(scene).await,
            Self::BehindFloor => behind_floor(scene).await,
            Self::HungAgent => hung_agent(scene).await,
            Self::HungAgentAndGuard => hung_agent_and_guard(scene).await,
            Self::Isolated => isolated(scene).await,
            Self::EtcdGone => etcd_gone(scene).await,
            Self::SessionLost => session_lost(scene).await,
            Self::FencedBoot => fenced_boot(scene).await,
            Self::StartedByHand => started_by_hand(scene).await,
            Self::HostDeath => host_death(scene).await,
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

/// What the next writer, if there is one, lacks.
async fn lost(scene: &Scene, row: &str, deadline: Duration) -> Result<Option<String>> {
    let Some(next) = scene.next_writer(deadline).await else { return Ok(None) };
    let kept = scene.has_row(&next, row).await?;
    Ok((!kept).then(|| format!("{next} writes without an acknowledged row")))
}

async fn one_voter(scene: &Scene) -> Outcome {
    let row = row_of_one(scene).await?;
    let [with_row, _] = &scene.standbys;
    scene.fault(&["stop", with_row, "agent"]).await?;
    scene.fault(&["host-death", &scene.writer]).await?;
    Ok((4, lost(scene, &row, FAILOVER).await?))
}

async fn behind_floor(scene: &Scene) -> Outcome {
    let row = row_of_one(scene).await?;
    let [with_row, _] = &scene.standbys;
    let keep_stopped = async {
        loop {
            // Between two starts there is nothing to stop.
            let _ = scene.fault(&["stop", with_row, "patroni"]).await;
            tokio::time::sleep(STOP_AGAIN).await;
        }
    };
    let end = async {
        scene.fault(&["host-death", &scene.writer]).await?;
        lost(scene, &row, FAILOVER).await
    };
    tokio::select! {
        found = end => Ok((4, found?)),
        () = keep_stopped => unreachable!("it has no end"),
    }
}

/// A commit of a local session that waits for nobody, while another writes.
async fn two_writers(scene: &Scene) -> Result<Option<String>> {
    // An outage is no second writer: that shows nothing of these rules.
    let next = scene.next_writer(FAILOVER).await.context("nobody has followed, so there is no verdict")?;
    let old = &scene.writer;
    let both = scene.ask(old, COMMIT_ALONE).await.is_ok();
    Ok(both.then(|| format!("{old} acknowledges a local commit while {next} writes")))
}

async fn hung_agent(scene: &Scene) -> Outcome {
    // Its Patroni would end PostgreSQL when another has the lock.
    scene.fault(&["stop", &scene.writer, "patroni"]).await?;
    scene.fault(&["stop", &scene.writer, "agent"]).await?;
    Ok((2, two_writers(scene).await?))
}

async fn isolated(scene: &Scene) -> Outcome {
    scene.fault(&["link-cut", &scene.writer]).await?;
    Ok((1, two_writers(scene).await?))
}

async fn hung_agent_and_guard(scene: &Scene) -> Outcome {
    scene.fault(&["stop", &scene.writer, "guard"]).await?;
    scene.fault(&["stop", &scene.writer, "agent"]).await?;
    tokio::time::sleep(EXPIRED).await;
    let open = scene.commits_over_tcp(&scene.writer).await?;
    Ok((2, open.then(|| format!("{} acknowledges over TCP without a lease", scene.writer))))
}

async fn etcd_gone(scene: &Scene) -> Outcome {
    scene.fault(&["etcd-down"]).await?;
    tokio::time::sleep(OUTAGE).await;
    let goes_on = scene.commits_over_tcp(&scene.writer).await?;
    Ok((1, (!goes_on).then(|| format!("{} acknowledges nothing while etcd is down", scene.writer))))
}

async fn session_lost(scene: &Scene) -> Outcome {
    scene.end_session(&scene.writer).await?;
    tokio::time::sleep(OUTAGE).await;
    let another = scene.writer_other_than(&scene.writer).await;
    Ok((1, another.map(|next| format!("{next} took the place of {}, which was healthy", scene.writer))))
}

async fn fenced_boot(scene: &Scene) -> Outcome {
    let standby = scene.standbys[0].as_str();
    let order = |verb: &'static str| [verb, standby, "--reason", "test", "--yes"];
    scene.lab.operator(&order("fence")).await?;
    let is_out = async || Ok(scene.ask(standby, "SELECT 1").await.is_err());
    scene.until(BOOT, is_out).await?;
    scene.fault(&["power-cycle", standby]).await?;
    // Its agent ends what has started all the same: it must not have answered for a moment.
    let answers = async || Ok(scene.ask(standby, "SELECT 1").await.is_ok());
    let runs = scene.until(BOOT, answers).await?;
    scene.lab.operator(&order("unfence")).await?;
    Ok((1, runs.then(|| format!("the PostgreSQL of {standby}, which is fenced, runs"))))
}

async fn started_by_hand(scene: &Scene) -> Outcome {
    let said = scene.start_as_primary(&scene.standbys[0]).await?;
    let refused = said.contains("PostgreSQL is not started");
    Ok((1, (!refused).then(|| format!("the gate lets a second primary start: {}", said.trim()))))
}

async fn host_death(scene: &Scene) -> Outcome {
    scene.fault(&["host-death", &scene.writer]).await?;
    let follows = async || {
        let Some(next) = scene.writer_other_than(&scene.writer).await else { return Ok(false) };
        let Ok(status) = scene.status().await else { return Ok(false) };
        Ok(status["term"]["holder"] == next.as_str() && status["term"]["writable"] == true)
    };
    let whole = scene.until(FAILOVER, follows).await?;
    let text = || format!("no writer with a term of its own after {} s", FAILOVER.as_secs());
    Ok((1, (!whole).then(text)))
}
