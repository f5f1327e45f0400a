//! Whether two nodes wrote at the same time.
//!
//! A probe that says "writable" proves one moment between its begin and its end. A span of such probes is certain from
//! the end of its first to the begin of its last, and possible from the begin of the first to the end of the last.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::{Attempt, NodeState, Outcome, Probe};

/// Two probes or acknowledgements further apart than this are two spans: nothing is known of the time between them.
const SPAN_BREAK_US: u64 = 1_000_000;

/// A stretch of time: begin and end, microseconds.
pub type Span = (u64, u64);

/// The time for which something held on two nodes at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// It certainly held for so long.
    pub certain_us: u64,
    /// It may have held for so long: the probes cannot tell.
    pub possible_us: u64,
    /// The nodes, when it certainly held.
    pub hosts: Vec<String>,
}

/// Time for which two nodes said that they accept writes.
pub fn two_writable(probes: &[Probe]) -> Overlap {
    let mut by_host: BTreeMap<&str, Vec<&Probe>> = BTreeMap::new();
    for probe in probes {
        by_host.entry(&probe.host).or_default().push(probe);
    }
    let mut certain = BTreeMap::new();
    let mut possible = BTreeMap::new();
    for (host, mut probes) in by_host {
        probes.sort_by_key(|probe| probe.begin_us);
        let (inner, outer) = writable_spans(&probes);
        certain.insert(host, inner);
        possible.insert(host, outer);
    }
    let (certain_us, hosts) = overlap(&certain);
    Overlap { certain_us, possible_us: overlap(&possible).0, hosts }
}

/// Spans of one host, certain and possible.
fn writable_spans(probes: &[&Probe]) -> (Vec<Span>, Vec<Span>) {
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    let mut run: Option<(&Probe, &Probe)> = None;
    let mut close = |run: Option<(&Probe, &Probe)>| {
        if let Some((first, last)) = run {
            inner.push((first.end_us, last.begin_us.max(first.end_us)));
            outer.push((first.begin_us, last.end_us));
        }
    };
    for probe in probes {
        run = match (run, probe.state == NodeState::Writable) {
            (Some((first, last)), true) if probe.begin_us < last.end_us + SPAN_BREAK_US => {
                Some((first, probe))
            }
            (ended, true) => {
                close(ended);
                Some((probe, probe))
            }
            (ended, false) => {
                close(ended);
                None
            }
        };
    }
    close(run);
    (inner, outer)
}

/// Time for which two nodes acknowledged plainly. `attempts` are those over sockets, with their host.
///
/// A span of a node reaches from its first acknowledgement to the *begin* of its last acknowledged attempt, so a reply
/// that was only delivered late does not count. It ends when the node says that it is read-only or refuses.
pub fn two_acknowledging(attempts: &[(&str, &Attempt)], probes: &[Probe]) -> Overlap {
    let mut spans = BTreeMap::new();
    for (host, _) in attempts {
        if spans.contains_key(host) {
            continue;
        }
        let own = |candidate: &&(&str, &Attempt)| candidate.0 == *host;
        let mut acknowledged: Vec<&Attempt> =
            attempts.iter().filter(own).map(|(_, attempt)| *attempt).collect();
        acknowledged.retain(|attempt| attempt.outcome == Outcome::Acknowledged);
        acknowledged.sort_by_key(|attempt| attempt.end_us);
        let mut denials: Vec<u64> = attempts
            .iter()
            .filter(own)
            .filter(|(_, attempt)| matches!(attempt.outcome, Outcome::Refused { .. }))
            .map(|(_, attempt)| attempt.end_us)
            .collect();
        let read_only = |probe: &&Probe| probe.host == *host && probe.state == NodeState::ReadOnly;
        denials.extend(probes.iter().filter(read_only).map(|probe| probe.end_us));
        denials.sort_unstable();
        spans.insert(*host, acknowledged_spans(&acknowledged, &denials));
    }
    let (certain_us, hosts) = overlap(&spans);
    Overlap { certain_us, possible_us: certain_us, hosts }
}

fn acknowledged_spans(acknowledged: &[&Attempt], denials: &[u64]) -> Vec<Span> {
    let denied_between = |from: u64, to: u64| {
        let at = denials.partition_point(|denial| *denial <= from);
        denials.get(at).is_some_and(|denial| *denial < to)
    };
    let mut spans: Vec<Span> = Vec::new();
    let mut last_us = None;
    for attempt in acknowledged {
        let goes_on = last_us.is_some_and(|last| {
            attempt.end_us < last + SPAN_BREAK_US && !denied_between(last, attempt.end_us)
        });
        match spans.last_mut() {
            Some(span) if goes_on => span.1 = span.1.max(attempt.begin_us),
            _ => spans.push((attempt.end_us, attempt.end_us)),
        }
        last_us = Some(attempt.end_us);
    }
    spans
}

/// Total length of the intersections of any two hosts' spans, and the hosts that have one.
fn overlap(spans: &BTreeMap<&str, Vec<Span>>) -> (u64, Vec<String>) {
    let mut shared: Vec<Span> = Vec::new();
    let mut hosts = Vec::new();
    let names: Vec<&&str> = spans.keys().collect();
    for (at, one) in names.iter().enumerate() {
        for other in &names[at + 1..] {
            for a in &spans[**one] {
                for b in &spans[**other] {
                    let (begin, end) = (a.0.max(b.0), a.1.min(b.1));
                    if begin < end {
                        shared.push((begin, end));
                        hosts.extend([(**one).to_string(), (**other).to_string()]);
                    }
                }
            }
        }
    }
    hosts.sort();
    hosts.dedup();
    (union_length(shared), hosts)
}

/// Length of a union: three hosts at once count once.
fn union_length(mut spans: Vec<Span>) -> u64 {
    spans.sort_unstable();
    let (mut total, mut reached) = (0, 0);
    for (begin, end) in spans {
        total += end.saturating_sub(begin.max(reached));
        reached = reached.max(end);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(host: &str, at_ms: u64, state: NodeState) -> Probe {
        Probe {
            host: host.into(),
            begin_us: at_ms * 1000,
            end_us: at_ms * 1000 + 2000,
            state,
            standbys: None,
        }
    }

    fn acknowledged(begin_ms: u64, end_ms: u64) -> Attempt {
        let (begin_us, end_us) = (begin_ms * 1000, end_ms * 1000);
        Attempt { client: 0, seq: begin_ms, begin_us, end_us, outcome: Outcome::Acknowledged }
    }

    #[test]
    fn a_handover_is_no_overlap_and_a_second_writer_is_one() {
        let mut probes: Vec<Probe> = (0..20).map(|at| probe("db1", at * 40, NodeState::Writable)).collect();
        probes.push(probe("db1", 800, NodeState::Down));
        probes.extend((22..40).map(|at| probe("db2", at * 40, NodeState::Writable)));
        assert_eq!(two_writable(&probes), Overlap::default());
        probes.extend((30..36).map(|at| probe("db1", at * 40 + 5, NodeState::Writable)));
        let overlap = two_writable(&probes);
        // From the end of the first (1207 ms) to the begin of the last (1405 ms).
        assert_eq!(overlap.certain_us, 198_000);
        assert_eq!(overlap.possible_us, 202_000);
        assert_eq!(overlap.hosts, ["db1", "db2"]);
    }

    #[test]
    fn nothing_is_said_of_the_time_of_a_freeze() {
        let mut probes = vec![probe("db1", 0, NodeState::Writable), probe("db1", 40, NodeState::Writable)];
        probes.push(probe("db1", 9000, NodeState::Writable));
        probes.extend((50..200).map(|at| probe("db2", at * 40, NodeState::Writable)));
        assert_eq!(two_writable(&probes).certain_us, 0);
    }

    #[test]
    fn three_writers_at_once_count_once() {
        let probes: Vec<Probe> = ["db1", "db2", "db3"]
            .iter()
            .flat_map(|host| (0..10).map(|at| probe(host, at * 100, NodeState::Writable)))
            .collect();
        assert_eq!(two_writable(&probes).certain_us, 898_000);
    }

    #[test]
    fn a_second_acknowledging_node_is_found_and_a_late_reply_is_not() {
        let old: Vec<Attempt> = (0..50).map(|at| acknowledged(at * 40, at * 40 + 3)).collect();
        let new: Vec<Attempt> = (55..90).map(|at| acknowledged(at * 40, at * 40 + 3)).collect();
        let mut attempts: Vec<(&str, &Attempt)> = old.iter().map(|attempt| ("db1", attempt)).collect();
        attempts.extend(new.iter().map(|attempt| ("db2", attempt)));
        assert_eq!(two_acknowledging(&attempts, &[]).certain_us, 0);
        let late = acknowledged(2040, 2500);
        attempts.push(("db1", &late));
        assert_eq!(two_acknowledging(&attempts, &[]).certain_us, 0);
        let second = [acknowledged(2510, 2520), acknowledged(2600, 2605)];
        attempts.extend(second.iter().map(|attempt| ("db1", attempt)));
        // db2 from 2203 ms on; db1 until the begin of its last attempt at 2600 ms.
        assert_eq!(two_acknowledging(&attempts, &[]).certain_us, 397_000);
    }

    #[test]
    fn a_node_that_was_read_only_in_between_is_no_second_writer() {
        let first = [acknowledged(0, 5), acknowledged(900, 905)];
        let other = [acknowledged(300, 305), acknowledged(600, 605)];
        let mut attempts: Vec<(&str, &Attempt)> = first.iter().map(|attempt| ("db1", attempt)).collect();
        attempts.extend(other.iter().map(|attempt| ("db2", attempt)));
        assert_eq!(two_acknowledging(&attempts, &[]).certain_us, 295_000);
        let probes = [probe("db1", 290, NodeState::ReadOnly)];
        assert_eq!(two_acknowledging(&attempts, &probes).certain_us, 0);
    }
}
