//! Pages a person: the configured command gets the incident as JSON on its standard input.

use holdfast_host::run::{self, Command};
use serde::Serialize;

use crate::member::Member;

/// A pager that has not taken the incident by then is reported as failed.
const DEADLINE_MS: u64 = 10_000;

/// Runs the command in a task of its own; its result is in the log.
pub fn page(member: &Member, incident: &impl Serialize) {
    let Some(command) = member.config.paging.clone() else { return };
    let Some((program, arguments)) = command.split_first() else { return };
    let body = serde_json::json!({
        "format": 1,
        "cluster": member.instance.cluster.to_string(),
        "host": member.config.host.to_string(),
        "incident": serde_json::to_value(incident).unwrap_or_default(),
    });
    let command = Command::new(program.as_str())
        .args(arguments)
        .stdin(body.to_string().into_bytes())
        .deadline_ms(DEADLINE_MS);
    tokio::spawn(async move {
        match run::run(command).await {
            Ok(output) if output.success() => tracing::info!("paged"),
            Ok(output) => tracing::warn!(?output, "the paging command failed"),
            Err(error) => tracing::warn!(%error, "the paging command failed"),
        }
    });
}
