//! What the checker and the bench read of `holdfast-lab describe`. Fields that are not named here are none of theirs.
//!
//! It decides which cluster of a lab is meant; it never takes one of several by itself. The clients, the probes and the
//! bench call it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
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

/// Which cluster of a lab is meant: a lab may have several regions, and a region several clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Choice {
    /// The region, when the lab has more than one
    #[arg(long)]
    pub region: Option<String>,
    /// The cluster (Patroni's scope), when there is more than one
    #[arg(long)]
    pub cluster: Option<String>,
}

/// A region.
#[derive(Debug, Clone, Deserialize)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Its etcd.
    #[serde(default)]
    pub etcd: Etcd,
    /// Its clusters.
    pub clusters: Vec<Cluster>,
    /// Its hosts.
    pub hosts: Vec<Host>,
}

/// How etcd is reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Etcd {
    /// Its servers, as URLs.
    pub endpoints: Vec<String>,
    /// The authority.
    pub ca: PathBuf,
    /// A certificate that it accepts.
    pub cert: PathBuf,
    /// The key of it.
    pub key: PathBuf,
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
    /// `libpq`, `pgbouncer`, `haproxy`, `haproxy-patroni` or `socket`; others are not ours.
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
    /// Patroni's tags, where it is a database host.
    #[serde(default)]
    pub tags: serde_json::Value,
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

    /// The chosen cluster and its region. What is not chosen must be the only one.
    pub fn choose(&self, choice: &Choice) -> anyhow::Result<(&Region, &Cluster)> {
        let all = self.regions.iter().flat_map(|region| region.clusters.iter().map(move |c| (region, c)));
        let is_meant = |(region, cluster): &(&Region, &Cluster)| {
            choice.region.as_ref().is_none_or(|name| *name == region.name)
                && choice.cluster.as_ref().is_none_or(|scope| *scope == cluster.scope)
        };
        let (meant, others): (Vec<_>, Vec<_>) = all.partition(is_meant);
        let named = |list: &[(&Region, &Cluster)]| {
            let names = list.iter().map(|(region, cluster)| format!("{}/{}", region.name, cluster.scope));
            names.collect::<Vec<_>>().join(", ")
        };
        match meant[..] {
            [one] => Ok(one),
            [] if others.is_empty() => bail!("the lab {} has no cluster", self.lab),
            [] => bail!("the lab {} has no such cluster; it has {}", self.lab, named(&others)),
            _ => bail!(
                "the lab {} has several clusters: {}; say which with --region and --cluster",
                self.lab,
                named(&meant)
            ),
        }
    }

    /// The host that the clients of a region run on: its own, or that of another region.
    pub fn client_host(&self, region: &Region) -> anyhow::Result<&Host> {
        let own = self.regions.iter().filter(|other| other.name == region.name);
        let others = self.regions.iter().filter(|other| other.name != region.name);
        let mut hosts = own.chain(others).flat_map(|region| &region.hosts);
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
        let text = r#"{"format":1,"lab":"b","regions":[{"name":"r1","etcd":{"endpoints":["https://10.77.0.11:2379"],
            "ca":"/x/ca","more":1},"clusters":[
            {"scope":"main","namespace":"service","routes":[{"kind":"libpq","host":null,"dsn":"host=10.77.0.21"}]}],
            "hosts":[{"name":"db1","role":"database","netns":"x","logs":{},"instances":[
            {"scope":"main","member":"db1","socket_dir":"/run/x","ports":{"postgres":5433}}]}]}]}"#;
        let describe = Describe::parse(text).unwrap();
        let (region, cluster) = describe.choose(&Choice::default()).unwrap();
        assert_eq!(region.instances(&cluster.scope)["db1"].port(), 5433);
        assert_eq!(region.etcd.endpoints, ["https://10.77.0.11:2379"]);
        assert!(describe.client_host(region).is_err());
    }

    /// Two regions with two clusters each; only the first has a host for clients.
    fn large() -> Describe {
        let cluster = |scope: &str| format!(r#"{{"scope":"{scope}","routes":[]}}"#);
        let region = |name: &str, hosts: &str| {
            let clusters = [cluster("main"), cluster("side")].join(",");
            format!(r#"{{"name":"{name}","clusters":[{clusters}],"hosts":[{hosts}]}}"#)
        };
        let client = r#"{"name":"client","role":"client","netns":"lab-b-client"}"#;
        let regions = [region("r1", client), region("r2", "")].join(",");
        Describe::parse(&format!(r#"{{"lab":"b","regions":[{regions}]}}"#)).unwrap()
    }

    fn choice(region: Option<&str>, cluster: Option<&str>) -> Choice {
        Choice { region: region.map(str::to_owned), cluster: cluster.map(str::to_owned) }
    }

    #[test]
    fn one_of_several_clusters_must_be_named() {
        let describe = large();
        let chosen = |region, cluster| {
            let choice = choice(region, cluster);
            let found = describe.choose(&choice);
            found.map(|(region, cluster)| format!("{}/{}", region.name, cluster.scope))
        };
        assert_eq!(chosen(Some("r2"), Some("side")).unwrap(), "r2/side");
        let error = chosen(None, None).unwrap_err().to_string();
        assert!(error.contains("r1/main, r1/side, r2/main, r2/side; say which"), "{error}");
        let error = chosen(Some("r2"), None).unwrap_err().to_string();
        assert!(error.contains("several clusters: r2/main, r2/side"), "{error}");
        let error = chosen(Some("r3"), None).unwrap_err().to_string();
        assert!(error.contains("no such cluster; it has r1/main"), "{error}");
        let empty = Describe { regions: Vec::new(), ..describe.clone() };
        assert!(empty.choose(&Choice::default()).unwrap_err().to_string().contains("has no cluster"));
    }

    #[test]
    fn clients_run_in_their_region_or_in_another() {
        let describe = large();
        for region in &describe.regions {
            assert_eq!(describe.client_host(region).unwrap().netns, "lab-b-client");
        }
    }
}
