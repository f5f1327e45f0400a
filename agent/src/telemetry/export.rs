//! The task that exports spans: a bounded queue in front, a bounded buffer behind, a deadline on every call.
//!
//! A host that is cut off is where the interesting spans come from, so a batch that could not be delivered is kept and
//! tried again for as long as the buffer has room. A receiver may see a batch twice when its answer was lost; the ids of
//! the spans are the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// An incident has some ten spans a host; this is room for a bad hour.
const QUEUE_MAX: usize = 512;
/// How long spans gather before they are sent together.
const GATHER: Duration = Duration::from_millis(200);
/// Deadline of one export.
const EXPORT_DEADLINE: Duration = Duration::from_secs(3);
/// Pauses after a failed export, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What went wrong since the start.
#[derive(Debug, Default)]
struct Counts {
    dropped: AtomicU64,
    failures: AtomicU64,
}

/// The running exporter.
#[derive(Debug)]
pub(super) struct Exporting {
    queue: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
    end: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Exporting {
    pub fn start(endpoint: &str, resource: &Resource) -> Result<Self, String> {
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_DEADLINE)
            .build()
            .map_err(|error| error.to_string())?;
        exporter.set_resource(resource);
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let (counts, end) = (Arc::new(Counts::default()), CancellationToken::new());
        let task = Task { exporter, counts: Arc::clone(&counts), kept: Vec::new(), is_failing: false };
        let task = Mutex::new(Some(tokio::spawn(task.run(spans, end.clone()))));
        Ok(Self { queue, counts, end, task })
    }

    pub fn enqueue(&self, span: SpanData) {
        if self.queue.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> u64 {
        self.counts.failures.load(Ordering::Relaxed)
    }

    pub async fn shutdown(&self, deadline: Duration) {
        self.end.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(deadline, &mut task).await.is_err()
        {
            task.abort();
            tracing::warn!("the last spans were not exported: the endpoint does not answer");
        }
    }
}

struct Task {
    exporter: SpanExporter,
    counts: Arc<Counts>,
    /// Spans that have left the queue and have not been delivered.
    kept: Vec<SpanData>,
    is_failing: bool,
}

impl Task {
    async fn run(mut self, mut spans: mpsc::Receiver<SpanData>, end: CancellationToken) {
        let mut pause = PAUSES.0;
        loop {
            let is_ending = tokio::select! {
                () = end.cancelled() => true,
                is_open = self.gather(&mut spans) => !is_open,
            };
            while let Ok(span) = spans.try_recv() {
                self.keep(span);
            }
            let delivered = self.export().await;
            if is_ending {
                return;
            }
            if delivered {
                pause = PAUSES.0;
                continue;
            }
            tokio::select! {
                () = end.cancelled() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            }
        }
    }

    /// Waits for the first span, unless some are kept, and then a moment for those that come with it.
    async fn gather(&mut self, spans: &mut mpsc::Receiver<SpanData>) -> bool {
        if self.kept.is_empty() {
            match spans.recv().await {
                Some(span) => self.keep(span),
                None => return false,
            }
        }
        tokio::time::sleep(GATHER).await;
        true
    }

    fn keep(&mut self, span: SpanData) {
        if self.kept.len() < QUEUE_MAX {
            self.kept.push(span);
        } else {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tries once to deliver what is kept.
    async fn export(&mut self) -> bool {
        if self.kept.is_empty() {
            return true;
        }
        let failure =
            match tokio::time::timeout(EXPORT_DEADLINE, self.exporter.export(self.kept.clone())).await {
                Ok(Ok(())) => {
                    self.kept.clear();
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("spans are exported again");
                    }
                    return true;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", EXPORT_DEADLINE.as_secs()),
            };
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        // Once per outage: an endpoint that is away is no incident of the databases.
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                failure,
                kept = self.kept.len(),
                "spans cannot be exported; they are kept and tried again"
            );
        }
        false
    }
}
