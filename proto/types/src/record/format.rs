//! Up to which format records of a cluster may be written: what `holdfast upgrade finalize` settles.
//!
//! Builds work side by side, so a build that knows a newer format goes on with the older one until a person has said that every
//! agent reads the newer. Pure; the formats are arguments, because a test has only one build.

use serde::{Deserialize, Serialize};

/// The format before anything was finalised.
pub const FIRST_FORMAT: u64 = 1;

/// The format that a cluster's records may have; absent: the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatRecord {
    /// The newest format that may be written.
    pub finalised: u64,
    /// Identity from the certificate.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Wall clock, milliseconds since 1970.
    pub at_wall_ms: i64,
}

/// The format that a build which knows formats up to `build` writes.
pub fn written(record: Option<&FormatRecord>, build: u64) -> u64 {
    record.map_or(FIRST_FORMAT, |record| record.finalised).min(build).max(FIRST_FORMAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finalised(format: u64) -> FormatRecord {
        FormatRecord { finalised: format, by: "x".into(), reason: "y".into(), at_wall_ms: 0 }
    }

    #[test]
    fn nothing_newer_is_written_before_it_is_finalised_nor_more_than_a_build_knows() {
        let (old, new) = (1, 2);
        assert_eq!((written(None, old), written(None, new)), (1, 1), "side by side");
        assert_eq!(written(Some(&finalised(2)), new), 2);
        assert_eq!(written(Some(&finalised(2)), old), 1, "a build that was put back writes what it knows");
        assert_eq!(written(Some(&finalised(1)), new), 1);
        assert_eq!(written(Some(&finalised(0)), new), 1, "damage");
    }
}
