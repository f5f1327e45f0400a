//! etcd's permissions as commands, from the one table that a test holds a real etcd to.

use holdfast_types::HostName;
use holdfast_types::keys::ClusterKeys;
use holdfast_types::permissions::{Holder, grants};

use crate::view::cluster::ClusterView;

/// The commands for every host with a member, for a pooler and a person. Their user is the common name of their certificate.
pub fn permissions(view: &ClusterView) -> String {
    let region = &view.cluster.region;
    let mut lines =
        vec!["# an etcd without authentication needs none of this, and nothing here turns it on".to_owned()];
    for member in view.patroni.members.keys() {
        let told = view.facts.get(member).map(|facts| facts.host.clone());
        let Some(host) = told.or_else(|| HostName::new(member.as_str()).ok()) else {
            lines.push(format!("# the host of {member}: as below, with its own name"));
            continue;
        };
        let name = format!("{region}/host/{host}");
        let holder = Holder::Database { host, member: member.clone() };
        user(view, &name, &holder, &mut lines);
    }
    let pooler = HostName::new("POOLERHOST").expect("letters are a host's name");
    let name = format!("{region}/host/{pooler}");
    user(view, &name, &Holder::Pooler { host: pooler, pooler: "pgbouncer".into() }, &mut lines);
    user(view, "operator/NAME", &Holder::Operator, &mut lines);
    lines.join("\n")
}

/// The same names away again.
pub fn users_gone(view: &ClusterView) -> String {
    let region = &view.cluster.region;
    let hosts = view.facts.values().map(|facts| format!("{region}/host/{}", facts.host));
    let names = hosts.chain([format!("{region}/host/POOLERHOST"), "operator/NAME".to_owned()]);
    names
        .map(|name| format!("etcdctl user delete {name}; etcdctl role delete {name}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn user(view: &ClusterView, name: &str, holder: &Holder, lines: &mut Vec<String>) {
    lines.push(format!("etcdctl role add {name}"));
    for grant in grants(holder, &view.cluster.region, &ClusterKeys::new(&view.cluster)) {
        let may = if grant.write { "readwrite" } else { "read" };
        let prefix = if grant.prefix { "--prefix=true " } else { "" };
        lines.push(format!("etcdctl role grant-permission {prefix}{name} {may} {}", grant.key));
    }
    lines.push(format!("etcdctl user add {name} --no-password; etcdctl user grant-role {name} {name}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;

    #[test]
    fn every_grant_of_the_table_is_printed() {
        let view = Built::unarmed().view();
        let text = permissions(&view);
        for line in [
            "etcdctl role grant-permission r1/host/db2 readwrite /holdfast/v1/r1/service/main/facts/db2",
            "etcdctl role grant-permission --prefix=true r1/host/db2 readwrite /service/main/",
            "etcdctl role grant-permission --prefix=true r1/host/POOLERHOST read /service/main/",
            "etcdctl role grant-permission operator/NAME readwrite /holdfast/v1/r1/service/main/mode",
            "etcdctl user add r1/host/db4 --no-password; etcdctl user grant-role r1/host/db4 r1/host/db4",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        assert!(
            !text.contains("r1/host/POOLERHOST readwrite /service"),
            "a pooler may not write Patroni's keys"
        );
        assert!(users_gone(&view).contains("etcdctl user delete r1/host/db1"));
    }
}
