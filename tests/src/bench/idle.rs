//! What an idle region costs: memory (PSS) and processor time of the agent and of Patroni, on the primary and on a
//! standby, and what the agents write to etcd. Nothing is asked of the lab while it is measured.
//!
//! It decides when the region is idle and whom it looks at; `writes` tells whose an entry of etcd's log is, `judge`
//! compares with the targets. `session` calls it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::case::{Case, System};
use super::etcd::Etcd;
use super::health;
use super::lab::Lab;
use super::record::{FORMAT, Records, append};
use super::session::Options;
use super::writes::{Moment, OURS, RaftWrites, changes};
use crate::checker::describe::Host;
use crate::checker::monotonic_us;

/// The region is idle when no key of ours changed for so long: two looks of an agent that sees nothing.
const QUIET: Duration = Duration::from_secs(20);
const QUIET_LOOK: Duration = Duration::from_secs(5);
const QUIET_DEADLINE: Duration = Duration::from_secs(180);
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
pub async fn run(options: &Options, labs: &BTreeMap<System, Lab>) -> anyhow::Result<Records> {
    let mut records = Records::default();
    for (system, lab) in labs {
        let (footprints, writes) = measure(options, *system, lab).await?;
        if let Some(file) = &options.json {
            footprints.iter().try_for_each(|footprint| append(file, footprint))?;
            append(file, &writes)?;
        }
        records.footprints.extend(footprints);
        records.writes.push(writes);
    }
    Ok(records)
}

async fn measure(
    options: &Options,
    system: System,
    lab: &Lab,
) -> anyhow::Result<(Vec<Footprint>, RaftWrites)> {
    let (writer, session) = health::wait_whole(lab, options.mode).await?;
    drop(session);
    let describe = lab.describe().await?;
    let (region, cluster) = describe.choose(&lab.choice)?;
    let names: Vec<&str> = region.instances(&cluster.scope).into_keys().collect();
    let standby = names.iter().find(|name| **name != writer).context("a standby")?;
    let etcd = Etcd::new(lab, &describe)?;
    until_quiet(&etcd).await?;
    let begin = moment(&etcd).await?;
    let begin_us = monotonic_us();
    let mut watched = Vec::new();
    for (name, role) in [(writer.as_str(), "primary"), (*standby, "standby")] {
        let host = region.host(name).context("a host of the region")?;
        watched.extend(watch(host, role)?);
    }
    // The time over which it is measured: there is no condition to wait for.
    tokio::time::sleep(Duration::from_secs(options.idle_seconds)).await;
    let elapsed_ms = elapsed_ms(begin_us);
    let footprints: anyhow::Result<Vec<Footprint>> =
        watched.iter().map(|watched| footprint(watched, system, elapsed_ms)).collect();
    let end = moment(&etcd).await?;
    let hosts: Vec<&str> = region.hosts.iter().map(|host| host.name.as_str()).collect();
    let seconds = self::elapsed_ms(begin_us) / 1000.0;
    let writes = RaftWrites::between(system, seconds, &hosts, &begin, &end);
    Ok((footprints?, writes))
}

/// The interval is measured, not taken from the sleep.
fn elapsed_ms(begin_us: u64) -> f64 {
    // 52 bits of microseconds are 142 years.
    #[allow(clippy::cast_precision_loss)]
    let elapsed_us = (monotonic_us() - begin_us) as f64;
    elapsed_us / 1000.0
}

async fn moment(etcd: &Etcd) -> anyhow::Result<Moment> {
    Ok(Moment { progress: etcd.progress().await?, keys: etcd.below(OURS).await? })
}

/// Waits until no key of ours has changed for a while. A region whose agents never come to rest is not idle, and saying
/// so is better than a figure of it.
async fn until_quiet(etcd: &Etcd) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut last = etcd.below(OURS).await?;
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET {
        tokio::time::sleep(QUIET_LOOK).await;
        let now = etcd.below(OURS).await?;
        let changed: Vec<String> = changes(&last, &now).into_keys().map(str::to_owned).collect();
        if !changed.is_empty() {
            quiet_since = Instant::now();
            last = now;
        }
        if begin.elapsed() > QUIET_DEADLINE {
            let seconds = QUIET_DEADLINE.as_secs();
            bail!(
                "the region is not idle: after {seconds} s these keys still change: {}",
                changed.join(", ")
            );
        }
    }
    Ok(())
}

fn footprint(watched: &Watched, system: System, elapsed_ms: f64) -> anyhow::Result<Footprint> {
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
}

/// The tables of all processes, and of the writes to etcd.
pub fn render(footprints: &[Footprint], writes: &[RaftWrites]) -> String {
    let new_table = |header: &[&str]| {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
        table
    };
    let mut processes =
        new_table(&["idle", "host", "role", "process", "PSS MB", "CPU % of a core", "seconds"]);
    for footprint in footprints {
        processes.add_row([
            footprint.system.name(),
            footprint.host.clone(),
            footprint.role.clone(),
            footprint.process.clone(),
            format!("{:.1}", footprint.pss_mb),
            format!("{:.3}", footprint.cpu_percent),
            format!("{:.0}", footprint.seconds),
        ]);
    }
    let mut log = new_table(&[
        "entries of etcd's log",
        "seconds",
        "all",
        "our keys",
        "other keys\n(Patroni's)",
        "without a\nrevision",
        "most of one agent\n(in a minute, at most)",
    ]);
    for writes in writes {
        let worst = match writes.worst_agent.as_str() {
            "" => String::new(),
            host => format!(", {host}"),
        };
        log.add_row([
            writes.system.name(),
            format!("{:.0}", writes.seconds),
            writes.raft_entries.to_string(),
            writes.ours.to_string(),
            writes.of_others.to_string(),
            writes.without_revision.to_string(),
            if writes.system.has_agents() {
                format!("{} ({:.2}{worst})", writes.ours_of_worst_agent, writes.agent_per_minute())
            } else {
                "no agent".into()
            },
        ]);
    }
    format!("{processes}\n{log}")
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

/// Processor time so far of the whole process, threads that have ended included, and of ended children. The process's own
/// clock counts nanoseconds; a sum over its threads would lose the time of each that ends.
fn used_ms(pids: &[i32]) -> anyhow::Result<f64> {
    let mut used = 0.0;
    for pid in pids {
        let what = || format!("process {pid} has gone: the system was not idle");
        let clock = clock_getcpuclockid(Pid::from_raw(*pid)).with_context(what)?;
        let time = clock_gettime(clock).with_context(what)?;
        // 52 bits of nanoseconds are 52 days of one core.
        #[allow(clippy::cast_precision_loss)]
        let own_ns = (time.tv_sec() * 1_000_000_000 + time.tv_nsec()) as f64;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(what)?;
        used += own_ns / 1e6
            + children_ms(&stat).with_context(|| format!("/proc/{pid}/stat is not understood"))?;
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
    fn the_tables_show_both() {
        use super::super::testing::{footprint, writes};
        let text = render(&[footprint("agent", 7.25, 0.0512)], &[writes(1, 2)]);
        let line = |begin: &str| text.lines().find(|line| line.contains(begin)).unwrap().to_owned();
        assert!(line("primary").contains("7.2") && line("primary").contains("0.051"), "{text}");
        assert!(line("1 (3.00, db1)").contains("23"), "{text}");
        let alone = RaftWrites { system: System::Patroni, ..writes(0, 2) };
        assert!(render(&[], &[alone]).contains("no agent"));
    }

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
