//! All clients of one run, from a lab's description: they work until they are told to stop.
//!
//! Runs inside the network namespace of the client host. Starts nothing but its own tasks, and no fault.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::Target;
use super::describe::{Choice, Describe, Instance};
use super::record::{ClientInfo, FORMAT, Line, RouteKind};
use super::recorder::Recorder;
use super::writer::{Pace, Writer};
use super::{monotonic_us, probe};

/// How the clients behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// Attempts a second of one client.
    pub rate_per_s: u32,
    /// Clients of each TCP route.
    pub clients_per_route: u32,
    /// An attempt that has not ended after this is unknown.
    pub deadline: Duration,
    /// The second client of a socket cancels its statement after this; 10 attempts a second.
    pub cancel_after: Duration,
}

impl Default for Options {
    /// 25 a second, two clients a route, 10 s, cancel after 1 s: the clients of the baseline.
    fn default() -> Self {
        Self {
            rate_per_s: 25,
            clients_per_route: 2,
            deadline: Duration::from_secs(10),
            cancel_after: Duration::from_secs(1),
        }
    }
}

/// A way to the writer, ready to be used.
#[derive(Clone)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: RouteKind,
    /// The host that it leads to.
    pub host: Option<String>,
    /// Its connection string.
    pub target: Target,
}

/// The routes of one cluster of the lab.
pub fn routes(describe: &Describe, choice: &Choice) -> anyhow::Result<Vec<Route>> {
    let (_, cluster) = describe.choose(choice)?;
    let mut routes = Vec::new();
    for route in &cluster.routes {
        let kind = match route.kind.as_str() {
            "libpq" => RouteKind::Libpq,
            "pgbouncer" => RouteKind::Pgbouncer,
            "haproxy" => RouteKind::Haproxy,
            "haproxy-patroni" => RouteKind::HaproxyPatroni,
            "socket" => RouteKind::Socket,
            _ => continue,
        };
        let target = Target::parse(&route.dsn).with_context(|| format!("route {} of the lab", route.kind))?;
        let name = match (&route.host, kind) {
            (_, RouteKind::Libpq) | (None, _) => route.kind.clone(),
            (Some(host), _) => format!("{}:{host}", route.kind),
        };
        let host = route.host.clone().filter(|_| kind != RouteKind::Libpq);
        routes.push(Route { name, kind, host, target });
    }
    Ok(routes)
}

/// A host to probe, and its socket as user postgres: others do not see the state of walsenders.
pub type ProbeTarget = (String, Target);

/// The database hosts of one cluster of the lab.
pub fn probe_targets(describe: &Describe, choice: &Choice) -> anyhow::Result<Vec<ProbeTarget>> {
    let (region, cluster) = describe.choose(choice)?;
    let target =
        |instance: &Instance| Target::socket(&instance.socket_dir, instance.port(), "postgres", "postgres");
    let instances = region.instances(&cluster.scope);
    Ok(instances.into_iter().map(|(host, instance)| (host.to_owned(), target(instance))).collect())
}

/// Runs the clients of `routes` and the probes until `stop`, recording into `file`.
pub async fn run(
    routes: &[Route],
    probes: Vec<ProbeTarget>,
    run: &str,
    options: &Options,
    file: &Path,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (recorder, writing) =
        Recorder::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let planned = plan(routes, options);
    let clients = planned.iter().map(|(info, ..)| info.clone()).collect();
    let header = Line::Header { format: FORMAT, run: run.to_owned(), clients, begin_us: monotonic_us() };
    recorder.write(header).await;
    let tasks = TaskTracker::new();
    for (info, target, period, cancel_after) in planned {
        let pace = Pace { period, deadline: options.deadline };
        let (run, recorder, stop) = (run.to_owned(), recorder.clone(), stop.clone());
        tasks.spawn(Writer { run, info, target, pace, cancel_after, recorder, stop }.work());
    }
    for (host, target) in probes {
        tasks.spawn(probe::work(host, target, recorder.clone(), stop.clone()));
    }
    tasks.close();
    let told = async {
        stop.cancelled().await;
        monotonic_us()
    };
    // Attempts that hang are still ended and recorded, but nobody begins another: that time is nobody's gap.
    let ((), end_us) = tokio::join!(tasks.wait(), told);
    recorder.write(Line::End { end_us }).await;
    drop(recorder);
    writing.await.context("the recorder")?.with_context(|| format!("cannot write {}", file.display()))
}

type Planned = (ClientInfo, Target, Duration, Option<Duration>);

/// Who works where: `clients_per_route` on each TCP route; on each socket one plain client, and a slower one that
/// cancels.
fn plan(routes: &[Route], options: &Options) -> Vec<Planned> {
    let plain = Duration::from_secs(1) / options.rate_per_s.max(1);
    let mut planned = Vec::new();
    for route in routes {
        let of_route = match route.kind {
            RouteKind::Socket => vec![(plain, None), (plain * 5 / 2, Some(options.cancel_after))],
            _ => vec![(plain, None); options.clients_per_route as usize],
        };
        for (period, cancel_after) in of_route {
            let client = u32::try_from(planned.len()).unwrap_or(u32::MAX);
            let (kind, host) = (route.kind, route.host.clone());
            let info = ClientInfo { client, route: route.name.clone(), kind, host };
            planned.push((info, route.target.clone(), period, cancel_after));
        }
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_gets_its_clients() {
        let route = |name: &str, kind| {
            let target = Target::parse("host=/tmp user=u").unwrap();
            Route { name: name.into(), kind, host: None, target }
        };
        let routes = [route("libpq", RouteKind::Libpq), route("socket:db1", RouteKind::Socket)];
        let planned = plan(&routes, &Options::default());
        let periods: Vec<u128> = planned.iter().map(|(_, _, period, _)| period.as_millis()).collect();
        assert_eq!(periods, [40, 40, 40, 100]);
        let cancels: Vec<bool> = planned.iter().map(|(.., cancel)| cancel.is_some()).collect();
        assert_eq!(cancels, [false, false, false, true]);
        assert_eq!(planned.last().map(|(info, ..)| info.client), Some(3));
    }
}
