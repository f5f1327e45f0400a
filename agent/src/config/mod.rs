//! The agent's configuration: one TOML file, every problem of it reported at once.
//!
//! It holds no secret; keys are named by their paths. Read at start and by `check-config`, never changed while running.

#[cfg(feature = "mutants")]
pub mod mutant;
mod outside;
pub mod pooler;
mod reader;
mod routing;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_proto::tls::{Identity, ShownCertificate, TlsPaths};
use holdfast_store::EtcdUser;
use holdfast_types::{
    Class, ClusterId, HostName, MemberName, Namespace, Profile, RegionName, Scope, Timings,
};

pub use outside::Device;
pub use pooler::Pooler;
pub use reader::Problem;
use reader::{Reader, number, one_of, parsed, path, text, texts};
pub use routing::{RouteCommand, RoutingListen, RoutingTls};

/// Where the configuration is, unless `HOLDFAST_CONFIG` or `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/holdfast/agent.toml";

/// The longest file that is read: a host has a few instances of some hundred bytes each.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our region.
    pub region: RegionName,
    /// Our host.
    pub host: HostName,
    /// Sockets and the session's lease id: lost at a boot, and must be.
    pub run_dir: PathBuf,
    /// Promises, fences, the last known mode: survives a boot.
    pub state_dir: PathBuf,
    /// Filter of the log, in the form of `tracing` directives.
    pub log: String,
    /// One identity for etcd, gRPC and Patroni's REST API.
    pub tls: TlsPaths,
    /// `host:port` of each etcd member.
    pub etcd: Vec<String>,
    /// Who we are to etcd by a password; absent where it knows us by our certificate, or knows no users.
    pub etcd_user: Option<EtcdUser>,
    /// Where other agents and operators reach us.
    pub grpc_listen: SocketAddr,
    /// Where Prometheus reads us.
    pub metrics_listen: Option<SocketAddr>,
    /// Where load balancers ask for the writer and for replicas.
    pub routing_listen: Option<RoutingListen>,
    /// What is run when the writer changes.
    pub route_command: Option<RouteCommand>,
    /// Where incidents' traces go.
    pub otlp_endpoint: Option<String>,
    /// The name of the timings.
    pub profile: Profile,
    /// The timings in force.
    pub timings: Timings,
    /// How long a second automatic failover waits for a person.
    pub second_failover_hold_ms: u64,
    /// What is run to page a person, with the incident as JSON on its standard input.
    pub paging: Option<Vec<String>>,
    /// The PostgreSQL instances of this host.
    pub instances: Vec<Instance>,
    /// The PgBouncer processes of this host.
    pub poolers: Vec<Pooler>,
    /// Clusters that applications on this host connect to directly.
    pub clients: Vec<ClusterId>,
    /// The devices that switch other hosts off.
    pub outside: Vec<Device>,
}

impl Config {
    /// The clusters that something on this host belongs to or connects to; one may come twice.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterId> {
        let of_instances = self.instances.iter().map(|instance| &instance.cluster);
        let of_poolers = self.poolers.iter().map(|pooler| &pooler.cluster);
        of_instances.chain(of_poolers).chain(&self.clients)
    }
}

/// One PostgreSQL under one Patroni.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its name in Patroni.
    pub member: MemberName,
    /// Which promises it can be given.
    pub class: Class,
    /// PGDATA.
    pub data_dir: PathBuf,
    /// Where `postgres` and `pg_controldata` are.
    pub bin_dir: PathBuf,
    /// Directory of its Unix socket.
    pub socket_dir: PathBuf,
    /// Its port.
    pub port: u16,
    /// The role that the agent logs in as over that socket.
    pub sql_role: String,
    /// The address that other members and poolers reach it by.
    pub address: String,
    /// Patroni's REST API, `https://` or `http://`.
    pub patroni_url: String,
    /// The authority of its certificate, where that is another than ours.
    pub patroni_ca: Option<PathBuf>,
    /// The cgroup that holds Patroni and PostgreSQL and nothing else.
    pub cgroup: PathBuf,
}

/// Reads and checks the file and the identity that it names. All problems come back together.
pub fn load_with_identity(file: &Path) -> Result<(Config, Identity), Vec<Problem>> {
    let (read, mut problems) = match load(file) {
        Ok(config) => (Some(config), Vec::new()),
        Err(problems) => (None, problems),
    };
    // What is wrong with the certificates is said beside what is wrong with the file.
    let tls = match &read {
        Some(config) => Some(config.tls.clone()),
        None => tls_alone(file),
    };
    problems.extend(read.iter().flat_map(other_files));
    match (read, tls.map(Identity::load)) {
        (Some(config), Some(Ok(identity))) if problems.is_empty() => Ok((config, identity)),
        (_, Some(Err(found))) => {
            problems.extend(found.iter().map(|one| Problem { path: "tls".into(), text: one.to_string() }));
            Err(problems)
        }
        (_, Some(Ok(_)) | None) => Err(problems),
    }
}

/// What is wrong with the files that it names beside those of the identity.
fn other_files(config: &Config) -> Vec<Problem> {
    let of_instance = |(place, instance): (usize, &Instance)| {
        let error = holdfast_proto::tls::server_verifier(instance.patroni_ca.as_deref()?).err()?;
        Some(Problem { path: format!("instance[{place}].patroni_ca"), text: error.to_string() })
    };
    let problems = config.instances.iter().enumerate().filter_map(of_instance);
    let of_routing = config.routing_listen.as_ref().map_or(&RoutingTls::Off, |listen| &listen.tls);
    let shown = match of_routing {
        RoutingTls::Files { cert, key } => ShownCertificate::load(cert.clone(), key.clone()).err(),
        RoutingTls::Off | RoutingTls::Own => None,
    };
    let shown = shown.unwrap_or_default().into_iter();
    let shown = shown.map(|problem| Problem { path: "routing".into(), text: problem.to_string() });
    config.etcd_user.as_ref().and_then(password).into_iter().chain(problems).chain(shown).collect()
}

/// What is wrong with the file of a password. It is read again whenever one is needed.
fn password(user: &EtcdUser) -> Option<Problem> {
    let path = &user.password_file;
    let text = match holdfast_proto::read_text(path, FILE_BYTES_MAX) {
        Ok(text) if text.lines().next().is_some_and(|line| !line.is_empty()) => return None,
        Ok(_) => format!("{}: its first line is empty; it must be the password", path.display()),
        Err(error) => format!("{} cannot be read: {error}", path.display()),
    };
    Some(Problem { path: "etcd.password_file".into(), text })
}

/// The paths of the identity in a file that is otherwise not right.
fn tls_alone(file: &Path) -> Option<TlsPaths> {
    let table: toml::Table = holdfast_proto::read_text(file, FILE_BYTES_MAX).ok()?.parse().ok()?;
    let path = |name: &str| Some(PathBuf::from(table.get("tls")?.get(name)?.as_str()?));
    Some(TlsPaths { ca: path("ca")?, cert: path("cert")?, key: path("key")?, crl: path("crl") })
}

/// Reads and checks the file alone: the gates run as Patroni's user, who need not be able to read our key.
pub fn load(file: &Path) -> Result<Config, Vec<Problem>> {
    let at = file.display().to_string();
    let one = |text: String| vec![Problem { path: at.clone(), text }];
    let content = holdfast_proto::read_text(file, FILE_BYTES_MAX).map_err(|error| {
        one(format!("cannot be read: {error}; name the file with --config or HOLDFAST_CONFIG"))
    })?;
    match parse(&content).map_err(one)? {
        (Some(config), problems) if problems.is_empty() => Ok(config),
        (_, problems) => Err(problems),
    }
}

/// What the text says, as far as it can be understood, and what is wrong with it.
pub(super) fn parse(content: &str) -> Result<(Option<Config>, Vec<Problem>), String> {
    let table: toml::Table =
        content.parse().map_err(|error: toml::de::Error| format!("is not TOML: {error}"))?;
    let mut problems = Vec::new();
    let mut top = Reader::new(table, "", &mut problems);
    let config = read(&mut top);
    top.finish();
    Ok((config, problems))
}

fn read(top: &mut Reader<'_>) -> Option<Config> {
    #[cfg(feature = "mutants")]
    mutant::read(top)?;
    let region = top.required("region", parsed(RegionName::new));
    let host = top.required("host", parsed(HostName::new));
    let run_dir = top.required("run_dir", path);
    let state_dir = top.required("state_dir", path);
    let log = top.optional("log", text).unwrap_or_else(|| "info".into());
    let tls = top.table("tls", |tls| {
        let (ca, cert, key) =
            (tls.required("ca", path), tls.required("cert", path), tls.required("key", path));
        let crl = tls.optional("crl", path);
        Some(TlsPaths { ca: ca?, cert: cert?, key: key?, crl })
    });
    let (etcd, etcd_user) = top.table("etcd", |etcd| (etcd.required("endpoints", texts), user(etcd)));
    let grpc_listen = top.table("grpc", |grpc| grpc.required("listen", parsed(one_address)));
    let metrics_listen = top.table("metrics", |metrics| metrics.optional("listen", parsed(socket)));
    let (routing_listen, route_command) = top.table("routing", routing::routing);
    let otlp_endpoint = top.table("telemetry", |telemetry| telemetry.optional("otlp_endpoint", text));
    let (profile, hold) = top.table("timings", |timings| {
        let profile: Profile = timings.optional("profile", one_of).unwrap_or_default();
        (profile, timings.optional("second_failover_hold_ms", number(0, 86_400_000)))
    });
    let paging = top.table("paging", |paging| paging.optional("command", texts));
    let of_region = region.clone();
    let instances = top.tables("instance", |one| instance(one, of_region.as_ref()));
    let poolers = top.tables("pooler", |one| pooler::pooler(one, of_region.as_ref()));
    let clients = top.tables("client", |one| cluster(one, of_region.as_ref()));
    let outside = top.tables("outside", |one| outside::device(one, host.as_ref()));
    twice(top, "instance", &instances, |one| one.cluster.to_string());
    twice(top, "instance", &instances, |one| format!("data_dir {}", one.data_dir.display()));
    twice(top, "instance", &instances, |one| format!("port {}", one.port));
    twice(top, "instance", &instances, |one| format!("cgroup {}", one.cgroup.display()));
    each_pooler_has_its_own(top, &poolers);
    twice(top, "client", &clients, ToString::to_string);
    twice(top, "outside", &outside, |one| format!("host {}", one.host));
    if routing_listen.is_some() && instances.is_empty() && poolers.is_empty() {
        top.problem("routing.listen", "this host has no [[instance]] or [[pooler]] that could be asked for");
    }
    if route_command.is_some() && instances.is_empty() && poolers.is_empty() && clients.is_empty() {
        top.problem(
            "routing.command",
            "this host has no cluster to follow: it needs an [[instance]], [[pooler]] or [[client]]",
        );
    }
    Some(Config {
        region: region?,
        host: host?,
        run_dir: run_dir?,
        state_dir: state_dir?,
        log,
        tls: tls?,
        etcd: etcd?,
        etcd_user,
        grpc_listen: grpc_listen?,
        metrics_listen,
        routing_listen,
        route_command,
        otlp_endpoint,
        profile,
        timings: Timings::of(profile),
        second_failover_hold_ms: hold.unwrap_or(600_000),
        paging,
        instances,
        poolers,
        clients,
        outside,
    })
}

fn each_pooler_has_its_own(top: &mut Reader<'_>, poolers: &[Pooler]) {
    twice(top, "pooler", poolers, |one| format!("name {}", one.name));
    twice(top, "pooler", poolers, |one| format!("target_file {}", one.target_file.display()));
    twice(top, "pooler", poolers, |one| {
        format!("admin_socket_dir {} with port {}", one.admin_socket_dir.display(), one.port)
    });
}

/// What must be each table's own.
fn twice<T>(top: &mut Reader<'_>, table: &str, all: &[T], own: impl Fn(&T) -> String) {
    for (index, one) in all.iter().enumerate() {
        let own_of_one = own(one);
        if all[..index].iter().any(|other| own(other) == own_of_one) {
            top.problem(table, format!("{own_of_one} is there twice"));
        }
    }
}

fn socket(text: String) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text} must be an address and a port, for example 10.0.0.5:7460"))
}

/// Other agents and operators connect to what stands here, and it is to be the management network alone.
fn one_address(text: String) -> Result<SocketAddr, String> {
    match socket(text)? {
        all if all.ip().is_unspecified() => Err(format!(
            "{all} is every address of this host, the one of its clients too; name the host's address in the \
             management network, by which other agents reach it"
        )),
        one => Ok(one),
    }
}

/// Both or neither.
fn user(etcd: &mut Reader<'_>) -> Option<EtcdUser> {
    let (name, file) = (etcd.optional("user", text), etcd.optional("password_file", path));
    match (&name, &file) {
        (Some(_), None) => etcd.problem("password_file", "is missing; user needs one"),
        (None, Some(_)) => etcd.problem("user", "is missing; password_file needs one"),
        _ => {}
    }
    Some(EtcdUser { name: name?, password_file: file? })
}

fn cluster(one: &mut Reader<'_>, region: Option<&RegionName>) -> Option<ClusterId> {
    let namespace = one.required("namespace", parsed(Namespace::new));
    let scope = one.required("scope", parsed(Scope::new));
    Some(ClusterId { region: region?.clone(), namespace: namespace?, scope: scope? })
}

fn port(value: toml::Value) -> Result<u16, String> {
    let port = number(1, 65_535)(value)?;
    Ok(u16::try_from(port).expect("the bound was checked"))
}

fn instance(one: &mut Reader<'_>, region: Option<&RegionName>) -> Option<Instance> {
    let cluster = cluster(one, region);
    let member = one.required("member", parsed(MemberName::new));
    let class = one.optional("class", one_of).unwrap_or(Class::Quorum);
    let data_dir = one.required("data_dir", path);
    let bin_dir = one.required("bin_dir", path);
    let socket_dir = one.required("socket_dir", path);
    let port = one.required("port", port);
    let sql_role = one.optional("sql_role", text).unwrap_or_else(|| "postgres".into());
    let address = one.required("address", text);
    let patroni_url = one.required("patroni_url", |value| {
        let url = text(value)?;
        let has_scheme = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme));
        if has_scheme { Ok(url) } else { Err(format!("{url} must begin with https:// or http://")) }
    });
    let patroni_ca = one.optional("patroni_ca", path);
    let cgroup = one.required("cgroup", path);
    Some(Instance {
        cluster: cluster?,
        member: member?,
        class,
        data_dir: data_dir?,
        bin_dir: bin_dir?,
        socket_dir: socket_dir?,
        port: port?,
        sql_role,
        address: address?,
        patroni_url: patroni_url?,
        patroni_ca,
        cgroup: cgroup?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
region = "r1"
host = "db1"
run_dir = "/run/holdfast"
state_dir = "/var/lib/holdfast"
[tls]
ca = "/x/ca.crt"
cert = "/x/host.crt"
key = "/x/host.key"
[etcd]
endpoints = ["10.77.0.11:2379"]
[grpc]
listen = "10.77.0.21:7460"
[[instance]]
namespace = "service"
scope = "main"
member = "db1"
data_dir = "/d"
bin_dir = "/b"
socket_dir = "/s"
port = 5432
address = "10.77.0.21"
patroni_url = "https://10.77.0.21:8008"
cgroup = "/sys/fs/cgroup/patroni-main"
"#;

    fn problems(content: &str) -> Vec<String> {
        parse(content).unwrap().1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_full_configuration_is_understood() {
        let (config, problems) = parse(GOOD).unwrap();
        assert_eq!(problems, []);
        let config = config.unwrap();
        assert_eq!(config.second_failover_hold_ms, 600_000);
        assert_eq!(config.instances[0].class, Class::Quorum);
        assert_eq!(config.instances[0].sql_role, "postgres");
        assert_eq!(config.timings, Timings::of(Profile::Normal));
    }

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let bad = GOOD
            .replace("port = 5432", "port = 70000\npots = 1")
            .replace("region = \"r1\"", "region = 7")
            .replace("\"/s\"", "\"s\"")
            .replace("[grpc]", "[timings]\nprofile = \"quick\"\n[grpc]");
        let found = problems(&bad);
        for path in [
            "region:",
            "instance[0].port:",
            "instance[0].pots:",
            "instance[0].socket_dir:",
            "timings.profile:",
        ] {
            assert!(found.iter().any(|problem| problem.starts_with(path)), "{path} is not in {found:?}");
        }
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn a_fence_device_is_checked_as_strictly() {
        let device = |rest: &str| {
            let outside = format!(
                "[[outside]]\nhost = \"db2\"\nname = \"ipmi\"\nprogram = \"/usr/sbin/fence_ipmilan\"\n{rest}"
            );
            format!("{GOOD}{outside}")
        };
        let good = device(
            "options = { ip = \"10.0.0.9\", ipport = 623 }\nsecrets = { password = \"/etc/holdfast/ipmi\" }\n",
        );
        assert_eq!(problems(&good), Vec::<String>::new());
        let config = parse(&good).unwrap().0;
        let device_of = &config.unwrap().outside[0];
        assert_eq!((device_of.timeout_ms, device_of.retries, device_of.delay_ms), (20_000, 1, 0));
        assert_eq!(device_of.options["ipport"], "623");
        for (rest, path) in [
            ("timeout = 3\n", "outside[0].timeout:"),
            ("timeout_ms = 1\n", "outside[0].timeout_ms:"),
            ("options = { action = \"on\" }\n", "outside[0].options:"),
            ("options = { password = \"x\" }\n", "outside[0].options:"),
            ("options = { \"a b\" = \"x\" }\n", "outside[0].options:"),
            ("options = { a = \"x\\ny\" }\n", "outside[0].options:"),
            ("secrets = { password = \"ipmi\" }\n", "outside[0].secrets:"),
        ] {
            let found = problems(&device(rest));
            assert!(found.len() == 1 && found[0].starts_with(path), "{rest}: {found:?}");
        }
        assert!(
            problems(&device("").replace("host = \"db2\"", "host = \"db1\""))[0].contains("is this host")
        );
    }

    #[test]
    fn routing_is_off_until_it_is_asked_for() {
        let of = |text: &str| parse(text).unwrap().0.unwrap();
        let none = of(GOOD);
        assert_eq!((none.routing_listen, none.route_command), (None, None));
        let both = "[routing]\nlisten = \"10.77.0.21:7462\"\ncommand = [\"/x\", \"y\"]\n";
        let config = of(&GOOD.replace("[[instance]]", &format!("{both}[[instance]]")));
        let listen = |tls| RoutingListen { address: "10.77.0.21:7462".parse().unwrap(), tls };
        assert_eq!(config.routing_listen, Some(listen(RoutingTls::Off)));
        let shown = |lines: &str| {
            let text = both.replace("command", &format!("{lines}command"));
            of(&GOOD.replace("[[instance]]", &format!("{text}[[instance]]"))).routing_listen
        };
        assert_eq!(shown("tls = true\n"), Some(listen(RoutingTls::Own)));
        let files = RoutingTls::Files { cert: "/x/c".into(), key: "/x/k".into() };
        assert_eq!(shown("cert = \"/x/c\"\nkey = \"/x/k\"\n"), Some(listen(files)));
        let line = vec!["/x".to_owned(), "y".to_owned()];
        assert_eq!(config.route_command, Some(RouteCommand { line, deadline_ms: 10_000 }));
        let nowhere = |table: &str| {
            let top = GOOD.split("[[instance]]").next().unwrap();
            problems(&format!("{top}[routing]\n{table}"))
        };
        for (table, path) in [
            ("listen = \"10.77.0.21:7462\"", "routing.listen: this host has no"),
            ("command = [\"/x\"]", "routing.command: this host has no"),
            ("command = []", "routing.command: must be"),
            ("command_deadline_ms = 1000", "routing.command_deadline_ms: there is no"),
            ("listen = \"7462\"", "routing.listen: 7462 must be"),
            ("port = 1", "routing.port: is not a setting"),
            ("tls = true", "routing.listen: is missing"),
            ("cert = \"/x\"", "routing.key: is missing"),
            ("key = \"/x\"", "routing.cert: is missing"),
            ("tls = false\ncert = \"/x\"\nkey = \"/y\"", "routing.tls: is false"),
        ] {
            let found = nowhere(table);
            assert!(found.len() == 1 && found[0].starts_with(path), "{table}: {found:?}");
        }
    }

    #[test]
    fn a_write_through_a_pooler_needs_a_role_and_a_database() {
        let pooler = "[[pooler]]\nnamespace = \"service\"\nscope = \"main\"\nname = \"a\"\n\
                      admin_socket_dir = \"/s\"\nport = 6432\ntarget_file = \"/t\"\n";
        let with = |probe: &str| format!("{GOOD}{pooler}{probe}");
        let of = |text: &str| parse(text).unwrap().0.unwrap().poolers[0].probe.clone();
        assert_eq!(of(&with("")), None);
        let probe = pooler::Probe { user: "app".into(), database: "postgres".into(), password_file: None };
        assert_eq!(of(&with("probe = { user = \"app\", database = \"postgres\" }\n")), Some(probe));
        let found = problems(&with("probe = { user = \"app\" }\n"));
        assert!(found.len() == 1 && found[0].starts_with("pooler[0].probe.database:"), "{found:?}");
    }

    #[test]
    fn a_user_of_etcd_has_a_password_in_a_file() {
        let with = |lines: &str| GOOD.replace("[grpc]", &format!("{lines}[grpc]"));
        let both = with("user = \"db1\"\npassword_file = \"/x/etcd\"\n");
        let user = parse(&both).unwrap().0.unwrap().etcd_user.unwrap();
        assert_eq!((user.name.as_str(), user.password_file.as_path()), ("db1", Path::new("/x/etcd")));
        assert!(problems(&with("user = \"db1\"\n"))[0].starts_with("etcd.password_file: is missing"));
        assert!(problems(&with("password_file = \"/x\"\n"))[0].starts_with("etcd.user: is missing"));
        assert!(problems(&with("password = \"secret\"\n"))[0].starts_with("etcd.password: is not a setting"));
    }

    #[test]
    fn the_agent_listens_on_one_address() {
        for all in ["0.0.0.0:7460", "[::]:7460"] {
            let found = problems(&GOOD.replace("10.77.0.21:7460", all));
            assert!(found[0].starts_with("grpc.listen:") && found[0].contains("management"), "{found:?}");
        }
    }

    #[test]
    fn an_empty_file_names_what_is_missing() {
        let found = problems("");
        for path in ["region:", "tls.ca:", "etcd.endpoints:", "grpc.listen:"] {
            assert!(found.iter().any(|problem| problem.starts_with(path)), "{path} is not in {found:?}");
        }
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, GOOD).unwrap();
        assert!(load(&file).is_ok(), "the gates need no certificate");
        let problems = load_with_identity(&file).unwrap_err();
        assert!(
            problems.iter().any(|problem| problem.to_string().starts_with("tls: /x/ca.crt cannot be read"))
        );
    }
}
