//! Reads a specification and refuses what could not come up.

use super::*;

/// A file of a few hundred lines; a longer one is none.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest name of a host: its veth port in the switch is `p-<name>`, and an interface name has 15 bytes.
const HOST_NAME_MAX: usize = 12;
/// Patroni's own lower bounds (4.1); it would raise smaller values silently.
const TTL_MIN: u32 = 20;
const RETRY_TIMEOUT_MIN: u32 = 3;

impl Spec {
    /// A named specification, a file, or the default.
    pub fn load(given: Option<&str>) -> Result<Self, SpecError> {
        let Some(given) = given else { return Ok(Self::default()) };
        let text = match NAMED.iter().find(|(name, _)| *name == given) {
            Some((_, text)) => (*text).to_owned(),
            None => holdfast_proto::read_text(std::path::Path::new(given), FILE_BYTES_MAX)
                .map_err(|error| SpecError::NoFile { given: given.into(), error })?,
        };
        Self::parse(&text).map_err(|text| SpecError::NotUnderstood { given: given.into(), text })
    }

    /// Reads and checks the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spec: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let Patroni { ttl, loop_wait, retry_timeout, .. } = self.patroni;
        if ttl < TTL_MIN || retry_timeout < RETRY_TIMEOUT_MIN || loop_wait < 1 {
            return Err(format!(
                "patroni: ttl must be at least {TTL_MIN}, retry_timeout {RETRY_TIMEOUT_MIN} and loop_wait 1: \
                 Patroni would silently raise smaller values"
            ));
        }
        if u64::from(loop_wait) + 2 * u64::from(retry_timeout) > u64::from(ttl) {
            return Err("patroni: loop_wait + 2 * retry_timeout must not exceed ttl".into());
        }
        let retry = self.pgbouncer.server_login_retry;
        if !retry.is_finite() || retry <= 0.0 {
            return Err("pgbouncer.server_login_retry must be greater than 0".into());
        }
        let is_version = |word: &String| {
            word == "newest" || word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        if !self.patroni.version.iter().all(is_version) {
            return Err("patroni.version must be digits and dots, or newest".into());
        }
        if self.holdfast && (self.patroni.hook.is_some() || self.patroni.gate.is_some()) {
            return Err(
                "patroni.hook and patroni.gate are for labs without Holdfast, which brings its own".into()
            );
        }
        if self.holdfast && self.adoptable {
            return Err("adoptable is for a lab with holdfast = false".into());
        }
        self.check_clusters()?;
        self.check_hosts()
    }

    fn check_clusters(&self) -> Result<(), String> {
        if self.cluster.is_empty() {
            return Err("there is no [[cluster]]".into());
        }
        let mut scopes = BTreeSet::new();
        for cluster in &self.cluster {
            let Cluster { scope, namespace, class, synchronous_node_count } = cluster;
            holdfast_types::Scope::new(scope.clone()).map_err(|error| format!("cluster.scope: {error}"))?;
            holdfast_types::Namespace::new(namespace.clone())
                .map_err(|error| format!("cluster.namespace: {error}"))?;
            if !scopes.insert(scope) {
                return Err(format!("cluster {scope} is there twice"));
            }
            if *synchronous_node_count == 0 {
                return Err(format!("cluster {scope}: synchronous_node_count must be at least 1"));
            }
            // A cluster that is brought in may come as it likes.
            if *class == Class::On && !self.adoptable {
                return Err(format!("cluster {scope}: class on is not built yet; use quorum or off"));
            }
        }
        Ok(())
    }

    fn check_hosts(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for region in &self.region {
            holdfast_types::RegionName::new(region.name.clone())
                .map_err(|error| format!("region.name: {error}"))?;
            for host in &region.host {
                holdfast_types::HostName::new(host.name.clone())
                    .map_err(|error| format!("host.name: {error}"))?;
                if host.name.len() > HOST_NAME_MAX {
                    return Err(format!("host {}: at most {HOST_NAME_MAX} letters", host.name));
                }
                if ["sw", "control"].contains(&host.name.as_str()) || !names.insert(&host.name) {
                    return Err(format!(
                        "host {}: the name is taken; names are unique over all regions",
                        host.name
                    ));
                }
                let plain = host.tags.is_empty() && host.tablespaces.is_empty() && !host.pgbouncer;
                if host.role != Role::Database && !plain {
                    return Err(format!(
                        "host {}: only database hosts have tags, tablespaces and a pgbouncer of their own",
                        host.name
                    ));
                }
            }
            let count = |role| region.host.iter().filter(|host| host.role == role).count();
            if count(Role::Etcd) == 0 || count(Role::Database) == 0 {
                return Err(format!("region {} needs at least one etcd and one database host", region.name));
            }
        }
        if self.region.is_empty() { Err("there is no [[region]]".into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_specification_is_understood() {
        for (name, text) in NAMED {
            Spec::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        Spec::default().check().unwrap();
    }

    #[test]
    fn unknown_and_impossible_settings_are_refused() {
        let refused = [
            ("holdfst = true", "unknown field"),
            ("[patroni]\nttl = 5", "at least 20"),
            ("[patroni]\nttl = 20", "must not exceed ttl"),
            ("[[cluster]]\nscope = \"a\"\n[[cluster]]\nscope = \"a\"", "twice"),
            ("[[cluster]]\nscope = \"a\"\nclass = \"on\"", "not built yet"),
            ("[patroni]\nversion = \"../x\"", "digits and dots"),
            ("[patroni]\nhook = \"/bin/true\"", "without Holdfast"),
            ("[[cluster]]\nscope = \"a\"\nsynchronous_node_count = 0", "at least 1"),
            ("[[region]]\nname = \"r1\"\nhost = []", "at least one etcd"),
            (
                "[[region]]\nname = \"r1\"\nhost = [{ name = \"x\", role = \"etcd\" }, { name = \"x\", role = \"database\" }]",
                "is taken",
            ),
        ];
        for (text, why) in refused {
            let error = Spec::parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?} gave {error}");
        }
    }
}
