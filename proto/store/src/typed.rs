//! From a stored pair to one of our records.

use holdfast_types::record::{RecordError, Stored};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{KeyValue, Reading};

/// The record in a pair; errors name the key.
pub fn decode<T: Serialize + DeserializeOwned>(pair: &KeyValue) -> Result<Stored<T>, RecordError> {
    Stored::decode(&pair.key, &pair.value)
}

/// The record under `key` in a reading; `None` if the key was absent.
pub fn decode_from<T: Serialize + DeserializeOwned>(
    reading: &Reading,
    key: &str,
) -> Result<Option<Stored<T>>, RecordError> {
    reading.get(key).map(decode).transpose()
}
