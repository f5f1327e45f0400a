//! How a verb ends when it does not end well: the exit codes of every Holdfast program (DESIGN section 7).
//!
//! A failure without a code of its own is 1: it failed and, as far as one command reaches, nothing was changed.

use std::fmt;

/// What an exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It failed.
    Failed = 1,
    /// The command line or a file names something that does not exist or cannot be.
    Usage = 2,
    /// It would touch what the lab did not make, or what is there already.
    Refused = 3,
    /// A supervisor does not answer.
    Unreachable = 4,
    /// It was waited for in vain; the text holds the state.
    TimedOut = 5,
    /// A part was done; the text says which and what is safe to do next.
    PartlyDone = 6,
}

/// Why a verb stops, with its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    /// A failure with its code.
    pub fn with(exit: Exit, text: impl Into<String>) -> anyhow::Error {
        Self { exit, text: text.into() }.into()
    }

    /// The command line is wrong.
    pub fn usage(text: impl Into<String>) -> anyhow::Error {
        Self::with(Exit::Usage, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// The code of an error, wherever in its chain it stands.
pub fn exit(error: &anyhow::Error) -> Exit {
    let found = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    found.map_or(Exit::Failed, |failure| failure.exit)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_code_is_found_below_any_context() {
        let error = Err::<(), _>(Failure::usage("no such host")).context("fault").unwrap_err();
        assert_eq!(exit(&error), Exit::Usage);
        assert_eq!(format!("{error:#}"), "fault: no such host");
        assert_eq!(exit(&anyhow::anyhow!("a disk is full")), Exit::Failed);
    }
}
