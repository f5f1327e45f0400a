//! Which cluster a command means: `--config`, `--region`, `--cluster`, and the connection that follows from them.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use holdfast_proto::tls::{Identity, Peer, Protocol, TlsPaths};
use holdfast_store::{EtcdOptions, EtcdStore, Read, Reading, Store};
use holdfast_types::keys;
use holdfast_types::{ClusterId, MemberName, Namespace, RegionName, Scope};
use jiff::Timestamp;

use super::config::{OperatorConfig, RegionConfig};
use super::exit::{Exit, Failure};
use crate::view::cluster::ClusterView;
use crate::view::text;

/// Patroni's own default.
const DEFAULT_NAMESPACE: &str = "service";

/// How an answer is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs; carries `format`.
    Json,
    /// The same, for people who read it.
    Yaml,
}

/// The options that every verb has.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The operator's configuration
    #[arg(long, env = "HOLDFAST_CONFIG", default_value = "/etc/holdfast/operator.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// The region; may be left out if the configuration has one
    #[arg(long, env = "HOLDFAST_REGION", value_name = "NAME")]
    pub region: Option<String>,
    /// The cluster: its scope, or namespace/scope; may be left out if the region has one
    #[arg(long, env = "HOLDFAST_CLUSTER", value_name = "SCOPE")]
    pub cluster: Option<String>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// A region that commands can speak to.
pub struct Region {
    /// Its configuration.
    pub config: RegionConfig,
    /// Who speaks.
    pub identity: Identity,
    /// Its etcd.
    pub etcd: EtcdStore,
}

/// A cluster that commands can speak to.
pub struct Session {
    /// Its region.
    pub region: Region,
    /// The cluster.
    pub cluster: ClusterId,
    /// The region's store.
    pub store: Arc<dyn Store>,
    /// The host that the command runs on, by its own name: orders are recorded with it.
    pub from: String,
}

impl Target {
    /// Reads the configuration and the certificates; does not connect yet.
    pub fn region(&self) -> Result<Region, Failure> {
        let config = OperatorConfig::load(&self.config)?;
        let region = config.region(self.region.as_deref())?.clone();
        let OperatorConfig { ca, cert, key, crl, .. } = config;
        let identity = Identity::load(TlsPaths { ca, cert, key, crl }).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::usage(lines.join("\n"))
        })?;
        let options = EtcdOptions::new(region.etcd.clone(), Some(identity.source(Protocol::Http2)));
        // A person waits longer than an agent, and may be far away.
        let (call_deadline_ms, connect_deadline_ms) = (5_000, 1_500);
        let options = EtcdOptions { call_deadline_ms, connect_deadline_ms, user: region.user(), ..options };
        Ok(Region { config: region, identity, etcd: EtcdStore::new(options) })
    }

    /// Finds the cluster.
    pub async fn session(&self) -> Result<Session, Failure> {
        let region = self.region()?;
        let cluster = self.find(&region).await?;
        let store: Arc<dyn Store> = Arc::new(region.etcd.clone());
        Ok(Session { region, cluster, store, from: this_host() })
    }

    /// Finds the cluster for a verb that acts. Viewers are refused here: etcd itself knows prefixes, not verbs.
    pub async fn order_session(&self) -> Result<Session, Failure> {
        let session = self.session().await?;
        match session.region.identity.peer() {
            Peer::Operator(_) => Ok(session),
            other => Err(Failure::new(
                Exit::Refused,
                format!(
                    "{other} may look, not act: orders need a certificate named holdfast://operator/NAME"
                ),
            )),
        }
    }

    async fn find(&self, region: &Region) -> Result<ClusterId, Failure> {
        let name = &region.config.name;
        if let Some((namespace, scope)) = self.cluster.as_deref().and_then(|text| text.rsplit_once('/')) {
            return named(name, namespace, scope);
        }
        // Their own region's keys begin where its sessions' do, one segment earlier.
        let sessions = keys::sessions(name);
        let ours = sessions.trim_end_matches("session/").to_owned();
        let reading = region.etcd.read(vec![Read::Prefix(ours.clone())]).await?;
        choose(name, &clusters(name, &ours, &reading), self.cluster.as_deref())
    }
}

/// The kernel's name of this host.
fn this_host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => text::UNKNOWN.to_owned(),
        name => name.to_owned(),
    }
}

fn named(region: &RegionName, namespace: &str, scope: &str) -> Result<ClusterId, Failure> {
    let usage = |error: holdfast_types::NameError| Failure::usage(format!("--cluster: {error}"));
    let namespace = Namespace::new(namespace.trim_matches('/')).map_err(usage)?;
    Ok(ClusterId { region: region.clone(), namespace, scope: Scope::new(scope).map_err(usage)? })
}

/// The clusters that an agent has ever written a key of.
fn clusters(region: &RegionName, ours: &str, reading: &Reading) -> Vec<ClusterId> {
    let mut found = Vec::new();
    for key in reading.pairs.iter().filter_map(|pair| pair.key.strip_prefix(ours)) {
        let mut segments = key.split('/');
        let (Some(namespace), Some(scope), Some(_)) = (segments.next(), segments.next(), segments.next())
        else {
            continue;
        };
        if let Ok(cluster) = named(region, &namespace.replace("%2F", "/"), scope)
            && !found.contains(&cluster)
        {
            found.push(cluster);
        }
    }
    found
}

fn choose(region: &RegionName, found: &[ClusterId], wanted: Option<&str>) -> Result<ClusterId, Failure> {
    let fits = |cluster: &&ClusterId| wanted.is_none_or(|scope| cluster.scope.as_str() == scope);
    let fitting: Vec<&ClusterId> = found.iter().filter(fits).collect();
    let names =
        || fitting.iter().map(|c| format!("{}/{}", c.namespace, c.scope)).collect::<Vec<_>>().join(", ");
    match (fitting.as_slice(), wanted) {
        ([only], _) => Ok((*only).clone()),
        ([], Some(scope)) => named(region, DEFAULT_NAMESPACE, scope),
        ([], None) => {
            Err(Failure::usage(format!("no agent of region {region} has a cluster yet; say --cluster SCOPE")))
        }
        _ => Err(Failure::usage(format!("which cluster? say --cluster with one of {}", names()))),
    }
}

impl Region {
    /// Our user of etcd: the name under which our requests stand.
    pub fn etcd_user(&self) -> String {
        self.config.etcd_user.clone().unwrap_or_else(|| self.identity.peer().common_name())
    }

    /// The name in the operator's certificate, for records: `holdfast://operator/ann`.
    pub fn who(&self) -> String {
        self.identity.peer().to_string()
    }
}

impl Session {
    /// Reads the cluster once. Fails if neither Patroni nor an agent knows it.
    pub async fn view(&self) -> Result<ClusterView, Failure> {
        let reading = self.store.read(ClusterView::reads(&self.cluster)).await?;
        let view = ClusterView::new(self.cluster.clone(), &reading, now_wall_ms());
        if view.patroni.config.is_none() && view.members().is_empty() && view.mode.is_none() {
            let text =
                format!("no cluster {}: neither Patroni nor an agent has written a key of it", self.cluster);
            return Err(Failure::usage(text));
        }
        Ok(view)
    }

    /// The member that an operator means: Patroni's name, compared as Patroni does.
    pub fn member(view: &ClusterView, node: &str) -> Result<MemberName, Failure> {
        let wanted = MemberName::new(node).map_err(|error| Failure::usage(error.to_string()))?;
        let members = view.members();
        members.iter().find(|member| **member == wanted).cloned().ok_or_else(|| {
            let names = text::list(&members);
            Failure::usage(format!("{} has no member {node:?}; it has {names}", view.cluster))
        })
    }
}

/// The wall clock, milliseconds since 1970.
pub fn now_wall_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;

    fn region() -> RegionName {
        RegionName::new("r1").unwrap()
    }

    fn cluster(text: &str) -> ClusterId {
        let (namespace, scope) = text.rsplit_once('/').unwrap();
        named(&region(), namespace, scope).unwrap()
    }

    #[test]
    fn clusters_are_found_by_their_keys() {
        let mut built = Built::healthy();
        built.raw("/holdfast/v1/r1/team%2Fa/other/mode", b"");
        let found = clusters(&region(), "/holdfast/v1/r1/", &built.reading());
        assert_eq!(found, [cluster("service/main"), cluster("team/a/other")]);
    }

    #[test]
    fn the_only_cluster_needs_no_name_and_an_ambiguous_one_is_refused() {
        let (a, b) = (cluster("service/main"), cluster("team/main"));
        let c = cluster("service/other");
        assert_eq!(choose(&region(), std::slice::from_ref(&a), None).unwrap(), a);
        assert_eq!(choose(&region(), &[a.clone(), c.clone()], Some("other")).unwrap(), c);
        let both = choose(&region(), &[a.clone(), b], Some("main")).unwrap_err();
        assert!(both.text.contains("service/main, team/main"), "{both}");
        assert_eq!(choose(&region(), &[], Some("main")).unwrap(), a, "Patroni's default namespace");
        assert!(choose(&region(), &[], None).is_err());
    }

    #[test]
    fn a_node_is_a_members_name_without_case() {
        let view = Built::healthy().view();
        assert_eq!(Session::member(&view, "DB2").unwrap().as_str(), "db2");
        assert!(Session::member(&view, "db9").unwrap_err().text.contains("db1, db2, db3, db4"));
    }
}
