//! `disk list` and `disk adopt`: what PostgreSQL's directories lie on, on the host where it is run. They ask nobody: not etcd, not
//! the agent, no certificate. The record is the one by which the start gate decides (promise I12).

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_host::{disk, durable};
use holdfast_proto::left_behind::Configuration;
use holdfast_types::record::local_disarm::STATE_DIR;
use holdfast_types::record::{Adopted, FoundPlace, PLACES_FILE, Places, Stored};

use super::exit::{Exit, Failure};
use super::local_disarm::host;
use super::order::Order;
use super::print;
use super::target::{Output, now_wall_ms};
use crate::view::disk::{DiskReport, adopted};

/// A disk that hangs must not hang the terminal.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// What PostgreSQL's directories lie on.
#[derive(Debug, Clone, Subcommand)]
pub enum DiskVerb {
    /// The data directory, pg_wal and each tablespace of this host, and whether they lie where they did
    List(ListOptions),
    /// Declare what is mounted now to be what belongs there, after a new disk or a restored tablespace
    Adopt(AdoptOptions),
}

#[derive(Debug, Clone, Args)]
struct Where {
    /// The data directory, where the host has several instances
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The agent's configuration
    #[arg(long, value_name = "FILE", env = "HOLDFAST_CONFIG", default_value = "/etc/holdfast/agent.toml")]
    agent_config: PathBuf,
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Options of `disk list`.
#[derive(Debug, Clone, Args)]
pub struct ListOptions {
    #[command(flatten)]
    place: Where,
}

/// Options of `disk adopt`.
#[derive(Debug, Clone, Args)]
pub struct AdoptOptions {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    order: Order,
}

/// One data directory of this host.
struct Disks {
    data_dir: PathBuf,
    file: PathBuf,
    recorded: Option<Stored<Places>>,
    found: Vec<FoundPlace>,
}

/// Runs a verb.
pub async fn run(verb: &DiskVerb) -> Result<Exit, Failure> {
    match verb {
        DiskVerb::List(options) => {
            for disks in Disks::look(&options.place, false)? {
                let report = disks.report();
                print::report(options.place.output, &report, || report.table());
            }
            Ok(Exit::Done)
        }
        DiskVerb::Adopt(options) => adopt(options),
    }
}

fn adopt(options: &AdoptOptions) -> Result<Exit, Failure> {
    let mut all = Disks::look(&options.place, true)?;
    let (Some(disks), []) = (all.pop(), &all[..]) else {
        return Err(Failure::usage("this host has several instances: name one with --data-dir DIR"));
    };
    let old = disks.recorded.as_ref().map(|stored| &stored.body);
    let by =
        Adopted { by: host::user(), reason: options.order.reason().to_owned(), at_wall_ms: now_wall_ms() };
    let places = adopted(&disks.found, old, by).map_err(|gone| {
        let gone = gone.join("; ");
        Failure::new(Exit::Refused, format!("nothing is adopted that is not there: {gone}; mount it first"))
    })?;
    let mut report = disks.report();
    if options.order.dry_run {
        report.text = "would be recorded as what belongs there; nothing was changed".into();
    } else {
        super::local_disarm::confirm(
            &host::name(),
            &options.order,
            "let PostgreSQL start on what is mounted now",
        )?;
        let stored = match &disks.recorded {
            Some(old) => old.with_body(places.clone()),
            None => Stored::new(places.clone()),
        };
        durable::write(&disks.file, &stored.encode()).map_err(|error| {
            Failure::new(Exit::Failed, format!("{}: {error}; nothing was changed", disks.file.display()))
        })?;
        report = DiskReport::of(report.data_dir, Some(&places), &disks.found);
        report.text = "recorded as what belongs there; Patroni starts PostgreSQL by itself".into();
    }
    print::report(options.place.output, &report, || format!("{}{}\n", report.table(), report.text));
    Ok(Exit::Done)
}

impl Disks {
    /// `replaces`: the record will be replaced, so one that cannot be read is none.
    fn look(place: &Where, replaces: bool) -> Result<Vec<Self>, Failure> {
        let file = &place.agent_config;
        let configuration = Configuration::read(file);
        let wanted = |data_dir: &Path| place.data_dir.as_deref().is_none_or(|wanted| wanted == data_dir);
        let folders: Vec<_> = configuration.folders.into_iter().filter(|(_, dir)| wanted(dir)).collect();
        if folders.is_empty() {
            let which = place
                .data_dir
                .as_ref()
                .map_or("no instance".into(), |dir| format!("no instance with {}", dir.display()));
            return Err(Failure::usage(format!(
                "{} names {which}; see: holdfast-agent check-config",
                file.display()
            )));
        }
        let state_dir = configuration.state_dir.unwrap_or_else(|| STATE_DIR.into());
        let one = |(folder, data_dir): (String, PathBuf)| {
            let file = state_dir.join(&folder).join(PLACES_FILE);
            let recorded = match read(&file) {
                Err(why) if replaces => {
                    print::prose(&format!("{why}; it is replaced"));
                    None
                }
                other => other.map_err(|why| Failure::new(Exit::Failed, why))?,
            };
            Ok(Self { found: look(&data_dir, &folder)?, data_dir, file, recorded })
        };
        folders.into_iter().map(one).collect()
    }

    fn report(&self) -> DiskReport {
        let recorded = self.recorded.as_ref().map(|stored| &stored.body);
        DiskReport::of(self.data_dir.display().to_string(), recorded, &self.found)
    }
}

fn read(file: &Path) -> Result<Option<Stored<Places>>, String> {
    let name = file.display().to_string();
    let bytes = durable::read_optional(file).map_err(|error| format!("{name}: {error}"))?;
    bytes.map(|bytes| Stored::decode(&name, &bytes)).transpose().map_err(|error| error.to_string())
}

fn look(data_dir: &Path, owner: &str) -> Result<Vec<FoundPlace>, Failure> {
    let (told, answer) = channel();
    let (dir, owner) = (data_dir.to_owned(), owner.to_owned());
    std::thread::spawn(move || told.send(disk::look(&dir, &owner)));
    let failed = |why: String| Failure::new(Exit::Failed, format!("{}: {why}", data_dir.display()));
    match answer.recv_timeout(LOOK_DEADLINE) {
        Ok(found) => found.map_err(|error| failed(error.to_string())),
        Err(_) => Err(Failure::new(
            Exit::TimedOut,
            format!(
                "{} does not answer within {} s: a disk hangs; see: dmesg",
                data_dir.display(),
                LOOK_DEADLINE.as_secs()
            ),
        )),
    }
}
