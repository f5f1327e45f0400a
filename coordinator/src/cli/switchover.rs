//! `switchover`: asks a coordinator for another writer, and follows what becomes of it.

use clap::Args;
use holdfast_coordinator_core::switchover;
use holdfast_types::record::{DRAIN_TIMEOUT_MS, Switchover, Wanted};

use super::agents;
use super::exit::{Exit, Failure};
use super::operation;
use super::order::{Action, Order};
use super::target::{Session, Target};
use crate::view::operation::observe;

/// What becomes of open transactions when a writer hands over.
#[derive(Debug, Clone, Copy, Args)]
pub struct OpenTransactions {
    /// Of a writer: for how long open transactions may go on, in seconds; then nothing is changed, or they are ended
    #[arg(long, value_name = "SECONDS", default_value_t = DRAIN_TIMEOUT_MS / 1_000)]
    drain_timeout: u64,
    /// End the transactions that are still open after that
    #[arg(long)]
    pub terminate: bool,
}

impl OpenTransactions {
    /// How long they may go on, in milliseconds.
    pub fn drain_timeout_ms(self) -> u64 {
        self.drain_timeout.saturating_mul(1_000)
    }
}

/// Options of `switchover`.
#[derive(Debug, Clone, Args)]
pub struct SwitchoverOptions {
    /// The member that is to write, by Patroni's name; without it the best synchronous standby
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    #[command(flatten)]
    open: OpenTransactions,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Runs `switchover`.
pub async fn switchover(options: &SwitchoverOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let view = session.view().await?;
    let to = options.to.as_deref().map(|node| Session::member(&view, node)).transpose()?;
    let wanted = Switchover {
        to: to.clone(),
        drain_timeout_ms: options.open.drain_timeout_ms(),
        terminate: options.open.terminate,
    };
    let mut action = Action::new(&session, "switchover", to.as_ref(), &options.order, options.target.output);
    let told = agents::preflights(&session.region.identity, &view).await;
    let (check, plan) = switchover::check(&observe(&view, &told), &wanted);
    let would = plan.as_ref().map_or_else(
        || "hand over".to_owned(),
        |plan| {
            let open = if wanted.terminate { "ended" } else { "waited for, and then nothing is changed" };
            format!(
                "make {} the writer instead of {}; clients of {} poolers wait meanwhile; transactions that are open for longer than {} s are {open}",
                plan.successor,
                plan.writer,
                plan.poolers.len(),
                options.open.drain_timeout,
            )
        },
    );
    if let Some(exit) = action.gate(&check, &would)? {
        return Ok(exit);
    }
    operation::ask(&action, check, Wanted::Switchover(wanted)).await
}
