//! The running agent: puts its parts together, and ends them. Nothing else happens here.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_proto::tls::{Identity, Protocol, TlsProblem};
use holdfast_store::{EtcdOptions, EtcdStore, Store};
use holdfast_types::{Class, Mode};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::config::Config;
use crate::disk::Disk;
use crate::gate::remembered::Remembered;
use crate::member::Member;
use crate::pooler::Router;
use crate::pooler::seen::Poolers;
use crate::renewals::Renewals;
use crate::serve::{grpc, routing, socket};
use crate::session::{Held, Keeper};
use crate::telemetry::metrics::{Counters, exposition};
use crate::telemetry::{Telemetry, scrape};
use crate::world::World;
use crate::{act, gate, route_command, telemetry};

/// How long the end of the agent may wait for calls and for spans, each.
const END_DEADLINE: Duration = Duration::from_millis(500);

/// How often the files of the certificate are looked at, whoever needs them.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(10);

/// Rule 6: replication is denied from the boot on, where the cluster was armed when this host was last up.
pub async fn boot_deny(config: &Config) -> Result<()> {
    if let Some(local) = gate::local_disarm::standing(&config.state_dir) {
        eprintln!("holdfast-agent: replication is not denied: {local}");
        return Ok(());
    }
    for instance in config.instances.iter().filter(|instance| instance.class == Class::Quorum) {
        let remembered = Remembered::load(&config.state_dir, &instance.cluster);
        // What cannot be read may have been armed: denying costs a wait for the agent, allowing may cost a write.
        if !matches!(remembered, Ok(Remembered { mode: Mode::Observe | Mode::Disarmed, .. })) {
            act::network::firewall(instance).follow(None).await?;
        }
    }
    Ok(())
}

/// Runs until SIGTERM or SIGINT. The session is left to run out: an agent that comes back in its time goes on with it.
pub async fn run(config: Config, identity: Identity) -> Result<()> {
    end_at_a_panic();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&config.log))
        .with_writer(std::io::stderr)
        .init();
    for folder in [&config.run_dir, &config.state_dir] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    #[cfg(feature = "mutants")]
    tracing::error!("{}", crate::config::mutant::warning());
    #[cfg(feature = "as-newer-build")]
    tracing::error!("this is a test build that behaves as the next build will, never for real data");
    let config = Arc::new(config);
    let telemetry = Telemetry::new(config.otlp_endpoint.as_deref(), &config.region, &config.host)?;
    let mut etcd = EtcdOptions::new(config.etcd.clone(), Some(identity.source(Protocol::Http2)));
    etcd.user.clone_from(&config.etcd_user);
    let store: Arc<dyn Store> = Arc::new(EtcdStore::new(etcd));
    let world = Arc::new(watch_clusters(&config, Arc::clone(&store)));
    let renewals = Renewals::load(&config);
    let (keeper, session) = Keeper::new(&config, store, renewals.clone(), world.changes())?;
    tokio::spawn(keeper.run());
    tokio::spawn(renewals.clone().keep());
    let tools = (identity.clone(), telemetry.clone());
    let routes = start_routers(&config, &world, &telemetry);
    let members = start_members(&config, &world, &session, &tools)?;
    let listener = socket::listen(&config.run_dir)?;
    tokio::spawn(socket::serve(listener, Arc::clone(&members), Arc::clone(&routes)));
    serve_routing(&config, &members, &routes, &identity).await?;
    route_command::start(&config, &world);
    for cluster in &config.clients {
        tokio::spawn(Client::new(cluster, Arc::clone(&world), &config.state_dir).run());
    }
    let host = Arc::new(grpc::Answers::new(
        Arc::clone(&config),
        world,
        session,
        members,
        routes,
        renewals.clone(),
        identity.clone(),
    ));
    serve_metrics(&config, &host, &tools).await?;
    tokio::spawn(look_at_certificate(identity.clone()));
    let listener = TcpListener::bind(config.grpc_listen)
        .await
        .with_context(|| format!("grpc.listen: cannot listen on {}", config.grpc_listen))?;
    let end = CancellationToken::new();
    let until = end.clone().cancelled_owned();
    let serving =
        tokio::spawn(holdfast_proto::server::serve(listener, identity, config.region.clone(), host, until));
    tracing::info!(host = %config.host, version = crate::BUILD, "agent started");
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("agent ends");
    end.cancel();
    // A call in flight gets a moment to finish; then the process ends with it.
    drop(tokio::time::timeout(END_DEADLINE, serving).await);
    telemetry.shutdown(END_DEADLINE).await;
    drop(tokio::time::timeout(END_DEADLINE, renewals.save(&Disk::default())).await);
    Ok(())
}

/// Replaced files are found by whoever asks for the identity. An agent whose connections all stand asks for nothing, and would
/// meet the end of its certificate with the old one in its hand.
async fn look_at_certificate(identity: Identity) {
    loop {
        tokio::time::sleep(CERTIFICATE_LOOK).await;
        drop(identity.server());
    }
}

/// A task that panics takes the agent with it: one that went on without its member would hold the host's session and do
/// nothing for it. The supervisor starts it again, within the same session.
fn end_at_a_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn watch_clusters(config: &Config, store: Arc<dyn Store>) -> World {
    let clusters: Vec<_> = config.clusters().cloned().collect();
    World::start(store, &config.region, &clusters)
}

fn start_members(
    config: &Arc<Config>,
    world: &Arc<World>,
    session: &watch::Receiver<Held>,
    tools: &(Identity, Telemetry),
) -> Result<Arc<[Arc<Member>]>> {
    let member = |instance: &crate::config::Instance| {
        Member::new(instance.clone(), Arc::clone(config), Arc::clone(world), session.clone(), tools.clone())
    };
    let members: Vec<Arc<Member>> = config.instances.iter().map(member).collect::<Result<_>>()?;
    let members: Arc<[Arc<Member>]> = members.into();
    for member in members.iter() {
        tokio::spawn(Arc::clone(member).run());
    }
    Ok(members)
}

fn start_routers(config: &Arc<Config>, world: &Arc<World>, telemetry: &Telemetry) -> Poolers {
    let start = |pooler: &crate::config::Pooler| {
        let (config, world) = (Arc::clone(config), Arc::clone(world));
        let router = Router::new(pooler.clone(), config, world, telemetry.clone());
        let seen = router.seen();
        tokio::spawn(router.run());
        seen
    };
    config.poolers.iter().map(start).collect()
}

async fn serve_routing(
    config: &Config,
    members: &Arc<[Arc<Member>]>,
    poolers: &Poolers,
    identity: &Identity,
) -> Result<()> {
    let Some(listen) = &config.routing_listen else { return Ok(()) };
    let told = |problems: Vec<TlsProblem>| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("routing: {}", all.join("; "))
    };
    let certificate = listen.tls.certificate(identity).map_err(told)?;
    let listener = TcpListener::bind(listen.address)
        .await
        .with_context(|| format!("routing.listen: cannot listen on {}", listen.address))?;
    tokio::spawn(routing::serve(listener, certificate, Arc::clone(members), Arc::clone(poolers)));
    Ok(())
}

async fn serve_metrics(
    config: &Config,
    host: &Arc<grpc::Answers>,
    (identity, telemetry): &(Identity, telemetry::Telemetry),
) -> Result<()> {
    let Some(listen) = config.metrics_listen else { return Ok(()) };
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("metrics.listen: cannot listen on {listen}"))?;
    let (host, identity, telemetry) = (Arc::clone(host), identity.clone(), telemetry.clone());
    let text = move || {
        let counters = Counters {
            certificate_ends_unix_s: identity.ends_unix_s(),
            spans_dropped: telemetry.dropped(),
            span_export_failures: telemetry.failures(),
        };
        exposition(&host.view(), &counters)
    };
    tokio::spawn(scrape::serve(listener, Arc::new(text)));
    Ok(())
}
