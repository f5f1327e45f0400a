//! When a certificate's end is worth a person's time. No decision of an agent rests on it.

/// A certificate that ends sooner is told of: a change board meets once a month.
pub const WARNED_DAYS: i64 = 30;
const DAY_S: i64 = 86_400;

/// The full days that are left, negative once it has ended. Both times are seconds since 1970.
pub fn days_left(ends_unix_s: i64, now_unix_s: i64) -> i64 {
    (ends_unix_s - now_unix_s).div_euclid(DAY_S)
}

/// What is wrong with this end, for people; `None` while there is time.
pub fn warning(ends_unix_s: i64, now_unix_s: i64) -> Option<String> {
    match days_left(ends_unix_s, now_unix_s) {
        WARNED_DAYS.. => None,
        ended @ ..0 => Some(format!("ended {} days ago", -ended)),
        days => Some(format!("ends in {days} days")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_warns_thirty_days_ahead() {
        let in_days = |days: i64| warning(days * DAY_S + 10, 0);
        assert_eq!(in_days(30), None);
        assert_eq!(in_days(29).unwrap(), "ends in 29 days");
        assert_eq!(in_days(0).unwrap(), "ends in 0 days");
        assert_eq!(in_days(-1).unwrap(), "ended 1 days ago");
    }
}
