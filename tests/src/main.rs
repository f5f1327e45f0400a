//! `holdfast-lab`: a region in a box, for people, tests and benchmarks.
//!
//! JSON on standard output, prose on standard error. Exit codes of DESIGN section 7; `lab::failure` says which is which here.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use holdfast_lab::campaign::{record, report, session};
use holdfast_lab::contract;
use holdfast_lab::lab::control::{self, Request};
use holdfast_lab::lab::failure::{self, Exit, Failure};
use holdfast_lab::lab::fault::{self, Direction, Kind, Order};
use holdfast_lab::lab::spec::Spec;
use holdfast_lab::lab::{arm, describe, down, exec, files, health, plan, repoint, scenario, supervise, up};
use holdfast_lab::model::command;
#[cfg(feature = "mutants")]
use holdfast_lab::mutants;
use holdfast_lab::scene::hole;
use holdfast_lab::simulator;
use serde_json::{Value, json};

/// Regions of real etcd, Patroni, PostgreSQL, PgBouncer and Holdfast in namespaces of this machine.
#[derive(Debug, Parser)]
#[command(name = "holdfast-lab", version, about, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a lab up; ends when it is healthy
    Up {
        /// A TOML file, or: holdfast, holdfast-fast, patroni-default, patroni-tuned, quick, two-regions
        spec: Option<String>,
        /// Name of the lab: a-z, 0-9 and _
        #[arg(long, value_parser = name)]
        name: String,
    },
    /// The labs that are there
    List,
    /// Everything about a lab, as JSON
    Describe {
        #[arg(value_parser = name)]
        lab: String,
    },
    /// Run a command on a host of a lab
    Exec {
        #[arg(value_parser = name)]
        lab: String,
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Break something; prints the fault with its id
    Fault {
        #[arg(value_parser = name)]
        lab: String,
        /// host-death, power-cycle, freeze, thaw, link-cut, etcd-cut, etcd-down, etcd-slow, etcd-leader-churn, etcd-full,
        /// disk-hang, disk-readonly, cpu-starve, memory-pressure, nft-flush, clock-jump, kill, stop, continue
        kind: Kind,
        /// A host, or @leader[:SCOPE][@REGION]; the kinds of etcd take @region:REGION too, and without any they mean all
        host: Option<String>,
        /// For kill, stop, continue: postmaster, postgres, patroni, pgbouncer (each with :SCOPE where there are several
        /// clusters), agent, guard, etcd. For clock-jump: seconds, such as 30 or -30
        #[arg(allow_negative_numbers = true)]
        target: Option<String>,
        /// For link-cut: drop only the packets between HOST and this one
        #[arg(long)]
        peer: Option<String>,
        /// For link-cut: drop only what arrives at HOST (in) or leaves it (out)
        #[arg(long)]
        direction: Option<Direction>,
    },
    /// End a fault by its id, all faults of a host, or all
    Heal {
        #[arg(value_parser = name)]
        lab: String,
        which: Option<String>,
        #[arg(long, hide = true, default_value_t = 0)]
        after_ms: u64,
    },
    /// Run a scenario: host-death, patroni-hung, postmaster-kill, or a TOML file
    Run {
        #[arg(value_parser = name)]
        lab: String,
        scenario: String,
    },
    /// Break things at random from a seed, and account for every acknowledged row after each
    Campaign(Box<session::Options>),
    /// The totals of the results of many campaigns
    CampaignReport {
        /// The files that --results appended to
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Ask versions of Patroni, their code and their servers, for every fact that the protocol rests on
    Contract(contract::Options),
    /// Play Patroni's resolver hole on real servers: what becomes of one acknowledged row, under each system
    ResolverHole(hole::Options),
    /// Leave rules out of the agents, one at a time, and print after how many faults each is found (test builds only)
    #[cfg(feature = "mutants")]
    Mutants(mutants::Options),
    /// Check the protocol's model, and that every mutant of it is caught
    Model(command::Options),
    /// Take a lab down, in whatever state it is
    Down {
        #[arg(value_parser = name, required_unless_present = "all")]
        lab: Option<String>,
        /// Every lab of this machine
        #[arg(long, conflicts_with = "lab")]
        all: bool,
        /// With --all: only those whose names begin so
        #[arg(long, requires = "all", default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Drive the agent's decisions through simulated faults; prints the seed of what breaks
    Simulate(simulator::command::Arguments),
    /// The init of a host
    #[command(hide = true)]
    Supervise { lab: String, host: String },
    /// Keeps a fault up that has to be done again and again
    #[command(hide = true)]
    Torment { lab: String, fault: String },
    /// Repoint a pooler by polling Patroni
    #[command(hide = true)]
    Repoint { lab: String, host: String, scope: String },
}

fn name(text: &str) -> Result<String, String> {
    plan::check_name(text).map(|()| text.to_owned())
}

fn main() -> ExitCode {
    let verb = match Arguments::parse().verb {
        // Namespaces belong to threads: before the runtime starts any.
        Verb::Supervise { lab, host } => {
            return ended(files::load(&lab).and_then(|plan| supervise::run(plan, &host)));
        }
        // Needs no lab and no runtime: it computes.
        Verb::Model(options) => return ended(command::run(&options)),
        Verb::Simulate(arguments) => return ended(simulator::command::simulate(&arguments)),
        verb => verb,
    };
    ended(runtime().and_then(|runtime| runtime.block_on(run(verb))))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-lab: {error:#}");
            // The numbers are the contract.
            ExitCode::from(failure::exit(&error) as u8)
        }
    }
}

async fn bring_up(lab: &str, spec: Option<&str>) -> Result<()> {
    let spec = Spec::load(spec).map_err(|error| Failure::usage(error.to_string()))?;
    let started = std::time::Instant::now();
    let plan = up::up(lab, spec).await?;
    let (seconds, unarmed) = (started.elapsed().as_secs_f64(), arm::unarmed(&plan));
    eprintln!("lab {lab} is healthy after {seconds:.1} s; holdfast-lab describe {lab} says how to reach it");
    print(&json!({
        "lab": lab, "seconds": seconds, "operator_config": plan.operator_config(), "not_armed": unarmed,
    }))?;
    if unarmed.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{}; the lab stays up, observed only; holdfast arm, or holdfast-lab down {lab}",
        unarmed.join("; ")
    );
    Err(Failure::with(Exit::PartlyDone, text))
}

async fn campaign(options: &session::Options) -> Result<()> {
    match session::run(options).await?.stopped {
        None => Ok(()),
        Some(stop) => Err(Failure::with(Exit::PartlyDone, format!("step {}: {}", stop.number, stop.why))),
    }
}

async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::List => print(&list().await?),
        Verb::Describe { lab } => print(&describe::describe(&files::load(&lab)?).await),
        Verb::Exec { lab, host, command } => {
            let plan = files::load(&lab)?;
            let (_, host) = plan.named_host(&host)?;
            let supervisor = control::ask(&host.control_socket(), &Request::Status).await?;
            exec::exec(&plan, host, &supervisor, &command)
        }
        Verb::Fault { lab, kind, host, target, peer, direction } => {
            let order = Order { kind, host, target, peer, direction };
            print(&fault::inject(&files::load(&lab)?, &order).await?)
        }
        Verb::Heal { lab, which, after_ms } => {
            tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await;
            print(&fault::heal(&files::load(&lab)?, which.as_deref()).await?)
        }
        Verb::Run { lab, scenario } => print(&scenario::run(&files::load(&lab)?, &scenario).await?),
        Verb::Down { lab: Some(lab), .. } => down::down(&lab).await,
        Verb::Down { lab: None, prefix, .. } => down::all(&prefix).await,
        Verb::Repoint { lab, host, scope } => repoint::run(&files::load(&lab)?, &host, &scope).await,
        Verb::Campaign(options) => campaign(&options).await,
        Verb::Contract(options) => contract::run(&options).await,
        Verb::ResolverHole(options) => hole::run(&options).await,
        #[cfg(feature = "mutants")]
        Verb::Mutants(options) => mutants::run(&options).await,
        Verb::CampaignReport { files } => {
            print!("{}", report::render(&record::read(&files)?));
            Ok(())
        }
        Verb::Torment { lab, fault } => fault::torment::run(&files::load(&lab)?, &fault).await,
        Verb::Up { spec, name } => bring_up(&name, spec.as_deref()).await,
        Verb::Supervise { .. } | Verb::Model(_) | Verb::Simulate(_) => {
            unreachable!("main has done this")
        }
    }
}

async fn list() -> Result<Value> {
    let mut labs = Vec::new();
    for lab in files::labs()? {
        labs.push(match files::load(&lab) {
            Ok(plan) => {
                let faults = fault::all(&plan)?;
                let lasting: Vec<_> = faults.into_iter().filter(fault::Fault::lasts).collect();
                let leader =
                    |(region, scope, leader)| json!({ "region": region, "scope": scope, "leader": leader });
                let clusters: Vec<Value> = health::leaders(&plan).await.into_iter().map(leader).collect();
                json!({ "lab": lab, "holdfast": plan.spec.holdfast, "clusters": clusters, "faults": lasting })
            }
            Err(error) => json!({ "lab": lab, "broken": format!("{error:#}") }),
        });
    }
    Ok(labs.into())
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
