//! What the checker and the bench read of `holdfast-lab describe`. Fields that are not named here are none of theirs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

/// A lab.
#[derive(Debug, Clone, Deserialize)]
pub struct Describe {
    /// Its name.
    pub lab: String,
    /// Its regions.
    pub regions: Vec<Region>,
    /// The operator's identity.
    #[serde(default)]
    pub operator: Option<Operator>,
}

/// A region.
#[derive(Debug, Clone, Deserialize)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Its clusters.
    pub clusters: Vec<Cluster>,
    /// Its hosts.
    pub hosts: Vec<Host>,
}

/// A Patroni cluster.
#[derive(Debug, Clone, Deserialize)]
pub struct Cluster {
    /// Patroni's scope.
    pub scope: String,
    /// Patroni's namespace.
    #[serde(default)]
    pub namespace: String,
    /// `armed`, or why it is not; absent without Holdfast.
    #[serde(default)]
    pub armed: Option<String>,
    /// How clients reach it.
    pub routes: Vec<RouteDescription>,
}

/// One way to the writer.
#[derive(Debug, Clone, Deserialize)]
pub struct RouteDescription {
    /// `libpq`, `pgbouncer` or `socket`; others are not ours.
    pub kind: String,
    /// The host that it leads to.
    #[serde(default)]
    pub host: Option<String>,
    /// Connection string of libpq: keywords and values.
    pub dsn: String,
}

/// A host.
#[derive(Debug, Clone, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// `etcd`, `database`, `pooler`, `backup` or `client`.
    pub role: String,
    /// Its network namespace.
    pub netns: String,
    /// Its cgroup, a folder.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Its PostgreSQL instances.
    #[serde(default)]
    pub instances: Vec<Instance>,
}

/// A PostgreSQL instance.
#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    /// Patroni's scope.
    pub scope: String,
    /// Patroni's member name.
    pub member: String,
    /// Where its socket is.
    pub socket_dir: PathBuf,
    /// Its ports, by service.
    #[serde(default)]
    pub ports: serde_json::Value,
}

/// The operator.
#[derive(Debug, Clone, Deserialize)]
pub struct Operator {
    /// Configuration of the program `holdfast`.
    pub config: PathBuf,
    /// Its certificate.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The authority.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

impl Describe {
    /// Reads it from a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no description of a lab", path.display()))
    }

    /// Reads it from text.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The first cluster and its region: a bench lab has one.
    pub fn cluster(&self) -> anyhow::Result<(&Region, &Cluster)> {
        let mut all = self.regions.iter().flat_map(|region| region.clusters.iter().map(move |c| (region, c)));
        all.next().with_context(|| format!("the lab {} has no cluster", self.lab))
    }

    /// The host that clients run on.
    pub fn client_host(&self) -> anyhow::Result<&Host> {
        let mut hosts = self.regions.iter().flat_map(|region| &region.hosts);
        hosts
            .find(|host| host.role == "client")
            .with_context(|| format!("the lab {} has no client host", self.lab))
    }
}

impl Region {
    /// The instances of a scope, by host name.
    pub fn instances(&self, scope: &str) -> BTreeMap<&str, &Instance> {
        let of_host = |host: &'_ Host| host.instances.iter().position(|instance| instance.scope == scope);
        self.hosts
            .iter()
            .filter_map(|host| Some((host.name.as_str(), &host.instances[of_host(host)?])))
            .collect()
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }
}

impl Instance {
    /// Its port: a number, or the entry of `postgres` among the ports.
    pub fn port(&self) -> u16 {
        let named = |ports: &serde_json::Value| {
            let keys = ["postgres", "postgresql", "pg"];
            keys.iter().find_map(|key| ports.get(key).and_then(serde_json::Value::as_u64))
        };
        let first = |ports: &serde_json::Value| ports.get(0).and_then(serde_json::Value::as_u64);
        let port = self.ports.as_u64().or_else(|| named(&self.ports)).or_else(|| first(&self.ports));
        port.and_then(|port| u16::try_from(port).ok()).unwrap_or(5432)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_with_more_than_we_know_is_read() {
        let text = r#"{"format":1,"lab":"b","regions":[{"name":"r1","etcd":{},"clusters":[
            {"scope":"main","namespace":"service","routes":[{"kind":"libpq","host":null,"dsn":"host=10.77.0.21"}]}],
            "hosts":[{"name":"db1","role":"database","netns":"x","logs":{},"instances":[
            {"scope":"main","member":"db1","socket_dir":"/run/x","ports":{"postgres":5433}}]}]}]}"#;
        let describe = Describe::parse(text).unwrap();
        let (region, cluster) = describe.cluster().unwrap();
        assert_eq!(region.instances(&cluster.scope)["db1"].port(), 5433);
        assert!(describe.client_host().is_err());
    }
}
