//! The agent's configuration and the operator's.

use serde_json::{Value, json};

use crate::lab::plan::{HostPlan, PG_BIN, Plan, RegionPlan};
use crate::lab::spec::{EtcdAuth, Outside, Role};

/// Where agents serve gRPC.
pub const GRPC_PORT: u16 = 7460;
/// Where they serve Prometheus, on loopback.
pub const METRICS_PORT: u16 = 7461;
/// Where those of database and pooler hosts answer the checks of load balancers.
pub const ROUTING_PORT: u16 = 7462;

/// `agent.toml` of a host.
pub fn config(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> Result<String, toml::ser::Error> {
    let certs = host.certs();
    let mut config = json!({
        "region": region.name,
        "host": host.name(),
        "run_dir": host.run().join("holdfast"),
        "state_dir": host.data.join("holdfast"),
        "log": "info",
        "tls": {
            "ca": certs.join("ca.crt"), "cert": certs.join("host.crt"), "key": certs.join("host.key"),
        },
        "etcd": etcd(region, host),
        "grpc": { "listen": format!("{}:{GRPC_PORT}", host.address) },
        "metrics": { "listen": format!("127.0.0.1:{METRICS_PORT}") },
        "timings": {
            "profile": plan.spec.profile,
            "second_failover_hold_ms": plan.spec.second_failover_hold_ms,
        },
    });
    let tables = config.as_object_mut().expect("it was written as an object");
    if let Some(command) = &plan.spec.paging_command {
        tables.insert("paging".into(), json!({ "command": command }));
    }
    if let Some(endpoint) = &plan.spec.otlp_endpoint {
        tables.insert("telemetry".into(), json!({ "otlp_endpoint": endpoint }));
    }
    if let Some(outside) = plan.spec.outside.as_ref().filter(|_| host.host.role == Role::Database) {
        tables.insert("outside".into(), devices(region, host, outside));
    }
    if let Some(routing) = routing(plan, host) {
        tables.insert("routing".into(), routing);
    }
    if let Some(mutant) = &plan.spec.mutant {
        tables.insert("mutant".into(), json!(mutant));
    }
    match host.host.role {
        Role::Database => tables.insert("instance".into(), instances(plan, host)),
        Role::Pooler => tables.insert("pooler".into(), poolers(plan, host)),
        Role::Client => tables.insert("client".into(), clients(plan)),
        Role::Etcd | Role::Backup => None,
    };
    toml::to_string(&config)
}

/// Every instance and pooler can be asked for; a command is run wherever there is a cluster to follow.
fn routing(plan: &Plan, host: &HostPlan) -> Option<Value> {
    let mut table = serde_json::Map::new();
    if matches!(host.host.role, Role::Database | Role::Pooler) {
        table.insert("listen".into(), json!(format!("{}:{ROUTING_PORT}", host.address)));
    }
    if let Some(command) = plan.spec.route_command.as_ref().filter(|_| host.host.role != Role::Backup) {
        table.insert("command".into(), json!(command));
    }
    (!table.is_empty()).then_some(Value::Object(table))
}

fn etcd(region: &RegionPlan, host: &HostPlan) -> Value {
    let endpoints = region.etcd_endpoints();
    match region.etcd_auth {
        EtcdAuth::Off | EtcdAuth::Certificate => json!({ "endpoints": endpoints }),
        EtcdAuth::Password => json!({
            "endpoints": endpoints, "user": region.etcd_user(host), "password_file": host.etcd_password(),
        }),
    }
}

/// The devices of all other database hosts.
fn devices(region: &RegionPlan, host: &HostPlan, outside: &Outside) -> Value {
    let others = region.of(Role::Database).filter(|other| other.name() != host.name());
    let one = |other: &HostPlan| {
        json!({
            "host": other.name(),
            "name": format!("power-{}", other.name()),
            "program": outside.program,
            "options": outside.options,
            "timeout_ms": outside.timeout_ms,
            "retries": outside.retries,
        })
    };
    others.map(one).collect()
}

fn instances(plan: &Plan, host: &HostPlan) -> Value {
    let one = |instance: crate::lab::plan::Instance<'_>| {
        let cluster = instance.cluster;
        json!({
            "namespace": cluster.namespace,
            "scope": cluster.scope,
            "member": host.name(),
            "class": cluster.class,
            "data_dir": host.data_dir(&cluster.scope),
            "bin_dir": PG_BIN,
            "socket_dir": host.socket_dir(),
            "port": instance.port,
            "address": host.address,
            "patroni_url": format!("https://{}:{}", host.address, instance.rest_port),
            "cgroup": host.cgroup.join(instance.unit()),
        })
    };
    plan.instances().map(one).collect()
}

fn poolers(plan: &Plan, host: &HostPlan) -> Value {
    let one = |instance: crate::lab::plan::Instance<'_>| {
        json!({
            "name": instance.pooler_unit(),
            "namespace": instance.cluster.namespace,
            "scope": instance.cluster.scope,
            "admin_socket_dir": host.pooler_socket_dir(),
            "port": instance.pooler_port,
            "target_file": host.target_file(&instance.pooler_unit()),
            "probe": { "user": "app", "database": "app" },
        })
    };
    plan.instances().map(one).collect()
}

fn clients(plan: &Plan) -> Value {
    let one = |instance: crate::lab::plan::Instance<'_>| json!({ "namespace": instance.cluster.namespace, "scope": instance.cluster.scope });
    plan.instances().map(one).collect()
}

/// `coordinator.toml` of a host.
pub fn coordinator(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> Result<String, toml::ser::Error> {
    let certs = host.certs();
    let mut config = json!({
        "host": host.name(),
        "region": region.name,
        "ca": certs.join("ca.crt"),
        "cert": certs.join("host.crt"),
        "key": certs.join("host.key"),
        "etcd": region.etcd_endpoints(),
        "cluster": clients(plan),
    });
    if region.etcd_auth == EtcdAuth::Password {
        config["etcd_user"] = json!(region.etcd_user(host));
        config["etcd_password_file"] = json!(host.etcd_password());
    }
    toml::to_string(&config)
}

/// `operator.toml` of the lab.
pub fn operator(plan: &Plan) -> Result<String, toml::ser::Error> {
    let dir = plan.operator();
    let region = |region: &RegionPlan| {
        let agents: Vec<String> = region
            .hosts
            .iter()
            .filter(|host| has_agent(host.host.role))
            .map(|host| format!("{}:{GRPC_PORT}", host.address))
            .collect();
        let mut table = json!({ "name": region.name, "etcd": region.etcd_endpoints(), "agents": agents });
        if region.etcd_auth == EtcdAuth::Password {
            table["etcd_user"] = super::OPERATOR.into();
            table["etcd_password_file"] = json!(dir.join("etcd.password"));
        }
        table
    };
    toml::to_string(&json!({
        "cert": dir.join("operator.crt"),
        "key": dir.join("operator.key"),
        "ca": dir.join("ca.crt"),
        "region": plan.regions.iter().map(region).collect::<Vec<_>>(),
    }))
}

/// Whether a host of that role has an agent.
pub fn has_agent(role: Role) -> bool {
    role != Role::Etcd
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::spec::Spec;

    #[test]
    fn a_database_host_names_its_instance_and_its_cgroup() {
        let plan = Plan::new("a", Spec::default(), std::path::Path::new("/cg"), "/bin".into());
        let (region, db1) = plan.host("db1").unwrap();
        let text = config(&plan, region, db1).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let instance = &table["instance"].as_array().unwrap()[0];
        assert_eq!(instance["cgroup"].as_str().unwrap(), "/cg/holdfast-lab/a/db1/patroni-main");
        assert_eq!(instance["patroni_url"].as_str().unwrap(), "https://10.77.0.21:8008");
        assert_eq!(table["timings"]["profile"].as_str().unwrap(), "normal");
        assert!(!table.contains_key("pooler"));
    }
}
