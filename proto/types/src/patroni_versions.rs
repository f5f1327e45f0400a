//! The Patroni versions that Holdfast has been tested with: the one place where they stand.
//!
//! The rules of the protocol rest on what Patroni does and does not do. `tests/lab contract` asks the Patroni of
//! each version here for it. `arm` refuses any other version; watching goes on with it.

/// Major and minor number of each tested version.
pub const TESTED_PATRONI: &[&str] = &["4.0", "4.1"];

/// Whether a version, as Patroni writes it (`4.1.5`), is one of [`TESTED_PATRONI`], whatever follows its minor number.
pub fn is_tested(version: &str) -> bool {
    let rest = |tested: &&str| version.strip_prefix(*tested);
    TESTED_PATRONI.iter().filter_map(rest).any(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_and_minor_count() {
        for tested in ["4.0.0", "4.1.5", "4.1", "4.0.0rc1"] {
            assert!(is_tested(tested), "{tested}");
        }
        for other in ["3.3.5", "4.10.0", "14.1.0", "5.0.0", "", "unknown"] {
            assert!(!is_tested(other), "{other}");
        }
    }
}
