//! etcd's users as the plan prints them: those of [`crate::view::etcd_users`], for the hosts that are known.

use holdfast_proto::tls::PersonName;
use holdfast_types::{HostName, MemberName};

use super::host_of;
use crate::view::cluster::ClusterView;
use crate::view::etcd_users::{self, EtcdUsers, Login, Site};

/// The commands for every host with a member, for a pooler and a person. Their user is the common name of their certificate.
pub fn permissions(view: &ClusterView) -> String {
    let unknown =
        unknown(view).map(|member| format!("# the host of {member}: as below, with its own name\n"));
    let script = users(view).map_or_else(|why| format!("# {why}"), |users| users.script(None));
    unknown.chain([script]).collect()
}

/// The same names away again. Patroni's stays: it is Patroni's.
pub fn users_gone(view: &ClusterView) -> String {
    let Ok(users) = users(view) else { return String::new() };
    let ours = users.users.iter().filter(|user| !user.role.ends_with("/patroni"));
    ours.map(|user| format!("etcdctl user delete '{}'; etcdctl role delete '{}'", user.user, user.role))
        .collect::<Vec<_>>()
        .join("\n")
}

fn users(view: &ClusterView) -> Result<EtcdUsers, String> {
    let pooler = HostName::new("POOLERHOST").map_err(|error| error.to_string())?;
    let coordinator = HostName::new("COORDINATORHOST").map_err(|error| error.to_string())?;
    let person = PersonName::new("NAME").map_err(|error| error.to_string())?;
    let site = Site {
        cluster: view.cluster.clone(),
        databases: databases(view).collect(),
        poolers: vec![(pooler, "pgbouncer".to_owned())],
        others: Vec::new(),
        coordinators: vec![coordinator],
        operators: vec![person],
        viewers: Vec::new(),
    };
    etcd_users::of(&site, Login::Certificate).map_err(|error| error.to_string())
}

/// Members whose host is told by its agent, or has the member's name, as it mostly is.
fn databases(view: &ClusterView) -> impl Iterator<Item = (HostName, MemberName)> {
    view.patroni.members.keys().filter_map(|member| Some((host_of(view, member)?, member.clone())))
}

fn unknown(view: &ClusterView) -> impl Iterator<Item = &MemberName> {
    view.patroni.members.keys().filter(|member| host_of(view, member).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;

    #[test]
    fn every_host_a_pooler_and_a_person_have_a_user() {
        let view = Built::unarmed().view();
        let text = permissions(&view);
        for line in [
            "etcdctl role grant-permission 'service/main/r1/host/db2' readwrite '/holdfast/v1/r1/service/main/facts/db2'",
            "etcdctl role grant-permission 'service/main/r1/host/db2' readwrite '/holdfast/v1/r1/session/db3'",
            "etcdctl role grant-permission 'service/main/operator/NAME' readwrite '/holdfast/v1/r1/service/main/mode'",
            "etcdctl user grant-role 'r1/host/db4' 'service/main/r1/host/db4'",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        let pooler_writes = "'service/main/r1/host/POOLERHOST' readwrite '/service";
        assert!(!text.contains(pooler_writes), "a pooler may not write Patroni's keys");
        let gone = users_gone(&view);
        assert!(
            gone.contains(
                "etcdctl user delete 'r1/host/db1'; etcdctl role delete 'service/main/r1/host/db1'"
            )
        );
        assert!(!gone.contains("/patroni'"), "{gone}");
    }
}
