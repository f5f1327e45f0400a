//! Patroni's own keys in etcd, as its 4.1 writes them. Pure functions over the bytes; unknown fields are passed over.

use std::collections::BTreeSet;

use holdfast_agent_core::cluster::{PatroniConfig, PatroniMember};
use holdfast_agent_core::sync::SyncKey;
use holdfast_store::KeyValue;
use holdfast_types::{Lsn, MemberName, Position, Timeline};
use serde_json::Value;

type Result<T> = std::result::Result<T, String>;

/// More synchronous standbys than Patroni can name in one value of etcd.
const QUORUM_MAX: u64 = 10_000;
/// Patroni's default of `maximum_lag_on_failover`.
const MAXIMUM_LAG_BYTES: u64 = 1_048_576;

/// The value, which must be an object: a list or a bare word would read as one in which nothing is set.
fn object(pair: &KeyValue) -> Result<Value> {
    let value: Value =
        serde_json::from_slice(&pair.value).map_err(|error| format!("{} is not JSON: {error}", pair.key))?;
    if value.is_object() { Ok(value) } else { Err(format!("{} is not a JSON object", pair.key)) }
}

/// A switch as Patroni's `parse_bool` takes it: people write all of these with `edit-config`. Anything else is off.
fn switch(value: &Value) -> bool {
    match value {
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_u64() == Some(1),
        Value::String(text) => ["on", "true", "yes", "1"].contains(&text.to_lowercase().as_str()),
        _ => false,
    }
}

/// A whole number, which may be written as text.
fn whole<T: std::str::FromStr + TryFrom<i64>>(value: &Value) -> Option<T> {
    match value {
        Value::Number(number) => number.as_i64().and_then(|number| number.try_into().ok()),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// What Python takes for true: so Patroni looks at a tag.
fn is_set(tag: &Value) -> bool {
    match tag {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn name(text: &str) -> Result<MemberName> {
    MemberName::new(text).map_err(|error| error.to_string())
}

/// `/leader`: the bare name.
pub fn leader(pair: &KeyValue) -> Result<String> {
    String::from_utf8(pair.value.clone()).map_err(|_| format!("{} is not UTF-8", pair.key))
}

/// `/sync`: `leader`, `sync_standby` with commas in between, `quorum`.
pub fn sync(pair: &KeyValue) -> Result<SyncKey> {
    let value = object(pair)?;
    let leader = value["leader"].as_str().map(name).transpose()?;
    let sync_standby: BTreeSet<MemberName> = value["sync_standby"]
        .as_str()
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(name)
        .collect::<Result<_>>()?;
    let quorum = match &value["quorum"] {
        Value::Null => 0,
        number => number
            .as_u64()
            .filter(|number| *number <= QUORUM_MAX)
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| format!("{}: quorum {number} is not a count", pair.key))?,
    };
    let KeyValue { version, mod_revision, create_revision, .. } = *pair;
    Ok(SyncKey { leader, sync_standby, quorum, version, mod_revision, create_revision })
}

/// `/failover`: the `member` that a switchover or failover of now names. One with `scheduled_at` is for later.
pub fn failover_candidate(pair: &KeyValue) -> Result<Option<MemberName>> {
    let value = object(pair)?;
    let of_now = value["scheduled_at"].is_null();
    value["member"].as_str().filter(|_| of_now).map(name).transpose()
}

/// Our own mark in an order of ours. Patroni reads `leader`, `member` and `scheduled_at` and nothing else.
pub const OPERATION: &str = "holdfast_operation";

/// The operation by which an agent has given the order.
pub fn failover_operation(pair: &KeyValue) -> Result<Option<u64>> {
    Ok(object(pair)?[OPERATION].as_u64())
}

/// Whether `/failover` holds an order: Patroni writes an empty object once it has carried one out.
pub fn is_order(pair: &KeyValue) -> Result<bool> {
    Ok(object(pair)?.as_object().is_some_and(|order| !order.is_empty()))
}

/// `/members/<name>`: what is needed of it.
pub fn member(pair: &KeyValue) -> Result<PatroniMember> {
    let value = object(pair)?;
    let address = value["conn_url"].as_str().and_then(host_of).unwrap_or_default().to_owned();
    let tags = &value["tags"];
    Ok(PatroniMember {
        lease: pair.lease,
        address,
        state: value["state"].as_str().map(str::to_owned),
        nofailover: is_set(&tags["nofailover"]),
        failover_priority: whole(&tags["failover_priority"]).unwrap_or(1),
        nosync: nosync(tags),
        noloadbalance: is_set(&tags["noloadbalance"]),
        position: value["xlog_location"].as_u64().map(|lsn| Position {
            timeline: Timeline(whole(&value["timeline"]).unwrap_or_default()),
            lsn: Lsn(lsn),
        }),
    })
}

/// `/status`: where the leader's WAL ended.
pub fn leader_optime(pair: &KeyValue) -> Result<Option<Lsn>> {
    Ok(object(pair)?["optime"].as_u64().map(Lsn))
}

/// As Patroni reads it: `nosync` itself takes precedence over a priority of 0 or less.
fn nosync(tags: &Value) -> bool {
    let by_priority = || whole::<i64>(&tags["sync_priority"]).is_some_and(|priority| priority <= 0);
    match &tags["nosync"] {
        Value::Null => by_priority(),
        tag => is_set(tag),
    }
}

/// The host of `postgres://host:port/database`, without the brackets of an IPv6 address.
fn host_of(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split('/').next()?;
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    match host_port.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host_port.split(':').next(),
    }
}

/// `/config`: Patroni's defaults stand in for what is absent.
pub fn config(pair: &KeyValue) -> Result<PatroniConfig> {
    let value = object(pair)?;
    let seconds = |field: &str, default: u64| whole(&value[field]).unwrap_or(default).saturating_mul(1_000);
    Ok(PatroniConfig {
        ttl_ms: seconds("ttl", 30),
        loop_wait_ms: seconds("loop_wait", 10),
        paused: switch(&value["pause"]),
        failsafe_mode: switch(&value["failsafe_mode"]),
        maximum_lag_on_failover: whole::<i64>(&value["maximum_lag_on_failover"])
            .map_or(MAXIMUM_LAG_BYTES, |bytes| bytes.try_into().unwrap_or_default()),
        acts_on_stop: acts_on_stop(&value["postgresql"]),
        mod_revision: pair.mod_revision,
    })
}

fn acts_on_stop(postgresql: &Value) -> bool {
    is_set(&postgresql["before_stop"]) || is_set(&postgresql["callbacks"]["on_stop"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(value: &str) -> KeyValue {
        let (key, value) = ("/service/main/x".to_owned(), value.as_bytes().to_vec());
        KeyValue { key, value, create_revision: 1, mod_revision: 2, version: 1, lease: 0 }
    }

    #[test]
    fn an_empty_sync_names_nobody() {
        let found = sync(&pair(r#"{"leader":"a","sync_standby":null}"#)).unwrap();
        assert!(found.sync_standby.is_empty());
        assert_eq!(found.quorum, 0);
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_key() {
        assert!(sync(&pair("")).unwrap_err().contains("/service/main/x"));
        assert!(sync(&pair(r#"{"quorum":-1}"#)).unwrap_err().contains("quorum"));
        assert!(sync(&pair(r#"{"sync_standby":"*"}"#)).is_err());
    }

    #[test]
    fn numbers_that_no_cluster_has_are_refused_or_bounded() {
        assert!(sync(&pair(r#"{"quorum":18446744073709551615}"#)).unwrap_err().contains("quorum"));
        let found = config(&pair(r#"{"ttl":9223372036854775807}"#)).unwrap();
        assert_eq!((found.ttl_ms, found.loop_wait_ms), (u64::MAX, 10_000));
    }

    #[test]
    fn what_is_no_object_is_not_one_in_which_nothing_is_set() {
        for value in ["[]", "7", "null", "true"] {
            assert!(config(&pair(value)).unwrap_err().contains("not a JSON object"), "{value}");
            assert!(sync(&pair(value)).is_err() && member(&pair(value)).is_err(), "{value}");
            assert!(failover_candidate(&pair(value)).is_err(), "{value}");
        }
    }

    #[test]
    fn switches_numbers_and_tags_are_taken_as_patroni_takes_them() {
        let paused =
            |pause: Value| config(&pair(&serde_json::json!({ "pause": pause }).to_string())).unwrap().paused;
        for on in [Value::from(true), "on".into(), "Yes".into(), 1.into(), "1".into()] {
            assert!(paused(on.clone()), "{on}");
        }
        for off in [Value::from(false), "off".into(), 0.into(), Value::Null, 2.into(), "".into()] {
            assert!(!paused(off.clone()), "{off}");
        }
        assert_eq!(config(&pair(r#"{"ttl":"20"}"#)).unwrap().ttl_ms, 20_000);
        let acts = |postgresql: &str| {
            config(&pair(&format!(r#"{{"postgresql":{postgresql}}}"#))).unwrap().acts_on_stop
        };
        assert!(acts(r#"{"before_stop":"/x"}"#) && acts(r#"{"callbacks":{"on_stop":"/x"}}"#));
        assert!(!acts(r#"{"callbacks":{"on_role_change":"/x"}}"#) && !acts("null"));
        let tagged = |tags: &str| member(&pair(&format!(r#"{{"tags":{tags}}}"#))).unwrap();
        assert!(tagged(r#"{"nofailover":"yes"}"#).nofailover && tagged(r#"{"nofailover":1}"#).nofailover);
        assert!(!tagged(r#"{"nofailover":false}"#).nofailover && !tagged("{}").nofailover);
        assert!(tagged(r#"{"noloadbalance":true}"#).noloadbalance && !tagged("{}").noloadbalance);
        assert_eq!(tagged(r#"{"failover_priority":"0"}"#).failover_priority, 0);
    }

    #[test]
    fn a_switchover_of_now_names_its_successor() {
        let candidate =
            |value| failover_candidate(&pair(value)).map(|found| found.map(|name| name.to_string()));
        assert_eq!(candidate(r#"{"leader":"a","member":"b"}"#), Ok(Some("b".into())));
        assert_eq!(candidate(r#"{"leader":"a"}"#), Ok(None));
        assert_eq!(candidate("{}"), Ok(None));
        let later = r#"{"leader":"a","member":"b","scheduled_at":"2027-01-01T00:00:00+00:00"}"#;
        assert_eq!(candidate(later), Ok(None));
        assert_eq!(is_order(&pair(later)), Ok(true));
        assert_eq!(is_order(&pair("{}")), Ok(false), "what Patroni leaves behind");
        let ours = pair(r#"{"leader":"a","member":"b","holdfast_operation":7}"#);
        assert_eq!(
            (failover_operation(&ours), candidate(r#"{"member":"b","holdfast_operation":7}"#)),
            (Ok(Some(7)), Ok(Some("b".into())))
        );
        assert_eq!(failover_operation(&pair(later)), Ok(None), "a person's");
        assert!(candidate("a:b").is_err());
    }

    #[test]
    fn how_far_members_and_leader_are() {
        let found = member(&pair(r#"{"xlog_location":50331648,"timeline":3}"#)).unwrap();
        assert_eq!(found.position, Some(Position { timeline: Timeline(3), lsn: Lsn(0x0300_0000) }));
        assert_eq!(member(&pair("{}")).unwrap().position, None);
        assert_eq!(leader_optime(&pair(r#"{"optime":9}"#)), Ok(Some(Lsn(9))));
        assert_eq!(leader_optime(&pair("{}")), Ok(None));
        let lag = |config: &str| config_lag(&pair(config));
        assert_eq!(lag("{}"), 1_048_576);
        assert_eq!(
            (lag(r#"{"maximum_lag_on_failover":0}"#), lag(r#"{"maximum_lag_on_failover":"7"}"#)),
            (0, 7)
        );
        assert_eq!(
            lag(r#"{"maximum_lag_on_failover":-1}"#),
            0,
            "Patroni takes it as it stands: nobody is that close"
        );
    }

    fn config_lag(pair: &KeyValue) -> u64 {
        config(pair).unwrap().maximum_lag_on_failover
    }

    #[test]
    fn who_is_never_synchronous() {
        let nosync = |tags: &str| member(&pair(&format!(r#"{{"tags":{tags}}}"#))).unwrap().nosync;
        assert!(nosync(r#"{"nosync":true}"#) && nosync(r#"{"sync_priority":0}"#));
        assert!(!nosync("{}") && !nosync(r#"{"nosync":false}"#) && !nosync(r#"{"sync_priority":2}"#));
        assert!(!member(&pair("{}")).unwrap().nosync);
    }

    #[test]
    fn the_host_of_a_url() {
        assert_eq!(host_of("postgres://10.0.0.1:5432/postgres"), Some("10.0.0.1"));
        assert_eq!(host_of("postgres://[fd00::1]:5432/postgres"), Some("fd00::1"));
        assert_eq!(host_of("db1"), None);
    }
}
