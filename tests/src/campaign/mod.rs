//! The campaign: random single and double faults from a seed, one after the other, with the checker's clients on every
//! route all the time, until a count or a time; every acknowledged row is accounted for after each of them.
//!
//! [`schedule`] says what breaks when, purely, by seed and number: any one step can be replayed alone. [`drive`] does it and
//! waits for the cluster to be whole again; [`session`] is one call. It knows nothing of how a system reacts. Called by
//! `holdfast-lab campaign`.

pub mod blow;
pub mod drive;
pub mod evidence;
pub mod place;
pub mod record;
pub mod report;
pub mod schedule;
pub mod session;
