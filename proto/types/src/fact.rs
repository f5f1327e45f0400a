//! A thing that was looked at, and when. Unknown is a value of its own: neither healthy nor failed (promise I7).

use serde::{Deserialize, Serialize};

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fact")]
pub enum Fact<T> {
    /// The probe answered within its deadline.
    Known {
        /// What it found.
        value: T,
        /// `CLOCK_BOOTTIME` in milliseconds at the moment when the probe was *sent*.
        observed_ms: u64,
    },
    /// The probe did not answer, answered nonsense, or has not run yet.
    Unknown {
        /// Why, for a person.
        reason: String,
    },
}

impl<T> Fact<T> {
    /// A fact seen at `observed_ms`.
    pub fn known(value: T, observed_ms: u64) -> Self {
        Self::Known { value, observed_ms }
    }

    /// A fact that could not be had.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown { reason: reason.into() }
    }

    /// The value, whatever its age.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Known { value, .. } => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    /// The value if it was observed within the last `age_ms_max` milliseconds.
    pub fn fresh(&self, now_ms: u64, age_ms_max: u64) -> Option<&T> {
        match self {
            Self::Known { value, observed_ms } if now_ms.saturating_sub(*observed_ms) <= age_ms_max => {
                Some(value)
            }
            Self::Known { .. } | Self::Unknown { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_fact_is_no_fact() {
        let fact = Fact::known(7, 1_000);
        assert_eq!(fact.fresh(1_500, 500), Some(&7));
        assert_eq!(fact.fresh(1_501, 500), None);
        assert_eq!(Fact::<u8>::unknown("not yet").fresh(0, u64::MAX), None);
    }
}
