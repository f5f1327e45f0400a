//! `switchover`: another member becomes the writer, and no client notices.

mod facts;
mod preflight;
mod steps;

pub(crate) use preflight::undisturbed;
pub use preflight::{Plan, check};
pub(crate) use steps::{step, who_writes};
