//! When a writer's session was renewed last, at the latest, by what etcd tells of it: whether a lease may still stand.
//!
//! A lease ends before its session does, if the session ends by itself. One that somebody revokes before its time (a person
//! with `etcdctl`) leaves a lease behind that goes on for seconds: a term closed then would have a writer beside it. Called
//! with each answer by whoever watches the writer. It knows no clock and asks nobody.

use holdfast_types::Timings;

/// etcd tells what is left in whole seconds, rounded down.
const WHOLE_MS: u64 = 1_000;

/// What is known of the renewals of one session. Times are of one monotonic clock, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Not renewed after this.
    at_the_latest_ms: Option<u64>,
    /// The last answer: when it was asked for, and the earliest end of the session by it; `None`: it was gone.
    answered: Option<(u64, Option<u64>)>,
}

impl Renewed {
    /// Etcd was asked at `asked_ms` and had answered by `now_ms`: so much was left, or the session is gone.
    pub fn answer(&mut self, asked_ms: u64, now_ms: u64, left_ms: Option<u64>, timings: &Timings) {
        let ttl_ms = timings.session_ttl_ms();
        let before = self.answered.replace((asked_ms, left_ms.map(|left_ms| asked_ms + left_ms)));
        let newest_ms = match left_ms {
            Some(left_ms) => (now_ms + left_ms + WHOLE_MS).saturating_sub(ttl_ms),
            None => now_ms,
        };
        // Between two answers a renewal would have left more than this.
        let not_since = |then_ms: u64| match left_ms {
            Some(left_ms) => left_ms + WHOLE_MS + now_ms.saturating_sub(then_ms) <= ttl_ms,
            None => false,
        };
        let stands = match before {
            // It was gone before: nothing renews it.
            Some((_, None)) => true,
            // It went no earlier than by itself.
            Some((_, Some(end_ms))) if left_ms.is_none() => now_ms >= end_ms,
            Some((then_ms, Some(_))) => not_since(then_ms),
            None => false,
        };
        self.at_the_latest_ms = match self.at_the_latest_ms {
            Some(known_ms) if stands => Some(known_ms.min(newest_ms)),
            _ => Some(newest_ms),
        };
    }

    /// For how long the session has not been renewed, at least.
    pub fn unrenewed_ms(&self, now_ms: u64) -> u64 {
        self.at_the_latest_ms.map_or(0, |at_ms| now_ms.saturating_sub(at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::timings::Profile;

    fn told(answers: &[(u64, Option<u64>)]) -> Renewed {
        let mut renewed = Renewed::default();
        for (at_ms, left_ms) in answers {
            renewed.answer(*at_ms, *at_ms, *left_ms, &Timings::of(Profile::Fast));
        }
        renewed
    }

    #[test]
    fn each_answer_tells_when_the_last_renewal_was_at_the_latest() {
        // A session of 3 s with 1 to 2 s left was renewed 1 to 2 s ago.
        assert_eq!(told(&[(10_000, Some(1_000))]).unrenewed_ms(10_000), 1_000);
        // Its last second has just begun: 2 s.
        let last = told(&[(10_000, Some(1_000)), (10_200, Some(1_000)), (10_400, Some(0))]);
        assert_eq!(last.unrenewed_ms(10_400), 2_000);
        // The first answer said more than the last does.
        let first = told(&[(10_000, Some(0)), (10_900, Some(0))]);
        assert_eq!(first.unrenewed_ms(10_900), 2_900);
    }

    #[test]
    fn a_session_that_ends_by_itself_leaves_no_lease() {
        let timings = Timings::of(Profile::Fast);
        let answers = [(10_000, Some(1_000)), (10_500, Some(0)), (11_000, Some(0)), (11_500, None)];
        assert_eq!(told(&answers).unrenewed_ms(11_500), 3_000);
        assert!(told(&answers).unrenewed_ms(11_500) >= timings.lease_over_ms());
        // It stays gone.
        let later = [&answers[..], &[(12_000, None)]].concat();
        assert_eq!(told(&later).unrenewed_ms(12_000), 3_500);
    }

    #[test]
    fn one_that_somebody_revoked_may_have_been_renewed_just_before() {
        assert_eq!(told(&[(10_000, None)]).unrenewed_ms(10_000), 0);
        assert_eq!(told(&[(10_000, None), (10_400, None)]).unrenewed_ms(10_400), 400);
        assert_eq!(told(&[(10_000, Some(1_000)), (10_300, None)]).unrenewed_ms(10_300), 0);
    }

    #[test]
    fn a_renewal_between_two_answers_is_seen() {
        let renewed = told(&[(10_000, Some(0)), (10_300, Some(2_000))]);
        assert_eq!(renewed.unrenewed_ms(10_300), 0);
        let long_ago = told(&[(10_000, Some(0)), (12_500, Some(0))]);
        assert_eq!(long_ago.unrenewed_ms(12_500), 2_000, "it may have come and gone between them");
    }
}
