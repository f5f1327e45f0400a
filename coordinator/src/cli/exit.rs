//! How a command ends: the exit codes, and failures that carry one.

use std::fmt;
use std::process::ExitCode;

use holdfast_store::StoreError;

/// The exit codes of every command (DESIGN section 7). Most orders are one transaction, which is done or is not; 6 belongs
/// to those of several steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or there was nothing to do.
    Done = 0,
    /// It failed, and nothing was changed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A safety or policy check refuses it.
    Refused = 3,
    /// The store or an agent cannot be reached.
    Unreachable = 4,
    /// The order was given, but its effect has not come in time; the state is printed.
    TimedOut = 5,
    /// Some steps are done and others are not; what is left is printed, with the next safe command.
    Partly = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // The numbers are the contract.
        ExitCode::from(exit as u8)
    }
}

/// Why a command stops, with its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the process exits.
    pub exit: Exit,
    /// What, where, remedy; goes to standard error.
    pub text: String,
}

impl Failure {
    /// A failure with its code.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// The command line or the configuration is wrong.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = if error.is_outage() { Exit::Unreachable } else { Exit::Failed };
        Self::new(exit, error.to_string())
    }
}
