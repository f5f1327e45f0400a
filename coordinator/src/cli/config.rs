//! The operator's configuration: who the operator is, and where the regions are.

use std::path::{Path, PathBuf};

use holdfast_store::EtcdUser;
use holdfast_types::RegionName;
use serde::Deserialize;

use super::exit::Failure;

/// The longest file that is read: a fleet has some dozens of regions.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `operator.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorConfig {
    /// The operator's certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authority that the servers' certificates must come from, PEM.
    pub ca: PathBuf,
    /// What the authority has taken back before its end, PEM, if it keeps such a list.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// The regions.
    #[serde(default)]
    pub region: Vec<RegionConfig>,
}

/// One region.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Its name.
    pub name: RegionName,
    /// `host:port` of each etcd server.
    pub etcd: Vec<String>,
    /// The user of etcd, where it wants a password; without it etcd knows us by our certificate, or knows no users.
    #[serde(default)]
    pub etcd_user: Option<String>,
    /// The file whose first line is that user's password.
    #[serde(default)]
    pub etcd_password_file: Option<PathBuf>,
    /// `host:port` of agents that are asked when etcd is down.
    #[serde(default)]
    pub agents: Vec<String>,
}

impl RegionConfig {
    /// Who we are to etcd by a password.
    pub fn user(&self) -> Option<EtcdUser> {
        let (name, password_file) = (self.etcd_user.clone()?, self.etcd_password_file.clone()?);
        Some(EtcdUser { name, password_file })
    }
}

impl OperatorConfig {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = holdfast_proto::read_text(path, FILE_BYTES_MAX)
            .map_err(|error| Failure::usage(format!("configuration {}: {error}", path.display())))?;
        Self::parse(&text)
            .map_err(|error| Failure::usage(format!("configuration {}: {error}", path.display())))
    }

    /// Understands the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for region in &config.region {
            if region.etcd.is_empty() {
                return Err(format!("region {}: etcd lists no server", region.name));
            }
            if region.etcd_user.is_some() != region.etcd_password_file.is_some() {
                return Err(format!(
                    "region {}: etcd_user and etcd_password_file need each other",
                    region.name
                ));
            }
        }
        Ok(config)
    }

    /// The region of that name; without a name the only one.
    pub fn region(&self, name: Option<&str>) -> Result<&RegionConfig, Failure> {
        let names = || self.region.iter().map(|region| region.name.as_str()).collect::<Vec<_>>().join(", ");
        match (name, self.region.as_slice()) {
            (_, []) => Err(Failure::usage("the configuration names no region")),
            (None, [only]) => Ok(only),
            (None, _) => Err(Failure::usage(format!("which region? say --region with one of {}", names()))),
            (Some(name), regions) => {
                regions.iter().find(|region| region.name.as_str() == name).ok_or_else(|| {
                    Failure::usage(format!("no region {name:?}; the configuration has {}", names()))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
        cert = "o.crt"
        key = "o.key"
        ca = "ca.crt"
        [[region]]
        name = "r1"
        etcd = ["10.77.0.11:2379"]
        [[region]]
        name = "r2"
        etcd = ["10.77.1.11:2379"]
        agents = ["10.77.1.21:7460"]
    "#;

    #[test]
    fn a_region_is_named_or_the_only_one() {
        let two = OperatorConfig::parse(TWO).unwrap();
        assert_eq!(two.region(Some("r2")).unwrap().agents, ["10.77.1.21:7460"]);
        assert!(two.region(None).unwrap_err().text.contains("r1, r2"));
        assert!(two.region(Some("r3")).unwrap_err().text.contains("r1, r2"));
        let one = OperatorConfig { region: two.region[..1].to_vec(), ..two };
        assert_eq!(one.region(None).unwrap().name.as_str(), "r1");
    }

    #[test]
    fn unknown_keys_and_empty_lists_are_refused() {
        let error = OperatorConfig::parse(&TWO.replace("agents", "agent")).unwrap_err();
        assert!(error.contains("agent"), "{error}");
        let error = OperatorConfig::parse(&TWO.replace("[\"10.77.0.11:2379\"]", "[]")).unwrap_err();
        assert_eq!(error, "region r1: etcd lists no server");
        let error =
            OperatorConfig::parse(&TWO.replace("agents =", "etcd_user = \"ann\"\nagents =")).unwrap_err();
        assert_eq!(error, "region r2: etcd_user and etcd_password_file need each other");
    }
}
