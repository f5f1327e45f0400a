//! Positions in the write-ahead log.
//!
//! A position is a timeline and an LSN, compared in that order: WAL beyond a fork counts on the old timeline
//! (`PROTOCOL.md` section 1). Comparing LSNs across timelines loses writes, so nothing here does it by accident.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in the write-ahead log, written as PostgreSQL does (`0/3000060`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

/// A timeline id; PostgreSQL starts at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

/// A place in the history of a cluster: timeline first, then LSN (the order of the fields is the order of comparison).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The timeline on which `lsn` was received or written.
    pub timeline: Timeline,
    /// The end of the last byte.
    pub lsn: Lsn,
}

/// A text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN; expected two hexadecimal numbers as in 0/3000060")]
pub struct LsnError(pub String);

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let parse = |part: &str| {
            let hexadecimal =
                !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            hexadecimal.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        let halves = text.split_once('/').and_then(|(high, low)| Some((parse(high)?, parse(low)?)));
        let (high, low) = halves.ok_or_else(|| LsnError(text.to_owned()))?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

impl TryFrom<String> for Lsn {
    type Error = LsnError;
    fn try_from(text: String) -> Result<Self, LsnError> {
        text.parse()
    }
}
impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}
impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.timeline.0, self.lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_lsn_survives_its_text(raw: u64) {
            prop_assert_eq!(Lsn(raw).to_string().parse::<Lsn>().unwrap(), Lsn(raw));
        }
    }

    #[test]
    fn foreign_text_is_refused() {
        for bad in ["", "0", "/", "0/", "0/G", "0/123456789", "+1/0", "0/1/2", " 0/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_timeline_is_compared_first() {
        let old = Position { timeline: Timeline(1), lsn: Lsn(900) };
        let new = Position { timeline: Timeline(2), lsn: Lsn(100) };
        assert!(new > old);
    }
}
