//! Records that are stored in etcd or on disk, and the envelope that lets old and new builds share them.
//!
//! Every record carries `format` (what wrote it) and `min_reader` (the oldest format that may act on it). Fields that
//! this build does not know are kept when the record is written again. A record that demands a newer reader is an
//! error that names the remedy, never a guess.

mod account;
mod cluster;
mod drained;
mod fenced;
mod format;
pub mod local_disarm;
#[cfg(feature = "as-newer-build")]
pub mod newer;
mod observed;
mod operation;
mod outside;
mod overriding;
mod places;
mod reign;
mod restart;

pub use account::{AuditRecord, WOULD_LINES_MAX, WouldLine, WouldPromise, WouldRecord, WouldStop};
pub use cluster::{
    EventRecord, FenceReason, FenceRecord, HeldRecord, HoldRecord, MaintenanceRecord, MemberFacts,
    ModeRecord, PatroniFile, RouteRecord, SessionRecord, SetupSeen, Step,
};
pub use drained::DrainedRecord;
pub use fenced::{FenceCause, FenceLayer, FencedRecord, WarnedCommits};
pub use format::{FIRST_FORMAT, FormatRecord, written};
pub use local_disarm::{LocalDisarm, LocalEnd};
pub use observed::{OBSERVED_LINES_MAX, ObservedReason, ObservedRecord};
pub use operation::{
    CoordinatorRecord, DRAIN_TIMEOUT_MS, DRAIN_TIMEOUT_MS_MAX, Drain, IntentRecord, OperationEnd,
    OperationPhase, OperationRecord, OperationState, OperationStep, PAUSE_MS_MAX, PhaseDone, Restart,
    Rolling, Switchover, Wanted,
};
pub use outside::{DEVICE_TEXT_BYTES_MAX, DeviceAnswer, DeviceTry, OutsideRecord, OutsideState};
pub use overriding::OverrideRecord;
pub use places::{Adopted, FileSystem, FoundPlace, PLACES_FILE, Place, PlaceName, Places, There};
pub use reign::{Attestation, Evidence, FloorRecord, Promise, Reign, StopKind, TermRecord};
pub use restart::{RestartEnd, RestartRecord};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The newest format that this build reads, and the one that it writes.
#[cfg(not(feature = "as-newer-build"))]
pub const FORMAT: u64 = 1;

/// `format` and `min_reader` of what this build writes.
#[cfg(not(feature = "as-newer-build"))]
pub const fn envelope() -> (u64, u64) {
    (FORMAT, 1)
}

#[cfg(feature = "as-newer-build")]
pub use newer::{FORMAT, envelope};

/// A record with its envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<T> {
    /// What the record says.
    pub body: T,
    unknown: Unknown,
}

/// Fields of a record that this build does not know. They are kept when the record is written again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unknown(Map<String, Value>);

impl Unknown {
    /// Whether this build knows every field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why stored bytes are not a record that this build may act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not an object, or a field is missing or of another type.
    #[error(
        "record {place}: {problem}; it was not written by Holdfast, or has been damaged: compare it with another host's"
    )]
    Malformed {
        /// The key or path.
        place: String,
        /// What the parser says.
        problem: String,
    },
    /// Written by a newer build.
    #[error(
        "record {place}: needs a reader of format {min_reader}, this build reads up to {FORMAT}: upgrade this host"
    )]
    TooNew {
        /// The key or path.
        place: String,
        /// What it asks for.
        min_reader: u64,
    },
}

impl<T: Serialize + DeserializeOwned> Stored<T> {
    /// A new record.
    pub fn new(body: T) -> Self {
        Self { body, unknown: Unknown::default() }
    }

    /// A record that takes the place of one with these unknown fields.
    pub fn keeping(body: T, unknown: Option<&Unknown>) -> Self {
        Self { body, unknown: unknown.cloned().unwrap_or_default() }
    }

    /// What this build does not know of the record.
    pub fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    /// Replaces what the record says and keeps the fields that this build does not know.
    pub fn with_body(&self, body: T) -> Self {
        Self { body, unknown: self.unknown.clone() }
    }

    /// Reads a record that was found at `place`.
    pub fn decode(place: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        let malformed = |problem: String| RecordError::Malformed { place: place.to_owned(), problem };
        let mut object: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        let number = |object: &Map<String, Value>, field: &str| {
            object
                .get(field)
                .and_then(Value::as_u64)
                .ok_or_else(|| malformed(format!("{field} is missing or not a number")))
        };
        number(&object, "format")?;
        let min_reader = number(&object, "min_reader")?;
        if min_reader > FORMAT {
            return Err(RecordError::TooNew { place: place.to_owned(), min_reader });
        }
        object.remove("format");
        object.remove("min_reader");
        #[cfg(feature = "as-newer-build")]
        object.remove(newer::FIELD);
        let body: T =
            serde_json::from_value(Value::Object(object.clone())).map_err(|e| malformed(e.to_string()))?;
        for known in to_object(&body).keys() {
            object.remove(known);
        }
        Ok(Self { body, unknown: Unknown(object) })
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = self.unknown.0.clone();
        let (format, min_reader) = envelope();
        object.insert("format".into(), format.into());
        object.insert("min_reader".into(), min_reader.into());
        #[cfg(feature = "as-newer-build")]
        newer::add(&mut object);
        object.extend(to_object(&self.body));
        Value::Object(object).to_string().into_bytes()
    }
}

fn to_object<T: Serialize>(body: &T) -> Map<String, Value> {
    match serde_json::to_value(body).expect("our records have string keys and finite numbers only") {
        Value::Object(object) => object,
        other => unreachable!("a record is a struct or a tagged enum, not {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mode, Term};

    fn mode() -> ModeRecord {
        ModeRecord {
            mode: Mode::Armed,
            by: "holdfast://operator/ann".into(),
            reason: "go live".into(),
            at_wall_ms: 5,
        }
    }

    #[test]
    fn fields_of_a_newer_build_survive_a_rewrite() {
        let newer = br#"{"format":9,"min_reader":1,"mode":"observe","by":"x","reason":"y","at_wall_ms":1,"colour":{"a":1}}"#;
        let read = Stored::<ModeRecord>::decode("k", newer).unwrap();
        let written: Value = serde_json::from_slice(&read.with_body(mode()).encode()).unwrap();
        assert_eq!(written["colour"]["a"], 1);
        assert_eq!(written["mode"], "armed");
        assert_eq!(written["format"], FORMAT);
        let anew = Stored::keeping(mode(), Some(read.unknown()));
        assert_eq!(anew, read.with_body(mode()));
        assert!(Stored::keeping(mode(), None).unknown().is_empty());
    }

    #[test]
    fn a_record_for_newer_readers_is_refused_with_the_remedy() {
        let newer = br#"{"format":9,"min_reader":2,"mode":"observe","by":"x","reason":"y","at_wall_ms":1}"#;
        let error = Stored::<ModeRecord>::decode("/holdfast/v1/r/s/c/mode", newer).unwrap_err().to_string();
        assert!(error.contains("/mode") && error.contains("upgrade this host"), "{error}");
    }

    #[test]
    fn damage_is_named() {
        for bad in
            [&b""[..], b"null", b"[]", b"{}", br#"{"format":1}"#, br#"{"format":1,"min_reader":1}"#, b"\xff"]
        {
            let error = Stored::<ModeRecord>::decode("/k", bad).unwrap_err();
            assert!(matches!(error, RecordError::Malformed { .. }), "{error}");
        }
    }

    #[test]
    fn a_tagged_record_keeps_only_what_it_does_not_know() {
        let open = br#"{"format":1,"min_reader":1,"term":4,"reign":{"state":"open","holder":"b","incarnation":2,"session":7,"closed_by":null},"trace":null,"later":1}"#;
        let read = Stored::<TermRecord>::decode("k", open).unwrap();
        assert_eq!(read.body.term, Term(4));
        let again = Stored::<TermRecord>::decode("k", &read.encode()).unwrap();
        assert_eq!(again, read);
        assert_eq!(again.unknown.0.keys().collect::<Vec<_>>(), ["later"]);
    }
}
