//! Which versions of Patroni the protocol was tested with: the one list for `arm`, and for the contract test that fills it.

/// The minor versions of Patroni for which every fact that the protocol rests on has been seen to hold: `tests/lab contract`
/// asks their code and their servers. Another one may do the same, but nobody has looked.
pub const TESTED_PATRONI: &[&str] = &["4.0", "4.1"];
