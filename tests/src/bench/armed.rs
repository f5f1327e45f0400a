//! What it costs to be armed: pgbench in pairs, armed and disarmed, in random order.

use std::collections::BTreeMap;

use anyhow::bail;

use super::case::System;
use super::lab::Lab;
use super::session::Options;

/// Runs all pairs against the first lab that has agents.
pub async fn run(_options: &Options, _labs: &BTreeMap<System, Lab>, _seed: u64) -> anyhow::Result<()> {
    bail!("not yet")
}
