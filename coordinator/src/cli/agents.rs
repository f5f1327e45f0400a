//! Asking agents directly, when etcd does not answer or does not know.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_proto::client::{AgentClient, CallError};
use holdfast_proto::message::{HostReport, HostStatus, InstanceName, InstanceStatus};
use holdfast_proto::tls::{Identity, Peer};
use holdfast_types::preflight::Preflight;
use holdfast_types::{ClusterId, MemberName, Mode, Position, Scope};
use tokio::task::JoinSet;

use super::target::{Region, Session, now_wall_ms};
use crate::view::agents::{AgentsReport, HostAnswer};
use crate::view::cluster::ClusterView;

/// An agent answers from memory; more than this is the network.
const DEADLINE: Duration = Duration::from_secs(3);

/// Beside an answer of etcd nobody is waited for: a host that is gone is shown as such by etcd.
const BESIDE_DEADLINE: Duration = Duration::from_millis(700);

/// Asks every agent of the configuration, all at once.
pub async fn ask_all(region: &Region) -> Vec<HostAnswer> {
    ask_within(region, DEADLINE).await
}

/// What those agents of the configuration say that answer at once.
pub async fn statuses(region: &Region) -> Vec<HostStatus> {
    ask_within(region, BESIDE_DEADLINE).await.into_iter().filter_map(|answer| answer.status).collect()
}

async fn ask_within(region: &Region, deadline: Duration) -> Vec<HostAnswer> {
    let mut asking = JoinSet::new();
    for (place, address) in region.config.agents.iter().enumerate() {
        let client = AgentClient::new(region.identity.clone(), address, None, deadline);
        let (address, wanted) = (address.clone(), region.config.name.clone());
        asking.spawn(async move {
            let (status, problem) = match client.status().await {
                Ok(status) if status.region == wanted => (Some(status), None),
                Ok(status) => (None, Some(format!("is an agent of region {}", status.region))),
                Err(error) => (None, Some(why(&address, &error))),
            };
            (place, HostAnswer { address, status, problem })
        });
    }
    let mut answers = Vec::new();
    while let Some(joined) = asking.join_next().await {
        // A task that panicked is an agent without an answer.
        answers.extend(joined.ok());
    }
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The error without the address, which is shown beside it.
fn why(address: &str, error: &CallError) -> String {
    match error {
        CallError::Unreachable { text, .. } => {
            text.strip_prefix(address).map_or(text.as_str(), |rest| rest.trim_start_matches(": ")).to_owned()
        }
        CallError::Refused { text, .. } => format!("refuses: {text}"),
        CallError::Answer { error, .. } => error.to_string(),
    }
}

/// The report for a cluster that etcd says nothing of. `wanted` is `--cluster`.
pub async fn report(region: &Region, wanted: Option<&str>, etcd_error: &str) -> AgentsReport {
    let scope = wanted.and_then(|text| text.rsplit('/').next()).and_then(|scope| Scope::new(scope).ok());
    let hosts = ask_all(region).await;
    AgentsReport::new(region.config.name.clone(), scope, etcd_error, hosts, now_wall_ms())
}

/// Where the data of a member end, by its own agent; `None` if it does not know or cannot be asked.
pub async fn position(session: &Session, view: &ClusterView, member: &MemberName) -> Option<Position> {
    let status = client(session, view, member)?.status().await.ok()?;
    instance(session, member, status)?.position
}

/// The mode that each member's agent saw last; members whose agent cannot be asked are absent. All are asked at once.
pub async fn modes(session: &Session, view: &ClusterView) -> BTreeMap<MemberName, Mode> {
    let mut asking = JoinSet::new();
    for member in view.facts.keys() {
        if let Some(client) = client(session, view, member) {
            let member = member.clone();
            asking.spawn(async move { (member, client.status().await.ok()) });
        }
    }
    let mut modes = BTreeMap::new();
    while let Some(joined) = asking.join_next().await {
        // A task that panicked is an agent without an answer.
        if let Ok((member, Some(status))) = joined
            && let Some(instance) = instance(session, &member, status)
        {
            modes.insert(member, instance.mode);
        }
    }
    modes
}

/// What the agents of all members have kept since a moment (wall clock, milliseconds since 1970), or why one has not told.
/// All are asked at once.
pub async fn reports(
    session: &Session,
    view: &ClusterView,
    since_wall_ms: i64,
) -> BTreeMap<MemberName, Result<HostReport, String>> {
    let mut asking = JoinSet::new();
    for member in view.members() {
        let client = client(session, view, &member);
        let address = view.facts.get(&member).map(|facts| facts.grpc.clone()).unwrap_or_default();
        asking.spawn(async move {
            let answer = match client {
                Some(client) => client.report(since_wall_ms).await.map_err(|error| why(&address, &error)),
                None => Err("it has never told where it is".to_owned()),
            };
            (member, answer)
        });
    }
    asking.join_all().await.into_iter().collect()
}

/// The same of the agents of the configuration, by their addresses.
pub async fn reports_of_all(
    region: &Region,
    since_wall_ms: i64,
) -> BTreeMap<String, Result<HostReport, String>> {
    let mut asking = JoinSet::new();
    for address in region.config.agents.clone() {
        let client = AgentClient::new(region.identity.clone(), &address, None, DEADLINE);
        let wanted = region.config.name.clone();
        asking.spawn(async move {
            let answer = match client.report(since_wall_ms).await {
                Ok(report) if report.region == wanted => Ok(report),
                Ok(report) => Err(format!("is an agent of region {}", report.region)),
                Err(error) => Err(why(&address, &error)),
            };
            (address, answer)
        });
    }
    asking.join_all().await.into_iter().collect()
}

/// What the agents of all members say before a planned change; members whose agent cannot be asked are absent. All are asked
/// at once.
pub async fn preflights(identity: &Identity, view: &ClusterView) -> BTreeMap<MemberName, Preflight> {
    let mut asking = JoinSet::new();
    for member in view.facts.keys() {
        if let Some(client) = client_of(identity, view, member) {
            let ClusterId { namespace, scope, .. } = view.cluster.clone();
            let name = InstanceName { namespace, scope, member: member.clone() };
            asking.spawn(async move { Some((name.member.clone(), client.preflight(&name).await.ok()?)) });
        }
    }
    let mut told = BTreeMap::new();
    while let Some(joined) = asking.join_next().await {
        // A task that panicked is an agent without an answer.
        told.extend(joined.ok().flatten());
    }
    told
}

fn client(session: &Session, view: &ClusterView, member: &MemberName) -> Option<AgentClient> {
    client_of(&session.region.identity, view, member)
}

/// A way to the agent of a member. Another host may have taken the address since: only the host of the record is
/// believed.
fn client_of(identity: &Identity, view: &ClusterView, member: &MemberName) -> Option<AgentClient> {
    let facts = view.facts.get(member)?;
    let host = Peer::host(view.cluster.region.clone(), facts.host.clone()).ok()?;
    Some(AgentClient::new(identity.clone(), &facts.grpc, Some(host), DEADLINE))
}

/// What the agent of a member says of that member.
fn instance(session: &Session, member: &MemberName, status: HostStatus) -> Option<InstanceStatus> {
    let ours = |name: &InstanceName| {
        name.namespace == session.cluster.namespace
            && name.scope == session.cluster.scope
            && name.member == *member
    };
    status.instances.into_iter().find(|instance| ours(&instance.name))
}
