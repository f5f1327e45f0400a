//! Arms a cluster as an operator would: with `holdfast arm` and the operator's certificate.
//!
//! The leader's agent opens the first term, and that is waited for. A lab whose cluster cannot be armed stays up: it is told,
//! `describe` says so, and `up` ends with the exit code of what is partly done.

use super::plan::{Instance, Plan, RegionPlan};
use super::{files, shell};

const DEADLINE_MS: u64 = 30_000;
const ARMED: &str = "armed";

/// Tries it and notes the outcome.
pub async fn arm(plan: &Plan, region: &RegionPlan, instance: &Instance<'_>) {
    let scope = &instance.cluster.scope;
    // Any host of the region will do: the certificate counts, not the place.
    let Some(host) = region.hosts.last() else { return };
    let config = format!("HOLDFAST_CONFIG={}", plan.operator_config().display());
    let program = plan.program("holdfast").display().to_string();
    let line = [
        "ip",
        "netns",
        "exec",
        &host.netns,
        "env",
        &config,
        &program,
        "arm",
        "--region",
        &region.name,
        "--cluster",
        scope,
        "--reason",
        "lab",
        "--yes",
        // A lab is armed within seconds of its start.
        "--accept-unmeasured",
        "--wait",
        "--timeout",
        "20",
    ];
    let note = match shell::run(DEADLINE_MS, &line).await {
        Ok(_) => ARMED.to_owned(),
        Err(error) => {
            eprintln!("holdfast-lab: warning: cluster {scope} of {} is not armed: {error:#}", region.name);
            format!("not armed: {error:#}")
        }
    };
    // Without a note it is not armed either: see `unarmed`.
    if let Err(error) = files::write(&file(plan, region, scope), &note) {
        eprintln!("holdfast-lab: warning: {error:#}");
    }
}

/// What became of it: `armed`, or why not.
pub fn outcome(plan: &Plan, region: &RegionPlan, scope: &str) -> Option<String> {
    std::fs::read_to_string(file(plan, region, scope)).ok()
}

/// What is not armed though it should be, and why; empty in a lab without Holdfast.
pub fn unarmed(plan: &Plan) -> Vec<String> {
    if !plan.spec.holdfast || !plan.spec.arm {
        return Vec::new();
    }
    let clusters = plan.regions.iter().flat_map(|region| plan.instances().map(move |one| (region, one)));
    clusters
        .filter_map(|(region, instance)| {
            let scope = &instance.cluster.scope;
            let outcome =
                outcome(plan, region, scope).unwrap_or_else(|| "not armed: nothing is noted".into());
            (outcome != ARMED).then(|| format!("{scope} in {}: {outcome}", region.name))
        })
        .collect()
}

fn file(plan: &Plan, region: &RegionPlan, scope: &str) -> std::path::PathBuf {
    plan.dir().join(format!("armed-{}-{scope}", region.name))
}
