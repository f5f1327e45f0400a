//! `agent/src/act/suspension.rs`: the writer's word that its fence may be lifted, and that it stands again.

use holdfast_agent_core::cluster::Cluster;
use holdfast_store::{Compare, Write};
use holdfast_types::record::{HeldRecord, Stored};

use super::{Agent, Done};

impl Agent {
    pub(super) async fn say_held(
        &self,
        cluster: &Cluster,
        record: &HeldRecord,
        (held_mod_revision, term_mod_revision): (i64, i64),
    ) -> Done {
        self.step(&"says that nobody may close its term meanwhile").await;
        let keys = &self.world.keys;
        let revision = |key: String, is: i64| Compare::ModRevision { key, is };
        let maintenance = cluster.maintenance.as_ref().map_or(0, |found| found.mod_revision);
        let compares = vec![
            self.term_is(term_mod_revision),
            revision(keys.held(), held_mod_revision),
            revision(keys.patroni_config(), cluster.config.map_or(0, |config| config.mod_revision)),
            revision(keys.maintenance(), maintenance),
        ];
        let value = Stored::keeping(record.clone(), cluster.unknown.get(&keys.held())).encode();
        self.changed_or(cluster, compares, vec![Write::put(keys.held(), value)]).await
    }

    pub(super) async fn say_bound(
        &self,
        cluster: &Cluster,
        (held_mod_revision, term_mod_revision): (i64, i64),
    ) -> Done {
        self.step(&"says that its fence stands again").await;
        let key = self.world.keys.held();
        let compares = vec![
            self.term_is(term_mod_revision),
            Compare::ModRevision { key: key.clone(), is: held_mod_revision },
        ];
        self.changed_or(cluster, compares, vec![Write::Delete { key }]).await
    }
}
