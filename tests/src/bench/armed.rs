//! What it costs to be armed: pgbench in pairs, armed and disarmed, in random order.
//!
//! Pairs, because the machine's own pace drifts by more than the effect; the ratio within a pair does not. pgbench runs
//! its `simple-update` script over the libpq route, with TLS, in the clients' network namespace: its transactions wait
//! for their commit and for little else.
//!
//! It decides the order of a pair and what is compared; `settle` says when a mode has arrived, `judge` whether the cost
//! is within its target. The cluster is left armed, as it was found. `session` calls it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::case::{Case, Mode, System};
use super::command::{output, sibling};
use super::lab::Lab;
use super::record::{FORMAT, Records, append};
use super::session::Options;
use super::statistics::{median, median_interval, percentile, sorted};
use super::{health, settle};
use crate::checker::describe::Describe;

const PGBENCH: &str = "/usr/lib/postgresql/15/bin/pgbench";
/// 1,000,000 accounts: larger than anything that two clients would collide on.
const SCALE: &str = "10";
const CLIENTS: &str = "8";
const ORDER_DEADLINE: Duration = Duration::from_secs(60);
const INITIALISE_DEADLINE: Duration = Duration::from_secs(180);
const RESAMPLES: u32 = 10_000;

/// One run of pgbench.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Transactions a second.
    pub tps: f64,
    /// 99 % of the transactions took at most so long.
    pub p99_ms: f64,
}

/// One pair, as it is appended to the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// [`FORMAT`].
    pub format: u32,
    /// Always `armed-cost`.
    pub case: Case,
    /// The system.
    pub system: System,
    /// Seed of the call.
    pub seed: u64,
    /// Whether the armed run came first.
    pub armed_first: bool,
    /// The cluster armed.
    pub armed: Throughput,
    /// The cluster disarmed.
    pub disarmed: Throughput,
}

/// Runs all pairs against every lab that has agents.
pub async fn run(options: &Options, labs: &BTreeMap<System, Lab>, seed: u64) -> anyhow::Result<Records> {
    if !labs.keys().any(|system| system.has_agents()) {
        bail!("armed-cost needs holdfast-fast or holdfast-normal among --systems");
    }
    let mut records = Records::default();
    for (system, lab) in labs.iter().filter(|(system, _)| system.has_agents()) {
        initialise(lab, options.mode).await.context("pgbench's tables")?;
        let pairs = measure(options, lab, *system, seed).await;
        // The lab is left as it was found, whatever happened.
        let armed = order(lab, "arm").await;
        records.pairs.extend(pairs?);
        armed?;
    }
    Ok(records)
}

async fn measure(options: &Options, lab: &Lab, system: System, seed: u64) -> anyhow::Result<Vec<Pair>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pairs = Vec::new();
    for number in 1..=options.pairs {
        let armed_first = random.bool();
        let first = one(options, lab, armed_first).await?;
        let second = one(options, lab, !armed_first).await?;
        let (armed, disarmed) = if armed_first { (first, second) } else { (second, first) };
        let pair = Pair { format: FORMAT, case: Case::ArmedCost, system, seed, armed_first, armed, disarmed };
        eprintln!(
            "bench: pair {number} of {}: armed {:.0} tps, p99 {:.2} ms; disarmed {:.0} tps, p99 {:.2} ms",
            options.pairs, armed.tps, armed.p99_ms, disarmed.tps, disarmed.p99_ms
        );
        if let Some(file) = &options.json {
            append(file, &pair)?;
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

async fn one(options: &Options, lab: &Lab, armed: bool) -> anyhow::Result<Throughput> {
    order(lab, if armed { "arm" } else { "disarm" }).await?;
    let describe = lab.describe().await?;
    if armed {
        settle::armed(lab, &describe).await?
    } else {
        settle::disarmed(lab, &describe).await?
    }
    pgbench(lab, &describe, options.pgbench_seconds).await
}

/// `holdfast arm` or `holdfast disarm`, as an operator gives it.
async fn order(lab: &Lab, verb: &str) -> anyhow::Result<()> {
    let describe = lab.describe().await?;
    let operator = describe.operator.as_ref().context("the lab has no operator")?;
    let (region, cluster, client) = lab.place(&describe)?;
    let config = format!("HOLDFAST_CONFIG={}", operator.config.display());
    let program = sibling("holdfast")?.display().to_string();
    let place = ["netns", "exec", &client.netns, "env", &config, &program, verb];
    let target = ["--region", &region.name, "--cluster", &cluster.scope];
    let manner = ["--reason", "bench", "--yes", "--wait"];
    // A lab may be too young to have been measured.
    let unmeasured = (verb == "arm").then_some("--accept-unmeasured");
    let arguments: Vec<&str> =
        place.iter().chain(&target).chain(&manner).copied().chain(unmeasured).collect();
    output("ip", &arguments, ORDER_DEADLINE).await.map(drop)
}

async fn initialise(lab: &Lab, mode: Mode) -> anyhow::Result<()> {
    let (writer, session) = health::wait_whole(lab, mode).await?;
    let describe = lab.describe().await?;
    let (region, cluster) = describe.choose(&lab.choice)?;
    let instances = region.instances(&cluster.scope);
    let instance = instances.get(writer.as_str()).context("the writer's instance")?;
    let (socket, port) = (instance.socket_dir.display().to_string(), instance.port().to_string());
    let dbname = lab.client_route(&describe)?.target.dbname().to_owned();
    let arguments = ["-i", "-q", "-s", SCALE, "-h", &socket, "-p", &port, "-U", "postgres", &dbname];
    output(PGBENCH, &arguments, INITIALISE_DEADLINE).await?;
    let grant = "grant select, insert, update, delete on pgbench_accounts, pgbench_branches, pgbench_history, \
         pgbench_tellers to public";
    session.client.batch_execute(grant).await.context("grants on pgbench's tables")
}

async fn pgbench(lab: &Lab, describe: &Describe, seconds: u32) -> anyhow::Result<Throughput> {
    let (_, cluster, client) = lab.place(describe)?;
    let route =
        cluster.routes.iter().find(|route| route.kind == "libpq").context("the lab has no libpq route")?;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let (prefix, time) = (folder.path().join("log").display().to_string(), seconds.to_string());
    let place =
        ["netns", "exec", &client.netns, PGBENCH, "-n", "-b", "simple-update", "-c", CLIENTS, "-j", "2"];
    let what = ["-T", &time, "-l", "--log-prefix", &prefix, &route.dsn];
    let arguments: Vec<&str> = place.iter().chain(&what).copied().collect();
    let deadline = Duration::from_secs(u64::from(seconds) + 60);
    let said = output("ip", &arguments, deadline).await?;
    let tps = tps(&said).with_context(|| format!("pgbench said no tps: {said}"))?;
    Ok(Throughput { tps, p99_ms: p99_ms(folder.path())? })
}

/// `tps = 123.4 (without initial connection time)`.
fn tps(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// From pgbench's logs, one a thread: the third field of each line is the latency in microseconds.
fn p99_ms(folder: &Path) -> anyhow::Result<f64> {
    let mut latencies = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let text = std::fs::read_to_string(file?.path())?;
        let fields = text.lines().filter_map(|line| line.split_whitespace().nth(2));
        latencies.extend(fields.filter_map(|field| field.parse::<f64>().ok()));
    }
    let p99 = percentile(&sorted(latencies), 99.0).context("pgbench logged no transaction")?;
    Ok(p99 / 1000.0)
}

/// A figure of pgbench that being armed may worsen.
pub struct Measure {
    /// Its name.
    pub name: &'static str,
    of: fn(&Throughput) -> f64,
    more_is_better: bool,
}

/// Throughput, and how long commits take.
pub const MEASURES: [Measure; 2] = [
    Measure { name: "tps", of: |throughput| throughput.tps, more_is_better: true },
    Measure { name: "p99 ms", of: |throughput| throughput.p99_ms, more_is_better: false },
];

/// What being armed costs, in percent of the figure; negative when the armed runs were the better ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Median of the pairs.
    pub median_percent: f64,
    /// Lower end of the 95 % interval of the median.
    pub lower_percent: f64,
    /// Upper end of it.
    pub upper_percent: f64,
}

/// The cost by pairs; none of none. The same pairs give the same interval.
pub fn cost(pairs: &[Pair], measure: &Measure) -> Option<Cost> {
    let seed = pairs.first()?.seed;
    let percent = |pair: &Pair| {
        let ratio = (measure.of)(&pair.armed) / (measure.of)(&pair.disarmed);
        if measure.more_is_better { (1.0 - ratio) * 100.0 } else { (ratio - 1.0) * 100.0 }
    };
    let costs: Vec<f64> = pairs.iter().map(percent).collect();
    let (lower_percent, upper_percent) = median_interval(&costs, RESAMPLES, seed)?;
    Some(Cost { median_percent: median(&sorted(costs))?, lower_percent, upper_percent })
}

/// The table of all pairs of these systems.
pub fn render(pairs: &[Pair]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "armed-cost",
        "pairs",
        "armed, median",
        "disarmed, median",
        "cost, median",
        "95 % interval",
    ]);
    let mut systems: BTreeMap<System, Vec<Pair>> = BTreeMap::new();
    for pair in pairs {
        systems.entry(pair.system).or_default().push(pair.clone());
    }
    for (system, pairs) in &systems {
        for measure in &MEASURES {
            let middle = |side: fn(&Pair) -> &Throughput| {
                let values = sorted(pairs.iter().map(|pair| (measure.of)(side(pair))).collect());
                median(&values).map_or_else(String::new, |value| format!("{value:.2}"))
            };
            let cost = cost(pairs, measure);
            table.add_row([
                format!("{} {}", system.name(), measure.name),
                pairs.len().to_string(),
                middle(|pair| &pair.armed),
                middle(|pair| &pair.disarmed),
                cost.map_or_else(String::new, |cost| format!("{:+.2} %", cost.median_percent)),
                cost.map_or_else(String::new, |cost| {
                    format!("{:+.2} % to {:+.2} %", cost.lower_percent, cost.upper_percent)
                }),
            ]);
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbench_is_read() {
        let said = "latency average = 1.9 ms\ntps = 2051.335812 (without initial connection time)\n";
        assert_eq!(tps(said), Some(2_051.335_812));
        assert_eq!(tps("pgbench: error"), None);
        let folder = tempfile::tempdir().unwrap();
        let lines: String = (1..=100).map(|at| format!("0 {at} {} 0 1700000000 5\n", at * 1000)).collect();
        std::fs::write(folder.path().join("log.1"), lines).unwrap();
        assert!((p99_ms(folder.path()).unwrap() - 99.0).abs() < 1e-9);
        assert!(p99_ms(tempfile::tempdir().unwrap().path()).is_err());
    }

    #[test]
    fn the_cost_is_of_pairs() {
        use super::super::testing::pair;
        let mut pairs = vec![pair(99.0, 100.0), pair(49.5, 50.0), pair(198.0, 200.0)];
        for pair in &mut pairs {
            (pair.armed.p99_ms, pair.disarmed.p99_ms) = (3.0, 2.0);
        }
        let [tps, p99] = MEASURES.map(|measure| cost(&pairs, &measure).unwrap());
        for value in [tps.median_percent, tps.lower_percent, tps.upper_percent] {
            assert!((value - 1.0).abs() < 1e-9, "{tps:?}");
        }
        assert!((p99.upper_percent - 50.0).abs() < 1e-9, "longer is worse: {p99:?}");
        assert_eq!(cost(&[], &MEASURES[0]), None);
        let text = render(&pairs);
        assert!(text.contains("+1.00 % to +1.00 %") && text.contains("+50.00 %"), "{text}");
    }
}
