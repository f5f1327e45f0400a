//! The reading verbs that print once: `status`, `list`, `history`, `events`.

use std::time::Duration;

use clap::Args;

use super::agents;
use super::exit::{Exit, Failure};
use super::print;
use super::target::{Output, Session, Target};
use crate::view::events::{EventsReport, HistoryReport};
use crate::view::status::StatusReport;

/// Options of `status` and `list`.
#[derive(Debug, Clone, Args)]
pub struct StatusOptions {
    #[command(flatten)]
    target: Target,
    /// Print again every so many seconds, until interrupted
    #[arg(short, long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

/// Options of `history`.
#[derive(Debug, Clone, Args)]
pub struct HistoryOptions {
    #[command(flatten)]
    target: Target,
}

/// Options of `events`.
#[derive(Debug, Clone, Args)]
pub struct EventsOptions {
    #[command(flatten)]
    target: Target,
    /// At most so many, newest first
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    limit: usize,
}

/// Runs `status`. When etcd does not answer, the agents are asked.
pub async fn status(options: &StatusOptions) -> Result<Exit, Failure> {
    let Some(seconds) = options.watch else { return show_status(&options.target).await };
    loop {
        if let Err(failure) = show_status(&options.target).await {
            print::prose(&failure.text);
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn show_status(target: &Target) -> Result<Exit, Failure> {
    match status_from_etcd(target).await {
        Err(failure) if failure.exit == Exit::Unreachable => status_from_agents(target, failure).await,
        shown => shown,
    }
}

async fn status_from_etcd(target: &Target) -> Result<Exit, Failure> {
    let session = target.session().await?;
    let view = session.view().await?;
    let has_poolers = !view.routes.is_empty();
    let (etcd, hosts) = tokio::join!(session.region.etcd.health(), async {
        if has_poolers { agents::statuses(&session.region).await } else { Vec::new() }
    });
    let mut report = StatusReport::new(&view, Some(&etcd));
    report.add_poolers(&view, &hosts);
    print::report(target.output, &report, || report.text());
    Ok(Exit::Done)
}

/// The state is printed if one agent answers; the exit code says that the store did not.
async fn status_from_agents(target: &Target, failure: Failure) -> Result<Exit, Failure> {
    let region = target.region()?;
    let report = agents::report(&region, target.cluster.as_deref(), &failure.text).await;
    if !report.has_answers() && region.config.agents.is_empty() {
        return Err(failure);
    }
    print::report(target.output, &report, || report.text());
    Ok(Exit::Unreachable)
}

/// Runs `list`.
pub async fn list(options: &StatusOptions) -> Result<Exit, Failure> {
    let session = options.target.session().await?;
    let Some(seconds) = options.watch else {
        show_list(&session, options.target.output).await?;
        return Ok(Exit::Done);
    };
    loop {
        if let Err(failure) = show_list(&session, options.target.output).await {
            print::prose(&failure.text);
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn show_list(session: &Session, output: Output) -> Result<(), Failure> {
    let report = StatusReport::new(&session.view().await?, None);
    let members = serde_json::json!({
        "format": report.format, "cluster": report.cluster, "system_id": report.system_id,
        "read_at": report.read_at, "members": report.members,
    });
    print::report(output, &members, || report.member_table());
    Ok(())
}

/// Runs `history`.
pub async fn history(options: &HistoryOptions) -> Result<Exit, Failure> {
    let report = HistoryReport::new(&options.target.session().await?.view().await?);
    print::report(options.target.output, &report, || report.text());
    Ok(Exit::Done)
}

/// Runs `events`.
pub async fn events(options: &EventsOptions) -> Result<Exit, Failure> {
    let report = EventsReport::new(&options.target.session().await?.view().await?, options.limit);
    print::report(options.target.output, &report, || report.text());
    Ok(Exit::Done)
}
