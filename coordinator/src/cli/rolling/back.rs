//! Which node is next, and whether one is whole again.

use std::time::Duration;

use holdfast_coordinator_core::observation::Observation;
use holdfast_coordinator_core::whole;
use holdfast_types::record::MemberFacts;
use holdfast_types::{Class, MemberName, Profile, Timings};

use crate::view::cluster::ClusterView;

/// Who is next of those that are left: the writer last, and before it whoever counts for commits.
pub fn next(seen: &Observation, left: &[String]) -> Option<String> {
    let writer = seen.writer().map(|(_, writer)| writer.as_str().to_owned());
    let rank = |node: &&String| {
        let counts = member(seen, node).is_some_and(|name| seen.members[&name].synchronous);
        (Some(*node) == writer.as_ref(), counts)
    };
    left.iter().min_by_key(rank).cloned()
}

fn member(seen: &Observation, node: &str) -> Option<MemberName> {
    MemberName::new(node).ok().filter(|name| seen.members.contains_key(name))
}

/// Whether a node has to count for commits once it is back: it does by Patroni's tags, in class `quorum`.
pub fn must_count(view: &ClusterView, node: &str) -> bool {
    let tag = |patroni: &crate::view::patroni::PatroniMember| {
        patroni.tags.get("nosync").and_then(serde_json::Value::as_bool) == Some(true)
    };
    let name = MemberName::new(node).ok();
    let patroni = name.and_then(|name| view.patroni.members.get(&name));
    view.patroni.class() == Some(Class::Quorum) && !patroni.is_some_and(tag)
}

/// For how long a node must be whole: a command that has a host rebooted may return before that is seen, which takes until the
/// session of its agent ends.
pub fn steady(view: &ClusterView) -> Duration {
    let profile = |facts: &MemberFacts| facts.setup.as_ref().and_then(|setup| setup.profile);
    let ttl_ms = |profile| Timings::of(profile).session_ttl_ms();
    let longest = view.facts.values().map(|facts| profile(facts).unwrap_or(Profile::Wide)).map(ttl_ms).max();
    Duration::from_millis(longest.unwrap_or_else(|| ttl_ms(Profile::Wide))) + Duration::from_secs(2)
}

/// Why a node is not whole yet; `None`: it is.
pub fn missing(seen: &Observation, node: &str, must_count: bool) -> Option<String> {
    let Some(name) = member(seen, node) else {
        let writer = seen.writer().map(|(_, writer)| writer);
        let pooler = seen.poolers.get(node);
        return match pooler {
            Some(pooler) if !pooler.alive => Some("its agent has no session".into()),
            Some(pooler) if pooler.paused || pooler.target.as_ref() != writer => {
                Some("it does not send its clients to the writer".into())
            }
            Some(_) => None,
            None => Some("nobody has heard of it".into()),
        };
    };
    let member = &seen.members[&name];
    let writes = seen.writer().is_some_and(|(_, writer)| *writer == name);
    if !member.agent_alive {
        Some("its agent has no session".into())
    } else if writes {
        None
    } else if member.streaming != Some(true) {
        Some("it does not stream".into())
    } else if !whole::is_back(seen, &name, must_count) {
        Some("it does not count for commits".into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::operation::observe;
    use crate::view::testing::Built;
    use std::collections::BTreeMap;

    #[test]
    fn the_writer_comes_last_and_who_counts_before_it() {
        let view = Built::healthy().view();
        let seen = observe(&view, &BTreeMap::new());
        let all: Vec<String> = ["db1", "db2", "db3", "db4"].map(str::to_owned).to_vec();
        assert_eq!(next(&seen, &all).as_deref(), Some("db4"));
        assert_eq!(next(&seen, &all[..3]).as_deref(), Some("db2"));
        assert_eq!(next(&seen, &all[..1]).as_deref(), Some("db1"));
        assert_eq!(next(&seen, &[]), None);
        assert_eq!(missing(&seen, "db1", true), None, "it writes");
        assert_eq!(missing(&seen, "db4", true).as_deref(), Some("it does not count for commits"));
        assert_eq!(missing(&seen, "pool9.a", true).as_deref(), Some("nobody has heard of it"));
    }
}
