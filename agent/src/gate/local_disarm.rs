//! A person's order to this host alone, as the gates, `boot-deny` and the agent find it on disk ([`LocalDisarm`]).
//!
//! Reads, and decides nothing. What cannot be read counts for nothing and is told: whoever gave the order is at hand, and
//! gives it again.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use holdfast_host::durable;
use holdfast_types::record::{LocalDisarm, Stored};

/// A gate must have answered 2 s after its birth, and a state directory that hangs must not take that from it.
const READ_DEADLINE: Duration = Duration::from_millis(300);

/// The record, standing or ended; `None` when there was never one.
pub fn load(state_dir: &Path) -> Result<Option<LocalDisarm>, String> {
    let file = state_dir.join(LocalDisarm::FILE);
    let at = |error: String| {
        format!(
            "{}: {error}; it counts for nothing: give the order again (holdfast disarm --local)",
            file.display()
        )
    };
    let Some(bytes) = durable::read_optional(&file).map_err(|error| at(error.to_string()))? else {
        return Ok(None);
    };
    Stored::decode(&file.display().to_string(), &bytes)
        .map(|stored| Some(stored.body))
        .map_err(|error| at(error.to_string()))
}

/// The order that stands, for a gate: looked for within its deadline.
pub fn standing(state_dir: &Path) -> Option<LocalDisarm> {
    let (found, answer) = mpsc::channel();
    let folder: PathBuf = state_dir.to_owned();
    // Whoever has waited long enough does not hear it any more.
    std::thread::spawn(move || drop(found.send(load(&folder))));
    match answer.recv_timeout(READ_DEADLINE) {
        Ok(Ok(record)) => record.filter(LocalDisarm::stands),
        Ok(Err(why)) => {
            eprintln!("holdfast: {why}");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::record::LocalEnd;

    #[test]
    fn what_stands_is_found_and_what_is_damaged_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(LocalDisarm::FILE);
        assert_eq!(load(folder.path()), Ok(None));
        assert_eq!(standing(&folder.path().join("not there")), None);
        let mut record = LocalDisarm {
            by: "root".into(),
            reason: "bad build".into(),
            at_wall_ms: 1,
            over_fence: false,
            bin_dir: None,
            ended: None,
        };
        durable::write(&file, &Stored::new(record.clone()).encode()).unwrap();
        assert_eq!(standing(folder.path()), Some(record.clone()));
        record.ended = Some(LocalEnd { by: "root".into(), reason: "over".into(), at_wall_ms: 2 });
        durable::write(&file, &Stored::new(record).encode()).unwrap();
        assert_eq!(standing(folder.path()), None);
        assert!(load(folder.path()).unwrap().is_some(), "the account of it stays");
        std::fs::write(&file, "{").unwrap();
        assert!(load(folder.path()).unwrap_err().contains("disarm --local"));
        assert_eq!(standing(folder.path()), None);
    }
}
