//! The reading verbs that print once: `status`, `list`, `history`, `events`.

use std::time::Duration;

use clap::Args;

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

/// Runs `status`.
pub async fn status(options: &StatusOptions) -> Result<Exit, Failure> {
    repeat(options, async |session: &Session| {
        let view = session.view().await?;
        let etcd = session.region.etcd.health().await;
        let report = StatusReport::new(&view, Some(&etcd));
        match options.target.output {
            Output::Json => print::json(&report),
            Output::Table => print::data(&report.text()),
        }
        Ok(())
    })
    .await
}

/// Runs `list`.
pub async fn list(options: &StatusOptions) -> Result<Exit, Failure> {
    repeat(options, async |session: &Session| {
        let report = StatusReport::new(&session.view().await?, None);
        match options.target.output {
            Output::Json => print::json(&serde_json::json!({
                "format": report.format, "cluster": report.cluster, "system_id": report.system_id,
                "read_at": report.read_at, "members": report.members,
            })),
            Output::Table => print::data(&report.member_table()),
        }
        Ok(())
    })
    .await
}

/// Prints once, or again and again; then a failure is printed too, and the next turn tries again.
async fn repeat(
    options: &StatusOptions,
    show: impl AsyncFn(&Session) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let session = options.target.session().await?;
    let Some(seconds) = options.watch else {
        show(&session).await?;
        return Ok(Exit::Done);
    };
    loop {
        if let Err(failure) = show(&session).await {
            print::prose(&failure.text);
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

/// Runs `history`.
pub async fn history(options: &HistoryOptions) -> Result<Exit, Failure> {
    let report = HistoryReport::new(&options.target.session().await?.view().await?);
    match options.target.output {
        Output::Json => print::json(&report),
        Output::Table => print::data(&report.text()),
    }
    Ok(Exit::Done)
}

/// Runs `events`.
pub async fn events(options: &EventsOptions) -> Result<Exit, Failure> {
    let report = EventsReport::new(&options.target.session().await?.view().await?, options.limit);
    match options.target.output {
        Output::Json => print::json(&report),
        Output::Table => print::data(&report.text()),
    }
    Ok(Exit::Done)
}
