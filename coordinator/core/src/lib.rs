//! Operations, decided: what stands in the way of a request, and what the next step of a running operation is.
//!
//! Pure: it takes one observation of a cluster and the journal, and answers with the record that is to be stored. It has no
//! clock, no handle and no store. A coordinator, and the simulator, call it; agents never do: they act on the phase that
//! they read.

pub mod check;
pub mod drain;
pub mod observation;
pub mod request;
pub mod restart;
pub mod step;
pub mod switchover;
#[cfg(test)]
mod testing;
pub mod whole;
