//! The specification of a lab: a TOML file that says which regions and hosts there are and how Patroni and we are timed.
//!
//! Decides what a specification means and which are refused; touches nothing. Called by `up`, which turns it into a
//! [`super::plan::Plan`].

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::{Class, Profile};
use serde::{Deserialize, Serialize};

/// The specifications that are known by name, as `up` takes them.
pub const NAMED: [(&str, &str); 6] = [
    ("holdfast", include_str!("../../specs/holdfast.toml")),
    ("holdfast-fast", include_str!("../../specs/holdfast-fast.toml")),
    ("patroni-default", include_str!("../../specs/patroni-default.toml")),
    ("patroni-tuned", include_str!("../../specs/patroni-tuned.toml")),
    ("quick", include_str!("../../specs/quick.toml")),
    ("two-regions", include_str!("../../specs/two-regions.toml")),
];

mod check;

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spec {
    /// Whether our agents run. Without them the poolers follow Patroni's `GET /primary`, which is the best routing that
    /// users have without us.
    pub holdfast: bool,
    /// Whether the hosts of a lab without our agents have what a test needs to bring them in while the cluster runs: programs,
    /// certificates, the units of guard and agent (down until somebody starts them). Patroni's files know nothing of us.
    pub adoptable: bool,
    /// The agents' timings.
    pub profile: Profile,
    /// How long a second automatic failover waits for a person. A lab breaks things on purpose: it does not wait.
    pub second_failover_hold_ms: u64,
    /// Whether `up` arms the clusters; unarmed ones are in mode `observe`.
    pub arm: bool,
    /// What the agents run to page a person.
    pub paging_command: Option<Vec<String>>,
    /// What the agents run when the writer changes.
    pub route_command: Option<Vec<String>>,
    /// Whether a HAProxy stands beside each PgBouncer, with a route by our agents' check and one by Patroni's. Its checks cost
    /// every host some processor time.
    pub haproxy: bool,
    /// Where the agents send their traces, for example `http://10.77.0.61:4317`.
    pub otlp_endpoint: Option<String>,
    /// The fence device of each database host, which the agents of the others may ask.
    pub outside: Option<Outside>,
    /// Test builds only: the rule that the agents leave out, or `none`.
    pub mutant: Option<String>,
    /// Whether every database host keeps its data on a file system of its own, which can hang and fail. Costs a second
    /// and some disk.
    pub own_disk: bool,
    /// Whether the wall clocks of database hosts can be set. Costs a preloaded library in every process.
    pub fake_clock: bool,
    /// Whether etcd has users, and by what it knows them.
    pub etcd_auth: EtcdAuth,
    /// Seconds that a token of etcd is good for without being used; 300 is etcd's own default.
    pub etcd_token_ttl_s: u32,
    /// How standbys log in to their writer.
    pub replication_auth: ReplicationAuth,
    /// Patroni's timings.
    pub patroni: Patroni,
    /// PgBouncer's settings that decide how long a failover lasts for its clients.
    pub pgbouncer: Pgbouncer,
    /// Patroni clusters; each has a member on every database host of every region.
    pub cluster: Vec<Cluster>,
    /// Regions, each with its own etcd.
    pub region: Vec<Region>,
    /// What connects the regions.
    pub link: Link,
}

/// One program for all database hosts: it is told which of them by `nodename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outside {
    /// The program, by its path on this machine.
    pub program: std::path::PathBuf,
    /// Its options.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Milliseconds that one call may take.
    pub timeout_ms: u64,
    /// How often it is asked again.
    pub retries: u64,
}

/// By what etcd knows who asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EtcdAuth {
    /// It has no users: whoever has a certificate may do everything.
    #[default]
    Off,
    /// Hosts and people by the common name of their certificate, Patroni by a password.
    Certificate,
    /// All by a password; certificates of clients are not asked for.
    Password,
}

/// How a standby logs in to its writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicationAuth {
    /// By a client certificate that names the role.
    #[default]
    Certificate,
    /// By a password (SCRAM).
    Password,
}

/// Patroni's dynamic configuration, as far as it decides when something happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patroni {
    /// Seconds that the leader lock lives without renewal.
    pub ttl: u32,
    /// Seconds between two looks.
    pub loop_wait: u32,
    /// Seconds that etcd and PostgreSQL may take to answer.
    pub retry_timeout: u32,
    /// Whether the primary goes on without etcd while all members answer it.
    pub failsafe_mode: bool,
    /// Which one: `4.0`, `4.1.5`, `newest`, as `tests/setup --patroni` has installed it. Without it, the lab's own.
    pub version: Option<String>,
    /// Without Holdfast only: what takes the place of our hook before a promotion. It gets the host's name.
    pub hook: Option<std::path::PathBuf>,
    /// Without Holdfast only: what takes the place of our start gate.
    pub gate: Option<std::path::PathBuf>,
}

/// PgBouncer's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pgbouncer {
    /// Seconds between two logins to a server that refused one.
    pub server_login_retry: f64,
    /// Milliseconds that sent data may stay unacknowledged; 0 leaves it to the kernel.
    pub tcp_user_timeout_ms: u32,
}

/// One Patroni cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Patroni's scope.
    pub scope: String,
    /// Patroni's namespace without outer slashes.
    #[serde(default = "Cluster::default_namespace")]
    pub namespace: String,
    /// `quorum`: synchronous by quorum, ANY 1. `off`: asynchronous.
    #[serde(default = "Cluster::default_class")]
    pub class: Class,
    /// How many standbys acknowledge each commit of class `quorum`.
    #[serde(default = "Cluster::default_synchronous_node_count")]
    pub synchronous_node_count: usize,
}

impl Cluster {
    fn default_namespace() -> String {
        "service".into()
    }

    fn default_class() -> Class {
        Class::Quorum
    }

    fn default_synchronous_node_count() -> usize {
        1
    }
}

/// One region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Its hosts.
    pub host: Vec<Host>,
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A member of the region's etcd.
    Etcd,
    /// Patroni and PostgreSQL.
    Database,
    /// PgBouncer.
    Pooler,
    /// Backups and the WAL archive; empty so far.
    Backup,
    /// Nothing of ours: where clients are started.
    Client,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name, unique in the lab; Patroni's member name too.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Patroni's tags.
    #[serde(default)]
    pub tags: BTreeMap<String, serde_json::Value>,
    /// Directories, each a mount of its own, that stand ready for tablespaces.
    #[serde(default)]
    pub tablespaces: Vec<String>,
    /// A PgBouncer on this database host that leads to its own PostgreSQL over loopback, whoever writes.
    #[serde(default)]
    pub pgbouncer: bool,
}

impl Host {
    /// Whether Patroni makes it a synchronous standby where there are others: in quorum mode one that may not lead is taken
    /// only if the others are too few.
    pub fn is_synchronous(&self) -> bool {
        let is_set = |tag| self.tags.get(tag) == Some(&true.into());
        !is_set("nosync") && !is_set("nofailover") && !self.tags.contains_key("replicatefrom")
    }
}

/// The links between regions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// Rate towards each region from the others, in Mbit/s; absent is unlimited.
    pub rate_mbit: Option<u32>,
}

/// Why a specification is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither a known name nor a readable file.
    #[error("{given} is neither a named specification ({}) nor a readable file: {error}", known())]
    NoFile {
        /// What was given.
        given: String,
        /// Why it cannot be read.
        error: std::io::Error,
    },
    /// TOML or a field that is wrong.
    #[error("specification {given}: {text}")]
    NotUnderstood {
        /// What was given.
        given: String,
        /// What is wrong with it.
        text: String,
    },
}

fn known() -> String {
    NAMED.map(|(name, _)| name).join(", ")
}

impl Spec {
    /// Whether our programs are on the hosts, running or not.
    pub fn is_installed(&self) -> bool {
        self.holdfast || self.adoptable
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            holdfast: true,
            adoptable: false,
            profile: Profile::default(),
            second_failover_hold_ms: 0,
            arm: true,
            paging_command: None,
            route_command: None,
            haproxy: false,
            otlp_endpoint: None,
            outside: None,
            mutant: None,
            own_disk: false,
            fake_clock: false,
            etcd_auth: EtcdAuth::Off,
            etcd_token_ttl_s: 300,
            replication_auth: ReplicationAuth::Certificate,
            patroni: Patroni::default(),
            pgbouncer: Pgbouncer::default(),
            cluster: vec![Cluster {
                scope: "main".into(),
                namespace: Cluster::default_namespace(),
                class: Cluster::default_class(),
                synchronous_node_count: Cluster::default_synchronous_node_count(),
            }],
            region: vec![default_region()],
            link: Link::default(),
        }
    }
}

impl Default for Patroni {
    fn default() -> Self {
        Self {
            ttl: 30,
            loop_wait: 10,
            retry_timeout: 10,
            failsafe_mode: true,
            version: None,
            hook: None,
            gate: None,
        }
    }
}

impl Default for Pgbouncer {
    fn default() -> Self {
        Self { server_login_retry: 0.1, tcp_user_timeout_ms: 0 }
    }
}

/// Three etcd hosts, three database hosts, one asynchronous replica, one pooler, one backup host, one for clients.
fn default_region() -> Region {
    let host = |name: &str, role| Host {
        name: name.into(),
        role,
        tags: BTreeMap::new(),
        tablespaces: Vec::new(),
        pgbouncer: false,
    };
    let mut hosts: Vec<Host> = ["e1", "e2", "e3"].map(|name| host(name, Role::Etcd)).into();
    hosts.extend(["db1", "db2", "db3", "db4"].map(|name| host(name, Role::Database)));
    hosts.extend([host("pool1", Role::Pooler), host("backup1", Role::Backup), host("client", Role::Client)]);
    let replica = hosts.iter_mut().find(|host| host.name == "db4").expect("db4 is in the list above");
    replica.tags.insert("nosync".into(), true.into());
    Region { name: "r1".into(), host: hosts }
}
