//! A watch that survives its connection: it begins with everything there is, and begins again after every break.
//!
//! It never resumes in the middle: etcd 3.4.23 lets a progress answer overtake events, and a reader that missed one
//! would decide on a state that never was. A snapshot is cheap; our prefixes hold some dozens of keys.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::{KeyValue, Reading};

/// How many events wait for a slow reader before the sender waits too.
const BUFFERED: usize = 16;

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Everything below the prefixes: replaces all that was known. At the begin and after every break.
    Snapshot(Reading),
    /// One revision's changes. If the revision touched keys of several prefixes they may come as several of these, and
    /// prefixes may run ahead of each other: decide on a fresh read, not on the order of two prefixes.
    Changes {
        /// The revision.
        revision: i64,
        /// Keys that were set.
        puts: Vec<KeyValue>,
        /// Keys that went, by an order or with their lease.
        deletes: Vec<String>,
    },
    /// Nothing is heard any more. Said once; a snapshot follows when the store answers again.
    Disconnected {
        /// Why.
        why: String,
    },
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Runs `follow` as the watch's task. It never returns, except when the sender is closed.
    pub(crate) fn spawn<F>(follow: impl FnOnce(mpsc::Sender<WatchEvent>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, events) = mpsc::channel(BUFFERED);
        Self { events, task: tokio::spawn(follow(sender)) }
    }

    /// The next event; waits for as long as nothing happens. Never ends. May be dropped and called again.
    pub async fn next(&mut self) -> WatchEvent {
        match self.events.recv().await {
            Some(event) => event,
            // Only a panic in the task, or the end of the runtime, closes the channel under us.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
