//! `maintenance on` and `maintenance off`: a person suspends automatic action for a while. The record ends by itself; a
//! fence record or a promise is left alone by both.

use clap::{Args, Subcommand};
use holdfast_store::{Compare, Write};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{MaintenanceRecord, Stored};
use jiff::SignedDuration;

use super::exit::{Exit, Failure};
use super::order::{ATTEMPTS, Action, Order, Settled};
use super::target::{Target, now_wall_ms};
use crate::view::arming::Check;
use crate::view::cluster::ClusterView;
use crate::view::{maintenance, text};

/// What can be done with maintenance.
#[derive(Debug, Clone, Subcommand)]
pub enum MaintenanceVerb {
    /// Suspend automatic action for a while: nothing is failed over, closed or restarted by itself
    On(OnOptions),
    /// End it before its time
    Off(OffOptions),
}

/// Options of `maintenance on`.
#[derive(Debug, Clone, Args)]
pub struct OnOptions {
    /// For how long, from 1m to 24h: it ends by itself
    #[arg(long = "for", value_name = "DURATION", value_parser = length_ms)]
    length_ms: i64,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Options of `maintenance off`.
#[derive(Debug, Clone, Args)]
pub struct OffOptions {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

fn length_ms(text: &str) -> Result<i64, String> {
    let length: SignedDuration =
        text.parse().map_err(|_| "is no duration; say for example 30m or 1h 30m".to_owned())?;
    let bounds = MaintenanceRecord::LENGTH_MS_MIN..=MaintenanceRecord::LENGTH_MS_MAX;
    let length_ms = i64::try_from(length.as_millis()).ok().filter(|ms| bounds.contains(ms));
    length_ms.ok_or_else(|| "must be from 1m to 24h".to_owned())
}

/// Runs either.
pub async fn run(verb: &MaintenanceVerb) -> Result<Exit, Failure> {
    match verb {
        MaintenanceVerb::On(options) => on(options).await,
        MaintenanceVerb::Off(options) => off(options).await,
    }
}

async fn on(options: &OnOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let mut action = Action::new(&session, "maintenance on", None, &options.order, options.target.output);
    let keys = ClusterKeys::new(&session.cluster);
    for _ in 0..ATTEMPTS {
        let view = session.view().await?;
        let check = maintenance::check_on(&view);
        let since_wall_ms = now_wall_ms();
        let until_wall_ms = since_wall_ms + options.length_ms;
        let until = text::moment(until_wall_ms);
        let would = format!(
            "suspend automatic action until {until}: nothing is failed over, closed or restarted by itself"
        );
        if let Some(exit) = action.gate(&check, &would)? {
            return Ok(exit);
        }
        let (by, reason) = (session.region.who(), options.order.reason().to_owned());
        let record = Stored::new(MaintenanceRecord { until_wall_ms, since_wall_ms, by, reason });
        let write = Write::put(keys.maintenance(), record.encode());
        if action.send(&view, compares(&keys, &view), write).await? == Settled::Done {
            if options.order.wait {
                let is_on = async |view: &ClusterView| match maintenance::report(view) {
                    Some(report) => Ok(report.text),
                    None => Err("it is not in force".to_owned()),
                };
                return action.wait(check, is_on).await;
            }
            let text =
                format!("maintenance until {until}; it ends by itself, or with: holdfast maintenance off");
            return Ok(action.end(Exit::Done, "done", check, text));
        }
    }
    Ok(action.kept_changing(Check::default()))
}

/// The record itself, and what the blockers were judged by: no failover is under way.
fn compares(keys: &ClusterKeys, view: &ClusterView) -> Vec<Compare> {
    let revision = |key: String, is: i64| Compare::ModRevision { key, is };
    let mut compares = vec![
        revision(keys.maintenance(), view.maintenance_revision),
        revision(keys.mode(), view.mode_revision()),
        revision(keys.term(), view.term.as_ref().map_or(0, |term| term.revision)),
    ];
    if let Some(term) = view.reign() {
        compares.push(revision(keys.attest(term.term), 0));
    }
    compares
}

async fn off(options: &OffOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let mut action = Action::new(&session, "maintenance off", None, &options.order, options.target.output);
    let key = ClusterKeys::new(&session.cluster).maintenance();
    for _ in 0..ATTEMPTS {
        let view = session.view().await?;
        let Some(report) = maintenance::report(&view) else {
            let text = "no maintenance is in force, nothing was changed";
            return Ok(action.end(Exit::Done, "unchanged", Check::default(), text));
        };
        let check = maintenance::check_off(&view);
        if let Some(exit) = action.gate(&check, &format!("end the {}", report.text))? {
            return Ok(exit);
        }
        let compares = vec![Compare::ModRevision { key: key.clone(), is: view.maintenance_revision }];
        if action.send(&view, compares, Write::Delete { key: key.clone() }).await? == Settled::Done {
            let text = "the maintenance is over: agents fence, close terms and hand over by themselves";
            return Ok(action.end(Exit::Done, "done", check, text));
        }
    }
    Ok(action.kept_changing(Check::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_bounds() {
        assert_eq!((length_ms("30m"), length_ms("1h 30m")), (Ok(1_800_000), Ok(5_400_000)));
        assert_eq!((length_ms("60s"), length_ms("24h")), (Ok(60_000), Ok(86_400_000)));
        for wrong in ["59s", "24h 1s", "-1h", "30", "", "soon", "9999999999999h"] {
            assert!(length_ms(wrong).is_err(), "{wrong}");
        }
    }
}
