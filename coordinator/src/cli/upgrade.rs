//! `upgrade status` and `upgrade finalize`: which builds run, and from when on records may be written in a newer format.

use clap::{Args, Subcommand};
use holdfast_store::{Compare, Write};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{FORMAT as RECORD_FORMAT, FormatRecord, Stored};

use super::exit::{Exit, Failure};
use super::order::{ATTEMPTS, Action, Order, Settled};
use super::print;
use super::target::{Target, now_wall_ms};
use crate::view::arming::Check;
use crate::view::upgrade::{self, UpgradeReport};

/// What can be done with an upgrade.
#[derive(Debug, Clone, Subcommand)]
pub enum UpgradeVerb {
    /// Which build runs on each host, and which format of records it reads
    Status(StatusOptions),
    /// Let records be written in the newest format that this command knows; an older build cannot come back after that
    Finalize(FinalizeOptions),
}

/// Options of `upgrade status`.
#[derive(Debug, Clone, Args)]
pub struct StatusOptions {
    #[command(flatten)]
    target: Target,
}

/// Options of `upgrade finalize`.
#[derive(Debug, Clone, Args)]
pub struct FinalizeOptions {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    order: Order,
}

/// Runs either.
pub async fn run(verb: &UpgradeVerb) -> Result<Exit, Failure> {
    match verb {
        UpgradeVerb::Status(options) => status(options).await,
        UpgradeVerb::Finalize(options) => finalize(options).await,
    }
}

async fn status(options: &StatusOptions) -> Result<Exit, Failure> {
    let view = options.target.session().await?.view().await?;
    let report = UpgradeReport::new(&view, RECORD_FORMAT);
    print::report(options.target.output, &report, || report.text());
    Ok(Exit::Done)
}

async fn finalize(options: &FinalizeOptions) -> Result<Exit, Failure> {
    let session = options.target.order_session().await?;
    let mut action = Action::new(&session, "upgrade finalize", None, &options.order, options.target.output);
    let key = ClusterKeys::new(&session.cluster).format();
    for _ in 0..ATTEMPTS {
        let view = session.view().await?;
        if upgrade::is_finalised(&view, RECORD_FORMAT) {
            let text = format!("format {RECORD_FORMAT} is finalised already, nothing was changed");
            return Ok(action.end(Exit::Done, "unchanged", Check::default(), text));
        }
        let check = upgrade::check(&view, RECORD_FORMAT);
        let would = format!(
            "let records be written in format {RECORD_FORMAT}: a build that reads less cannot come back"
        );
        if let Some(exit) = action.gate(&check, &would)? {
            return Ok(exit);
        }
        let body = FormatRecord {
            finalised: RECORD_FORMAT,
            by: session.region.who(),
            reason: options.order.reason().to_owned(),
            at_wall_ms: now_wall_ms(),
        };
        let record = match &view.format {
            Some(seen) => seen.record.with_body(body),
            None => Stored::new(body),
        };
        let compares = vec![Compare::ModRevision { key: key.clone(), is: view.format_revision }];
        if action.send(&view, compares, Write::put(key.clone(), record.encode())).await? == Settled::Done {
            let text = format!("records may be written in format {RECORD_FORMAT} from now on");
            return Ok(action.end(Exit::Done, "done", check, text));
        }
    }
    Ok(action.kept_changing(Check::default()))
}
