//! What stands in etcd and in the state directory: records of ours, keys, and Patroni's.

use std::fmt::Debug;

use holdfast_agent_core::detach::Phase;
use holdfast_store::KeyValue;
use holdfast_types::keys::ClusterKeys;
use holdfast_types::record::{
    Attestation, AuditRecord, CoordinatorRecord, DrainedRecord, EventRecord, FORMAT, FenceRecord,
    FencedRecord, FloorRecord, FormatRecord, HeldRecord, HoldRecord, IntentRecord, MaintenanceRecord,
    MemberFacts, ModeRecord, ObservedRecord, OperationRecord, OutsideRecord, OverrideRecord, PhaseDone,
    Promise, RestartRecord, RouteRecord, SessionRecord, Stored, TermRecord, WouldRecord,
};
use holdfast_types::renewals::RenewalDay;
use holdfast_types::{ClusterId, HostName, MemberName, Namespace, RegionName, Scope, Term};
use serde::Serialize;
use serde::de::DeserializeOwned;

// The simulator compiles these two as well; the fuzz targets compile this file without it.
#[allow(clippy::duplicate_mod)]
#[path = "../../../agent/src/world/decode.rs"]
mod decode;
#[allow(clippy::duplicate_mod)]
#[path = "../../../agent/src/world/patroni.rs"]
mod patroni;
#[allow(dead_code)] // The agent uses the rest of this file.
#[path = "../../../agent/src/gate/remembered.rs"]
mod remembered;

/// Every type of record, whatever it is meant to be: a key can hold anything.
pub fn record(bytes: &[u8]) -> bool {
    let understood = [
        stored::<Attestation>(bytes),
        stored::<AuditRecord>(bytes),
        stored::<EventRecord>(bytes),
        stored::<FenceRecord>(bytes),
        stored::<FencedRecord>(bytes),
        stored::<FloorRecord>(bytes),
        stored::<FormatRecord>(bytes),
        stored::<ObservedRecord>(bytes),
        stored::<RenewalDay>(bytes),
        stored::<HeldRecord>(bytes),
        stored::<HoldRecord>(bytes),
        stored::<MaintenanceRecord>(bytes),
        stored::<MemberFacts>(bytes),
        stored::<CoordinatorRecord>(bytes),
        stored::<IntentRecord>(bytes),
        stored::<DrainedRecord>(bytes),
        stored::<OperationRecord>(bytes),
        stored::<PhaseDone>(bytes),
        stored::<RestartRecord>(bytes),
        stored::<ModeRecord>(bytes),
        stored::<OutsideRecord>(bytes),
        stored::<OverrideRecord>(bytes),
        stored::<Promise>(bytes),
        stored::<RouteRecord>(bytes),
        stored::<SessionRecord>(bytes),
        stored::<TermRecord>(bytes),
        stored::<WouldRecord>(bytes),
        stored::<Phase>(bytes),
        stored::<remembered::Remembered>(bytes),
    ];
    understood.contains(&true)
}

fn stored<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(read) = Stored::<T>::decode("k", bytes) else { return false };
    let min_reader =
        serde_json::from_slice::<serde_json::Value>(bytes).expect("a record was read from it")["min_reader"]
            .as_u64()
            .expect("a record has one");
    assert!(min_reader <= FORMAT, "a record for newer readers was taken");
    let again = Stored::<T>::decode("k", &read.encode()).expect("what this build writes it reads");
    assert_eq!(again, read);
    true
}

/// Lines of `KEY VALUE`, the way a view of a cluster is built from etcd's pairs.
pub fn pairs(bytes: &[u8]) -> bool {
    let pairs: Vec<KeyValue> = bytes.split(|byte| *byte == b'\n').filter_map(pair).collect();
    let (keys, region) = (keys(), region());
    let cluster = decode::cluster(&keys, &region, 9, pairs.iter());
    // The order of pairs of different keys means nothing, and no pair is dropped in silence.
    for pair in &pairs {
        if pair.key == keys.mode() {
            let known = cluster.mode.is_some() || cluster.mode_unreadable;
            assert!(known, "a mode record was taken for absent");
        }
        if pair.key == keys.term() {
            assert!(cluster.term.is_some() || cluster.terms_unreadable, "a term record was taken for absent");
        }
        if pair.key == keys.patroni_config() {
            assert!(cluster.config.is_some() || cluster.unreadable.contains_key(&pair.key));
        }
    }
    // What decisions ask of every view.
    let _ = (cluster.paused(), cluster.suspended(0), cluster.known_mode(), cluster.cannot_tell_terms());
    cluster.unreadable.is_empty() && !pairs.is_empty()
}

fn pair(line: &[u8]) -> Option<KeyValue> {
    let at = line.iter().position(|byte| *byte == b' ')?;
    let key = super::text(&line[..at])?.to_owned();
    let value = line[at + 1..].to_vec();
    Some(KeyValue { key, value, create_revision: 1, mod_revision: 9, version: 3, lease: 7 })
}

fn region() -> RegionName {
    RegionName::new("r1").expect("it is a name")
}

fn keys() -> ClusterKeys {
    let (namespace, scope) = (Namespace::new("service"), Scope::new("main"));
    let (namespace, scope) = (namespace.expect("it is a name"), scope.expect("it is a name"));
    ClusterKeys::new(&ClusterId { region: region(), namespace, scope })
}

/// One key, and the names in it.
pub fn key(bytes: &[u8]) -> bool {
    let Some(text) = super::text(bytes) else { return false };
    let _ = (text.parse::<holdfast_types::Lsn>(), HostName::new(text), Namespace::new(text));
    if let Ok(name) = MemberName::new(text) {
        let keys = keys();
        let key = keys.promise(&name, Term(7));
        let read = keys.parse(&key);
        assert!(
            matches!(read, Some(holdfast_types::keys::OurKey::Promise { member, .. }) if member == name.as_str()),
            "{key} is read as {read:?}"
        );
    }
    keys().parse(text).is_some()
}
