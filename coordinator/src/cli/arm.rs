//! `arm` and `disarm`: the mode record.
//!
//! `arm` writes no more than the mode. The leader's agent sees it and opens the first term together with the floor
//! record in one transaction (rule 1), because only it knows its session, its incarnation and how far it has flushed.

use clap::Args;
use holdfast_store::{Compare, Write};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{ModeRecord, Stored};
use holdfast_types::renewals::DAYS_KEPT;
use holdfast_types::{Mode, Profile};

use super::agents;
use super::exit::{Exit, Failure};
use super::local_disarm::{self, LocalOptions};
use super::order::{ATTEMPTS, Action, Order, Settled};
use super::target::{Session, Target, now_wall_ms};
use crate::view::arming::{self, Check};
use crate::view::class;
use crate::view::cluster::ClusterView;
use crate::view::stalls::{self, Wanted};

const DISARM: &str =
    "disarm: agents then do nothing, and Patroni alone decides, without the promises of an armed cluster";

/// How far back the renewals of a host count: what agents keep.
const RENEWALS_MS: i64 = DAYS_KEPT * 86_400_000;

/// Options of `arm`.
#[derive(Debug, Clone, Args)]
pub struct ArmOptions {
    #[command(flatten)]
    mode: ModeOptions,
    /// The timing profile that every agent is expected to run; refused if one runs another
    #[arg(long, value_name = "NAME")]
    profile: Option<Profile>,
    /// Arm with the profile fast although it is not known how late session renewals of a host are
    #[arg(long)]
    accept_unmeasured: bool,
}

/// Options of `arm` and `disarm`.
#[derive(Debug, Clone, Args)]
pub struct ModeOptions {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Options of `disarm`.
#[derive(Debug, Clone, Args)]
pub struct DisarmOptions {
    #[command(flatten)]
    common: ModeOptions,
    #[command(flatten)]
    local: LocalOptions,
}

/// Runs `arm`.
pub async fn arm(options: &ArmOptions) -> Result<Exit, Failure> {
    let wanted = Wanted { profile: options.profile, accept_unmeasured: options.accept_unmeasured };
    set(&options.mode, "arm", Mode::Armed, wanted).await
}

/// Runs `disarm`.
pub async fn disarm(options: &DisarmOptions) -> Result<Exit, Failure> {
    let DisarmOptions { common, local } = options;
    if local.local {
        return local_disarm::disarm(local, &common.order, common.target.output).await;
    }
    set(common, "disarm", Mode::Disarmed, Wanted::default()).await
}

async fn set(options: &ModeOptions, name: &'static str, mode: Mode, wanted: Wanted) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let mut action = Action::new(&session, name, None, &options.order, options.target.output);
    for _ in 0..ATTEMPTS {
        let view = session.view().await?;
        // An armed cluster whose etcd has forgotten a reign is armed again: its term record is then out of force.
        let forgotten = mode == Mode::Armed && view.contradiction().is_some();
        if view.mode() == mode && !forgotten {
            return unchanged(&action, mode).await;
        }
        let (check, would) = match mode {
            Mode::Armed => (check_arming(&session, &view, wanted).await, class::arming(&view.patroni)),
            Mode::Observe | Mode::Disarmed => (Check::default(), DISARM),
        };
        if let Some(exit) = action.gate(&check, would)? {
            return Ok(exit);
        }
        let (compares, write) = transaction(&session, &view, mode, options.order.reason());
        if action.send(&view, compares, write).await? == Settled::Done {
            return done(&action, mode, check).await;
        }
    }
    Ok(action.kept_changing(Check::default()))
}

/// What is in the way, by etcd and by what each agent has measured.
async fn check_arming(session: &Session, view: &ClusterView, wanted: Wanted) -> Check {
    let mut check = arming::check(view);
    let asked = agents::reports(session, view, now_wall_ms() - RENEWALS_MS).await;
    let told = view
        .facts
        .iter()
        .filter_map(|(member, facts)| Some((member.clone(), facts.setup.as_ref()?.profile?)));
    stalls::check(&asked, &told.collect(), wanted, &mut check);
    check
}

/// The mode record, compared with what the blockers were judged by: the previous mode, Patroni's configuration.
fn transaction(session: &Session, view: &ClusterView, mode: Mode, reason: &str) -> (Vec<Compare>, Write) {
    let keys = ClusterKeys::new(&session.cluster);
    // Agents tell an order from an older snapshot of etcd by this (rule 25), so it never goes back.
    let before = view.mode.as_ref().map(|seen| seen.body().at_wall_ms + 1);
    let at_wall_ms = now_wall_ms().max(before.unwrap_or_default());
    let body = ModeRecord { mode, by: session.region.who(), reason: reason.to_owned(), at_wall_ms };
    let record = match &view.mode {
        Some(seen) => seen.record.with_body(body),
        None => Stored::new(body),
    };
    let mut compares = vec![Compare::ModRevision { key: keys.mode(), is: view.mode_revision() }];
    if mode == Mode::Armed {
        let leader = view.patroni.leader_revision;
        compares.push(Compare::ModRevision { key: keys.patroni_leader(), is: leader });
        compares.push(Compare::ModRevision { key: keys.patroni_config(), is: view.patroni.config_revision });
    }
    (compares, Write::put(keys.mode(), record.encode()))
}

async fn unchanged(action: &Action<'_>, mode: Mode) -> Result<Exit, Failure> {
    if action.order.wait && !action.order.dry_run {
        return wait(action, mode, Check::default()).await;
    }
    let text = format!("is {mode} already, nothing was changed");
    Ok(action.end(Exit::Done, "unchanged", Check::default(), text))
}

async fn done(action: &Action<'_>, mode: Mode, check: Check) -> Result<Exit, Failure> {
    if action.order.wait {
        return wait(action, mode, check).await;
    }
    let text = match mode {
        Mode::Armed => "is armed; the leader's agent opens the term now (arm --wait waits for it)".to_owned(),
        Mode::Observe | Mode::Disarmed => {
            format!(
                "is {mode}; Patroni alone decides, as soon as the agents have seen it (disarm --wait waits)"
            )
        }
    };
    Ok(action.end(Exit::Done, "done", check, text))
}

/// Armed is over when the term is open; disarmed when no agent takes the cluster for armed any more.
async fn wait(action: &Action<'_>, mode: Mode, check: Check) -> Result<Exit, Failure> {
    if mode == Mode::Armed {
        return action.wait(check, async |view: &ClusterView| arming::arrived(view)).await;
    }
    let seen = async |view: &ClusterView| {
        let modes = agents::modes(action.session, view).await;
        arming::left(view, mode, &modes)
    };
    action.wait(check, seen).await
}
