//! Pairs of etcd to a [`Cluster`]. Pure; a pair that cannot be read is named in the result, never dropped in silence.

use std::collections::BTreeMap;

use holdfast_agent_core::close::Revised;
use holdfast_agent_core::cluster::Cluster;
use holdfast_store::KeyValue;
use holdfast_types::keys::{self, ClusterKeys, OurKey};
use holdfast_types::record::{Promise, SessionRecord, Unknown, WouldRecord};
use holdfast_types::{MemberName, RegionName, SessionId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::patroni;

type Kept = BTreeMap<String, Unknown>;
type Result<T> = std::result::Result<T, String>;

/// Builds the view of the cluster whose keys are `keys`; pairs of others are passed over.
pub fn cluster<'p>(
    keys: &ClusterKeys,
    region: &RegionName,
    revision: i64,
    pairs: impl Iterator<Item = &'p KeyValue>,
) -> Cluster {
    let sessions = keys::sessions(region);
    let mut cluster = Cluster { revision, ..Cluster::default() };
    let mut attestations = Vec::new();
    for pair in pairs {
        let result = if pair.key.starts_with(&sessions) {
            record::<SessionRecord>(pair, &mut cluster.unknown)
                .map(|found| drop(cluster.sessions.insert(SessionId(pair.lease), found.value)))
        } else if let Some(rest) = pair.key.strip_prefix(keys.patroni_prefix()) {
            patroni_key(rest, pair, &mut cluster)
        } else if let Some(key) = keys.parse(&pair.key) {
            match key {
                OurKey::Attest(_) => record(pair, &mut cluster.unknown).map(|found| attestations.push(found)),
                other => our_key(&other, pair, &mut cluster),
            }
        } else {
            Ok(())
        };
        if let Err(why) = result {
            note_unreadable(keys, &pair.key, &mut cluster);
            cluster.unreadable.insert(pair.key.clone(), why);
        }
    }
    let term = cluster.term.as_ref().map(|term| term.value.term);
    cluster.attestation = attestations
        .into_iter()
        .find(|found: &Revised<holdfast_types::record::Attestation>| Some(found.value.term) == term);
    cluster
}

/// A record that cannot be read is never taken for absent: what that means for a decision is noted for it.
fn note_unreadable(keys: &ClusterKeys, key: &str, cluster: &mut Cluster) {
    match keys.parse(key) {
        Some(OurKey::Mode) => cluster.mode_unreadable = true,
        Some(OurKey::Floor) => cluster.floor_unreadable = true,
        Some(OurKey::Held) => cluster.held_unreadable = true,
        Some(OurKey::Maintenance) => cluster.maintenance_unreadable = true,
        Some(OurKey::Term | OurKey::Promise { .. }) => cluster.terms_unreadable = true,
        Some(OurKey::Drained(node)) => cluster.unreadable_drains.extend([node.to_owned()]),
        Some(OurKey::Fence(name)) => cluster.unreadable_fences.extend(MemberName::new(name)),
        _ => {}
    }
}

/// Decodes a record; what a newer build has written into it is kept for whoever writes it again.
fn record<T: Serialize + DeserializeOwned>(pair: &KeyValue, kept: &mut Kept) -> Result<Revised<T>> {
    let stored = holdfast_store::decode::<T>(pair).map_err(|error| error.to_string())?;
    if !stored.unknown().is_empty() {
        kept.insert(pair.key.clone(), stored.unknown().clone());
    }
    Ok(Revised { value: stored.body, mod_revision: pair.mod_revision })
}

fn member(name: &str) -> Result<MemberName> {
    MemberName::new(name).map_err(|error| error.to_string())
}

fn our_key(key: &OurKey<'_>, pair: &KeyValue, cluster: &mut Cluster) -> Result<()> {
    match key {
        OurKey::Mode => cluster.mode = Some(record(pair, &mut cluster.unknown)?),
        OurKey::Term => cluster.term = Some(record(pair, &mut cluster.unknown)?),
        OurKey::Floor => cluster.floor = Some(record(pair, &mut cluster.unknown)?),
        OurKey::Hold => cluster.hold = Some(record(pair, &mut cluster.unknown)?),
        OurKey::Held => cluster.held = Some(record(pair, &mut cluster.unknown)?),
        OurKey::Maintenance => cluster.maintenance = Some(record(pair, &mut cluster.unknown)?),
        OurKey::Promise { member: name, .. } => {
            let found: Revised<Promise> = record(pair, &mut cluster.unknown)?;
            let newest = cluster.promises.get(&member(name)?).map(|old| old.value.term);
            if newest.is_none_or(|newest| newest < found.value.term) {
                cluster.promises.insert(member(name)?, found);
            }
        }
        OurKey::Facts(name) => {
            let found: Revised<_> = record(pair, &mut cluster.unknown)?;
            cluster.facts.insert(member(name)?, found.value);
        }
        OurKey::Fence(name) => {
            let found = record(pair, &mut cluster.unknown)?;
            cluster.fences.insert(member(name)?, found);
        }
        OurKey::Event(_) => cluster.events.push(record(pair, &mut cluster.unknown)?),
        OurKey::Outside(asker) => {
            let found = record(pair, &mut cluster.unknown)?;
            cluster.outside.insert(member(asker)?, found);
        }
        OurKey::Would(name) => {
            // Nothing rests on it but what an observing agent says: one that cannot be read is passed over.
            if let Ok(found) = holdfast_store::decode::<WouldRecord>(pair) {
                let WouldRecord { promise, stop, .. } = found.body;
                cluster.would.insert(member(name)?, WouldRecord { promise, stop, ..WouldRecord::default() });
            }
        }
        OurKey::Override => cluster.overriding = Some(record(pair, &mut cluster.unknown)?),
        OurKey::Operation => cluster.operation = Some(record(pair, &mut cluster.unknown)?),
        OurKey::Done(name) => {
            let found: Revised<_> = record(pair, &mut cluster.unknown)?;
            cluster.done.insert(member(name)?, found.value);
        }
        OurKey::Drained(node) => {
            let found = record(pair, &mut cluster.unknown)?;
            cluster.drained.insert((*node).to_owned(), found);
        }
        // There is only one format yet: a writer has no choice to make.
        #[cfg(not(feature = "as-newer-build"))]
        OurKey::Format => {}
        #[cfg(feature = "as-newer-build")]
        OurKey::Format => {
            let found: Revised<_> = record(pair, &mut cluster.unknown)?;
            holdfast_types::record::newer::finalised(&found.value);
        }
        OurKey::Attest(_)
        | OurKey::Route(_)
        | OurKey::EndedOperation(_)
        | OurKey::Intent { .. }
        | OurKey::Audit(_)
        | OurKey::Fenced { .. }
        | OurKey::Restart { .. } => {}
    }
    Ok(())
}

fn patroni_key(rest: &str, pair: &KeyValue, cluster: &mut Cluster) -> Result<()> {
    match rest.split_once('/') {
        None => match rest {
            "leader" => {
                let value = member(&patroni::leader(pair)?)?;
                cluster.leader_key = Some(Revised { value, mod_revision: pair.mod_revision });
            }
            "sync" => cluster.sync = Some(patroni::sync(pair)?),
            "failover" => {
                cluster.failover_mod_revision = pair.mod_revision;
                cluster.failover_candidate = patroni::failover_candidate(pair)?;
                cluster.failover_operation = patroni::failover_operation(pair)?;
                cluster.failover_key = patroni::is_order(pair)?;
            }
            "config" => cluster.config = Some(patroni::config(pair)?),
            "status" => cluster.leader_optime = patroni::leader_optime(pair)?,
            _ => {}
        },
        Some(("members", name)) => drop(cluster.members.insert(member(name)?, patroni::member(pair)?)),
        Some(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::record::{ModeRecord, Stored};
    use holdfast_types::{ClusterId, Lsn, Mode, Namespace, Scope};

    fn pair(key: &str, value: &[u8], lease: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: 1,
            mod_revision: 9,
            version: 3,
            lease,
        }
    }

    #[test]
    fn both_prefixes_become_one_view_and_damage_is_named() {
        let region = RegionName::new("r1").unwrap();
        let id = ClusterId {
            region: region.clone(),
            namespace: Namespace::new("service").unwrap(),
            scope: Scope::new("main").unwrap(),
        };
        let keys = ClusterKeys::new(&id);
        let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
        let pairs = [
            pair(&keys.mode(), &Stored::new(mode).encode(), 0),
            pair(&keys.term(), b"{}", 0),
            pair("/service/main/leader", b"db1", 77),
            pair("/service/main/sync", br#"{"leader":"db1","quorum":1,"sync_standby":"db2,db3"}"#, 0),
            pair(
                "/service/main/members/db2",
                br#"{"conn_url":"postgres://10.77.0.22:5432/postgres","state":"running"}"#,
                78,
            ),
            pair("/service/main/config", br#"{"ttl":30,"loop_wait":10,"pause":true}"#, 0),
            pair("/service/main/status", br#"{"optime":83886176,"slots":{"db2":83886176}}"#, 0),
            pair("/service/other/leader", b"dbx", 77),
        ];
        let cluster = cluster(&keys, &region, 9, pairs.iter());
        assert_eq!(cluster.known_mode(), Some(Mode::Armed));
        assert!(cluster.cannot_tell_terms());
        assert!(cluster.term.is_none() && cluster.unreadable.contains_key(&keys.term()));
        assert_eq!(cluster.leader_key.as_ref().unwrap().value.as_str(), "db1");
        let sync = cluster.sync.as_ref().unwrap();
        assert_eq!((sync.quorum, sync.sync_standby.len(), sync.version, sync.mod_revision), (1, 2, 3, 9));
        let db2 = &cluster.members[&MemberName::new("db2").unwrap()];
        assert_eq!((db2.lease, db2.address.as_str()), (78, "10.77.0.22"));
        assert_eq!((cluster.paused(), cluster.leader_optime), (Some(true), Some(Lsn(0x0500_0060))));
    }

    #[test]
    fn a_newer_builds_mode_fence_and_maintenance_are_not_absent() {
        let region = RegionName::new("r1").unwrap();
        let id = ClusterId {
            region: region.clone(),
            namespace: Namespace::new("service").unwrap(),
            scope: Scope::new("main").unwrap(),
        };
        let (keys, db1) = (ClusterKeys::new(&id), MemberName::new("db1").unwrap());
        let newer = br#"{"format":9,"min_reader":9}"#;
        let config = pair("/service/main/config", b"{}", 0);
        let ours = [keys.mode(), keys.fence(&db1), keys.maintenance()].map(|key| pair(&key, newer, 0));
        let pairs = [&ours[..], &[config]].concat();
        let found = cluster(&keys, &region, 9, pairs.iter());
        assert_eq!(found.known_mode(), None);
        assert!(!found.is_armed() && found.fenced(&db1) && found.fences.is_empty());
        assert_eq!((found.paused(), found.suspended(0)), (Some(false), None));
    }
}
