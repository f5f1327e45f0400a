//! Disk work on threads of its own: a dead disk must not hang the agent (promise I8).
//!
//! A thread that hangs in the kernel is left behind; nothing more is written beside it until it comes back, so that an old
//! write never lands on a newer one and threads do not pile up.

use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use holdfast_host::durable;
use tokio::sync::Semaphore;

/// How long a small durable write may take. It syncs, so a busy disk needs some time; a dead one never answers.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a look at a file's metadata may take.
const LOOK_DEADLINE: Duration = Duration::from_millis(500);

/// The one writer of a task's small files.
pub struct Disk {
    turn: Arc<Semaphore>,
    /// The write that has the turn is past its deadline.
    hangs: Arc<AtomicBool>,
}

impl Default for Disk {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), hangs: Arc::default() }
    }
}

impl Disk {
    /// Writes or removes a file durably.
    pub async fn keep(&self, file: PathBuf, bytes: Option<Vec<u8>>) -> Result<()> {
        let work = move || match bytes {
            Some(bytes) => durable::write(&file, &bytes),
            None => durable::remove(&file),
        };
        self.write(work).await
    }

    /// Does some writing of another kind, in its turn. Beside one that hangs it fails at once: whoever asks has a beat to
    /// keep.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.hangs.load(Relaxed) {
            return Err(late());
        }
        let turn = tokio::time::timeout(WRITE_DEADLINE, Arc::clone(&self.turn).acquire_owned());
        let turn = turn.await.map_err(|_| late())?.map_err(Error::other)?;
        let hangs = Arc::clone(&self.hangs);
        let mut work = tokio::task::spawn_blocking(move || {
            let done = work();
            (done, turn)
        });
        match tokio::time::timeout(WRITE_DEADLINE, &mut work).await {
            Ok(done) => done.map_err(Error::other)?.0,
            Err(_) => {
                hangs.store(true, Relaxed);
                // Its turn ends with it, however late.
                tokio::spawn(async move {
                    let turn = work.await;
                    hangs.store(false, Relaxed);
                    drop(turn);
                });
                Err(late())
            }
        }
    }
}

/// Looks at the disk without changing it.
pub async fn look<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let work = tokio::task::spawn_blocking(work);
    tokio::time::timeout(LOOK_DEADLINE, work).await.map_err(|_| late())?.map_err(Error::other)
}

fn late() -> Error {
    Error::new(ErrorKind::TimedOut, "the disk did not answer in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_that_hangs_is_left_behind_and_holds_back_the_next() {
        let disk = Disk::default();
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let hung = disk.write(move || {
            // Until the test lets go of it.
            let _ = hang.recv();
            Ok(())
        });
        assert_eq!(hung.await.unwrap_err().kind(), ErrorKind::TimedOut);
        let asked = std::time::Instant::now();
        for _ in 0..3 {
            let next = disk.write(|| -> Result<()> { panic!("the one before has not come back") });
            assert_eq!(next.await.unwrap_err().kind(), ErrorKind::TimedOut);
        }
        assert!(asked.elapsed() < LOOK_DEADLINE, "a loop that writes waits once: {:?}", asked.elapsed());
        drop(release);
        // The thread that was left behind has to come back first.
        let comes_back = async {
            while disk.write(|| Ok(())).await.is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), comes_back).await.unwrap();
    }
}
