//! `disarm --local`: takes Holdfast out of the way on the host that it is run on. It asks nobody: not etcd, not the agent, no
//! certificate, and no configuration that could not be read.
//!
//! First the record, by which the gates, the agent and `boot-deny` let everything pass; then what stands in the way already:
//! the guard's deadline, the packet filter. What a live agent puts back meanwhile is opened again until it has seen the record.

pub mod host;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use holdfast_guard::client::{Client, GuardError};
use holdfast_host::nftables;
use holdfast_host::run::{self, Command};
use holdfast_types::record::{LocalDisarm, LocalEnd, Stored};

use self::host::Host;
use super::exit::{Exit, Failure};
use super::order::Order;
use super::print;
use super::target::{Output, now_wall_ms};
use crate::view::local_disarm::{self, LocalReport, Outcome};
use crate::view::text;

/// A live agent looks for the record every 2 s; what it puts back until then is opened again.
const SETTLE: Duration = Duration::from_millis(4_000);
const LOOK: Duration = Duration::from_millis(250);
/// The agent's program, whose hooks Patroni runs.
const AGENT_PROGRAM: &str = "/usr/bin/holdfast-agent";

/// The options that only `--local` has.
#[derive(Debug, Clone, Args)]
pub struct LocalOptions {
    /// On the host where it is run, as root, without etcd, agent or certificate
    #[arg(long)]
    pub local: bool,
    /// Let Holdfast act on this host again
    #[arg(long, requires = "local", conflicts_with = "over_fence")]
    undo: bool,
    /// Let PostgreSQL start here although a fence stands against it
    #[arg(long, requires = "local")]
    over_fence: bool,
    /// The agent's configuration, for its directories
    #[arg(long, requires = "local", value_name = "FILE", default_value = "/etc/holdfast/agent.toml")]
    agent_config: PathBuf,
    /// The agent's state directory, where its configuration cannot be read
    #[arg(long, requires = "local", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The directory of its sockets, likewise
    #[arg(long, requires = "local", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The directory of PostgreSQL's programs, likewise
    #[arg(long, requires = "local", value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// Runs it.
pub async fn disarm(options: &LocalOptions, order: &Order, output: Output) -> Result<Exit, Failure> {
    let host = Host::look(options)?;
    let action = if options.undo { "disarm --local --undo" } else { "disarm --local" };
    let mut report =
        LocalReport::new(action, host.name.clone(), host.user.clone(), order.reason().to_owned());
    let exit = if options.undo {
        undo(&host, order, &mut report).await?
    } else {
        open(&host, options, order, &mut report).await?
    };
    let notes = report.check.text();
    if !notes.is_empty() {
        print::prose(&notes);
    }
    print::report(output, &report, || report.text());
    Ok(exit)
}

async fn open(
    host: &Host,
    options: &LocalOptions,
    order: &Order,
    report: &mut LocalReport,
) -> Result<Exit, Failure> {
    report.check = local_disarm::before(&host.memories);
    report.check.warnings.extend(host.notes.iter().cloned());
    let would = "open this host: its gates let everything pass, nothing of ours fences it, Patroni alone decides on it";
    if order.dry_run {
        (report.result, report.text) = ("would_do", format!("nothing stands in the way; would {would}"));
        return Ok(Exit::Done);
    }
    confirm(&host.name, order, would)?;
    let record = record(host, options, order);
    if let Err(why) = keep(host, &record).await {
        report.add("record", Outcome::Failed, why, "free space, or name another directory: --state-dir DIR");
        (report.result, report.text) = ("failed", "failed, nothing was changed".into());
        return Ok(Exit::Failed);
    }
    let kept: Vec<String> = host.records().iter().map(|file| file.display().to_string()).collect();
    report.add("record", Outcome::Done, format!("{record}, kept in {}", kept.join(" and ")), "");
    // At once, because its deadline may be near; and again after an agent that lives has seen the record, which is reported.
    let _ = tell_guard(host);
    open_tables(host, report).await;
    stand_down(host, report);
    fence(host, &record, report);
    gates(report).await;
    let effect = "I2 does not hold on this host, and its agent stands aside. Do the same on every host of the cluster, or, where \
                  etcd answers: holdfast disarm";
    if report.is_complete() {
        report.text = format!("Patroni alone decides here; {effect}");
        return Ok(Exit::Done);
    }
    report.result = "partly_done";
    report.text = format!("partly done, see what is not done above; {effect}");
    Ok(Exit::Partly)
}

/// One that stands keeps who gave it, and when.
fn record(host: &Host, options: &LocalOptions, order: &Order) -> LocalDisarm {
    let standing =
        host.record.as_ref().filter(|record| record.body.stands()).map(|record| record.body.clone());
    let bin_dir = host.bin_dir.as_ref().map(|dir| dir.display().to_string());
    let new = LocalDisarm {
        by: host.user.clone(),
        reason: order.reason().to_owned(),
        at_wall_ms: now_wall_ms(),
        over_fence: false,
        bin_dir: None,
        ended: None,
    };
    let before = standing.unwrap_or(new);
    LocalDisarm { over_fence: before.over_fence || options.over_fence, bin_dir, ..before }
}

async fn keep(host: &Host, record: &LocalDisarm) -> Result<(), String> {
    let stored = match &host.record {
        Some(old) => old.with_body(record.clone()),
        None => Stored::new(record.clone()),
    };
    let (files, bytes) = (host.records(), stored.encode());
    // A disk that hangs must not hang whoever asks.
    let writing = tokio::task::spawn_blocking(move || {
        for file in files {
            let at = |error: std::io::Error| format!("{}: {error}", file.display());
            if let Some(folder) = file.parent().filter(|folder| !folder.exists()) {
                std::fs::create_dir_all(folder).map_err(at)?;
                // The gates run as Patroni's user.
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).map_err(at)?;
            }
            holdfast_host::durable::write(&file, &bytes).map_err(at)?;
        }
        Ok(())
    });
    match tokio::time::timeout(Duration::from_secs(5), writing).await {
        Ok(done) => done.map_err(|error| error.to_string())?,
        Err(_) => Err("the state directory does not answer".into()),
    }
}

/// The guard must not kill any more, nor leave the watchdog ticking.
fn tell_guard(host: &Host) -> Result<(), GuardError> {
    Client::connect(&host.guard())?.stand_down()
}

fn stand_down(host: &Host, report: &mut LocalReport) {
    match tell_guard(host) {
        Ok(()) => {
            report.add("guard", Outcome::Done, "guards nothing any more, and has let go of the watchdog", "")
        }
        Err(GuardError::Io(error))
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            report.add("guard", Outcome::Nothing, format!("none runs at {}", host.guard().display()), "");
        }
        Err(error) => {
            let next = "systemctl kill --signal=KILL holdfast-guard; the next one guards nothing, but feeds no watchdog \
                        either: then give this order again";
            report.add("guard", Outcome::Failed, error.to_string(), next);
        }
    }
}

/// Our tables, and what a live agent puts back before it has seen the record.
async fn open_tables(host: &Host, report: &mut LocalReport) {
    let begun = Instant::now();
    let mut removed = BTreeSet::new();
    let removing = loop {
        if let Err(error) = remove_tables(&mut removed).await {
            break Err(error);
        }
        if !host.agent_is_alive() || begun.elapsed() >= SETTLE {
            break Ok(());
        }
        tokio::time::sleep(LOOK).await;
        // It may have told the guard once more. What comes of the last time is reported.
        let _ = tell_guard(host);
    };
    let left = match removing {
        Ok(()) => nftables::ours().await,
        Err(error) => Err(error),
    };
    let by_hand = "nft list tables; then for each of ours: nft delete table inet NAME";
    match left {
        Err(problem) => report.add("packet filter", Outcome::Failed, problem.to_string(), by_hand),
        Ok(left) if !left.is_empty() => report.add(
            "packet filter",
            Outcome::Failed,
            format!("{} came back: this agent does not know the order", left.join(", ")),
            "systemctl stop holdfast-agent, then give this order again",
        ),
        Ok(_) if removed.is_empty() => {
            report.add("packet filter", Outcome::Nothing, "no table of ours is there", "")
        }
        Ok(_) => report.add("packet filter", Outcome::Done, format!("removed {}", text::list(removed)), ""),
    }
}

async fn remove_tables(removed: &mut BTreeSet<String>) -> Result<(), nftables::NftError> {
    for name in nftables::ours().await? {
        nftables::remove_ours(&name).await?;
        removed.insert(name);
    }
    Ok(())
}

/// Promise I5: the order does not lift it by itself.
fn fence(host: &Host, record: &LocalDisarm, report: &mut LocalReport) {
    let fences = local_disarm::fences(&host.memories).join("; ");
    if fences.is_empty() {
        return;
    }
    if record.over_fence {
        return report.add("fence", Outcome::Done, format!("does not count here: {fences}"), "");
    }
    let next = "holdfast unfence MEMBER; or, where etcd is gone: the same order with --over-fence";
    report.add("fence", Outcome::Failed, format!("PostgreSQL does not start: {fences}"), next);
}

/// A build whose program does not run at all cannot let anything pass.
async fn gates(report: &mut LocalReport) {
    if !std::path::Path::new(AGENT_PROGRAM).exists() {
        return;
    }
    match run::run(Command::new(AGENT_PROGRAM).args(["version"])).await {
        Ok(output) if output.success() => {
            report.add("gates", Outcome::Done, "let everything pass while the record stands", "");
        }
        other => {
            let why = match other {
                Ok(output) => format!("{AGENT_PROGRAM} does not run: {}", output.stderr.trim()),
                Err(error) => error.to_string(),
            };
            let next = "install the package before it again; or take both hooks out: pre_promote (patronictl edit-config) and \
                        bin_name.postgres (patroni.yml), then patronictl reload";
            report.add("gates", Outcome::Failed, why, next);
        }
    }
}

async fn undo(host: &Host, order: &Order, report: &mut LocalReport) -> Result<Exit, Failure> {
    let standing = host.record.as_ref().map(|record| &record.body).filter(|record| record.stands());
    let Some(standing) = standing else {
        report.check.warnings.extend(host.notes.iter().cloned());
        (report.result, report.text) = ("unchanged", "is not disarmed locally, nothing was changed".into());
        return Ok(Exit::Done);
    };
    report.check = local_disarm::undo(&host.memories);
    if !report.check.blockers.is_empty() {
        (report.result, report.text) = ("refused", "refused, nothing was changed".into());
        return Ok(Exit::Refused);
    }
    let would = "let Holdfast act on this host again, as soon as its cluster is armed";
    if order.dry_run {
        (report.result, report.text) = ("would_do", format!("nothing stands in the way; would {would}"));
        return Ok(Exit::Done);
    }
    confirm(&host.name, order, would)?;
    let end =
        LocalEnd { by: host.user.clone(), reason: order.reason().to_owned(), at_wall_ms: now_wall_ms() };
    let ended = LocalDisarm { ended: Some(end), ..standing.clone() };
    match keep(host, &ended).await {
        Ok(()) => {
            report.add("record", Outcome::Done, format!("ended: {standing}"), "");
            report.text =
                "its agent takes part again within 2 s; next: holdfast arm, once no host is disarmed".into();
            Ok(Exit::Done)
        }
        Err(why) => {
            report.add(
                "record",
                Outcome::Failed,
                why,
                "repair the state directory, then give this order again",
            );
            (report.result, report.text) = ("failed", "failed, nothing was changed".into());
            Ok(Exit::Failed)
        }
    }
}

/// Asks the person to type the host's name.
/// Asks the person at the terminal, who types the name of the host.
pub fn confirm(host: &str, order: &Order, would: &str) -> Result<(), Failure> {
    if order.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "this would {would}; say --yes, because nobody can be asked here"
        )));
    }
    print::prose(&format!("This will {would}.\nType the name of the host ({host}) to go on:"));
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if read.is_ok() && line.trim() == host {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "not confirmed, nothing was changed"))
}
