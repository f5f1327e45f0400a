//! How long a route was without an acknowledgement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::{Outcome, Recording, RouteKind};

/// The longest time between two consecutive acknowledgements of one route that ends after the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Its length; a lower bound when `open`.
    pub gap_us: u64,
    /// When it began: the acknowledgement before it.
    pub begin_us: u64,
    /// No acknowledgement ended it: the recording did.
    pub open: bool,
}

/// Finds it. `acknowledged_us` are the moments at which the route's plain acknowledgements arrived, in any order.
/// Without a fault the whole recording is looked at.
pub fn longest(acknowledged_us: &[u64], fault_us: Option<u64>, begin_us: u64, end_us: u64) -> Gap {
    let mut moments = acknowledged_us.to_vec();
    moments.sort_unstable();
    let from_us = fault_us.unwrap_or(begin_us);
    let starts = std::iter::once(begin_us).chain(moments.iter().copied());
    let ends = moments.iter().copied().map(|at| (at, false)).chain(std::iter::once((end_us, true)));
    starts
        .zip(ends)
        .filter(|(_, (end, _))| *end >= from_us)
        .map(|(begin, (end, open))| Gap { gap_us: end.saturating_sub(begin), begin_us: begin, open })
        .max_by_key(|gap| gap.gap_us)
        .unwrap_or(Gap { gap_us: 0, begin_us: from_us, open: true })
}

/// How long after a moment every route but the sockets had acknowledged something; none when one never did.
pub fn back_after_us(recording: &Recording, at_us: u64) -> Option<u64> {
    let clients = recording.clients.iter().filter(|client| client.kind != RouteKind::Socket);
    let mut first: BTreeMap<&str, Option<u64>> =
        clients.map(|client| (client.route.as_str(), None)).collect();
    let by_number = recording.clients_by_number();
    let plain = recording.attempts.iter().filter(|attempt| attempt.outcome == Outcome::Acknowledged);
    for attempt in plain.filter(|attempt| attempt.end_us >= at_us) {
        let route = by_number.get(&attempt.client).and_then(|client| first.get_mut(client.route.as_str()));
        if let Some(earliest) = route {
            *earliest = Some(earliest.map_or(attempt.end_us, |other| other.min(attempt.end_us)));
        }
    }
    let last = first.into_values().collect::<Option<Vec<u64>>>()?.into_iter().max()?;
    Some(last - at_us)
}

#[cfg(test)]
mod tests {
    use super::super::record::{Attempt, ClientInfo};
    use super::*;

    #[test]
    fn a_route_is_back_with_its_first_acknowledgement() {
        let client = |client, route: &str, kind| ClientInfo { client, route: route.into(), kind, host: None };
        let clients = vec![
            client(0, "libpq", RouteKind::Libpq),
            client(1, "pgbouncer:p", RouteKind::Pgbouncer),
            client(2, "socket:db1", RouteKind::Socket),
        ];
        let attempt = |client, end_us| Attempt {
            client,
            seq: end_us,
            begin_us: 0,
            end_us,
            outcome: Outcome::Acknowledged,
        };
        let attempts = vec![attempt(0, 50), attempt(0, 130), attempt(1, 90)];
        let mut recording = Recording { clients, attempts, ..Recording::default() };
        assert_eq!(back_after_us(&recording, 100), None, "PgBouncer never came back");
        recording.attempts.push(attempt(1, 175));
        assert_eq!(back_after_us(&recording, 100), Some(75));
    }

    #[test]
    fn the_gap_around_the_fault_is_found_and_an_earlier_one_is_not() {
        let moments = [0, 90, 100, 110, 150, 160, 170];
        let gap = longest(&moments, Some(105), 0, 175);
        assert_eq!(gap, Gap { gap_us: 40, begin_us: 110, open: false });
        assert_eq!(longest(&moments, None, 0, 175).gap_us, 90);
    }

    #[test]
    fn the_last_acknowledgement_before_the_fault_begins_it() {
        assert_eq!(longest(&[10, 60], Some(30), 0, 65), Gap { gap_us: 50, begin_us: 10, open: false });
    }

    #[test]
    fn a_route_that_never_comes_back_has_an_open_gap() {
        assert_eq!(longest(&[10], Some(20), 0, 500), Gap { gap_us: 490, begin_us: 10, open: true });
        assert!(longest(&[], Some(20), 0, 500).open);
    }
}
