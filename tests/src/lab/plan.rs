//! The plan of a lab: its specification with every address, port, name and path filled in.
//!
//! Written to the lab's state directory before anything else is made, so that `down` knows what belongs to the lab even
//! when `up` was killed on the way. Decides names and addresses; creates nothing.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::spec::{Cluster, EtcdAuth, Host, Role, Spec};

/// Where the labs keep what a reboot may forget.
pub const RUN_ROOT: &str = "/run/holdfast-lab";
/// Where they keep data.
pub const DATA_ROOT: &str = "/var/lib/holdfast-lab";
/// PostgreSQL's programs.
pub const PG_BIN: &str = "/usr/lib/postgresql/15/bin";
/// HAProxy, where a lab has it.
pub const HAPROXY: &str = "/usr/sbin/haproxy";
/// Where `tests/setup` keeps Patroni: the lab's own in `venv`, others by their version.
pub const PATRONI_ROOT: &str = "/opt/holdfast-lab";

/// Longest name of a lab: the path of its sockets must fit into the 107 bytes of a Unix socket's address.
const LAB_NAME_MAX: usize = 20;

/// A lab as it is, or is to be, on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub lab: String,
    /// What it was made from.
    pub spec: Spec,
    /// The cgroup v2 directory of the whole lab.
    pub cgroup: PathBuf,
    /// The folder of the programs that were started: `holdfast`, `holdfast-agent`, `holdfast-lab`.
    pub programs: PathBuf,
    /// Its regions.
    pub regions: Vec<RegionPlan>,
}

/// One region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegionPlan {
    /// Its name.
    pub name: String,
    /// Its number, from 0: the third byte of its addresses.
    pub number: u8,
    /// Whether etcd has users: the lab's own commands are root then.
    pub etcd_auth: EtcdAuth,
    /// Its hosts.
    pub hosts: Vec<HostPlan>,
}

/// One host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostPlan {
    /// What the specification says of it.
    #[serde(flatten)]
    pub host: Host,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network namespace.
    pub netns: String,
    /// Its cgroup v2 directory.
    pub cgroup: PathBuf,
    /// Its directory below the lab's run directory.
    pub dir: PathBuf,
    /// Its directory on disk.
    pub data: PathBuf,
}

/// One member of a cluster: PostgreSQL and Patroni on one host.
#[derive(Debug, Clone)]
pub struct Instance<'p> {
    /// Its cluster.
    pub cluster: &'p Cluster,
    /// PostgreSQL's port; PgBouncer's and Patroni's move along.
    pub port: u16,
    /// Patroni's REST API.
    pub rest_port: u16,
    /// PgBouncer's port for this cluster.
    pub pooler_port: u16,
    /// HAProxy's port for this cluster, by our agents' check.
    pub haproxy_port: u16,
    /// The same by Patroni's.
    pub haproxy_patroni_port: u16,
}

impl Instance<'_> {
    /// The unit of its Patroni, which is its cgroup's name too.
    pub fn unit(&self) -> String {
        format!("patroni-{}", self.cluster.scope)
    }

    /// The unit of its PgBouncer: plain for the first cluster.
    pub fn pooler_unit(&self) -> String {
        if self.pooler_port == 6432 {
            "pgbouncer".into()
        } else {
            format!("pgbouncer-{}", self.cluster.scope)
        }
    }
}

impl HostPlan {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.host.name
    }
    /// Certificate, key and authority.
    pub fn certs(&self) -> PathBuf {
        self.dir.join("certs")
    }
    /// Configuration files.
    pub fn etc(&self) -> PathBuf {
        self.dir.join("etc")
    }
    /// What a boot empties.
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }
    /// What every process says.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }
    /// The password of its agent for etcd.
    pub fn etcd_password(&self) -> PathBuf {
        self.etc().join("etcd.password")
    }
    /// Sockets of PostgreSQL.
    pub fn socket_dir(&self) -> PathBuf {
        self.run().join("postgresql")
    }
    /// Sockets of PgBouncer.
    pub fn pooler_socket_dir(&self) -> PathBuf {
        self.run().join("pgbouncer")
    }
    /// The agent's configuration.
    pub fn agent_config(&self) -> PathBuf {
        self.etc().join("agent.toml")
    }
    /// The coordinator's configuration, where one runs.
    pub fn coordinator_config(&self) -> PathBuf {
        self.etc().join("coordinator.toml")
    }
    /// PGDATA of a cluster.
    pub fn data_dir(&self, scope: &str) -> PathBuf {
        self.data.join("data").join(scope)
    }
    /// What the file system of the data directories lies in, where it is one of its own.
    pub fn disk_image(&self) -> PathBuf {
        self.data.join("disk.img")
    }
    /// Where the host has it mounted: above the PGDATA of every cluster.
    pub fn disk_mount(&self) -> PathBuf {
        self.data.join("data")
    }
    /// By how many seconds the host's wall clock is wrong.
    pub fn clock(&self) -> PathBuf {
        self.dir.join("clock")
    }
    /// What tells Patroni's interpreter so.
    pub fn clock_module(&self) -> PathBuf {
        self.dir.join("clock-python")
    }
    /// What a tablespace's mount shows.
    pub fn tablespace_device(&self, name: &str) -> PathBuf {
        self.data.join("devices").join(name)
    }
    /// Where the host has it mounted.
    pub fn tablespace(&self, name: &str) -> PathBuf {
        self.data.join("tablespaces").join(name)
    }
    /// What names the writer to PgBouncer. On disk: PgBouncer must start after a boot without anybody's help.
    pub fn target_file(&self, pooler_unit: &str) -> PathBuf {
        self.data.join("pgbouncer").join(format!("{pooler_unit}-target.ini"))
    }
    /// The supervisor's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("supervise.sock")
    }
    /// What the host's kernel says its boot id is.
    pub fn boot_id(&self) -> PathBuf {
        self.dir.join("boot_id")
    }
}

impl Plan {
    /// Fills in a specification.
    pub fn new(lab: &str, spec: Spec, cgroup_root: &Path, programs: PathBuf) -> Self {
        let cgroup = cgroup_root.join("holdfast-lab").join(lab);
        let regions = (0_u8..)
            .zip(&spec.region)
            .map(|(number, region)| RegionPlan {
                name: region.name.clone(),
                number,
                etcd_auth: spec.etcd_auth,
                hosts: numbered(&region.host)
                    .map(|(host, last)| HostPlan {
                        address: Ipv4Addr::new(10, 77, number, last),
                        netns: format!("lab-{lab}-{}", host.name),
                        cgroup: cgroup.join(&host.name),
                        dir: Path::new(RUN_ROOT).join(lab).join("hosts").join(&host.name),
                        data: Path::new(DATA_ROOT).join(lab).join(&host.name),
                        host: host.clone(),
                    })
                    .collect(),
            })
            .collect();
        Self { lab: lab.into(), spec, cgroup, programs, regions }
    }

    /// The lab's run directory.
    pub fn dir(&self) -> PathBuf {
        dir(&self.lab)
    }
    /// The authority.
    pub fn pki(&self) -> PathBuf {
        self.dir().join("pki")
    }
    /// The operator's certificate.
    pub fn operator(&self) -> PathBuf {
        self.dir().join("operator")
    }
    /// The operator's configuration.
    pub fn operator_config(&self) -> PathBuf {
        self.dir().join("operator.toml")
    }
    /// Certificates of PostgreSQL's roles.
    pub fn users(&self) -> PathBuf {
        self.dir().join("users")
    }
    /// The network namespace that holds the bridges.
    pub fn switch(&self) -> String {
        format!("lab-{}-sw", self.lab)
    }
    /// Cgroup of what keeps the lab running and is no part of any host.
    pub fn control_cgroup(&self) -> PathBuf {
        self.cgroup.join("control")
    }
    /// Whether the data directories of a host lie on a file system of their own.
    pub fn has_own_disk(&self, host: &HostPlan) -> bool {
        self.spec.own_disk && host.host.role == Role::Database
    }
    /// A program of the Patroni that the lab runs.
    pub fn patroni(&self, program: &str) -> PathBuf {
        patroni(self.spec.patroni.version.as_deref(), program)
    }
    /// One of our programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
    /// All hosts with their region.
    pub fn hosts(&self) -> impl Iterator<Item = (&RegionPlan, &HostPlan)> {
        self.regions.iter().flat_map(|region| region.hosts.iter().map(move |host| (region, host)))
    }
    /// The host of that name.
    pub fn host(&self, name: &str) -> Option<(&RegionPlan, &HostPlan)> {
        self.hosts().find(|(_, host)| host.name() == name)
    }
    /// The same, for somebody who has named it.
    pub fn named_host(&self, name: &str) -> anyhow::Result<(&RegionPlan, &HostPlan)> {
        self.host(name).ok_or_else(|| {
            let hosts: Vec<&str> = self.hosts().map(|(_, host)| host.name()).collect();
            let there = hosts.join(", ");
            Failure::usage(format!("lab {} has no host {name}; there are {there}", self.lab))
        })
    }
    /// The region that is named; without a name the only one.
    pub fn named_region(&self, name: Option<&str>) -> anyhow::Result<&RegionPlan> {
        let mut meant = self.regions.iter().filter(|region| name.is_none_or(|name| region.name == name));
        match (meant.next(), meant.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(Failure::usage(self.which("regions"))),
            (None, _) => Err(Failure::usage(format!(
                "no region {}: {}",
                name.unwrap_or("at all"),
                self.which("regions")
            ))),
        }
    }
    /// The cluster that is named; without a name the only one.
    pub fn named_instance(&self, scope: Option<&str>) -> anyhow::Result<Instance<'_>> {
        let mut meant = self.instances().filter(|one| scope.is_none_or(|scope| one.cluster.scope == scope));
        match (meant.next(), meant.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(Failure::usage(self.which("clusters"))),
            (None, _) => Err(Failure::usage(format!(
                "no cluster {}: {}",
                scope.unwrap_or("at all"),
                self.which("clusters")
            ))),
        }
    }
    fn which(&self, what: &str) -> String {
        let regions = self.regions.iter().map(|region| region.name.as_str());
        let scopes = self.spec.cluster.iter().map(|cluster| cluster.scope.as_str());
        let names: Vec<&str> = if what == "regions" { regions.collect() } else { scopes.collect() };
        let lab = &self.lab;
        let how = "say which: @leader:SCOPE@REGION, @region:REGION, postmaster:SCOPE";
        format!("lab {lab} has the {what} {}; {how}", names.join(", "))
    }
    /// What runs on every database host.
    pub fn instances(&self) -> impl Iterator<Item = Instance<'_>> {
        (0_u16..).zip(&self.spec.cluster).map(|(number, cluster)| Instance {
            cluster,
            port: 5432 + number,
            rest_port: 8008 + number,
            pooler_port: 6432 + number,
            haproxy_port: 5000 + number,
            haproxy_patroni_port: 5100 + number,
        })
    }
}

/// The lab's passwords keep no secret: whoever knows a name knows them.
pub fn password_of(user: &str) -> String {
    format!("password-of-{user}")
}

impl RegionPlan {
    /// The user of etcd that a host's agent is.
    pub fn etcd_user(&self, host: &HostPlan) -> String {
        format!("{}/host/{}", self.name, host.name())
    }
    /// The user of etcd that a cluster's Patroni is.
    pub fn etcd_user_of_patroni(&self, cluster: &Cluster) -> String {
        format!("{}/patroni/{}/{}", self.name, cluster.namespace, cluster.scope)
    }
    /// Hosts of a role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &HostPlan> {
        self.hosts.iter().filter(move |host| host.host.role == role)
    }
    /// `host:port` of each etcd member.
    pub fn etcd_endpoints(&self) -> Vec<String> {
        self.of(Role::Etcd).map(|host| format!("{}:2379", host.address)).collect()
    }
}

/// The last byte of each host's address: every role counts from its own base.
fn numbered(hosts: &[Host]) -> impl Iterator<Item = (&Host, u8)> {
    let mut next = std::collections::BTreeMap::from([
        (Role::Etcd, 11_u8),
        (Role::Database, 21),
        (Role::Pooler, 41),
        (Role::Backup, 51),
        (Role::Client, 61),
    ]);
    hosts.iter().map(move |host| {
        let last = next.get_mut(&host.role).expect("every role has a base");
        *last += 1;
        (host, *last - 1)
    })
}

/// A program of an installed Patroni: `patroni`, `patronictl`, `python`.
pub fn patroni(version: Option<&str>, program: &str) -> PathBuf {
    let folder = version.map_or_else(|| "venv".to_owned(), |version| format!("patroni-{version}"));
    Path::new(PATRONI_ROOT).join(folder).join("bin").join(program)
}

/// The run directory of a lab of that name.
pub fn dir(lab: &str) -> PathBuf {
    Path::new(RUN_ROOT).join(lab)
}

/// Refuses a name that could not stand in paths and namespaces, or could be mistaken for another lab's host: the
/// namespace of host `c` in lab `a-b` would be that of host `b-c` in lab `a`.
pub fn check_name(lab: &str) -> Result<(), String> {
    let fits = (1..=LAB_NAME_MAX).contains(&lab.len())
        && lab.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if fits {
        Ok(())
    } else {
        Err(format!("lab name {lab:?} must be 1 to {LAB_NAME_MAX} of a-z, 0-9 and _ (no hyphen)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_follow_the_contract() {
        let plan = Plan::new("a", Spec::default(), Path::new("/cg"), "/bin".into());
        let (region, db2) = plan.host("db2").unwrap();
        assert_eq!(db2.address, Ipv4Addr::new(10, 77, 0, 22));
        assert_eq!(db2.netns, "lab-a-db2");
        assert_eq!(db2.cgroup, Path::new("/cg/holdfast-lab/a/db2"));
        assert_eq!(region.etcd_endpoints(), ["10.77.0.11:2379", "10.77.0.12:2379", "10.77.0.13:2379"]);
        assert_eq!(plan.host("client").unwrap().1.address, Ipv4Addr::new(10, 77, 0, 61));
    }

    #[test]
    fn a_name_with_a_hyphen_is_refused() {
        assert!(check_name("a-b").is_err());
        assert!(check_name("").is_err());
        check_name("bench_1").unwrap();
    }

    #[test]
    fn socket_paths_fit() {
        let plan = Plan::new(&"x".repeat(LAB_NAME_MAX), Spec::default(), Path::new("/cg"), "/bin".into());
        let mut host = plan.host("db1").unwrap().1.clone();
        host.dir = plan.dir().join("hosts").join("x".repeat(12));
        assert!(host.socket_dir().join(".s.PGSQL.65535.lock").as_os_str().len() < 108);
    }
}
