//! How late the renewals of this host's session were: noted by the session, kept on disk, told to whoever asks for a report.
//!
//! Nothing waits for the disk but the task that writes, and nothing of it goes to etcd. What is counted how is
//! `holdfast-agent-core`'s.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use holdfast_agent_core::renewals::{DAYS_MAX, Ledger};
use holdfast_host::clock;
use holdfast_types::Profile;
use holdfast_types::renewals::RenewalDay;

use crate::config::Config;
use crate::disk::Disk;
use crate::history::History;

const FILE: &str = "renewals.jsonl";
/// An agent that is killed loses what it has counted since the last write. The file has some ten kilobytes.
const WRITE_INTERVAL: Duration = Duration::from_secs(300);

/// The renewals of a month; clones share it.
#[derive(Clone)]
pub struct Renewals {
    profile: Profile,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    ledger: Ledger,
    history: History<RenewalDay>,
    unsaved: bool,
}

impl Renewals {
    /// Goes on with what earlier starts of the agent have counted.
    pub fn load(config: &Config) -> Self {
        Self::below(&config.state_dir, config.profile)
    }

    /// The same, with its file below `folder`.
    pub(crate) fn below(folder: &Path, profile: Profile) -> Self {
        let history = History::load(folder.join(FILE), DAYS_MAX);
        let ledger = Ledger::new(history.bodies().cloned().collect());
        let shared = Shared { ledger, history, unsaved: false };
        Self { profile, shared: Arc::new(Mutex::new(shared)) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nobody panics while holding the renewals")
    }

    /// A renewal has been confirmed, `gap_ms` after the one before it was sent.
    pub fn note(&self, gap_ms: u64) {
        let mut shared = self.shared();
        shared.ledger.note(self.profile, gap_ms, clock::wall_ms());
        shared.unsaved = true;
    }

    /// The days, oldest first.
    pub fn days(&self) -> Vec<RenewalDay> {
        self.shared().ledger.days().to_vec()
    }

    /// Writes now and then, until the runtime ends.
    pub async fn keep(self) {
        let disk = Disk::default();
        loop {
            tokio::time::sleep(WRITE_INTERVAL).await;
            self.save(&disk).await;
        }
    }

    /// Writes what is not on disk yet. What cannot be written is written with the next.
    pub async fn save(&self, disk: &Disk) {
        let (file, bytes) = {
            let mut shared = self.shared();
            if !shared.unsaved {
                return;
            }
            let days = shared.ledger.days().to_vec();
            for day in &days {
                let is_same = |old: &RenewalDay| (old.day, old.profile) == (day.day, day.profile);
                let stays = |old: &RenewalDay| days.iter().any(|kept| kept.day == old.day);
                shared.history.put(day.clone(), is_same, stays);
            }
            shared.unsaved = false;
            (shared.history.file().to_owned(), shared.history.encode())
        };
        if let Err(error) = disk.keep(file.clone(), Some(bytes)).await {
            tracing::warn!(path = %file.display(), %error, "how late renewals were is not on disk yet; tried again");
            self.shared().unsaved = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_counted_is_there_after_a_restart_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let first = Renewals::below(folder.path(), Profile::Fast);
        first.note(650);
        first.save(&disk).await;
        first.note(1_900);
        let second = Renewals::below(folder.path(), Profile::Fast);
        second.note(700);
        second.save(&disk).await;
        second.save(&disk).await;
        let days = Renewals::below(folder.path(), Profile::Fast).days();
        let counted: u64 = days.iter().map(|day| day.late.count()).sum();
        assert_eq!((counted, days.iter().map(|day| day.watched_ms).sum()), (2, 1_350), "unsaved is lost");
    }
}
