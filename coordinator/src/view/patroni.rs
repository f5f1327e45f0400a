//! Patroni's keys in etcd, read as Patroni 4.1 writes them. Read only.

use std::collections::BTreeMap;

use holdfast_store::{KeyValue, Reading};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::{Class, Lsn, MemberName, Position, Timeline};
use serde::Deserialize;
use serde_json::Value;

/// Everything that Patroni says of one cluster.
#[derive(Debug, Clone, Default)]
pub struct PatroniView {
    /// Who holds the leader key; absent when nobody does.
    pub leader: Option<MemberName>,
    /// Revision of the leader key, 0 when it is absent.
    pub leader_revision: i64,
    /// `/sync`, if it is there and can be read.
    pub sync: Option<SyncView>,
    /// `/config`, if it is there and can be read.
    pub config: Option<Value>,
    /// Revision of `/config`, 0 when it is absent.
    pub config_revision: i64,
    /// The members that have a key: a member without one has not been heard of for one `ttl`.
    pub members: BTreeMap<MemberName, PatroniMember>,
    /// The leader's last published WAL position.
    pub leader_lsn: Option<Lsn>,
    /// The ends of past timelines.
    pub history: Vec<TimelineEnd>,
    /// A switchover that has been asked for.
    pub failover_requested: bool,
    /// PostgreSQL's system identifier.
    pub system_id: Option<String>,
}

/// `/sync`.
#[derive(Debug, Clone)]
pub struct SyncView {
    /// The standbys that count.
    pub standbys: Vec<MemberName>,
    /// How many of them may be missing.
    pub quorum: usize,
    /// Its `mod_revision`.
    pub mod_revision: i64,
}

/// `/members/<name>`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PatroniMember {
    /// `primary`, `replica`, ...
    #[serde(default)]
    pub role: Option<String>,
    /// `running`, `starting`, `stopped`, ...
    #[serde(default)]
    pub state: Option<String>,
    /// `streaming`, `in archive recovery`; on a standby only.
    #[serde(default)]
    pub replication_state: Option<String>,
    /// The timeline it is on.
    #[serde(default)]
    pub timeline: Option<u32>,
    /// Written, or received and replayed, whichever is further: a number, or text in old versions.
    #[serde(default)]
    xlog_location: Option<Value>,
    /// `postgres://host:port/db`.
    #[serde(default)]
    pub conn_url: Option<String>,
    /// `https://host:port/patroni`: its REST API.
    #[serde(default)]
    pub api_url: Option<String>,
    /// Its PostgreSQL has to be restarted before all settings are in force.
    #[serde(default)]
    pub pending_restart: bool,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, Value>,
    /// Patroni's version.
    #[serde(default)]
    pub version: Option<String>,
}

/// One line of `/history`: the timeline ended there, and a new one began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEnd {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where.
    pub lsn: Lsn,
    /// PostgreSQL's reason.
    pub reason: String,
    /// When the new one began, as Patroni wrote it.
    pub at: Option<String>,
    /// The leader that followed.
    pub leader: Option<String>,
}

impl PatroniMember {
    /// Where it is in the WAL.
    pub fn lsn(&self) -> Option<Lsn> {
        match self.xlog_location.as_ref()? {
            Value::Number(number) => number.as_u64().map(Lsn),
            Value::String(text) => text.parse().ok().map(Lsn),
            _ => None,
        }
    }

    /// Timeline and LSN, if both are known.
    pub fn position(&self) -> Option<Position> {
        Some(Position { timeline: Timeline(self.timeline?), lsn: self.lsn()? })
    }

    /// The tag that keeps it from leading, if it has one.
    pub fn not_to_lead(&self) -> Option<&'static str> {
        let tag = |name: &str| self.tags.get(name);
        match (tag("nofailover").and_then(|value| value.as_bool()), tag("failover_priority")) {
            (Some(true), _) => Some("nofailover"),
            (_, Some(priority)) if priority.as_i64() == Some(0) => Some("failover_priority"),
            _ => None,
        }
    }

    /// `host:port` of its PostgreSQL.
    pub fn address(&self) -> Option<&str> {
        self.conn_url.as_deref()?.split("://").nth(1)?.split('/').next()
    }
}

impl PatroniView {
    /// Reads all of Patroni's keys of a cluster; what cannot be read is added to `problems`.
    pub fn read(keys: &ClusterKeys, reading: &Reading, problems: &mut Vec<String>) -> Self {
        let mut view = Self::default();
        let prefix = keys.patroni_prefix();
        for pair in reading.below(prefix) {
            let name = pair.key.strip_prefix(prefix).unwrap_or_default();
            if let Err(problem) = view.take(name, pair) {
                problems.push(format!("{}: {problem}", pair.key));
            }
        }
        view
    }

    fn take(&mut self, name: &str, pair: &KeyValue) -> Result<(), String> {
        match name {
            "leader" => {
                self.leader = Some(member(&String::from_utf8_lossy(&pair.value))?);
                self.leader_revision = pair.mod_revision;
            }
            "sync" => self.sync = Some(sync(pair)?),
            "config" => {
                self.config_revision = pair.mod_revision;
                self.config = Some(json(pair)?);
            }
            "status" => self.leader_lsn = json(pair)?["optime"].as_u64().map(Lsn),
            "history" => self.history = history(&json(pair)?),
            "failover" => {
                self.failover_requested = json(pair)?.as_object().is_some_and(|map| !map.is_empty())
            }
            "initialize" => self.system_id = Some(String::from_utf8_lossy(&pair.value).into_owned()),
            _ => {
                if let Some(name) = name.strip_prefix("members/") {
                    let data = serde_json::from_slice(&pair.value).map_err(|error| error.to_string())?;
                    self.members.insert(member(name)?, data);
                }
            }
        }
        Ok(())
    }

    /// The class that follows from `synchronous_mode`; unknown without `/config`.
    pub fn class(&self) -> Option<Class> {
        let mode = &self.config.as_ref()?["synchronous_mode"];
        Some(match mode {
            Value::String(text) if text.eq_ignore_ascii_case("quorum") => Class::Quorum,
            value if is_true(value) => Class::On,
            _ => Class::Off,
        })
    }

    /// Whether a switch of `/config` is on; unknown without `/config`.
    pub fn switch(&self, name: &str) -> Option<bool> {
        Some(is_true(&self.config.as_ref()?[name]))
    }

    /// Patroni's role words for a member: `leader`, `quorum_standby`, `sync_standby`, `replica`.
    pub fn role_of(&self, name: &MemberName) -> &'static str {
        if self.leader.as_ref() == Some(name) {
            return "leader";
        }
        let synchronous = self.sync.as_ref().is_some_and(|sync| sync.standbys.contains(name));
        match (synchronous, self.class()) {
            (true, Some(Class::Quorum)) => "quorum_standby",
            (true, _) => "sync_standby",
            (false, _) => "replica",
        }
    }
}

/// Patroni takes several words for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(on) => *on,
        Value::String(text) => matches!(text.to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "1"),
        Value::Number(number) => number.as_i64() == Some(1),
        _ => false,
    }
}

fn json(pair: &KeyValue) -> Result<Value, String> {
    serde_json::from_slice(&pair.value).map_err(|error| error.to_string())
}

fn member(name: &str) -> Result<MemberName, String> {
    MemberName::new(name).map_err(|error| error.to_string())
}

fn sync(pair: &KeyValue) -> Result<SyncView, String> {
    let value = json(pair)?;
    let names = value["sync_standby"].as_str().unwrap_or_default();
    let standbys = names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(member)
        .collect::<Result<_, _>>()?;
    Ok(SyncView {
        standbys,
        quorum: value["quorum"].as_u64().and_then(|quorum| usize::try_from(quorum).ok()).unwrap_or(0),
        mod_revision: pair.mod_revision,
    })
}

fn history(value: &Value) -> Vec<TimelineEnd> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let line = |line: &Value| {
        Some(TimelineEnd {
            timeline: Timeline(u32::try_from(line[0].as_u64()?).ok()?),
            lsn: Lsn(line[1].as_u64()?),
            reason: text(&line[2]).unwrap_or_default(),
            at: text(&line[3]),
            leader: text(&line[4]),
        })
    };
    value.as_array().map(|lines| lines.iter().filter_map(line).collect()).unwrap_or_default()
}
