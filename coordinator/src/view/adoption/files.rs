//! The texts of files: what a person writes on each host.

use holdfast_types::{Class, MemberName, Profile};

use crate::view::cluster::ClusterView;
use crate::view::patroni::PatroniMember;

use super::{AGENT, GATE, ROLE, host_of};

/// The agent's default port.
const GRPC_PORT: u16 = 7460;
/// Where it answers load balancers.
const ROUTING_PORT: u16 = 7462;
/// Patroni's own default.
const REST_PORT: &str = "8008";

/// The agent's configuration for the host of a member. What only the host knows stands there as Debian has it, marked.
pub fn agent(view: &ClusterView, member: &MemberName, profile: Profile, etcd: &[String]) -> String {
    let data = &view.patroni.members[member];
    let address = data.address().unwrap_or("ADDRESS:5432");
    let (address, port) = address.rsplit_once(':').unwrap_or((address, "5432"));
    let rest = data.api_url.as_deref().map(|url| url.trim_end_matches("/patroni").trim_end_matches('/'));
    let rest = rest.map_or_else(|| format!("https://{address}:8008"), str::to_owned);
    let host = host_of(view, member).map_or_else(|| "HOST".to_owned(), |host| host.to_string());
    let class = match view.patroni.class() {
        Some(Class::Off) => Class::Off,
        Some(Class::Quorum | Class::On) | None => Class::Quorum,
    };
    let cluster = &view.cluster;
    format!(
        "{}# [routing] stands here where clients come through HAProxy, see the step of its check\n\
         [[instance]]\nnamespace = \"{}\"\nscope = \"{}\"\nmember = \"{member}\"\nclass = \"{class}\"\n\
         data_dir = \"/var/lib/postgresql/15/main\"   # postgresql.data_dir of its patroni.yml\n\
         bin_dir = \"/usr/lib/postgresql/15/bin\"     # postgresql.bin_dir\n\
         socket_dir = \"/var/run/postgresql\"         # unix_socket_directories\n\
         port = {port}\naddress = \"{address}\"\npatroni_url = \"{rest}\"\n\
         sql_role = \"{ROLE}\"\n\
         cgroup = \"/sys/fs/cgroup/system.slice/patroni.service\"   # systemctl show -p ControlGroup patroni\n",
        head(view, &host, address, profile, etcd),
        cluster.namespace,
        cluster.scope,
    )
}

/// The agent's configuration for a pooler's host.
pub fn pooler_agent(view: &ClusterView, profile: Profile, etcd: &[String]) -> String {
    format!(
        "{}[[pooler]]\nname = \"pgbouncer\"\nnamespace = \"{}\"\nscope = \"{}\"\nadmin_socket_dir = \"/var/run/pgbouncer\"\n\
         port = 6432\ntarget_file = \"/etc/pgbouncer/holdfast-target.ini\"\n\
         # one [[pooler]] for each process; name, admin_socket_dir and target_file are its own\n",
        head(view, "POOLERHOST", "ADDRESS", profile, etcd),
        view.cluster.namespace,
        view.cluster.scope,
    )
}

fn head(view: &ClusterView, host: &str, address: &str, profile: Profile, etcd: &[String]) -> String {
    let endpoints = etcd.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", ");
    format!(
        "region = \"{}\"\nhost = \"{host}\"\nrun_dir = \"/run/holdfast\"\nstate_dir = \"/var/lib/holdfast\"\n\
         [tls]\nca = \"/etc/holdfast/tls/ca.crt\"\ncert = \"/etc/holdfast/tls/host.crt\"\nkey = \"/etc/holdfast/tls/host.key\"\n\
         [etcd]\nendpoints = [{endpoints}]\n[grpc]\nlisten = \"{address}:{GRPC_PORT}\"   # on the management network\n\
         [timings]\nprofile = \"{}\"\n",
        view.cluster.region, profile,
    )
}

/// What `holdfast pki` makes for the host of a member and for one pooler's host.
pub fn certificates(view: &ClusterView) -> String {
    let region = &view.cluster.region;
    let mut lines = vec!["holdfast pki init --dir PKI".to_owned()];
    for (member, data) in &view.patroni.members {
        let address =
            data.address().and_then(|address| address.rsplit_once(':')).map_or("ADDRESS", |(host, _)| host);
        let host = host_of(view, member).map_or_else(|| "HOST".to_owned(), |host| host.to_string());
        lines.push(format!(
            "holdfast pki host --dir PKI --region {region} --host {host} --address {address} --out {host}"
        ));
    }
    lines.push(format!(
        "holdfast pki host --dir PKI --region {region} --host POOLERHOST --address ADDRESS --out POOLERHOST"
    ));
    lines.push("holdfast pki operator --dir PKI --name NAME --out operator".into());
    lines.join("\n")
}

/// The role that the agent logs in as, with what it needs: the views of replication and activity, the names of WAL files
/// and of the log; for a planned switchover a checkpoint beforehand, and the end of transactions that a person wants ended.
/// Everything else that it asks may be asked by anybody.
pub fn role() -> String {
    format!(
        "CREATE ROLE {ROLE} LOGIN;\nGRANT pg_monitor, pg_signal_backend TO {ROLE};\n\
         GRANT pg_checkpoint TO {ROLE};  -- PostgreSQL 15 and newer; before, a switchover takes as long as Patroni's checkpoint\n\
         -- PostgreSQL 16 and newer, with reserved_connections = 3: it gets in while clients hold every connection\n\
         -- GRANT pg_use_reserved_connections TO {ROLE};"
    )
}

/// How that role gets in: over the Unix socket, as the operating system's root, and by no other way.
pub fn login() -> String {
    format!(
        "postgresql:\n  pg_hba:      # before the first line that begins with: local all\n  - local postgres {ROLE} peer map={ROLE}\n\
         \x20 pg_ident:\n  - {ROLE} root {ROLE}"
    )
}

/// The hooks.
pub fn hooks(view: &ClusterView) -> String {
    format!(
        "watchdog:\n  mode: off\npostgresql:\n  bin_name:\n    postgres: {GATE}\n  pre_promote: {}",
        pre_promote(view)
    )
}

/// The command of the promotion hook.
pub fn pre_promote(view: &ClusterView) -> String {
    format!("{AGENT} promote-gate --namespace {} --scope {}", view.cluster.namespace, view.cluster.scope)
}

/// What lets HAProxy ask the agents, on the hosts of both.
pub fn haproxy(view: &ClusterView) -> String {
    let check =
        format!("check port {ROUTING_PORT} check-ssl verify required ca-file /etc/holdfast/tls/ca.crt");
    format!(
        "# agent.toml of every database host, before [[instance]]; then: systemctl restart holdfast-agent\n\
         [routing]\nlisten = \"ADDRESS:{ROUTING_PORT}\"   # as grpc.listen\ntls = true\n\
         # haproxy.cfg, in the place of the check of Patroni (for replicas: OPTIONS /replica?max_lag=16MB&cluster=...)\n\
         option httpchk OPTIONS /writer?cluster={}/{}\nhttp-check expect status 200\n\
         default-server inter 500ms downinter 250ms fall 3 rise 1 on-marked-down shutdown-sessions\n{}\
         # then: systemctl reload haproxy",
        view.cluster.namespace,
        view.cluster.scope,
        servers(view, |_| check.clone()),
    )
}

/// HAProxy's check of Patroni, as Patroni's documentation gives it.
pub fn haproxy_of_patroni(view: &ClusterView) -> String {
    let check = |url: &str| {
        let authority = url.trim_end_matches("/patroni").trim_end_matches('/');
        let port = authority.rsplit_once(':').map_or(REST_PORT, |(_, port)| port);
        let tls =
            if url.starts_with("https:") { " check-ssl verify required ca-file PATRONI-CA" } else { "" };
        format!("check port {port}{tls}")
    };
    format!(
        "# haproxy.cfg, as it was before\noption httpchk OPTIONS /primary\n{}# then: systemctl reload haproxy",
        servers(view, check)
    )
}

/// A line for each member, with what `check` makes of the URL of its Patroni.
fn servers(view: &ClusterView, check: impl Fn(&str) -> String) -> String {
    let line = |(member, data): (&MemberName, &PatroniMember)| {
        let address = data.address().unwrap_or("ADDRESS:5432");
        format!("server {member} {address} {}\n", check(data.api_url.as_deref().unwrap_or_default()))
    };
    view.patroni.members.iter().map(line).collect()
}

/// What PgBouncer needs.
pub fn pgbouncer() -> String {
    "%include /etc/pgbouncer/holdfast-target.ini   ; in the place of the section [databases], which that file holds:\n\
     ;   [databases]\n;   * = host=WRITER port=5432          the writer of today, before the first RELOAD\n\
     [pgbouncer]\n\
     pool_mode = transaction        ; PAUSE waits for the end of what a client has begun: with session that is its whole session\n\
     server_login_retry = 0.1       ; seconds: the default of 15 is the gap that clients see\n\
     tcp_user_timeout = 3000        ; milliseconds: a query to a host that died ends\n\
     admin_users = pgbouncer\n\
     unix_socket_dir = /var/run/pgbouncer   ; the agent's way to the console; with so_reuseport each process needs its own directory"
        .into()
}
