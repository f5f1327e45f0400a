//! What the class of a cluster means to a person: what arming it does, and what a failover may cost.
//!
//! Class `off` has no promises: the next writer opens its term once the lease of the last one is over, and what that had
//! not sent is lost. Called by `status`, `arm` and the findings, so that all of them say the same.

use holdfast_types::Class;

use super::patroni::PatroniView;
use super::text;

/// Patroni's default of `maximum_lag_on_failover`.
const LAG_BYTES_DEFAULT: u64 = 1_048_576;

/// Patroni's default of `loop_wait`, in seconds.
const LOOP_WAIT_S_DEFAULT: u64 = 10;

/// What a failover may cost, for a class whose loss Holdfast does not bound; one line.
pub fn loss(patroni: &PatroniView) -> Option<String> {
    if patroni.class() != Some(Class::Off) {
        return None;
    }
    let config = patroni.config.as_ref()?;
    let lag = config["maximum_lag_on_failover"].as_u64().unwrap_or(LAG_BYTES_DEFAULT);
    let loop_wait = config["loop_wait"].as_u64().unwrap_or(LOOP_WAIT_S_DEFAULT);
    let now = nearest_bytes(patroni).map_or("an unknown distance".into(), text::bytes);
    Some(format!(
        "class off: acknowledged writes can be lost in a failover; Patroni's maximum_lag_on_failover bounds the loss (a \
         successor may be {} behind what the leader published last, and what it wrote after that, in up to {loop_wait} s, \
         or since it lost etcd, is lost too; once another has opened its term it is told of no commit any more; the \
         nearest is now {now} behind)",
        text::bytes(lag)
    ))
}

/// How far behind the leader's last published position the nearest other member is.
fn nearest_bytes(patroni: &PatroniView) -> Option<u64> {
    let others = patroni.members.iter().filter(|(name, _)| patroni.leader.as_ref() != Some(name));
    others.filter_map(|(_, member)| text::lag(patroni.leader_lsn, member.lsn())).min()
}

/// What arming lets agents do, as it stands after "this would".
pub fn arming(patroni: &PatroniView) -> &'static str {
    match patroni.class() {
        Some(Class::Off) => {
            "arm: Patroni alone goes on to decide who leads and what is lost; agents then fence a writer whose lease is \
             over, let the next one lead only after that, and start a hung Patroni again"
        }
        _ => "arm: agents then fence, close terms and hand over by themselves",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patroni(config: serde_json::Value) -> PatroniView {
        PatroniView { config: Some(config), ..PatroniView::default() }
    }

    #[test]
    fn only_an_asynchronous_cluster_states_a_loss() {
        let line = loss(&patroni(json!({"maximum_lag_on_failover": 33_554_432}))).unwrap();
        assert!(line.starts_with("class off: acknowledged writes can be lost in a failover"), "{line}");
        assert!(line.contains("32 MiB behind"), "{line}");
        assert!(
            line.contains("in up to 10 s")
                && line.ends_with("the nearest is now an unknown distance behind)"),
            "{line}"
        );
        assert!(loss(&patroni(json!({}))).unwrap().contains("1024 KiB behind"), "Patroni's default");
        assert_eq!(loss(&patroni(json!({"synchronous_mode": "quorum"}))), None);
        assert_eq!(loss(&PatroniView::default()), None);
    }

    #[test]
    fn arming_says_who_decides() {
        assert!(arming(&patroni(json!({}))).contains("Patroni alone"));
        assert!(arming(&patroni(json!({"synchronous_mode": "quorum"}))).contains("hand over"));
    }
}
