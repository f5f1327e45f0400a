//! Where nobody has shown that Holdfast keeps its promises, so that `arm` refuses: one sentence each, with the way on.
//! Watching goes on in all of these. Called by `arming`, whose list `arm`, `doctor` and `adopt` show.

use std::collections::BTreeMap;

use holdfast_types::MemberName;
use holdfast_types::patroni_versions::{self, TESTED_PATRONI};
use holdfast_types::record::SetupSeen;

use super::cluster::ClusterView;
use super::text;

/// The only store whose keys Holdfast reads and compares.
const STORE: &str = "etcd3";

/// Each with the way on.
pub fn refusals(view: &ClusterView) -> Vec<(String, String)> {
    let mut found = Vec::new();
    versions(view, &mut found);
    stores(view, &mut found);
    citus(view, &mut found);
    found
}

/// What is not refused, and should be known.
pub fn warnings(view: &ClusterView) -> Vec<String> {
    let mut lines = Vec::new();
    let told = |member: &(&MemberName, &SetupSeen)| member.1.vip_manager == Some(true);
    let hosts: Vec<&MemberName> = setups(view).filter(told).map(|(member, _)| member).collect();
    if !hosts.is_empty() {
        lines.push(format!(
            "vip-manager runs beside {}: it follows Patroni's leader key, which moves before the next writer is open, so its \
             clients meet a read-only server for a moment; point them at a pooler with an agent, or at libpq's target_session_attrs",
            text::list(hosts)
        ));
    }
    let silent: Vec<&MemberName> = view
        .patroni
        .members
        .iter()
        .filter(|(_, data)| data.version.is_none())
        .map(|(name, _)| name)
        .collect();
    if !silent.is_empty() {
        lines.push(format!("the version of Patroni on {} is unknown", text::list(silent)));
    }
    lines
}

fn setups(view: &ClusterView) -> impl Iterator<Item = (&MemberName, &SetupSeen)> {
    view.facts.iter().filter_map(|(member, facts)| Some((member, facts.setup.as_ref()?)))
}

fn versions(view: &ClusterView, found: &mut Vec<(String, String)>) {
    let mut untested: BTreeMap<&str, Vec<&MemberName>> = BTreeMap::new();
    for (member, data) in &view.patroni.members {
        if let Some(version) = data.version.as_deref().filter(|version| !patroni_versions::is_tested(version))
        {
            untested.entry(version).or_default().push(member);
        }
    }
    for (version, members) in untested {
        found.push((
            format!(
                "Patroni {version} of {} is not among the versions that Holdfast has been tested with ({})",
                text::list(members),
                text::list(TESTED_PATRONI)
            ),
            "go on observing, and arm once both are of versions that were tested together".into(),
        ));
    }
}

fn stores(view: &ClusterView, found: &mut Vec<(String, String)>) {
    let mut others: BTreeMap<&str, Vec<&MemberName>> = BTreeMap::new();
    for (member, setup) in setups(view) {
        let dcs = setup.file.as_ref().and_then(|file| file.dcs.as_deref());
        if let Some(dcs) = dcs.filter(|dcs| *dcs != STORE) {
            others.entry(dcs).or_default().push(member);
        }
    }
    for (dcs, members) in others {
        let way = match dcs {
            "etcd" => {
                "etcd3 in the place of etcd in every patroni.yml: the same servers, by the API that Holdfast reads"
            }
            _ => "move Patroni to etcd (etcd3: in patroni.yml), or go on observing",
        };
        found.push((
            format!(
                "Patroni of {} keeps its lock in {dcs}, and Holdfast can compare and close a reign in etcd's v3 API only",
                text::list(members)
            ),
            way.into(),
        ));
    }
}

fn citus(view: &ClusterView, found: &mut Vec<(String, String)>) {
    let in_config = view.patroni.config.as_ref().is_some_and(|config| config["citus"].is_object());
    let in_file = |setup: &SetupSeen| setup.file.as_ref().is_some_and(|file| file.citus == Some(true));
    if in_config || setups(view).any(|(_, setup)| in_file(setup)) {
        found.push((
            "this is a Citus cluster: its transactions span several groups, and one group's failover has not been shown to \
             lose none of them"
                .into(),
            "go on observing; each group stays with Patroni alone".into(),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::Built;
    use holdfast_types::record::PatroniFile;
    use serde_json::json;

    fn of_db2(change: impl FnOnce(&mut SetupSeen)) -> Built {
        let mut built = Built::unarmed();
        built.facts(2, |facts| change(facts.setup.as_mut().unwrap()));
        built
    }

    fn file(change: impl FnOnce(&mut PatroniFile)) -> Vec<(String, String)> {
        refusals(&of_db2(|setup| change(setup.file.as_mut().unwrap())).view())
    }

    #[test]
    fn a_tested_cluster_on_etcd_is_not_refused() {
        let view = Built::unarmed().view();
        assert_eq!((refusals(&view), warnings(&view)), (vec![], vec![]));
        assert_eq!(file(|file| file.dcs = None), [], "unknown is no reason");
    }

    #[test]
    fn an_untested_version_is_named_with_its_members() {
        let mut built = Built::unarmed();
        for n in [2, 4] {
            built.patroni_member(n, json!({"version": "5.0.1"}));
        }
        let found = refusals(&built.view());
        assert!(found[0].0.starts_with("Patroni 5.0.1 of db2, db4 is not among"), "{found:?}");
        built.patroni_member(3, json!({"version": null}));
        assert_eq!(warnings(&built.view()), ["the version of Patroni on db3 is unknown"]);
    }

    #[test]
    fn another_store_and_citus_are_refused_with_the_way_on() {
        let consul = file(|file| file.dcs = Some("consul".into()));
        assert!(consul[0].0.starts_with("Patroni of db2 keeps its lock in consul"), "{consul:?}");
        let old = file(|file| file.dcs = Some("etcd".into()));
        assert!(old[0].1.starts_with("etcd3 in the place of etcd"), "{old:?}");
        assert!(file(|file| file.citus = Some(true))[0].0.contains("Citus"));
        let mut built = Built::unarmed();
        built.patroni("config", &json!({"ttl": 20, "citus": {"group": 0}}));
        assert_eq!(refusals(&built.view()).len(), 1);
    }

    #[test]
    fn vip_manager_is_a_warning() {
        let lines = warnings(&of_db2(|setup| setup.vip_manager = Some(true)).view());
        assert!(lines[0].starts_with("vip-manager runs beside db2"), "{lines:?}");
    }
}
