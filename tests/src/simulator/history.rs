//! What happened in a run: always counted into a hash, which two runs of one seed must share, and kept as lines for a
//! reader only when somebody wants to read them.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Lines kept at most; a run that says more has said enough.
const LINES_MAX: usize = 200_000;

/// See the module.
pub struct History {
    hash: RefCell<DefaultHasher>,
    lines: RefCell<Option<Vec<String>>>,
    count: Cell<u64>,
}

impl History {
    /// An empty one.
    pub fn new(keep: bool) -> Self {
        let lines = keep.then(Vec::new);
        Self { hash: RefCell::new(DefaultHasher::new()), lines: RefCell::new(lines), count: Cell::new(0) }
    }

    /// Adds an event.
    pub fn say(&self, at_us: u64, who: &dyn Display, what: &dyn Display) {
        let text = format!("{:>10.4} {who:<10} {what}", at_us as f64 / 1e6);
        text.hash(&mut *self.hash.borrow_mut());
        self.count.set(self.count.get() + 1);
        if let Some(lines) = self.lines.borrow_mut().as_mut()
            && lines.len() < LINES_MAX
        {
            lines.push(text);
        }
    }

    /// A number for all that happened.
    pub fn hash(&self) -> u64 {
        self.hash.borrow().finish()
    }

    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// The lines, if they were kept.
    pub fn take_lines(&self) -> Vec<String> {
        self.lines.borrow_mut().take().unwrap_or_default()
    }
}
