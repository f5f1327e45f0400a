//! `rolling run`: each node is drained, a command runs here, the node is waited for, and taken back.
//!
//! The command runs where this program runs, and never comes out of etcd. What this side does can be ended at any moment: the
//! drained node is shown by `status`, and the next call with the nodes that are left goes on.

mod back;
mod course;

use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use self::course::{Course, Stop};
use super::drain;
use super::exit::{Exit, Failure};
use super::order::{Action, Order};
use super::switchover::OpenTransactions;
use super::target::Target;
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;

/// The verbs.
#[derive(Debug, Clone, Subcommand)]
pub enum RollingVerb {
    /// Drain, run a command here, wait until the node is whole, take it back: one node after the other
    Run(RunOptions),
}

/// Options of `rolling run`.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Only these: members by Patroni's names, poolers by host.name; without it all members
    #[arg(long, value_name = "NODE,NODE", value_delimiter = ',')]
    only: Vec<String>,
    /// How long the command may take for one node, in seconds; it is not ended then
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    command_timeout: u64,
    /// How long a node may take after it until it streams and counts again, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    back_timeout: u64,
    #[command(flatten)]
    open: OpenTransactions,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
    /// The command, with HOLDFAST_NODE, HOLDFAST_HOST, HOLDFAST_ADDRESS and HOLDFAST_ROLE in its environment
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs a verb.
pub async fn run(verb: &RollingVerb) -> Result<Exit, Failure> {
    let RollingVerb::Run(options) = verb;
    let session = options.target.order_session().await?;
    let view = session.view().await?;
    let nodes = nodes(&view, &options.only)?;
    let mut action = Action::new(&session, "rolling run", None, &options.order, options.target.output);
    let would = format!(
        "drain {}, run {:?} here for each, wait until it is whole, and take it back: one after the other, the writer last",
        nodes.join(", "),
        options.command.join(" ")
    );
    if let Some(exit) = action.gate(&Check::default(), &would)? {
        return Ok(exit);
    }
    let (mut interrupt, mut terminate) = (ends(SignalKind::interrupt())?, ends(SignalKind::terminate())?);
    let course = Course::new(&action, options, nodes);
    let stop = tokio::select! {
        ended = course.run() => ended.err(),
        _ = interrupt.recv() => Some(Stop::Interrupted),
        _ = terminate.recv() => Some(Stop::Interrupted),
    };
    let (exit, result, text) = course.told(stop);
    Ok(action.end(exit, result, Check::default(), text))
}

fn ends(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("signals: {error}")))
}

/// The nodes that are meant, as their records name them.
fn nodes(view: &ClusterView, only: &[String]) -> Result<Vec<String>, Failure> {
    if only.is_empty() {
        return Ok(view.members().iter().map(ToString::to_string).collect());
    }
    let mut nodes = Vec::new();
    for one in only {
        let (node, _) = drain::node(view, one)?;
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

impl RunOptions {
    fn back_within(&self) -> Duration {
        Duration::from_secs(self.back_timeout)
    }
}
