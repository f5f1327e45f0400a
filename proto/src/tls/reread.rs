//! What was made of files, made anew when they change.
//!
//! A look at the files happens on a thread of its own, so that a dead disk delays nobody: whoever finds a look due still gets
//! what was made before, those after it the new. Files that are wrong change nothing; the problem is logged once and kept.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::TlsProblem;

/// How often the files are looked at, at most: replacing a certificate is not urgent, a look costs three system calls.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Clones are the same.
#[derive(Debug)]
pub(super) struct Reread<T>(Arc<Shared<T>>);

impl<T> Clone for Reread<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

type Make<T> = Box<dyn Fn() -> Result<T, Vec<TlsProblem>> + Send + Sync>;

struct Shared<T> {
    files: Vec<PathBuf>,
    make: Make<T>,
    state: Mutex<State<T>>,
    /// Only one thread looks at a time; one that hangs on a dead disk is left behind, and no second follows it.
    looking: AtomicBool,
}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reread").field("files", &self.files).finish_non_exhaustive()
    }
}

struct State<T> {
    made: T,
    stamp: Vec<Stamp>,
    looked: Instant,
    problems: Vec<String>,
}

/// What tells that a file has been replaced or rewritten; `None` for one that cannot be looked at.
type Stamp = Option<(u64, u64, i64, i64)>;

impl<T: Clone + Send + 'static> Reread<T> {
    /// Makes it of these files; all their problems come back together.
    pub(super) fn load(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, Vec<TlsProblem>> + Send + Sync + 'static,
    ) -> Result<Self, Vec<TlsProblem>> {
        let stamp = stamps(&files);
        let state = State { made: make()?, stamp, looked: Instant::now(), problems: Vec::new() };
        let (make, state, looking) = (Box::new(make), Mutex::new(state), AtomicBool::new(false));
        Ok(Self(Arc::new(Shared { files, make, state, looking })))
    }

    /// What was made last, without a look.
    pub(super) fn last(&self) -> T {
        self.0.lock().made.clone()
    }

    /// What is wrong with files that have changed and were not taken.
    pub(super) fn problems(&self) -> Vec<String> {
        self.0.lock().problems.clone()
    }

    /// What was made last; begins a look when one is due.
    pub(super) fn now(&self) -> T {
        let (made, is_due) = {
            let state = self.0.lock();
            (state.made.clone(), state.looked.elapsed() >= LOOK_INTERVAL)
        };
        if is_due && !self.0.looking.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("tls-files".into());
            if let Err(error) = thread.spawn(move || shared.look()) {
                self.0.looking.store(false, Ordering::Release);
                tracing::warn!(%error, "no thread to look at the certificate's files");
            }
        }
        made
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Every change of the state is one assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes changed files if they are in order.
    fn look(&self) {
        let stamp = stamps(&self.files);
        if stamp != self.lock().stamp {
            let read = (self.make)();
            let mut state = self.lock();
            match read {
                Ok(made) => {
                    state.made = made;
                    state.problems.clear();
                    tracing::info!(files = ?self.files, "new certificate taken");
                }
                Err(problems) => {
                    state.problems = problems.iter().map(ToString::to_string).collect();
                    let problems = state.problems.join("; ");
                    tracing::warn!(problems, "changed certificate files not taken, the old ones stay in use");
                }
            }
            state.stamp = stamp;
        }
        self.lock().looked = Instant::now();
        self.looking.store(false, Ordering::Release);
    }
}

/// Looks at the files without reading them.
fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}
