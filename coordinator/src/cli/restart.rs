//! `restart`: asks a coordinator to have PostgreSQL started anew, one member after the other.

use clap::Args;
use holdfast_coordinator_core::restart;
use holdfast_types::record::{Restart, Wanted};

use super::agents;
use super::exit::{Exit, Failure};
use super::operation;
use super::order::{Action, Order};
use super::switchover::OpenTransactions;
use super::target::{Session, Target};
use crate::view::operation::observe;
use crate::view::text;

/// Options of `restart`.
#[derive(Debug, Clone, Args)]
pub struct RestartOptions {
    /// These members, by Patroni's names
    #[arg(required_unless_present = "rolling")]
    nodes: Vec<String>,
    /// All members of which Patroni reports a pending restart
    #[arg(long, conflicts_with = "nodes")]
    rolling: bool,
    /// With --rolling: all members
    #[arg(long, requires = "rolling")]
    all: bool,
    #[command(flatten)]
    open: OpenTransactions,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Runs `restart`.
pub async fn restart(options: &RestartOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let view = session.view().await?;
    let only: Result<Vec<_>, _> = options.nodes.iter().map(|node| Session::member(&view, node)).collect();
    let only = only?;
    let node = only.first().filter(|_| only.len() == 1).cloned();
    let wanted = Restart {
        only,
        all: options.all,
        drain_timeout_ms: options.open.drain_timeout_ms(),
        terminate: options.open.terminate,
    };
    let mut action = Action::new(&session, "restart", node.as_ref(), &options.order, options.target.output);
    let told = agents::preflights(&session.region.identity, &view).await;
    let (check, plan) = restart::check(&observe(&view, &told), &wanted);
    let would = plan.as_ref().map_or_else(|| "restart".to_owned(), would);
    if let Some(exit) = action.gate(&check, &would)? {
        return Ok(exit);
    }
    operation::ask(&action, check, Wanted::Restart(wanted)).await
}

fn would(plan: &restart::Plan) -> String {
    if plan.members.is_empty() {
        return "restart nobody: Patroni reports no pending restart (--all restarts everybody)".into();
    }
    let hand_over = match plan.members.contains(&plan.writer) {
        true => format!("; {} hands over for that", plan.writer),
        false => String::new(),
    };
    format!("restart {}, one after the other{hand_over}", text::list(&plan.members))
}
