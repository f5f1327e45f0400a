//! Files of records that only tell: one line each, with its own envelope, of bounded number, written whole.
//!
//! A line that is damaged (a disk that was full, a file that somebody cut) costs itself and no other. A line of a newer build
//! is kept as it stands, for when that build comes back. Decides nothing.

use std::path::{Path, PathBuf};

use holdfast_host::durable;
use holdfast_types::record::{RecordError, Stored};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What stands in one file.
#[derive(Debug, Clone)]
pub struct History<T> {
    file: PathBuf,
    records: Vec<Stored<T>>,
    /// Lines of a newer build.
    newer: Vec<Vec<u8>>,
    /// How many records are kept.
    records_max: usize,
}

impl<T: Serialize + DeserializeOwned> History<T> {
    /// Reads the file; one that is absent or cannot be read is begun anew, because nothing rests on it.
    pub fn load(file: PathBuf, records_max: usize) -> Self {
        let bytes = durable::read_optional(&file).unwrap_or_else(|error| {
            tracing::warn!(path = %file.display(), %error, "the history cannot be read; it is begun anew");
            None
        });
        let mut history = Self { file, records: Vec::new(), newer: Vec::new(), records_max };
        let damaged = history.read(&bytes.unwrap_or_default());
        if damaged > 0 {
            tracing::warn!(path = %history.file.display(), damaged, "lines of the history cannot be read and are left out");
        }
        history
    }

    /// Takes the lines; returns how many are damaged.
    fn read(&mut self, bytes: &[u8]) -> usize {
        let place = self.file.display().to_string();
        let mut damaged = 0;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match Stored::decode(&place, line) {
                Ok(record) => self.records.push(record),
                Err(RecordError::TooNew { .. }) => self.newer.push(line.to_vec()),
                Err(RecordError::Malformed { .. }) => damaged += 1,
            }
        }
        let over = self.newer.len().saturating_sub(self.records_max);
        self.newer.drain(..over);
        self.bound();
        damaged
    }

    fn bound(&mut self) {
        let over = self.records.len().saturating_sub(self.records_max);
        self.records.drain(..over);
    }

    /// Where it stands.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The records, in the order in which they were added.
    pub fn bodies(&self) -> impl Iterator<Item = &T> {
        self.records.iter().map(|record| &record.body)
    }

    /// Takes the place of the record that is the same one, or is added; `stays` says which of the others do.
    pub fn put(&mut self, body: T, is_same: impl Fn(&T) -> bool, stays: impl Fn(&T) -> bool) {
        match self.records.iter_mut().find(|record| is_same(&record.body)) {
            Some(record) => *record = record.with_body(body),
            None => self.records.push(Stored::new(body)),
        }
        self.records.retain(|record| stays(&record.body));
        self.bound();
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let lines = self.newer.iter().cloned().chain(self.records.iter().map(Stored::encode));
        lines.flat_map(|line| [line, b"\n".to_vec()].concat()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::Profile;
    use holdfast_types::renewals::RenewalDay;

    fn days(history: &History<RenewalDay>) -> Vec<i64> {
        history.bodies().map(|day| day.day).collect()
    }

    #[test]
    fn it_survives_a_restart_a_torn_line_and_a_newer_build() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("renewals.jsonl");
        let mut history: History<RenewalDay> = History::load(file.clone(), 3);
        assert_eq!(days(&history), [] as [i64; 0]);
        for day in [1, 2, 2, 3] {
            history.put(RenewalDay::new(day, Profile::Fast), |old| old.day == day, |_| true);
        }
        durable::write(history.file(), &history.encode()).unwrap();
        assert_eq!(days(&History::load(file.clone(), 3)), [1, 2, 3]);
        assert_eq!(days(&History::load(file.clone(), 2)), [2, 3], "the oldest make room");

        let whole = std::fs::read(&file).unwrap();
        let newer = b"{\"format\":9,\"min_reader\":9,\"later\":1}\n";
        std::fs::write(&file, [newer, &whole[..whole.len() - 20]].concat()).unwrap();
        let mut torn: History<RenewalDay> = History::load(file.clone(), 3);
        assert_eq!(days(&torn), [1, 2]);
        torn.put(RenewalDay::new(4, Profile::Fast), |old| old.day == 4, |old| old.day > 1);
        assert_eq!(days(&torn), [2, 4]);
        assert!(torn.encode().starts_with(newer), "it is for the newer build");
        std::fs::write(&file, b"\xff\n\n{}\nnull").unwrap();
        assert_eq!(days(&History::load(file, 3)), [] as [i64; 0]);
    }
}
