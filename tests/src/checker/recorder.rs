//! The one writer of a recording's file: a bounded queue, flushed ten times a second, so that a kill costs at most the
//! last tenth of a second of records (rows of which nothing is recorded count nowhere).

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::record::Line;

/// Lines that may wait for the disk; a full queue makes the clients wait, never forget.
const QUEUE_MAX: usize = 8_192;
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// Takes lines from any number of tasks.
#[derive(Debug, Clone)]
pub struct Recorder {
    lines: mpsc::Sender<Line>,
}

impl Recorder {
    /// Opens the file and starts the writing task. The task ends when the last `Recorder` is dropped; await it.
    pub fn create(path: &Path) -> std::io::Result<(Self, tokio::task::JoinHandle<std::io::Result<()>>)> {
        let mut file = BufWriter::new(File::create(path)?);
        let (lines, mut queue) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(async move {
            let mut flush = tokio::time::interval(FLUSH_EVERY);
            loop {
                tokio::select! {
                    line = queue.recv() => match line {
                        Some(line) => {
                            serde_json::to_writer(&mut file, &line)?;
                            file.write_all(b"\n")?;
                        }
                        None => return file.flush(),
                    },
                    _ = flush.tick() => file.flush()?,
                }
            }
        });
        Ok((Self { lines }, task))
    }

    /// Writes a line; waits while the queue is full. False when the file cannot be written any more.
    pub async fn write(&self, line: Line) -> bool {
        self.lines.send(line).await.is_ok()
    }
}
