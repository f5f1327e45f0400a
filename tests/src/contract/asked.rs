//! The facts that can be asked of Patroni's own classes, without servers: `asked.py` does it, in the version's own Python.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Answer;
use crate::bench::command::output;
use crate::lab::plan::patroni;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/contract/asked.py");
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Said {
    facts: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    fact: String,
    holds: Option<bool>,
    evidence: String,
}

/// Asks an installed version.
pub async fn ask(version: Option<&str>) -> Result<Vec<Answer>> {
    let said = output(patroni(version, "python"), &[SCRIPT], DEADLINE).await?;
    let said: Said = serde_json::from_str(&said).context("what asked.py said")?;
    let answer = |One { fact, holds, evidence }| Answer { fact, holds, evidence };
    Ok(said.facts.into_iter().map(answer).collect())
}
