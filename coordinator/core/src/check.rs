//! What an order would meet: reasons that refuse it, and things to know that do not.

use serde::Serialize;

/// One reason why an order is refused, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl Blocker {
    /// A reason and its remedy.
    pub fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { problem: problem.into(), fix: fix.into() }
    }
}

/// What an order would meet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Why it is refused.
    pub blockers: Vec<Blocker>,
    /// What is not covered or not known.
    pub warnings: Vec<String>,
}

impl Check {
    /// Adds a reason to refuse.
    pub fn block(&mut self, problem: impl Into<String>, fix: impl Into<String>) {
        self.blockers.push(Blocker::new(problem, fix));
    }

    /// Adds a thing to know.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// The blockers, numbered, and the warnings; empty if there is neither.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The same, one line for each but the remedies, which have one of their own.
    pub fn lines(&self) -> Vec<String> {
        let blocker = |(place, blocker): (usize, &Blocker)| {
            format!("blocker {}: {}\n           {}", place + 1, blocker.problem, blocker.fix)
        };
        let blockers = self.blockers.iter().enumerate().map(blocker);
        blockers.chain(self.warnings.iter().map(|warning| format!("note: {warning}"))).collect()
    }
}
