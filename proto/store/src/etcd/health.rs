//! The servers' own health, for `status` and `doctor`: who answers, who leads, how full, which alarms, how fast.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType};
use tokio::task::JoinSet;

use super::link::Link;
use super::{EtcdOptions, errors, metrics};

/// What the servers say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdHealth {
    /// Each endpoint, in the order of the options.
    pub endpoints: Vec<EndpointHealth>,
    /// Members of the etcd cluster; unknown when nobody answered.
    pub members: Option<usize>,
    /// Alarms in force, for example `NOSPACE` (then every write is refused); unknown when nobody answered.
    pub alarms: Option<Vec<String>>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointHealth {
    /// `host:port`.
    pub endpoint: String,
    /// What it answered, or why there is no answer.
    pub status: Result<EndpointStatus, String>,
}

/// What one server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Version of the server.
    pub version: String,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it knows a leader; without one it answers no linearizable call.
    pub has_leader: bool,
    /// Size of its database file in bytes.
    pub db_size_bytes: u64,
    /// How long the answer took, connecting included, in milliseconds.
    pub took_ms: u64,
    /// How long one linearizable read of one key took over the same connection, in microseconds: the way to the server,
    /// and its question to a quorum whether it is still up to date, without a write to any disk. Absent when there was no
    /// answer.
    pub read_us: Option<u64>,
    /// The time within which 99 of 100 fsyncs of its log were done since it started, in microseconds, rounded up to a
    /// bound of its histogram. Absent when it does not tell.
    pub fsync_p99_us: Option<u64>,
}

impl EtcdHealth {
    /// Servers that answered and know a leader.
    pub fn answering(&self) -> usize {
        self.endpoints.iter().filter(|one| one.status.as_ref().is_ok_and(|status| status.has_leader)).count()
    }

    /// Whether more than half of the members work. A linearizable read that was answered proves it, though not all of
    /// them may be among the endpoints; else more than half must answer here. Unknown when the number of members is.
    pub fn has_quorum(&self) -> Option<bool> {
        if self.read_us().is_some() {
            return Some(true);
        }
        self.members.map(|members| self.answering() * 2 > members)
    }

    /// The slowest linearizable read that was answered, in microseconds.
    pub fn read_us(&self) -> Option<u64> {
        self.answers().filter_map(|status| status.read_us).max()
    }

    /// The slowest server's fsync, see [`EndpointStatus::fsync_p99_us`].
    pub fn fsync_p99_us(&self) -> Option<u64> {
        self.answers().filter_map(|status| status.fsync_p99_us).max()
    }

    /// The largest database file in bytes.
    pub fn db_size_bytes(&self) -> Option<u64> {
        self.answers().map(|status| status.db_size_bytes).max()
    }

    fn answers(&self) -> impl Iterator<Item = &EndpointStatus> {
        self.endpoints.iter().filter_map(|one| one.status.as_ref().ok())
    }
}

pub(super) async fn ask(options: &EtcdOptions) -> EtcdHealth {
    let mut asking = JoinSet::new();
    for (place, endpoint) in options.endpoints.iter().enumerate() {
        let one = EtcdOptions { endpoints: vec![endpoint.clone()], ..options.clone() };
        asking.spawn(async move { (place, Box::pin(ask_one(one)).await) });
    }
    let mut answers = Vec::new();
    while let Some(joined) = asking.join_next().await {
        // A task that panicked is an endpoint without an answer.
        answers.extend(joined.ok());
    }
    answers.sort_by_key(|(place, _)| *place);
    let members = answers.iter().find_map(|(_, answer)| answer.members);
    let alarms = answers.iter().find_map(|(_, answer)| answer.alarms.clone());
    let endpoints = answers.into_iter().map(|(_, answer)| answer.endpoint).collect();
    EtcdHealth { endpoints, members, alarms }
}

struct Answer {
    endpoint: EndpointHealth,
    members: Option<usize>,
    alarms: Option<Vec<String>>,
}

async fn ask_one(options: EtcdOptions) -> Answer {
    let endpoint = options.endpoints.first().cloned().unwrap_or_default();
    let link = Link::new(options);
    let sent = Instant::now();
    let status =
        link.call("status", |client| async move { client.maintenance_client().status().await }).await;
    let mut status = status.map_err(|error| error.to_string()).map(|answer| EndpointStatus {
        version: answer.version().to_owned(),
        leads: answer.header().is_some_and(|header| header.member_id() == answer.leader()),
        has_leader: answer.leader() != 0,
        db_size_bytes: u64::try_from(answer.db_size()).unwrap_or(0),
        took_ms: millis(sent.elapsed()),
        read_us: None,
        fsync_p99_us: None,
    });
    let (mut members, mut alarms) = (None, None);
    if let Ok(status) = &mut status {
        status.read_us = time_a_read(&link).await;
        let list = |client: std::sync::Arc<etcd_client::Client>| async move {
            client.cluster_client().member_list().await
        };
        let ask = |client: std::sync::Arc<etcd_client::Client>| async move {
            client.maintenance_client().alarm(AlarmAction::Get, AlarmType::None, None).await
        };
        let (list, raised, fsync) = tokio::join!(
            link.call("member list", list),
            link.call("alarms", ask),
            metrics::fsync_p99_us(link.options())
        );
        status.fsync_p99_us = fsync;
        members = list.ok().map(|answer| answer.members().len());
        alarms = raised.ok().map(|answer| {
            answer.alarms().iter().map(|alarm| format!("{:?}", alarm.alarm()).to_uppercase()).collect()
        });
    }
    Answer { endpoint: EndpointHealth { endpoint, status }, members, alarms }
}

/// Reads a key that need not be there, linearizably as every read is unless it says otherwise. Where etcd has users nobody
/// may read this one; it says so only after it has asked its quorum.
async fn time_a_read(link: &Link) -> Option<u64> {
    let read = |client: std::sync::Arc<etcd_client::Client>| async move {
        client.kv_client().get("/holdfast/v1/", None).await
    };
    let sent = Instant::now();
    match link.call("read", read).await {
        Ok(_) => {}
        Err(error) if errors::is_permission(&error) => {}
        Err(_) => return None,
    }
    Some(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
