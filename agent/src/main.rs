//! The agent of one host: it observes the host's PostgreSQL and PgBouncer, holds the host's session in etcd, leaves a
//! dead writer, closes its reign, and gates starts and promotions.
//!
//! The same binary is the agent, the promotion hook, and (called as `postgres`) the start gate.

mod act;
mod config;
mod gate;
mod member;
mod observe;
mod pooler;
mod serve;
mod session;
mod telemetry;
mod tls;
mod world;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use holdfast_store::{EtcdOptions, EtcdStore, Store};
use holdfast_types::{Class, Mode, Namespace, Scope};
use tokio::signal::unix::{SignalKind, signal};

use config::Config;

/// Exit codes of every Holdfast program (DESIGN section 7).
const FAILED: u8 = 1;
const USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "holdfast-agent", version, about = "The agent of one host of a PostgreSQL fleet")]
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
    /// At boot, before Patroni: deny replication until the agent knows whom to follow.
    BootDeny,
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if gate::start::is_called_as_postgres(arguments.next().as_deref()) {
        return gate::start::run(&arguments.collect::<Vec<_>>()).into();
    }
    let arguments = Arguments::parse();
    match arguments.verb {
        Verb::Version => {
            println!("holdfast-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Verb::StartGate { arguments } => return gate::start::run(&arguments).into(),
        _ => {}
    }
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return USAGE.into();
        }
    };
    let result = match arguments.verb {
        Verb::PromoteGate { namespace, scope } => {
            return gate::promote::run(&config, namespace, scope).into();
        }
        Verb::CheckConfig => tls::source(&config.tls, None).map(|_| ()),
        Verb::BootDeny => runtime().and_then(|runtime| runtime.block_on(boot_deny(&config))),
        Verb::Run => runtime().and_then(|runtime| runtime.block_on(run(config))),
        Verb::Version | Verb::StartGate { .. } => unreachable!("answered above"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-agent: {error:#}");
            FAILED.into()
        }
    }
}

/// One thread: the agent mostly waits, and its memory is part of its promise.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

/// Rule 6: replication is denied from the boot on, where the cluster was armed when this host was last up.
async fn boot_deny(config: &Config) -> Result<()> {
    for instance in config.instances.iter().filter(|instance| instance.class == Class::Quorum) {
        let remembered = gate::remembered::Remembered::load(&config.state_dir, &instance.cluster);
        // What cannot be read may have been armed: denying costs a wait for the agent, allowing may cost a write.
        if !matches!(
            remembered,
            Ok(gate::remembered::Remembered { mode: Mode::Observe | Mode::Disarmed, .. })
        ) {
            act::network::firewall(instance).follow(None).await?;
        }
    }
    Ok(())
}

async fn run(config: Config) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&config.log))
        .with_writer(std::io::stderr)
        .init();
    for folder in [&config.run_dir, &config.state_dir] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let config = Arc::new(config);
    let tls = tls::source(&config.tls, None)?;
    let for_etcd = tls::source(&config.tls, Some("h2"))?;
    let store: Arc<dyn Store> =
        Arc::new(EtcdStore::new(EtcdOptions::new(config.etcd.clone(), Some(for_etcd))));
    let of_instances = config.instances.iter().map(|instance| instance.cluster.clone());
    let of_poolers = config.poolers.iter().map(|pooler| pooler.cluster.clone());
    let clusters: Vec<_> = of_instances.chain(of_poolers).collect();
    let world = Arc::new(world::World::start(Arc::clone(&store), &config.region, &clusters));
    let (keeper, session) = session::Keeper::new(&config, store)?;
    tokio::spawn(keeper.run());
    let members: Vec<Arc<member::Member>> = config
        .instances
        .iter()
        .map(|instance| {
            let (config, world) = (Arc::clone(&config), Arc::clone(&world));
            member::Member::new(instance.clone(), config, world, session.clone(), Arc::clone(&tls))
        })
        .collect::<Result<_>>()?;
    let members: Arc<[Arc<member::Member>]> = members.into();
    let listener = serve::socket::listen(&config.run_dir)?;
    tokio::spawn(serve::socket::serve(listener, Arc::clone(&members)));
    for member in members.iter() {
        tokio::spawn(Arc::clone(member).run());
    }
    for pooler in &config.poolers {
        tokio::spawn(pooler::Router::new(pooler.clone(), Arc::clone(&config), Arc::clone(&world)).run());
    }
    let (traces, metrics) = (config.otlp_endpoint.as_deref().unwrap_or("nowhere"), config.metrics_listen);
    tracing::info!(host = %config.host, version = env!("CARGO_PKG_VERSION"), traces, ?metrics, "agent started");
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // The session is left to run out: an agent that comes back within its time goes on with it.
    tracing::info!("agent ends");
    Ok(())
}
