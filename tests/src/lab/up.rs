//! `up`: from a specification to a healthy lab, or to nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::failure::{Exit, Failure};
use super::plan::{DATA_ROOT, HAPROXY, HostPlan, Instance, PG_BIN, Plan, RegionPlan};
use super::spec::{Role, Spec};
use super::sql::At;
use super::{certificates, cgroup, control, down, etcd_users, etcdctl, files, health, network, shell};

/// A region comes up in 9 s when nothing waits; two labs and a compiler beside it on two cores take their time.
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const COMMAND_MS: u64 = 15_000;

/// What `up` needs to find installed.
const PROGRAMS: [&str; 8] = [
    "/usr/bin/curl",
    "/usr/bin/etcd",
    "/usr/bin/etcdctl",
    "/usr/sbin/pgbouncer",
    "/usr/sbin/nft",
    "/usr/bin/setpriv",
    "/usr/bin/nsenter",
    "/usr/lib/postgresql/15/bin/postgres",
];

/// Brings the lab up. When that fails, what was made is taken down again and the error names the logs' last words.
pub async fn up(lab: &str, spec: Spec) -> Result<Plan> {
    let programs = std::env::current_exe().context("our own executable")?;
    let programs = programs.parent().context("our own executable has a folder")?.to_owned();
    let plan = Plan::new(lab, spec, &cgroup::root()?, programs);
    check(&plan).await?;
    files::claim(&plan)?;
    let until = Instant::now() + DEADLINE;
    if let Err(error) = bring_up(&plan, until).await {
        eprintln!("holdfast-lab: {error:#}");
        last_words(&plan);
        down::down(lab).await.context("taking down what was made")?;
        return Err(error.context(format!("lab {lab} did not come up and was taken down")));
    }
    Ok(plan)
}

async fn check(plan: &Plan) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab needs root: namespaces, cgroups, mounts");
    }
    if let Some(program) = PROGRAMS.iter().find(|program| !Path::new(program).exists()) {
        bail!("{program} is missing; tests/setup installs it");
    }
    if plan.spec.haproxy && !Path::new(HAPROXY).exists() {
        bail!("{HAPROXY} is missing, which haproxy = true needs; tests/setup installs it");
    }
    if let Some(program) =
        ["patroni", "patronictl"].map(|name| plan.patroni(name)).iter().find(|path| !path.exists())
    {
        let version = plan.spec.patroni.version.as_deref().map(|version| format!(" --patroni {version}"));
        bail!("{} is missing; tests/setup{} installs it", program.display(), version.unwrap_or_default());
    }
    if plan.spec.fake_clock && !faketime_is_there() {
        bail!("libfaketime is missing, which fake_clock = true needs; tests/setup installs it");
    }
    let ours = if plan.spec.is_installed() {
        ["holdfast", "holdfast-agent", "holdfast-guard"].as_slice()
    } else {
        &["holdfast"]
    };
    for name in ours {
        let program = plan.program(name).display().to_string();
        let version = if *name == "holdfast-agent" { "version" } else { "--version" };
        shell::run(COMMAND_MS, &[program.as_str(), version])
            .await
            .with_context(|| format!("{name} does not run; build it with: cargo build -p {name}"))?;
    }
    not_ours(plan)
}

/// In the folder of whatever architecture this is.
fn faketime_is_there() -> bool {
    let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    libraries.into_iter().any(|entry| entry.path().join("faketime/libfaketime.so.1").exists())
}

/// What has a name of the lab's and was not made by it must stay as it is: `down` would take it away with the lab.
fn not_ours(plan: &Plan) -> Result<()> {
    if plan.dir().exists() {
        // The claim says so, and what to do.
        return Ok(());
    }
    let refused =
        |what: String| Err(Failure::with(Exit::Refused, format!("{what} is there already and not ours")));
    let taken = network::existing()?;
    let mut names = std::iter::once(plan.switch()).chain(plan.hosts().map(|(_, host)| host.netns.clone()));
    if let Some(name) = names.find(|name| taken.contains(name)) {
        return refused(format!("the network namespace {name}"));
    }
    let data = Path::new(DATA_ROOT).join(&plan.lab);
    match [plan.cgroup.as_path(), &data].into_iter().find(|path| path.exists()) {
        Some(path) => refused(path.display().to_string()),
        None => Ok(()),
    }
}

async fn bring_up(plan: &Plan, until: Instant) -> Result<()> {
    let (_, group) = files::postgres_user()?;
    cgroup::create(&plan.control_cgroup())?;
    certificates::create(plan, group).await?;
    files::write_all(plan)?;
    network::create(plan).await?;
    say(until, "certificates, files, network");
    for (_, host) in plan.hosts() {
        cgroup::create(&host.cgroup)?;
    }
    start(plan, hosts(plan, |host| host.host.role == Role::Etcd), until).await?;
    for region in &plan.regions {
        wait_etcd(region, until).await?;
    }
    say(until, "etcd answers");
    for region in &plan.regions {
        etcd_users::set_up(plan, region).await?;
    }
    let first: Vec<&HostPlan> =
        plan.regions.iter().filter_map(|region| region.of(Role::Database).next()).collect();
    let others = hosts(plan, |host| {
        host.host.role != Role::Etcd && !first.iter().any(|first| first.name() == host.name())
    });
    start(plan, first.clone(), until).await?;
    for host in first {
        wait_initializing(plan, host, until).await?;
    }
    start(plan, others, until).await?;
    say(until, "hosts run");
    let clusters = plan.regions.iter().flat_map(|region| plan.instances().map(move |one| (region, one)));
    let settled =
        clusters.map(|(region, instance)| async move { settle(plan, region, &instance, until).await });
    futures_util::future::try_join_all(settled).await.map(drop)
}

/// A line of progress for whoever waits.
fn say(until: Instant, what: &str) {
    let seconds = (DEADLINE.saturating_sub(until.saturating_duration_since(Instant::now()))).as_secs_f64();
    eprintln!("{seconds:6.1} s  {what}");
}

fn hosts(plan: &Plan, meant: impl Fn(&HostPlan) -> bool) -> Vec<&HostPlan> {
    plan.hosts().map(|(_, host)| host).filter(|host| meant(host)).collect()
}

/// Waits until the first member of a region has won the race to initialize: the asynchronous replica must not, for
/// then there would be no quorum of the others.
async fn wait_initializing(plan: &Plan, host: &HostPlan, until: Instant) -> Result<()> {
    while !is_initializing(plan, host).await {
        if Instant::now() >= until {
            bail!("waited for {} to initialize its database", host.name());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn is_initializing(plan: &Plan, host: &HostPlan) -> bool {
    for instance in plan.instances() {
        let data = files::data_dir_from_outside(plan, host, &instance.cluster.scope).await;
        if !data.is_ok_and(|data| data.is_dir()) {
            return false;
        }
    }
    true
}

/// Starts the supervisors of hosts, and waits until they answer.
async fn start(plan: &Plan, hosts: Vec<&HostPlan>, until: Instant) -> Result<()> {
    for host in &hosts {
        spawn_supervisor(plan, host)?;
    }
    for host in hosts {
        loop {
            match control::ask(&host.control_socket(), &control::Request::Status).await {
                Ok(_) => break,
                Err(error) if Instant::now() >= until => {
                    return Err(error).context("waited for a supervisor");
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
    Ok(())
}

fn spawn_supervisor(plan: &Plan, host: &HostPlan) -> Result<()> {
    let log = host.logs().join("supervise.log");
    let log = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
    down::detached(plan, &["supervise", &plan.lab, host.name()], log)
        .with_context(|| format!("the supervisor of {}", host.name()))
}

async fn wait_etcd(region: &RegionPlan, until: Instant) -> Result<()> {
    loop {
        // Without the root that it does not have yet.
        let plain = RegionPlan { etcd_auth: super::spec::EtcdAuth::Off, ..region.clone() };
        match etcdctl::run(&plain, None, &["endpoint", "health"]).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= until => return Err(error).context("waited for etcd"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A cluster whose members are there gets its roles, its routes and the timings of the specification.
async fn settle(plan: &Plan, region: &RegionPlan, instance: &Instance<'_>, until: Instant) -> Result<()> {
    let leader = health::wait_whole(region, instance, until).await?;
    let cluster = format!("{} in {}", instance.cluster.scope, region.name);
    say(until, &format!("{cluster} is whole"));
    let socket_dir = leader.socket_dir();
    let at = At { socket_dir: &socket_dir, port: instance.port, user: "postgres", dbname: "postgres" };
    at.ask("CREATE ROLE app LOGIN").await?;
    at.ask("CREATE DATABASE app OWNER app").await?;
    final_timings(plan, region, instance).await?;
    health::wait_whole(region, instance, until).await?;
    say(until, &format!("{cluster} has its timings"));
    for pooler in region.of(Role::Pooler) {
        if plan.spec.holdfast {
            // Until the cluster is armed nobody else does it: in observe mode agents act on nothing.
            health::point(pooler, instance, leader).await?;
        }
        health::wait_write(pooler, instance, until).await?;
    }
    if plan.spec.holdfast && plan.spec.arm {
        super::arm::arm(plan, region, instance).await;
        for pooler in region.of(Role::Pooler) {
            health::wait_write(pooler, instance, until).await?;
        }
    }
    Ok(())
}

/// The lab came up with short timings; from now on those of the specification hold.
async fn final_timings(plan: &Plan, region: &RegionPlan, instance: &Instance<'_>) -> Result<()> {
    let host = region.of(Role::Database).next().context("a region has a database host")?;
    let file = host.etc().join(format!("{}.yml", instance.unit())).display().to_string();
    let patroni = &plan.spec.patroni;
    let (ttl, loop_wait) = (format!("ttl={}", patroni.ttl), format!("loop_wait={}", patroni.loop_wait));
    let retry_timeout = format!("retry_timeout={}", patroni.retry_timeout);
    let patronictl = plan.patroni("patronictl").display().to_string();
    let line = [
        "ip",
        "netns",
        "exec",
        &host.netns,
        &patronictl,
        "-c",
        &file,
        "edit-config",
        &instance.cluster.scope,
        "--force",
        "--quiet",
        "-s",
        &ttl,
        "-s",
        &loop_wait,
        "-s",
        &retry_timeout,
    ];
    shell::run(COMMAND_MS, &line).await.map(drop)
}

/// Where the logs are, and the end of each: they are gone after the tear-down.
fn last_words(plan: &Plan) {
    const LINES: usize = 8;
    for (_, host) in plan.hosts() {
        let Ok(entries) = std::fs::read_dir(host.logs()) else { continue };
        for file in entries.flatten() {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}", file.path().display());
            lines[lines.len().saturating_sub(LINES)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
    eprintln!("--- the programs that were used: {}, {PG_BIN}", plan.programs.display());
}
