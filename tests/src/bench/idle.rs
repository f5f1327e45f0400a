//! What an idle region costs: memory (PSS) and processor time of the agent and of Patroni, on the primary and on a
//! standby. Nothing is asked of the lab while it is measured.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::case::{Case, System};
use super::health;
use super::lab::Lab;
use super::record::{FORMAT, append};
use super::session::Options;
use crate::checker::describe::Host;
use crate::checker::monotonic_us;

/// After the last question to the lab, before the measurement begins.
const QUIET: Duration = Duration::from_secs(15);
/// The kernel counts processor time of ended children in hundredths of a second.
const TICK_MS: f64 = 10.0;

/// One kind of process on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Footprint {
    /// [`FORMAT`].
    pub format: u32,
    /// Always `idle`.
    pub case: Case,
    /// The system.
    pub system: System,
    /// The host.
    pub host: String,
    /// `primary` or `standby`.
    pub role: String,
    /// `agent` or `patroni`.
    pub process: String,
    /// Proportional set size, MB (10^6 bytes).
    pub pss_mb: f64,
    /// Percent of one core, with its ended children.
    pub cpu_percent: f64,
    /// Length of the measurement.
    pub seconds: f64,
}

/// Processes that are measured together.
struct Watched {
    host: String,
    role: &'static str,
    process: &'static str,
    pids: Vec<i32>,
    begin_ms: f64,
}

/// Measures every lab, one after the other.
pub async fn run(options: &Options, labs: &BTreeMap<System, Lab>) -> anyhow::Result<()> {
    let mut table = Table::new();
    let header = ["idle", "host", "role", "process", "PSS MB", "CPU % of a core", "seconds"];
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for (system, lab) in labs {
        for footprint in measure(options, *system, lab).await? {
            if let Some(file) = &options.json {
                append(file, &footprint)?;
            }
            table.add_row([
                system.name(),
                footprint.host,
                footprint.role,
                footprint.process,
                format!("{:.1}", footprint.pss_mb),
                format!("{:.3}", footprint.cpu_percent),
                format!("{:.0}", footprint.seconds),
            ]);
        }
    }
    println!("{table}");
    Ok(())
}

async fn measure(options: &Options, system: System, lab: &Lab) -> anyhow::Result<Vec<Footprint>> {
    let (writer, session) = health::wait_whole(lab, options.mode).await?;
    drop(session);
    let describe = lab.describe().await?;
    let (region, cluster) = describe.cluster()?;
    let names: Vec<&str> = region.instances(&cluster.scope).into_keys().collect();
    let standby = names.iter().find(|name| **name != writer).context("a standby")?;
    tokio::time::sleep(QUIET).await;
    let begin_us = monotonic_us();
    let mut watched = Vec::new();
    for (name, role) in [(writer.as_str(), "primary"), (*standby, "standby")] {
        let host = region.host(name).context("a host of the region")?;
        watched.extend(watch(host, role)?);
    }
    tokio::time::sleep(Duration::from_secs(options.idle_seconds)).await;
    // The interval is measured, not taken from the sleep.
    #[allow(clippy::cast_precision_loss)]
    let elapsed_ms = (monotonic_us() - begin_us) as f64 / 1000.0;
    let footprint = |watched: &Watched| -> anyhow::Result<Footprint> {
        let used_ms = used_ms(&watched.pids)? - watched.begin_ms;
        Ok(Footprint {
            format: FORMAT,
            case: Case::Idle,
            system,
            host: watched.host.clone(),
            role: watched.role.to_owned(),
            process: watched.process.to_owned(),
            pss_mb: pss_mb(&watched.pids)?,
            cpu_percent: used_ms / elapsed_ms * 100.0,
            seconds: elapsed_ms / 1000.0,
        })
    };
    watched.iter().map(footprint).collect()
}

/// The agent and Patroni of a host, found by its cgroup.
fn watch(host: &Host, role: &'static str) -> anyhow::Result<Vec<Watched>> {
    let cgroup = host.cgroup.as_deref().context("the lab does not say the host's cgroup")?;
    let all = processes_below(cgroup)?;
    let mut watched = Vec::new();
    for (process, mark) in [("agent", "holdfast-agent"), ("patroni", "patroni")] {
        let is_meant = |pid: &i32| command(*pid).is_some_and(|words| is_program(&words, mark));
        let pids: Vec<i32> = all.iter().copied().filter(is_meant).collect();
        if !pids.is_empty() {
            let begin_ms = used_ms(&pids)?;
            watched.push(Watched { host: host.name.clone(), role, process, pids, begin_ms });
        }
    }
    Ok(watched)
}

fn processes_below(cgroup: &Path) -> anyhow::Result<Vec<i32>> {
    let what = || format!("cannot read the cgroup {}", cgroup.display());
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).with_context(what)?;
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(cgroup).with_context(what)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(processes_below(&entry.path())?);
        }
    }
    Ok(pids)
}

/// The words of a process's command line; none when it has gone.
fn command(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// The program itself, or the script that an interpreter runs.
fn is_program(words: &[String], name: &str) -> bool {
    words.iter().take(2).any(|word| Path::new(word).file_name().is_some_and(|file| file == name))
}

/// Processor time so far of all threads, and of ended children.
fn used_ms(pids: &[i32]) -> anyhow::Result<f64> {
    let mut used = 0.0;
    for pid in pids {
        let what = || format!("process {pid} has gone: the system was not idle");
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(what)?.flatten() {
            // A thread that ends in between takes its share along: an idle process does not start threads.
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanoseconds = text.split_whitespace().next().and_then(|field| field.parse::<f64>().ok());
            used += nanoseconds.unwrap_or_default() / 1e6;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(what)?;
        used += children_ms(&stat).with_context(|| format!("/proc/{pid}/stat is not understood"))?;
    }
    Ok(used)
}

/// Fields 16 and 17, `cutime` and `cstime`.
fn children_ms(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    // The first field behind the name is the third of the file.
    Some((ticks(13)? + ticks(14)?) * TICK_MS)
}

fn pss_mb(pids: &[i32]) -> anyhow::Result<f64> {
    let mut total = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .with_context(|| format!("no Pss in {path}"))?;
        let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse().context("Pss")?;
        total += kibibytes * 1024.0 / 1e6;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_a_footprint() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(pss_mb(&[own]).unwrap() > 0.1);
        assert!(used_ms(&[own]).unwrap() > 0.0);
        assert!(used_ms(&[i32::MAX]).is_err());
    }

    #[test]
    fn programs_are_known_by_their_file() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_program(&words("/opt/venv/bin/python /opt/venv/bin/patroni x.yml"), "patroni"));
        assert!(!is_program(&words("/usr/bin/postgres -D /x/patroni"), "patroni"));
        assert!(is_program(&words("/usr/bin/holdfast-agent run"), "holdfast-agent"));
    }

    #[test]
    fn the_time_of_children_is_read() {
        let stat = "7 (a b) S 1 7 7 0 -1 4194304 100 200 0 0 5 6 30 40 20 0 1 0 100 0 0";
        assert_eq!(children_ms(stat), Some(700.0));
    }
}
