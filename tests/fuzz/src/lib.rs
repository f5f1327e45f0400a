//! The decoders of `holdfast-lab`, compiled from its own files without the rest of it.

#[path = "../../src/decoders/mod.rs"]
pub mod decoders;

#[allow(dead_code)] // The lab uses the rest.
#[path = "../../src/lab"]
mod lab {
    pub mod spec;
}
