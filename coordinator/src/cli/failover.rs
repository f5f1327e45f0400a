//! `failover`: a person makes one member the writer although acknowledged writes may be lost by it. What can be had without
//! a loss needs no verb: the agents fail over by themselves, and a planned change is Patroni's switchover.

use clap::Args;
use holdfast_store::{Compare, Write};
use holdfast_types::MemberName;
use holdfast_types::Term;
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{OverrideRecord, Stored};

use super::agents;
use super::exit::{Exit, Failure};
use super::order::{ATTEMPTS, Action, Order, Settled};
use super::target::{Session, Target, now_wall_ms};
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;
use crate::view::overriding::{self, Loss};

/// Options of `failover`.
#[derive(Debug, Clone, Args)]
pub struct FailoverOptions {
    /// The member that is to write, by Patroni's name
    node: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
    /// Go on although acknowledged writes may be lost; what is known of them is said before
    #[arg(long)]
    accept_data_loss: bool,
}

/// Runs `failover`.
pub async fn failover(options: &FailoverOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let member = Session::member(&session.view().await?, &options.node)?;
    let mut action = Action::new(&session, "failover", Some(&member), &options.order, options.target.output);
    for _ in 0..ATTEMPTS {
        let view = session.view().await?;
        let position = agents::position(&session, &view, &member).await;
        let loss = overriding::loss(&view, &member, position);
        let check = overriding::check(&view, &member, &loss, options.accept_data_loss);
        let would = format!("make {member} the writer; lost: {}", loss.text);
        if let Some(exit) = action.gate(&check, &would)? {
            return Ok(exit);
        }
        let Some(term) = view.reign().map(|term| term.term) else { continue };
        let (compares, write) = transaction(&session, &view, &member, term, &loss, options.order.reason());
        let accepted = Some(loss.text.clone());
        if action.send_accepting(&view, compares, write, accepted).await? == Settled::Done {
            if options.order.wait {
                return action.wait(check, async |view: &ClusterView| writes(view, &member, term)).await;
            }
            let text = format!("term {term} is given up, and {member} follows; lost: {}", loss.text);
            return Ok(action.end(Exit::Done, "done", check, text));
        }
    }
    Ok(action.kept_changing(Check::default()))
}

fn transaction(
    session: &Session,
    view: &ClusterView,
    member: &MemberName,
    term: Term,
    loss: &Loss,
    reason: &str,
) -> (Vec<Compare>, Write) {
    let keys = ClusterKeys::new(&session.cluster);
    let record = Stored::new(OverrideRecord {
        term,
        successor: member.clone(),
        by: session.region.who(),
        reason: reason.to_owned(),
        known_end: loss.known_end,
        position: loss.position,
        accepted: loss.text.clone(),
        at_wall_ms: now_wall_ms(),
    });
    let revision = |key: String, is: i64| Compare::ModRevision { key, is };
    let compares = vec![
        revision(keys.overriding(), view.override_revision),
        revision(keys.mode(), view.mode_revision()),
        // Open or closed, and whose it is, must still be what the check saw.
        revision(keys.term(), view.term.as_ref().map_or(0, |term| term.revision)),
        revision(keys.maintenance(), view.maintenance_revision),
        revision(keys.fence(member), 0),
    ];
    (compares, Write::put(keys.overriding(), record.encode()))
}

fn writes(view: &ClusterView, member: &MemberName, after: Term) -> Result<String, String> {
    use holdfast_types::record::Reign;
    match view.reign().map(|term| (term.term, &term.reign)) {
        Some((term, Reign::Open { holder, writable: true, .. })) if term > after && holder == member => {
            Ok(format!("{member} writes in term {term}"))
        }
        Some((term, Reign::Open { holder, .. })) if term > after => {
            Err(format!("term {term} is open for {holder}, which does not write yet"))
        }
        _ => Err(format!("term {after} is not followed by another yet")),
    }
}
