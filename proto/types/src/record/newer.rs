//! What a test build does as the next build will: it reads one format more, has a field more in every record and every
//! message, and writes the newer format once a person has finalised it.
//!
//! No package and no ordinary build has it: `tests/newer` builds it, `tests/tests/untimed/two_builds.rs` runs it beside the
//! ordinary one.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::format::{FIRST_FORMAT, FormatRecord, written};

/// The newest format that this build reads.
pub const FORMAT: u64 = 2;
/// The field that the next build has more. Optional, as each new field must be.
pub const FIELD: &str = "newer";

/// What a person has finalised, as this process has seen it. One for all clusters of the process: a test has one.
static FINALISED: AtomicU64 = AtomicU64::new(FIRST_FORMAT);

/// Writes the newer format from now on, if the record says so.
pub fn finalised(record: &FormatRecord) {
    FINALISED.store(written(Some(record), FORMAT), Ordering::Relaxed);
}

/// `format` and `min_reader` of what this build writes now: an older build can read it until the newer format is finalised.
pub fn envelope() -> (u64, u64) {
    let format = FINALISED.load(Ordering::Relaxed);
    (format, format)
}

pub(super) fn add(object: &mut Map<String, Value>) {
    object.insert(FIELD.into(), serde_json::json!({ "by": "a newer build" }));
}
