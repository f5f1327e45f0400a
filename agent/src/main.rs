//! The agent of one host: it observes the host's PostgreSQL and PgBouncer, holds the host's session in etcd, leaves a
//! dead writer, closes its reign, and gates starts and promotions.
//!
//! The same binary is the agent, the promotion hook, and (called as `postgres`) the start gate.

mod act;
mod client;
mod config;
mod daemon;
mod disk;
mod gate;
mod history;
mod local_disarm;
mod member;
mod observe;
mod pooler;
mod renewals;
mod route_command;
mod serve;
mod session;
mod telemetry;
mod world;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use holdfast_proto::tls::Identity;
use holdfast_types::{Namespace, Scope};

use config::{Config, Problem};

/// Exit codes of every Holdfast program (DESIGN section 7).
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// The version of this build, as agents and people are told it.
#[cfg(not(feature = "as-newer-build"))]
const BUILD: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "as-newer-build")]
const BUILD: &str = "999.0.0-test";

/// What `version` prints. A test build says what it is.
#[cfg(not(feature = "mutants"))]
const VERSION: &str = BUILD;
#[cfg(feature = "mutants")]
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " WITH MUTANTS: a test build that can leave out rules; never for real data"
);

#[derive(Debug, Parser)]
#[command(name = "holdfast-agent", version = VERSION, about = "The agent of one host of a PostgreSQL fleet")]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, env = "HOLDFAST_CONFIG", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent.
    Run,
    /// Report every problem of the configuration, and exit 2 if there is one.
    CheckConfig,
    /// Patroni's `pre_promote`: exit 0 promotes, exit 1 gives the lock back.
    PromoteGate {
        /// Patroni's namespace, without outer slashes.
        #[arg(long, value_parser = |text: &str| Namespace::new(text))]
        namespace: Namespace,
        /// Patroni's scope.
        #[arg(long, value_parser = |text: &str| Scope::new(text))]
        scope: Scope,
    },
    /// The start gate, as `postgres` would be called: `start-gate -- -D DIR ...`. Patroni calls it by the name `postgres`.
    StartGate {
        /// Arguments of `postgres`.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// For the start gate: print what the directories of a data directory lie on.
    #[command(hide = true)]
    Places {
        /// The folder of its cluster, which is in the names of the markers.
        #[arg(long)]
        owner: String,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// At boot, before Patroni: deny replication until the agent knows whom to follow.
    BootDeny,
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if gate::start::is_called_as_postgres(arguments.next().as_deref()) {
        let file =
            std::env::var_os("HOLDFAST_CONFIG").map_or_else(|| config::DEFAULT_PATH.into(), PathBuf::from);
        return gate::start::run(&file, &arguments.collect::<Vec<_>>()).into();
    }
    let arguments = Arguments::parse();
    match arguments.verb {
        Verb::Version => {
            println!("holdfast-agent {VERSION}");
            return ExitCode::SUCCESS;
        }
        Verb::StartGate { arguments: of_postgres } => {
            return gate::start::run(&arguments.config, &of_postgres).into();
        }
        Verb::Places { owner, data_dir } => return gate::places::run(&data_dir, &owner).into(),
        _ => {}
    }
    match with_configuration(arguments) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("holdfast-agent: {error:#}");
            FAILED.into()
        }
    }
}

fn with_configuration(arguments: Arguments) -> Result<u8> {
    let usage = |problems: Vec<Problem>| {
        for problem in problems {
            eprintln!("{problem}");
        }
        Ok(USAGE)
    };
    if matches!(arguments.verb, Verb::Run | Verb::CheckConfig) {
        return match config::load_with_identity(&arguments.config) {
            Ok(_) if matches!(arguments.verb, Verb::CheckConfig) => Ok(0),
            Ok((config, identity)) => run(config, identity).map(|()| 0),
            Err(problems) => usage(problems),
        };
    }
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            let said = usage(problems);
            let host = gate::without_configuration::Host::of(&arguments.config);
            return match arguments.verb {
                Verb::PromoteGate { .. } => Ok(gate::promote::without_configuration(&host)),
                // Patroni's unit requires this one: nothing of ours is in its way where nothing is armed.
                _ if host.lets_pass().is_ok() => Ok(0),
                _ => said,
            };
        }
    };
    match arguments.verb {
        Verb::PromoteGate { namespace, scope } => Ok(gate::promote::run(&config, namespace, scope)),
        _ => runtime()?.block_on(daemon::boot_deny(&config)).map(|()| 0),
    }
}

/// A write that hangs in the kernel has a thread of its own, and the end of the agent does not wait for that.
fn run(config: Config, identity: Identity) -> Result<()> {
    let runtime = runtime()?;
    let ended = runtime.block_on(daemon::run(config, identity));
    runtime.shutdown_background();
    ended
}

/// One thread: the agent mostly waits, and its memory is part of its promise.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}
