//! Whether a second automatic failover waits for a person (DESIGN section 10).
//!
//! A cluster that fails over twice within minutes has a cause that a third failover does not cure. *Attested* evidence
//! is exempt: the writer itself says that it has stopped, so waiting would only prolong the outage.

use holdfast_types::record::Evidence;

/// Whether CLOSE must hold and page instead. Times are wall clock, milliseconds since 1970; an operator's command ends
/// a hold by putting its name into the record, which shows here as `released`.
pub fn must_hold(
    evidence: &Evidence,
    last_failover_wall_ms: Option<i64>,
    now_wall_ms: i64,
    second_failover_hold_ms: u64,
    released: bool,
) -> bool {
    let attested = matches!(
        evidence,
        Evidence::AttestedClean
            | Evidence::AttestedStopped { .. }
            | Evidence::Relinquished
            | Evidence::Override { .. }
    );
    let recent = last_failover_wall_ms.is_some_and(|last| {
        // A wall clock that was set back makes the last failover look like the future: that is recent too.
        now_wall_ms.saturating_sub(last) < i64::try_from(second_failover_hold_ms).unwrap_or(i64::MAX)
    });
    recent && !attested && !released
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const HOLD_MS: u64 = 600_000;

    #[test]
    fn the_second_within_ten_minutes_holds_unless_attested_or_released() {
        let revoked = Evidence::Revoked { promisers: BTreeSet::new(), outside: None };
        assert!(must_hold(&revoked, Some(1_000), 500_000, HOLD_MS, false));
        assert!(!must_hold(&revoked, Some(1_000), 500_000, HOLD_MS, true));
        assert!(!must_hold(&revoked, Some(1_000), 700_000, HOLD_MS, false));
        assert!(!must_hold(&revoked, None, 500_000, HOLD_MS, false));
        assert!(!must_hold(
            &Evidence::AttestedStopped { promisers: BTreeSet::new() },
            Some(1_000),
            2_000,
            HOLD_MS,
            false
        ));
        assert!(!must_hold(&revoked, Some(1_000), 1_000, 0, false), "0 switches it off");
    }

    #[test]
    fn a_clock_that_went_back_holds() {
        assert!(must_hold(
            &Evidence::Revoked { promisers: BTreeSet::new(), outside: None },
            Some(9_000),
            1_000,
            HOLD_MS,
            false
        ));
    }
}
