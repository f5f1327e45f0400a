//! `fence` and `unfence`: the record that keeps a node out, by a person's order.

use clap::Args;
use holdfast_store::{Compare, Write};
use holdfast_types::MemberName;
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{FenceReason, FenceRecord, Stored};

use super::agents;
use super::exit::{Exit, Failure};
use super::order::{ATTEMPTS, Action, Order, Settled};
use super::target::{Session, Target, now_wall_ms};
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;
use crate::view::fencing;

/// Options of `fence`.
#[derive(Debug, Clone, Args)]
pub struct FenceOptions {
    /// The member, by Patroni's name
    node: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
    /// Fence the present writer too: all writes stop until another member has taken over
    #[arg(long)]
    accept_outage: bool,
}

/// Options of `unfence`.
#[derive(Debug, Clone, Args)]
pub struct UnfenceOptions {
    /// The member, by Patroni's name
    node: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Runs `fence`.
pub async fn fence(options: &FenceOptions) -> Result<Exit, Failure> {
    if options.accept_outage && !options.order.yes && !options.order.dry_run {
        return Err(Failure::usage("--accept-outage needs --yes: it may stop all writes"));
    }
    let session = options.target.order_session().await?;
    let member = Session::member(&session.view().await?, &options.node)?;
    let mut action = Action::new(&session, "fence", Some(&member), &options.order, options.target.output);
    for _ in 0..ATTEMPTS {
        let view = session.view().await?;
        if view.fences.contains_key(&member) {
            let text = format!("{member} is fenced already, nothing was changed");
            return Ok(action.end(Exit::Done, "unchanged", Check::default(), text));
        }
        let check = fencing::check_fence(&view, &member, options.accept_outage);
        let would = format!("fence {member}: it stays out until it is validated by unfence");
        if let Some(exit) = action.gate(&check, &would)? {
            return Ok(exit);
        }
        let (compares, write) = fence_transaction(&session, &view, &member, options.order.reason());
        if action.send(&view, compares, write).await? == Settled::Done {
            if options.order.wait {
                return action.wait(check, async |view: &ClusterView| is_out(view, &member)).await;
            }
            return Ok(action.end(Exit::Done, "done", check, format!("{member} is fenced")));
        }
    }
    Ok(action.kept_changing(Check::default()))
}

fn fence_transaction(
    session: &Session,
    view: &ClusterView,
    member: &MemberName,
    reason: &str,
) -> (Vec<Compare>, Write) {
    let keys = ClusterKeys::new(&session.cluster);
    let why = FenceReason::Operator { by: session.region.who(), text: reason.to_owned() };
    let record = Stored::new(FenceRecord { why, at_wall_ms: now_wall_ms() });
    let term = view.term.as_ref().map_or(0, |term| term.revision);
    let compares = vec![
        Compare::ModRevision { key: keys.fence(member), is: 0 },
        // Who is the writer must still be what the check saw.
        Compare::ModRevision { key: keys.term(), is: term },
        Compare::ModRevision { key: keys.patroni_leader(), is: view.patroni.leader_revision },
    ];
    (compares, Write::put(keys.fence(member), record.encode()))
}

/// Runs `unfence`.
pub async fn unfence(options: &UnfenceOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let member = Session::member(&session.view().await?, &options.node)?;
    let mut action = Action::new(&session, "unfence", Some(&member), &options.order, options.target.output);
    let keys = ClusterKeys::new(&session.cluster);
    for _ in 0..ATTEMPTS {
        let view = session.view().await?;
        let Some(fence) = view.fences.get(&member) else {
            let text = format!("{member} is not fenced, nothing was changed");
            return Ok(action.end(Exit::Done, "unchanged", Check::default(), text));
        };
        let position = agents::position(&session, &view, &member).await;
        let check = fencing::check_unfence(&view, &member, position);
        let would = format!("let {member} in again: its PostgreSQL may start and stream");
        if let Some(exit) = action.gate(&check, &would)? {
            return Ok(exit);
        }
        let compares = vec![
            Compare::ModRevision { key: keys.fence(&member), is: fence.revision },
            Compare::ModRevision { key: keys.term(), is: view.term.as_ref().map_or(0, |term| term.revision) },
            Compare::ModRevision { key: keys.patroni_leader(), is: view.patroni.leader_revision },
        ];
        if action.send(&view, compares, Write::Delete { key: keys.fence(&member) }).await? == Settled::Done {
            if options.order.wait {
                return action.wait(check, async |view: &ClusterView| is_back(view, &member)).await;
            }
            return Ok(action.end(Exit::Done, "done", check, format!("{member} may come back")));
        }
    }
    Ok(action.kept_changing(Check::default()))
}

fn is_out(view: &ClusterView, member: &MemberName) -> Result<String, String> {
    let state = view.patroni.members.get(member).and_then(|member| member.state.as_deref());
    if view.writer().is_some_and(|(_, writer)| writer == member) {
        return Err(format!("{member} still holds the open term"));
    }
    match state {
        Some("running") => Err(format!("the PostgreSQL of {member} still runs")),
        _ => Ok(format!("{member} is fenced, and its PostgreSQL does not run")),
    }
}

fn is_back(view: &ClusterView, member: &MemberName) -> Result<String, String> {
    let state = view.patroni.members.get(member).and_then(|member| member.state.as_deref());
    match state {
        Some("running") => Ok(format!("{member} runs again")),
        state => Err(format!("{member} is {}", state.unwrap_or("not heard of"))),
    }
}
