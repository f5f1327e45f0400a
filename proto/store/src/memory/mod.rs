//! A store without servers, for tests: etcd's semantics, a clock that can be held, and faults on demand.

mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch as signal};

use self::state::State;
use crate::{
    BoxFuture, KeyValue, Read, Reading, Renewal, Store, StoreError, Txn, TxnOutcome, Watch, WatchEvent,
};

/// A store in memory. Clones share one content.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Raised at every change that a watch must look at.
    touched: signal::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    clock: Clock,
    reachable: bool,
    lose_next_answer: bool,
}

#[derive(Debug)]
enum Clock {
    Real { start: Instant },
    Manual { now: Duration },
}

impl Clock {
    fn now(&self) -> Duration {
        match self {
            Self::Real { start } => start.elapsed(),
            Self::Manual { now } => *now,
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store whose leases end by the real clock.
    pub fn new() -> Self {
        Self::with_clock(Clock::Real { start: Instant::now() })
    }

    /// An empty store whose leases end only when [`advance`](Self::advance) says so.
    pub fn with_manual_clock() -> Self {
        Self::with_clock(Clock::Manual { now: Duration::ZERO })
    }

    fn with_clock(clock: Clock) -> Self {
        let inner = Inner { state: State::new(), clock, reachable: true, lose_next_answer: false };
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), touched: signal::Sender::new(0) }) }
    }

    /// Moves a manual clock on and ends the leases that are over. Does nothing to a real clock.
    pub fn advance(&self, by: Duration) {
        let mut inner = self.shared.lock();
        if let Clock::Manual { now } = &mut inner.clock {
            *now += by;
        }
        inner.expire();
        drop(inner);
        self.shared.touch();
    }

    /// Cuts the store off, or heals it: until then every call is [`StoreError::Unreachable`] and watches disconnect.
    pub fn set_reachable(&self, reachable: bool) {
        self.shared.lock().reachable = reachable;
        self.shared.touch();
    }

    /// The next transaction happens, but its caller gets [`StoreError::DeadlineExceeded`].
    pub fn lose_next_answer(&self) {
        self.shared.lock().lose_next_answer = true;
    }

    /// Forgets the history before `revision`, as etcd's compaction does.
    pub fn compact(&self, revision: i64) {
        self.shared.lock().state.compact(revision);
    }

    fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        run: impl FnOnce(&mut Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<Result<T, StoreError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let result = {
                let mut inner = shared.lock();
                if !inner.reachable {
                    return Err(StoreError::Unreachable { call: name, why: "cut off by the test".into() });
                }
                inner.expire();
                run(&mut inner)
            };
            shared.touch();
            result
        })
    }
}

impl Inner {
    fn expire(&mut self) {
        let now = self.clock.now();
        self.state.expire(now);
    }

    /// How long until the next lease ends by the real clock.
    fn until_expiry(&self) -> Option<Duration> {
        match self.clock {
            Clock::Real { .. } => self.state.next_expiry().map(|ends| ends.saturating_sub(self.clock.now())),
            Clock::Manual { .. } => None,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere in a test must not hide behind a second one here.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        self.touched.send_modify(|count| *count += 1);
    }
}

impl Store for MemoryStore {
    fn read(&self, what: Vec<Read>) -> BoxFuture<Result<Reading, StoreError>> {
        self.call("read", move |inner| Ok(inner.state.read(&what)))
    }

    fn read_at(&self, key: String, revision: i64) -> BoxFuture<Result<Option<KeyValue>, StoreError>> {
        self.call("read_at", move |inner| inner.state.read_at(&key, revision))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<Result<TxnOutcome, StoreError>> {
        self.call("txn", move |inner| {
            let outcome = inner.state.txn(&txn)?;
            if std::mem::take(&mut inner.lose_next_answer) {
                return Err(StoreError::DeadlineExceeded { call: "txn", deadline_ms: 0 });
            }
            Ok(outcome)
        })
    }

    fn grant(&self, ttl_s: i64) -> BoxFuture<Result<i64, StoreError>> {
        self.call("grant", move |inner| Ok(inner.state.grant(ttl_s, inner.clock.now())))
    }

    fn keep_alive(&self, lease: i64) -> BoxFuture<Result<Renewal, StoreError>> {
        let sent = Instant::now();
        self.call("keep_alive", move |inner| {
            let now = inner.clock.now();
            let ttl_s = inner.state.keep_alive(lease, now);
            let ttl_s = ttl_s.ok_or(StoreError::LeaseNotFound { call: "keep_alive" })?;
            Ok(Renewal { ttl_ms: u64::try_from(ttl_s).unwrap_or(0) * 1_000, sent })
        })
    }

    fn revoke(&self, lease: i64) -> BoxFuture<Result<(), StoreError>> {
        self.call("revoke", move |inner| {
            inner.state.revoke(lease).then_some(()).ok_or(StoreError::LeaseNotFound { call: "revoke" })
        })
    }

    fn remaining(&self, lease: i64) -> BoxFuture<Result<Option<u64>, StoreError>> {
        self.call("remaining", move |inner| {
            let left = inner.state.remaining(lease, inner.clock.now());
            Ok(left.map(|left| left.as_secs() * 1_000))
        })
    }

    fn watch(&self, prefixes: Vec<String>) -> Watch {
        let shared = Arc::clone(&self.shared);
        Watch::spawn(move |events| async move {
            // An error means that the reader has gone.
            let _ = follow(shared, prefixes, events).await;
        })
    }
}

/// What a watch does next.
enum Turn {
    Say(Vec<WatchEvent>),
    Wait(Option<Duration>),
}

async fn follow(
    shared: Arc<Shared>,
    prefixes: Vec<String>,
    events: mpsc::Sender<WatchEvent>,
) -> Result<(), mpsc::error::SendError<WatchEvent>> {
    let mut touched = shared.touched.subscribe();
    // The revision that the reader has seen; absent while it has to begin again.
    let mut seen: Option<i64> = None;
    let mut connected = true;
    loop {
        let _ = touched.borrow_and_update();
        let next = turn(&mut shared.lock(), &prefixes, &mut seen, &mut connected);
        match next {
            Turn::Say(list) => {
                for event in list {
                    events.send(event).await?;
                }
            }
            Turn::Wait(limit) => {
                let changed = touched.changed();
                // Without a lease there is nothing to wake for but a change.
                let _ = tokio::time::timeout(limit.unwrap_or(Duration::MAX), changed).await;
            }
        }
    }
}

fn turn(inner: &mut Inner, prefixes: &[String], seen: &mut Option<i64>, connected: &mut bool) -> Turn {
    if !inner.reachable {
        *seen = None;
        return match std::mem::replace(connected, false) {
            true => Turn::Say(vec![WatchEvent::Disconnected { why: "cut off by the test".into() }]),
            false => Turn::Wait(None),
        };
    }
    *connected = true;
    inner.expire();
    let revision = inner.state.revision;
    let Some(changes) = seen.and_then(|seen| inner.state.changes_after(seen)) else {
        *seen = Some(revision);
        let what: Vec<Read> = prefixes.iter().cloned().map(Read::Prefix).collect();
        return Turn::Say(vec![WatchEvent::Snapshot(inner.state.read(&what))]);
    };
    let ours = changes.filter(|change| prefixes.iter().any(|prefix| change.key.starts_with(prefix.as_str())));
    let list = group(ours.cloned());
    *seen = Some(revision);
    if list.is_empty() { Turn::Wait(inner.until_expiry()) } else { Turn::Say(list) }
}

/// One event for each revision, in order.
fn group(changes: impl Iterator<Item = state::Change>) -> Vec<WatchEvent> {
    let mut list: Vec<WatchEvent> = Vec::new();
    for change in changes {
        let same =
            matches!(list.last(), Some(WatchEvent::Changes { revision, .. }) if *revision == change.revision);
        if !same {
            list.push(WatchEvent::Changes {
                revision: change.revision,
                puts: Vec::new(),
                deletes: Vec::new(),
            });
        }
        if let Some(WatchEvent::Changes { puts, deletes, .. }) = list.last_mut() {
            match change.after {
                Some(pair) => puts.push(pair),
                None => deletes.push(change.key),
            }
        }
    }
    list
}
