//! HAProxy's configuration: for each cluster one port that follows our agents' check, and one that follows Patroni's, which is
//! what its documentation gives. Both are checked as often, so that only the answers differ.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::lab::plan::{HostPlan, Instance, Plan, RegionPlan};
use crate::lab::spec::Role;

use super::agent::ROUTING_PORT;

/// The configuration file.
pub fn file(host: &HostPlan) -> PathBuf {
    host.etc().join("haproxy.cfg")
}

/// Certificate and key of the host in one file, as HAProxy wants them: Patroni's REST API asks for them.
pub fn identity(host: &HostPlan) -> PathBuf {
    host.etc().join("haproxy.pem")
}

/// Three failed checks take a server out: an agent that is restarted is back within one second. A server that was out is
/// looked at more often, because that is what clients wait for.
const SERVERS: &str =
    "default-server inter 500ms downinter 250ms fall 3 rise 1 on-marked-down shutdown-sessions";

/// `haproxy.cfg` of a pooler host.
pub fn config(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> String {
    let socket = host.run().join("haproxy.sock");
    // By the socket a reload takes the listeners over: no connection is refused meanwhile.
    let mut text = format!(
        "global\n    maxconn 1000\n    stats socket {} mode 600 level admin expose-fd listeners\n\
         defaults\n    mode tcp\n    retries 3\n    option redispatch 1\n    timeout connect 1s\n    \
         timeout client 1h\n    timeout server 1h\n",
        socket.display()
    );
    for instance in plan.instances() {
        if plan.spec.holdfast {
            let Instance { cluster, haproxy_port, .. } = &instance;
            let check = format!("OPTIONS /writer?cluster={}/{}", cluster.namespace, cluster.scope);
            let servers = servers(region, &instance, &format!("check port {ROUTING_PORT}"));
            text += &listen(host, ("writer", &instance), *haproxy_port, &check, &servers);
        }
        let (identity, ca) = (identity(host), host.certs().join("ca.crt"));
        let tls = format!(
            "check port {} check-ssl verify required ca-file {} crt {}",
            instance.rest_port,
            ca.display(),
            identity.display()
        );
        let servers = servers(region, &instance, &tls);
        let port = instance.haproxy_patroni_port;
        text += &listen(host, ("patroni", &instance), port, "OPTIONS /primary", &servers);
    }
    text
}

fn listen(
    host: &HostPlan,
    (name, instance): (&str, &Instance<'_>),
    port: u16,
    check: &str,
    servers: &str,
) -> String {
    let (scope, address) = (&instance.cluster.scope, host.address);
    format!(
        "listen {name}-{scope}\n    bind {address}:{port}\n    option httpchk {check}\n    \
         http-check expect status 200\n    {SERVERS}\n{servers}"
    )
}

fn servers(region: &RegionPlan, instance: &Instance<'_>, check: &str) -> String {
    let mut text = String::new();
    for member in region.of(Role::Database) {
        let (name, address, port) = (member.name(), member.address, instance.port);
        writeln!(text, "    server {name} {address}:{port} {check}").expect("a text takes every line");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::spec::Spec;

    #[test]
    fn both_checks_stand_side_by_side_and_patroni_alone_has_its_own() {
        let text = |holdfast| {
            let spec = Spec { holdfast, haproxy: true, ..Spec::default() };
            let plan = Plan::new("a", spec, std::path::Path::new("/cg"), "/bin".into());
            let (region, pool1) = plan.host("pool1").unwrap();
            config(&plan, region, pool1)
        };
        let ours = "listen writer-main\n    bind 10.77.0.41:5000\n    option httpchk OPTIONS /writer?cluster=service/main\n";
        let with_us = text(true);
        assert!(with_us.contains(ours) && with_us.contains("server db1 10.77.0.21:5432 check port 7462\n"));
        assert!(!text(false).contains("writer"));
        for text in [with_us, text(false)] {
            assert!(text.contains("bind 10.77.0.41:5100\n    option httpchk OPTIONS /primary\n"), "{text}");
            assert!(
                text.contains("server db4 10.77.0.24:5432 check port 8008 check-ssl verify required"),
                "{text}"
            );
        }
    }
}
