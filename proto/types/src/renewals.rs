//! How late a host's session renewals are, as numbers that can be kept for a month: a histogram with fixed buckets, and one
//! record a day.
//!
//! A renewal is due one renewal interval after the last confirmed one was sent. Its *lateness* is the time from then until it
//! is confirmed: the answer of etcd, and every stall of host, network or etcd in between. It does not depend on the interval
//! under which it was measured, so it says what another timing profile would have met. Decides nothing; written by the agent,
//! read by `holdfast report` and `arm`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Profile, Timings};

/// Buckets of each doubling: a value is known to an eighth.
const STEPS: u32 = 8;
/// The largest bucket ends at 2^32 ms, seven weeks.
const BUCKET_MAX: u32 = STEPS * 30 - 1;
/// How many of the longest are kept of a day, each with its moment.
pub const LONGEST_KEPT: usize = 8;
/// For how many days renewals are kept.
pub const DAYS_KEPT: i64 = 30;
const DAY_MS: i64 = 86_400_000;

/// Counts of milliseconds in buckets whose edges never change, so that those of two days or two builds can be added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(BTreeMap<u32, u64>);

fn bucket(ms: u64) -> u32 {
    let ms = u32::try_from(ms).unwrap_or(u32::MAX);
    if ms < STEPS {
        return ms;
    }
    let doubling = ms.ilog2();
    STEPS * (doubling - 2) + ((ms >> (doubling - 3)) & (STEPS - 1))
}

/// The largest value of a bucket, in milliseconds.
fn end_ms(bucket: u32) -> u64 {
    let bucket = bucket.min(BUCKET_MAX);
    if bucket < STEPS {
        return u64::from(bucket);
    }
    let (doubling, step) = (bucket / STEPS + 2, bucket % STEPS);
    (u64::from(STEPS + step + 1) << (doubling - 3)) - 1
}

impl Histogram {
    /// Counts one value.
    pub fn add(&mut self, ms: u64) {
        let count = self.0.entry(bucket(ms)).or_default();
        *count = count.saturating_add(1);
    }

    /// Counts all of another too.
    pub fn add_all(&mut self, other: &Self) {
        for (bucket, more) in &other.0 {
            let count = self.0.entry((*bucket).min(BUCKET_MAX)).or_default();
            *count = count.saturating_add(*more);
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value that so many of 1000 do not exceed, in milliseconds: the end of its bucket, so at most an eighth too much
    /// and never too little. `None`: nothing was counted.
    pub fn per_mille_ms(&self, per_mille: u64) -> Option<u64> {
        let wanted = (u128::from(self.count()) * u128::from(per_mille)).div_ceil(1_000).max(1);
        let mut seen = 0_u128;
        self.0.iter().find_map(|(bucket, count)| {
            seen += u128::from(*count);
            (seen >= wanted).then(|| end_ms(*bucket))
        })
    }

    /// How many were, or by their bucket may have been, longer than this.
    pub fn over(&self, ms: u64) -> u64 {
        let longer = self.0.iter().filter(|(bucket, _)| end_ms(**bucket) > ms);
        longer.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// One late renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// When it was confirmed: wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
    /// How late it was, in milliseconds.
    pub late_ms: u64,
}

/// The renewals of one day under one timing profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalDay {
    /// Days since 1970, UTC, by the host's wall clock.
    pub day: i64,
    /// Under which timings.
    pub profile: Profile,
    /// For how long renewals were watched, in milliseconds.
    pub watched_ms: u64,
    /// How late they were, in milliseconds.
    pub late: Histogram,
    /// The longest, longest first; at most [`LONGEST_KEPT`].
    pub longest: Vec<Late>,
}

impl RenewalDay {
    /// A day on which nothing has been seen yet.
    pub fn new(day: i64, profile: Profile) -> Self {
        Self { day, profile, watched_ms: 0, late: Histogram::default(), longest: Vec::new() }
    }

    /// The day of a moment.
    pub fn of(at_wall_ms: i64) -> i64 {
        at_wall_ms.div_euclid(DAY_MS)
    }

    /// Counts a renewal that was confirmed `gap_ms` after the one before it had been sent.
    pub fn add(&mut self, gap_ms: u64, at_wall_ms: i64) {
        let late_ms = gap_ms.saturating_sub(Timings::of(self.profile).renew_interval_ms());
        self.watched_ms = self.watched_ms.saturating_add(gap_ms);
        self.late.add(late_ms);
        let place = self.longest.partition_point(|longer| longer.late_ms >= late_ms);
        if place < LONGEST_KEPT {
            self.longest.insert(place, Late { at_wall_ms, late_ms });
            self.longest.truncate(LONGEST_KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_value_to_an_eighth(ms in 0_u64..u64::from(u32::MAX)) {
            let end = end_ms(bucket(ms));
            prop_assert!(end >= ms && end - ms <= ms / 8, "{ms} is counted as {end}");
            prop_assert!(bucket(end) == bucket(ms));
            prop_assert!(bucket(end + 1) != bucket(ms) || bucket(ms) == BUCKET_MAX);
        }

        #[test]
        fn a_quantile_is_never_below_the_real_one(mut values in proptest::collection::vec(0_u64..100_000, 1..400)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|ms| histogram.add(*ms));
            values.sort_unstable();
            for per_mille in [1, 500, 999, 1_000] {
                let place = (values.len() as u64 * per_mille).div_ceil(1_000).max(1) as usize - 1;
                let (real, told) = (values[place], histogram.per_mille_ms(per_mille).unwrap());
                prop_assert!(told >= real && told <= real + real / 8, "{per_mille}: {told} for {real}");
            }
            for ms in [0, 600, 1_200, 50_000] {
                let real = values.iter().filter(|value| **value > ms).count() as u64;
                prop_assert!(histogram.over(ms) >= real);
            }
        }
    }

    #[test]
    fn edges_and_hostile_buckets() {
        assert_eq!([0, 7, 8, 9, 15, 16, 17].map(bucket), [0, 7, 8, 9, 15, 16, 16]);
        assert_eq!((bucket(u64::MAX), end_ms(BUCKET_MAX)), (BUCKET_MAX, u64::from(u32::MAX)));
        assert_eq!(Histogram::default().per_mille_ms(999), None);
        let hostile: Histogram =
            serde_json::from_str(r#"{"4294967295": 18446744073709551615, "3": 2}"#).unwrap();
        assert_eq!((hostile.count(), hostile.over(10)), (u64::MAX, u64::MAX));
        assert_eq!(hostile.per_mille_ms(999), Some(u64::from(u32::MAX)));
        let mut sum = Histogram::default();
        sum.add_all(&hostile);
        sum.add_all(&hostile);
        assert_eq!(sum.count(), u64::MAX);
    }

    #[test]
    fn one_in_a_thousand_is_what_p999_does_not_show_and_two_are() {
        let mut histogram = Histogram::default();
        (0..999).for_each(|_| histogram.add(4));
        histogram.add(9_000);
        assert_eq!(histogram.per_mille_ms(999), Some(4));
        histogram.add(9_000);
        assert!(histogram.per_mille_ms(999).unwrap() >= 9_000);
        assert_eq!((histogram.per_mille_ms(500), histogram.over(1_200)), (Some(4), 2));
    }

    #[test]
    fn a_day_counts_lateness_and_keeps_the_longest() {
        let mut day = RenewalDay::new(RenewalDay::of(86_400_000), Profile::Fast);
        assert_eq!((day.day, RenewalDay::of(-1)), (1, -1));
        day.add(604, 1);
        // A renewal that went out early, after one that had failed.
        day.add(150, 2);
        for n in 0..20 {
            day.add(700 + n, 3);
        }
        assert_eq!((day.watched_ms, day.late.count()), (754 + 20 * 700 + 190, 22));
        let longest: Vec<u64> = day.longest.iter().map(|late| late.late_ms).collect();
        assert_eq!(longest, [119, 118, 117, 116, 115, 114, 113, 112]);
        assert_eq!(day.late.per_mille_ms(1), Some(0));
    }
}
