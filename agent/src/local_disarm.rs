//! The agent's eye on a person's order to this host alone: each task of it looks for itself, and none waits for a disk.

use std::path::Path;
use std::time::Duration;

use holdfast_types::record::LocalDisarm;
use tokio::task::JoinHandle;

use crate::gate::local_disarm;

/// Reading a small file takes microseconds; a disk that has not answered by then is left to its thread.
const READ_DEADLINE: Duration = Duration::from_millis(200);

/// What was found: the record, standing or ended, or why it cannot be read.
pub type Found = Result<Option<LocalDisarm>, String>;

/// One task's way to the record.
#[derive(Default)]
pub struct Reader {
    /// One that a dead disk holds up: it is left behind, and no second is begun beside it.
    reading: Option<JoinHandle<Found>>,
    stands: bool,
}

impl Reader {
    /// Reads it again; `None`: the disk does not answer, and what was known stands.
    pub async fn read(&mut self, state_dir: &Path) -> Option<Found> {
        let folder = state_dir.to_owned();
        let reading = self
            .reading
            .get_or_insert_with(|| tokio::task::spawn_blocking(move || local_disarm::load(&folder)));
        let read = tokio::time::timeout(READ_DEADLINE, reading).await.ok()?;
        self.reading = None;
        read.ok()
    }

    /// Whether a local disarm stands, by the last look that was answered. A record that cannot be read counts for nothing.
    pub async fn stands(&mut self, state_dir: &Path) -> bool {
        if let Some(found) = self.read(state_dir).await {
            self.stands = matches!(found, Ok(Some(record)) if record.stands());
        }
        self.stands
    }
}
