//! `hold end`: a person says that a second failover may go on. The record stays, with the person's name and
//! reason; it means nothing once its term is over. Or: that a writer which was lost in a pause is off (rule 24).

use clap::{Args, Subcommand};
use holdfast_store::{Compare, Write};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::HoldRecord;

use super::exit::{Exit, Failure};
use super::order::{ATTEMPTS, Action, Order, Settled};
use super::target::Target;
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;

/// What can be done with a hold.
#[derive(Debug, Clone, Subcommand)]
pub enum HoldVerb {
    /// End the hold: the agents go on with the failover that they hold
    End(HoldOptions),
}

/// Options of `hold end`.
#[derive(Debug, Clone, Args)]
pub struct HoldOptions {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Runs `hold end`.
pub async fn end(options: &HoldOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let mut action = Action::new(&session, "hold end", None, &options.order, options.target.output);
    let key = ClusterKeys::new(&session.cluster).hold();
    for _ in 0..ATTEMPTS {
        let view = session.view().await?;
        let Some(hold) = view.hold_in_force() else {
            if let Some(held) = view.held_by_a_lost_writer() {
                let (term, holder) = (held.body().term, &held.body().holder);
                let would = format!(
                    "let term {term} be closed although {holder} has not said that its fence stands: make sure that its host is off"
                );
                if let Some(exit) = action.gate(&Check::default(), &would)? {
                    return Ok(exit);
                }
                let key = ClusterKeys::new(&session.cluster).held();
                let compares = vec![Compare::ModRevision { key: key.clone(), is: held.revision }];
                if action.send(&view, compares, Write::Delete { key }).await? == Settled::Done {
                    let text = format!("term {term} of {holder} may be closed now");
                    return Ok(action.end(Exit::Done, "done", Check::default(), text));
                }
                continue;
            }
            let text = "nothing is held, nothing was changed";
            return Ok(action.end(Exit::Done, "unchanged", Check::default(), text));
        };
        let would = format!("go on with the failover of term {} ({})", hold.body().term, hold.body().text);
        if let Some(exit) = action.gate(&Check::default(), &would)? {
            return Ok(exit);
        }
        let released_by = Some(session.region.who());
        let released_why = Some(options.order.reason().to_owned());
        let record = hold.record.with_body(HoldRecord { released_by, released_why, ..hold.body().clone() });
        let compares = vec![Compare::ModRevision { key: key.clone(), is: hold.revision }];
        if action.send(&view, compares, Write::put(key.clone(), record.encode())).await? == Settled::Done {
            if options.order.wait {
                // The held term itself stays open until it is closed at last.
                let held = hold.body().term;
                let arrived = async |view: &ClusterView| match view.writer() {
                    Some((term, writer)) if term > held => Ok(format!("term {term} is open for {writer}")),
                    _ => Err(format!("no term after {held} is open yet")),
                };
                return action.wait(Check::default(), arrived).await;
            }
            let text = format!("the hold is ended by {} ({})", session.region.who(), options.order.reason());
            return Ok(action.end(Exit::Done, "done", Check::default(), text));
        }
    }
    Ok(action.kept_changing(Check::default()))
}
