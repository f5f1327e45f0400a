//! How late the renewals of this host's session were, day by day for a month: what the timing profiles are measured by.
//!
//! Pure: it decides which day a renewal belongs to and which days go. The shell hands over every confirmed renewal, armed or
//! not, and keeps the days on disk; `holdfast report` and `arm` read them.

use holdfast_types::Profile;
use holdfast_types::renewals::{DAYS_KEPT, RenewalDay};

/// A month of days, and the odd day under two profiles.
pub const DAYS_MAX: usize = 40;

/// The days, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    days: Vec<RenewalDay>,
}

impl Ledger {
    /// What an earlier start of the agent has kept.
    pub fn new(mut days: Vec<RenewalDay>) -> Self {
        days.sort_by_key(|day| day.day);
        let mut ledger = Self { days };
        ledger.bound();
        ledger
    }

    /// Counts a renewal that was confirmed at this moment, `gap_ms` after the one before it had been sent.
    pub fn note(&mut self, profile: Profile, gap_ms: u64, at_wall_ms: i64) {
        let today = RenewalDay::of(at_wall_ms);
        let place = self.days.iter().position(|day| day.day == today && day.profile == profile);
        let place = place.unwrap_or_else(|| {
            // A clock that was set back puts a day before others.
            let place = self.days.partition_point(|day| day.day <= today);
            self.days.insert(place, RenewalDay::new(today, profile));
            place
        });
        self.days[place].add(gap_ms, at_wall_ms);
        if self.days.last().is_some_and(|last| last.day == today) {
            self.days.retain(|day| day.day > today - DAYS_KEPT);
        }
        self.bound();
    }

    fn bound(&mut self) {
        let over = self.days.len().saturating_sub(DAYS_MAX);
        self.days.drain(..over);
    }

    /// The days, oldest first.
    pub fn days(&self) -> &[RenewalDay] {
        &self.days
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn a_month_is_kept_and_a_profile_has_its_own_days() {
        let mut ledger = Ledger::default();
        for day in 100..140 {
            ledger.note(Profile::Normal, 1_205, day * DAY_MS + 1);
            ledger.note(Profile::Normal, 1_206, day * DAY_MS + 2);
        }
        let days: Vec<i64> = ledger.days().iter().map(|day| day.day).collect();
        assert_eq!(days, (110..140).collect::<Vec<_>>());
        assert!(ledger.days().iter().all(|day| day.late.count() == 2));
        ledger.note(Profile::Fast, 900, 139 * DAY_MS + 3);
        assert_eq!(ledger.days().len(), 31);
        assert_eq!(ledger.days().last().unwrap().late.per_mille_ms(999), Some(319), "300 ms, to an eighth");
        assert_eq!(Ledger::new(ledger.days().iter().rev().cloned().collect()).days().len(), 31);
    }

    #[test]
    fn a_clock_that_jumps_costs_no_day_but_the_bound_holds() {
        let mut ledger = Ledger::default();
        ledger.note(Profile::Fast, 600, 1_000 * DAY_MS);
        for day in 0..100 {
            ledger.note(Profile::Fast, 600, day * DAY_MS);
        }
        assert_eq!(ledger.days().len(), DAYS_MAX);
        assert_eq!(ledger.days().last().unwrap().day, 1_000, "set back, nothing is thrown away for its age");
    }
}
