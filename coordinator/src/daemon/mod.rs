//! `holdfast coordinator`: the service that carries operations out, on one to three hosts of a region.
//!
//! One of them works, the others wait to take over. Fencing and failover inside a region never need it.

mod config;
mod driver;
mod leader;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use holdfast_proto::tls::{Identity, Protocol, TlsPaths};
use holdfast_store::{EtcdOptions, EtcdStore, Store};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::config::CoordinatorConfig;
use self::driver::Driver;
use self::leader::Candidate;
use crate::cli::{Exit, Failure};

/// Options of `coordinator`.
#[derive(Debug, Clone, Args)]
pub struct CoordinatorOptions {
    /// The coordinator's configuration
    #[arg(
        long,
        env = "HOLDFAST_COORDINATOR_CONFIG",
        default_value = "/etc/holdfast/coordinator.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
}

/// Runs until it is told to end.
pub async fn run(options: &CoordinatorOptions) -> Result<Exit, Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = CoordinatorConfig::load(&options.config)?;
    let CoordinatorConfig { ca, cert, key, crl, .. } = config.clone();
    let identity = Identity::load(TlsPaths { ca, cert, key, crl }).map_err(|problems| {
        Failure::usage(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let mut options = EtcdOptions::new(config.etcd.clone(), Some(identity.source(Protocol::Http2)));
    options.user = config.user();
    let store: Arc<dyn Store> = Arc::new(EtcdStore::new(options));
    let (candidate, lead) = Candidate::new(Arc::clone(&store), &config.region, &config.host);
    for cluster in config.clusters() {
        let (store, identity) = (Arc::clone(&store), identity.clone());
        tokio::spawn(Driver::new(store, identity, config.host.clone(), cluster, lead.clone()).run());
    }
    tracing::info!(host = %config.host, version = env!("CARGO_PKG_VERSION"), "coordinator started");
    let ends = |kind| signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("signals: {error}")));
    let (mut terminate, mut interrupt) = (ends(SignalKind::terminate())?, ends(SignalKind::interrupt())?);
    let standing = tokio::spawn(candidate.run());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    standing.abort();
    tracing::info!("coordinator ends");
    Ok(Exit::Done)
}
