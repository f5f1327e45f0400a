//! Patroni's configuration file. JSON is YAML, and JSON has no traps with quotes.

use serde_json::{Value, json};

use holdfast_types::Class;

use crate::lab::plan::{HostPlan, Instance, PG_BIN, Plan, RegionPlan, password_of};
use crate::lab::spec::{EtcdAuth, ReplicationAuth};

/// Seconds between two looks while the lab comes up: Patroni finds its synchronous standbys one look at a time, and
/// `up` sets the value of the specification when they are there.
const LOOP_WAIT_AT_START: u32 = 1;
const TTL_AT_START: u32 = 30;
const RETRY_TIMEOUT_AT_START: u32 = 5;

/// The file of one member.
pub fn config(plan: &Plan, region: &RegionPlan, host: &HostPlan, instance: &Instance<'_>) -> String {
    let (certs, cluster, address) = (host.certs(), instance.cluster, host.address);
    let (ca, cert, key) = (certs.join("ca.crt"), certs.join("host.crt"), certs.join("host.key"));
    let rest = format!("{address}:{}", instance.rest_port);
    let config = json!({
        "scope": cluster.scope,
        "namespace": format!("/{}/", cluster.namespace),
        "name": host.name(),
        "log": { "level": "INFO" },
        "restapi": {
            "listen": rest, "connect_address": rest, "certfile": cert, "keyfile": key, "cafile": ca,
            "verify_client": "required",
        },
        // Members ask each other with this; without it they are refused wherever REST asks for a certificate.
        "ctl": { "cacert": ca, "certfile": cert, "keyfile": key },
        "etcd3": etcd(region, host, instance),
        "bootstrap": {
            "dcs": dynamic(plan, instance),
            "initdb": [{ "encoding": "UTF8" }, { "locale": "C" }, "data-checksums"],
        },
        "postgresql": postgresql(plan, host, instance),
        "tags": host.host.tags,
        // Whoever adopts a cluster must say so; until then Patroni's default stands.
        "watchdog": if plan.spec.adoptable { json!({}) } else { json!({ "mode": "off" }) },
    });
    serde_json::to_string_pretty(&config).expect("a JSON value is written without an error")
}

/// Where etcd has users, Patroni's certificate has no common name: the gateway that it speaks to takes none.
fn etcd(region: &RegionPlan, host: &HostPlan, instance: &Instance<'_>) -> Value {
    let certs = host.certs();
    let stem = if region.etcd_auth == EtcdAuth::Off { "host" } else { "etcd-client" };
    let mut section = json!({
        "hosts": region.etcd_endpoints(),
        "protocol": "https",
        "cacert": certs.join("ca.crt"),
        "cert": certs.join(format!("{stem}.crt")),
        "key": certs.join(format!("{stem}.key")),
    });
    if region.etcd_auth != EtcdAuth::Off {
        let user = region.etcd_user_of_patroni(instance.cluster);
        section["password"] = password_of(&user).into();
        section["username"] = user.into();
    }
    section
}

fn dynamic(plan: &Plan, instance: &Instance<'_>) -> Value {
    json!({
        "ttl": TTL_AT_START,
        "loop_wait": LOOP_WAIT_AT_START,
        "retry_timeout": RETRY_TIMEOUT_AT_START,
        "maximum_lag_on_failover": 1_048_576,
        "failsafe_mode": plan.spec.patroni.failsafe_mode,
        "synchronous_mode": match instance.cluster.class {
            Class::Quorum => json!("quorum"),
            Class::On => json!("on"),
            Class::Off => json!("off"),
        },
        "synchronous_node_count": instance.cluster.synchronous_node_count,
        "postgresql": {
            "use_pg_rewind": true,
            "use_slots": true,
            "remove_data_directory_on_diverged_timelines": true,
            "parameters": {
                "wal_level": "replica",
                "hot_standby": "on",
                "wal_log_hints": "on",
                "fsync": "on",
                "archive_mode": "off",
                "shared_buffers": "64MB",
                "max_wal_size": "256MB",
                "max_connections": 200,
                "wal_retrieve_retry_interval": "100ms",
                "log_min_messages": "warning",
                "log_line_prefix": "%m [%p] %q%u@%d ",
            },
        },
    })
}

fn postgresql(plan: &Plan, host: &HostPlan, instance: &Instance<'_>) -> Value {
    let certs = host.certs();
    let file = |name: &str| certs.join(name).display().to_string();
    let role = |name: &str| {
        let users = plan.users();
        json!({
            "username": name,
            "sslmode": "verify-full",
            "sslrootcert": certs.join("ca.crt"),
            "sslcert": users.join(format!("{name}.crt")),
            "sslkey": users.join(format!("{name}.key")),
        })
    };
    let replication = match plan.spec.replication_auth {
        ReplicationAuth::Certificate => role("replicator"),
        ReplicationAuth::Password => json!({
            "username": "replicator",
            "password": password_of("replicator"),
            "sslmode": "verify-full",
            "sslrootcert": certs.join("ca.crt"),
        }),
    };
    let mut section = json!({
        "listen": format!("{},127.0.0.1:{}", host.address, instance.port),
        "connect_address": format!("{}:{}", host.address, instance.port),
        "data_dir": host.data_dir(&instance.cluster.scope),
        "bin_dir": PG_BIN,
        "pgpass": host.run().join("postgresql").join(format!("pgpass-{}", instance.cluster.scope)),
        "use_unix_socket": true,
        "use_unix_socket_repl": true,
        "authentication": {
            "superuser": role("postgres"), "replication": replication, "rewind": role("rewind"),
        },
        "basebackup": [{ "checkpoint": "fast" }, "no-sync"],
        "parameters": {
            "unix_socket_directories": host.socket_dir(),
            "ssl": "on",
            "ssl_ca_file": file("ca.crt"),
            "ssl_cert_file": file("host.crt"),
            "ssl_key_file": file("host.key"),
        },
        "pg_hba": hba(plan.spec.replication_auth),
        "pg_ident": ["holdfast root postgres", "holdfast postgres postgres", "holdfast postgres replicator"],
    });
    let hooks = section.as_object_mut().expect("it was written as an object");
    let patroni = &plan.spec.patroni;
    if let Some(gate) = &patroni.gate {
        hooks.insert("bin_name".into(), json!({ "postgres": gate }));
    }
    if let Some(hook) = &patroni.hook {
        hooks.insert("pre_promote".into(), format!("{} {}", hook.display(), host.name()).into());
    }
    if plan.spec.holdfast {
        let gate = host.dir.join("bin").join("postgres");
        hooks.insert("bin_name".into(), json!({ "postgres": gate }));
        let cluster = instance.cluster;
        let agent = plan.program("holdfast-agent");
        let hook = format!(
            "{} promote-gate --namespace {} --scope {}",
            agent.display(),
            cluster.namespace,
            cluster.scope
        );
        hooks.insert("pre_promote".into(), hook.into());
    }
    section
}

/// Over the network everybody shows a certificate with its role's name; on the host the user's name counts. Standbys may show
/// a password instead.
fn hba(replication: ReplicationAuth) -> Value {
    let how = match replication {
        ReplicationAuth::Certificate => "cert",
        ReplicationAuth::Password => "scram-sha-256",
    };
    json!([
        "local all postgres peer map=holdfast",
        "local replication replicator,postgres peer map=holdfast",
        "local all app trust",
        format!("hostssl replication replicator 10.77.0.0/16 {how}"),
        // Patroni compares timelines over these, and a rejoin hangs without them.
        format!("hostssl replication replicator 127.0.0.1/32 {how}"),
        format!("hostssl replication replicator ::1/128 {how}"),
        "hostssl all postgres,rewind,app 10.77.0.0/16 cert",
        "hostssl all postgres,rewind,app 127.0.0.1/32 cert",
    ])
}
