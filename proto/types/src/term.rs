//! Terms, incarnations and sessions: the numbers that make an old order recognisable (promise I10).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a reign: one writer per term, only ever raised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Term(pub u64);

impl Term {
    /// The highest that is read from a record: no fleet gets there, and JSON's numbers are exact up to it. A damaged or
    /// hostile record with a higher one is refused, because there would be no term after it.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// The term after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl TryFrom<u64> for Term {
    type Error = String;
    fn try_from(number: u64) -> Result<Self, String> {
        let term = Self(number);
        if term <= Self::MAX { Ok(term) } else { Err(format!("{number} cannot be the number of a term")) }
    }
}

impl From<Term> for u64 {
    fn from(term: Term) -> Self {
        term.0
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often the agent of one host has started; raised by a transaction at every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// The etcd lease of one boot of a host. It spans starts of the agent, never a boot (`PROTOCOL.md` rule 23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // etcdctl prints leases in hexadecimal: the same text can be searched for.
        write!(f, "{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_without_a_next_one_is_not_read() {
        for number in [Term::MAX.0 + 1, u64::MAX] {
            let error = serde_json::from_value::<Term>(number.into()).unwrap_err().to_string();
            assert!(error.contains("cannot be the number of a term"), "{error}");
        }
        assert_eq!(serde_json::from_value::<Term>(7.into()).unwrap(), Term(7));
        assert_eq!(serde_json::to_value(Term(7)).unwrap(), 7);
    }
}
