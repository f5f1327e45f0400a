//! `describe`: everything that somebody else's client, fault schedule or test needs to know of a lab, as JSON.
//!
//! Format 1. Every path is valid in the root mount namespace, and names there what the host sees; the one exception is
//! `tablespace_locations`, which are the host's own names for `tablespaces`, as `CREATE TABLESPACE` on it wants them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::control::{self, Request};
use super::plan::{HostPlan, Instance, PG_BIN, Plan, RegionPlan};
use super::spec::Role;
use super::{arm, files, render};

/// Version of the JSON; raised when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// The description.
pub async fn describe(plan: &Plan) -> Value {
    let mut regions = Vec::new();
    for region in &plan.regions {
        regions.push(describe_region(plan, region).await);
    }
    let operator = plan.operator();
    json!({
        "format": FORMAT,
        "lab": plan.lab,
        "holdfast": plan.spec.holdfast,
        "spec": plan.spec,
        "switch_netns": plan.switch(),
        "regions": regions,
        "operator": {
            "config": plan.operator_config(),
            "cert": operator.join("operator.crt"),
            "key": operator.join("operator.key"),
            "ca": operator.join("ca.crt"),
        },
    })
}

async fn describe_region(plan: &Plan, region: &RegionPlan) -> Value {
    let mut hosts = Vec::new();
    for host in &region.hosts {
        hosts.push(describe_host(plan, host).await);
    }
    let clusters: Vec<Value> = plan
        .instances()
        .map(|instance| {
            json!({
                "scope": instance.cluster.scope,
                "namespace": instance.cluster.namespace,
                "class": instance.cluster.class,
                "armed": arm::outcome(plan, region, &instance.cluster.scope),
                "routes": routes(plan, region, &instance),
            })
        })
        .collect();
    let operator = plan.operator();
    json!({
        "name": region.name,
        "etcd": {
            "endpoints": region.etcd_endpoints(),
            "ca": operator.join("ca.crt"),
            "cert": operator.join("operator.crt"),
            "key": operator.join("operator.key"),
        },
        "clusters": clusters,
        "hosts": hosts,
    })
}

async fn describe_host(plan: &Plan, host: &HostPlan) -> Value {
    let status = control::ask(&host.control_socket(), &Request::Status).await.ok();
    let pid = status.as_ref().map(|status| status.pid);
    let certs = host.certs();
    let instances: Vec<Value> = plan
        .instances()
        .filter(|_| host.host.role == Role::Database)
        .map(|instance| {
            let scope = &instance.cluster.scope;
            json!({
                "scope": scope,
                "member": host.name(),
                "data_dir": data_dir(plan, host, scope, pid),
                "bin_dir": PG_BIN,
                "socket_dir": host.socket_dir(),
                "cgroup": host.cgroup.join(instance.unit()),
                "patroni_config": host.etc().join(format!("{}.yml", instance.unit())),
                "ports": { "postgres": instance.port, "patroni": instance.rest_port },
            })
        })
        .collect();
    let agent = plan.spec.is_installed() && render::agent::has_agent(host.host.role);
    let each = |path: &dyn Fn(&str) -> PathBuf| -> Vec<PathBuf> {
        host.host.tablespaces.iter().map(|name| path(name)).collect()
    };
    json!({
        "name": host.name(),
        "role": host.host.role,
        "tags": host.host.tags,
        "tablespaces": each(&|name| host.tablespace_device(name)),
        "tablespace_locations": each(&|name| host.tablespace(name)),
        "address": host.address,
        "netns": host.netns,
        "cgroup": host.cgroup,
        "pid_mnt": pid,
        "units": status.map(|status| status.units),
        "instances": instances,
        "pooler": poolers(plan, host),
        "etcd": (host.host.role == Role::Etcd).then(|| etcd(host, pid)),
        "agent": agent.then(|| json!({
            "config": host.agent_config(),
            "ports": {
                "grpc": render::agent::GRPC_PORT,
                "metrics": render::agent::METRICS_PORT,
                "routing": (host.host.role == Role::Database).then_some(render::agent::ROUTING_PORT),
            },
        })),
        "agent_config": agent.then(|| host.agent_config()),
        "certs": { "ca": certs.join("ca.crt"), "cert": certs.join("host.crt"), "key": certs.join("host.key") },
        "logs": logs(host),
    })
}

/// A disk of the host's own is mounted on the host only.
fn data_dir(plan: &Plan, host: &HostPlan, scope: &str, pid: Option<i32>) -> Option<PathBuf> {
    let inside = host.data_dir(scope);
    if plan.has_own_disk(host) { pid.map(|pid| files::from_outside(pid, &inside)) } else { Some(inside) }
}

/// Its data lies in a memory file system of its own: from outside by way of one of its processes.
fn etcd(host: &HostPlan, pid: Option<i32>) -> Value {
    let data_dir = render::etcd::data_dir(host);
    json!({
        "data_dir": pid.map(|pid| files::from_outside(pid, &data_dir)),
        "ports": { "client": render::etcd::CLIENT_PORT, "peer": render::etcd::PEER_PORT },
    })
}

fn poolers(plan: &Plan, host: &HostPlan) -> Vec<Value> {
    if host.host.role != Role::Pooler {
        return Vec::new();
    }
    let one = |instance: Instance<'_>| {
        json!({
            "scope": instance.cluster.scope,
            "unit": instance.pooler_unit(),
            "port": instance.pooler_port,
            "admin_socket_dir": host.pooler_socket_dir(),
            "target_file": host.target_file(&instance.pooler_unit()),
        })
    };
    plan.instances().map(one).collect()
}

/// Name of each log without its extension, and its path.
fn logs(host: &HostPlan) -> Value {
    let entries = std::fs::read_dir(host.logs()).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let path = entry.path();
        Some((path.file_stem()?.to_str()?.to_owned(), json!(path)))
    });
    Value::Object(named.collect())
}

/// How clients reach the writer of a cluster: libpq with every member, each pooler, each member's own socket.
fn routes(plan: &Plan, region: &RegionPlan, instance: &Instance<'_>) -> Vec<Value> {
    let user = plan.users().join("app").display().to_string();
    let tls = format!(
        "sslmode=verify-full sslrootcert={} sslcert={user}.crt sslkey={user}.key connect_timeout=2 tcp_user_timeout=3000",
        plan.operator().join("ca.crt").display()
    );
    let members: Vec<&HostPlan> = region.of(Role::Database).collect();
    let addresses: Vec<String> = members.iter().map(|host| host.address.to_string()).collect();
    let dsn = format!(
        "host={} port={} dbname=app user=app target_session_attrs=read-write {tls}",
        addresses.join(","),
        instance.port
    );
    let mut routes = vec![json!({ "kind": "libpq", "host": null, "dsn": dsn })];
    for pooler in region.of(Role::Pooler) {
        let dsn = format!("host={} port={} dbname=app user=app {tls}", pooler.address, instance.pooler_port);
        routes.push(json!({ "kind": "pgbouncer", "host": pooler.name(), "dsn": dsn }));
        let ours = plan.spec.holdfast.then_some(("haproxy", instance.haproxy_port));
        let both = ours.into_iter().chain([("haproxy-patroni", instance.haproxy_patroni_port)]);
        for (kind, port) in both.filter(|_| plan.spec.haproxy) {
            let dsn = format!("host={} port={port} dbname=app user=app {tls}", pooler.address);
            routes.push(json!({ "kind": kind, "host": pooler.name(), "dsn": dsn }));
        }
    }
    for host in members {
        let socket_dir = host.socket_dir();
        let dsn = format!("host={} port={} dbname=app user=app", socket_dir.display(), instance.port);
        routes.push(json!({ "kind": "socket", "host": host.name(), "dsn": dsn }));
    }
    routes
}
