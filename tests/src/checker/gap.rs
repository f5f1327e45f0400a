//! How long a route was without an acknowledgement.

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

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
