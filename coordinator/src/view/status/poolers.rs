//! What the agents of poolers say beside their records: waiting clients, and whether clients should come. etcd is not written
//! for what changes every second.

use holdfast_proto::message::{HostStatus, PoolerStatus};

use super::StatusReport;
use crate::view::cluster::ClusterView;

impl StatusReport {
    /// Adds what these agents say of the poolers of the view's cluster.
    pub fn add_poolers(&mut self, view: &ClusterView, hosts: &[HostStatus]) {
        for status in hosts {
            let of_cluster = |one: &&PoolerStatus| {
                one.namespace == view.cluster.namespace && one.scope == view.cluster.scope
            };
            for one in status.poolers.iter().filter(of_cluster) {
                let full_name = format!("{}.{}", status.host, one.name);
                let Some(route) = self.routes.iter_mut().find(|route| route.pooler == full_name) else {
                    continue;
                };
                (route.clients_waiting, route.waited_ms) = (one.clients_waiting, one.waited_ms);
                (route.up, route.why) = (one.up, one.why.clone());
            }
        }
    }
}

/// What a person sees of it.
pub(super) fn waiting(clients: Option<u64>, waited_ms: Option<u64>) -> String {
    match (clients, waited_ms) {
        (None, _) => "-".into(),
        (Some(0), _) => "0".into(),
        (Some(clients), waited_ms) => {
            let waited_ms = waited_ms.unwrap_or_default();
            format!("{clients}, for {}.{} s", waited_ms / 1_000, waited_ms % 1_000 / 100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;
    use crate::view::testing::built_host::host_status;
    use holdfast_proto::message::Role;

    #[test]
    fn waiting_clients_are_shown_beside_the_route() {
        assert_eq!(
            [(None, None), (Some(0), Some(0)), (Some(3), Some(2_345))].map(|(n, ms)| waiting(n, ms)),
            ["-", "0", "3, for 2.3 s"]
        );
        let mut built = Built::healthy();
        built.route("a", Some(2));
        let view = built.view();
        let mut host = host_status("pool1", Role::Stopped, true);
        host.poolers.push(PoolerStatus {
            name: "a".into(),
            namespace: view.cluster.namespace.clone(),
            scope: view.cluster.scope.clone(),
            target: None,
            paused: false,
            clients_waiting: Some(7),
            waited_ms: Some(1_200),
            up: Some(false),
            why: Some("PgBouncer hangs".into()),
        });
        let mut report = StatusReport::new(&view, None);
        report.add_poolers(&view, &[host]);
        let text = report.text();
        assert!(
            text.contains("7, for 1.2 s") && text.contains("pool1.a: takes no clients: PgBouncer hangs"),
            "{text}"
        );
    }
}
