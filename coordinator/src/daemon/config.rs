//! `coordinator.toml`: who this coordinator is, and which clusters it works for.

use std::path::{Path, PathBuf};

use holdfast_store::EtcdUser;
use holdfast_types::{ClusterId, HostName, Namespace, RegionName, Scope};
use serde::Deserialize;

use crate::cli::Failure;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// The configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorConfig {
    /// The host that it runs on.
    pub host: HostName,
    /// Its region.
    pub region: RegionName,
    /// The host's certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authority that the servers' certificates must come from, PEM.
    pub ca: PathBuf,
    /// What the authority has taken back before its end, PEM, if it keeps such a list.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// `host:port` of each etcd server.
    pub etcd: Vec<String>,
    /// The user of etcd, where it wants a password.
    #[serde(default)]
    pub etcd_user: Option<String>,
    /// The file whose first line is that user's password.
    #[serde(default)]
    pub etcd_password_file: Option<PathBuf>,
    /// The clusters.
    pub cluster: Vec<ClusterConfig>,
}

/// One cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Patroni's namespace, without outer slashes.
    #[serde(default = "service")]
    pub namespace: Namespace,
    /// Patroni's scope.
    pub scope: Scope,
}

fn service() -> Namespace {
    Namespace::new("service").expect("Patroni's own default is a namespace")
}

impl CoordinatorConfig {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let wrong = |text: String| Failure::usage(format!("configuration {}: {text}", path.display()));
        let text =
            holdfast_proto::read_text(path, FILE_BYTES_MAX).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if config.etcd.is_empty() {
            return Err("etcd lists no server".into());
        }
        if config.cluster.is_empty() {
            return Err("there is no [[cluster]]: it would work for nobody".into());
        }
        if config.etcd_user.is_some() != config.etcd_password_file.is_some() {
            return Err("etcd_user and etcd_password_file need each other".into());
        }
        Ok(config)
    }

    /// Who we are to etcd by a password.
    pub fn user(&self) -> Option<EtcdUser> {
        let (name, password_file) = (self.etcd_user.clone()?, self.etcd_password_file.clone()?);
        Some(EtcdUser { name, password_file })
    }

    /// The clusters, by their whole names.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        self.cluster.iter().map(|cluster| ClusterId {
            region: self.region.clone(),
            namespace: cluster.namespace.clone(),
            scope: cluster.scope.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"
        host = "backup1"
        region = "r1"
        cert = "h.crt"
        key = "h.key"
        ca = "ca.crt"
        etcd = ["10.77.0.11:2379"]
        [[cluster]]
        scope = "main"
    "#;

    #[test]
    fn a_cluster_needs_a_scope_and_unknown_settings_are_refused() {
        let config = CoordinatorConfig::parse(ONE).unwrap();
        assert_eq!(config.clusters().next().unwrap().to_string(), "r1/service/main");
        for (wrong, named) in [
            (ONE.replace("scope", "scoop"), "scoop"),
            (ONE.replace("[[cluster]]\n        scope = \"main\"", "cluster = []"), "nobody"),
            (ONE.replace("[\"10.77.0.11:2379\"]", "[]"), "no server"),
            (ONE.replace("etcd =", "etcd_user = \"a\"\netcd ="), "need each other"),
        ] {
            let error = CoordinatorConfig::parse(&wrong).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
