//! `drain`, `undrain`: asks a coordinator to make a node ready to be stopped, or to take it back.

use clap::Args;
use holdfast_coordinator_core::drain;
use holdfast_types::MemberName;
use holdfast_types::record::{Drain, OperationState, Wanted};

use super::agents;
use super::exit::{Exit, Failure};
use super::operation;
use super::order::{Action, Order};
use super::switchover::OpenTransactions;
use super::target::{Session, Target};
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;
use crate::view::operation::observe;
use crate::view::text;

/// Options of `drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainOptions {
    /// The member, by Patroni's name, or the pooler, by host.name
    node: String,
    /// Of a writer: the member that is to write; without it the best synchronous standby
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Also while another node is drained
    #[arg(long)]
    beside_drained: bool,
    #[command(flatten)]
    open: OpenTransactions,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Options of `undrain`.
#[derive(Debug, Clone, Args)]
pub struct UndrainOptions {
    /// The member, by Patroni's name, or the pooler, by host.name
    node: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Runs `drain`.
pub async fn drain(options: &DrainOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let view = session.view().await?;
    let (node, member) = node(&view, &options.node)?;
    let to = options.to.as_deref().map(|node| Session::member(&view, node)).transpose()?;
    let wanted = Drain {
        node,
        to,
        beside_drained: options.beside_drained,
        drain_timeout_ms: options.open.drain_timeout_ms(),
        terminate: options.open.terminate,
    };
    let mut action = Action::new(&session, "drain", member.as_ref(), &options.order, options.target.output);
    let told = agents::preflights(&session.region.identity, &view).await;
    let (check, plan) = drain::check(&observe(&view, &told), &wanted);
    if let Some(exit) = action.gate(&check, &would(&wanted.node, plan.as_ref()))? {
        return Ok(exit);
    }
    operation::ask(&action, check, Wanted::Drain(wanted)).await
}

fn would(node: &str, plan: Option<&drain::Plan>) -> String {
    match plan {
        Some(drain::Plan::HandOver(plan)) => {
            format!("make {} the writer instead of {node}, and drain {node}", plan.successor)
        }
        _ => format!("drain {node}"),
    }
}

/// Runs `undrain`.
pub async fn undrain(options: &UndrainOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let view = session.view().await?;
    // A mark may have outlived its node.
    let marked = view.drained.keys().find(|name| name.eq_ignore_ascii_case(&options.node));
    let (node, member) = match marked {
        Some(name) => (name.clone(), Session::member(&view, name).ok()),
        None => node(&view, &options.node)?,
    };
    let mut action = Action::new(&session, "undrain", member.as_ref(), &options.order, options.target.output);
    let seen = observe(&view, &std::collections::BTreeMap::new());
    let mut check = Check::default();
    if drain::undrain(&seen, &node).0 == OperationState::Refused {
        check.block(format!("{node} is not drained"), "holdfast status");
    }
    if let Some(exit) = action.gate(&check, &format!("take {node} back"))? {
        return Ok(exit);
    }
    operation::ask(&action, check, Wanted::Undrain { node }).await
}

/// The member or pooler that an operator means.
pub fn node(view: &ClusterView, node: &str) -> Result<(String, Option<MemberName>), Failure> {
    match Session::member(view, node) {
        Ok(member) => Ok((member.to_string(), Some(member))),
        Err(_) if view.routes.contains_key(node) => Ok((node.to_owned(), None)),
        Err(failure) if view.routes.is_empty() => Err(failure),
        Err(failure) => {
            Err(Failure::usage(format!("{failure}; its poolers are {}", text::list(view.routes.keys()))))
        }
    }
}
