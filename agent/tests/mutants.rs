//! The ordinary agent has every rule in it: nothing that leaves one out is in the program, and a configuration that asks
//! for it is refused. `holdfast_agent_core::mutant` says what a test build has.

#![cfg(not(feature = "mutants"))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-agent");

#[test]
fn the_ordinary_program_cannot_leave_out_a_rule() {
    let bytes = std::fs::read(PROGRAM).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let has = |name: &str| text.contains(name);
    assert!(has("second_failover_hold_ms"), "what is in it is found");
    for name in ["position-before-cut", "lease-never-ends", "hook-passes", "WITH MUTANTS"] {
        assert!(!has(name), "{name} is in {PROGRAM}");
    }
    let version = Command::new(PROGRAM).arg("version").output().unwrap();
    assert_eq!(
        String::from_utf8(version.stdout).unwrap().trim(),
        concat!("holdfast-agent ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_configuration_that_names_a_rule_to_leave_out_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "mutant = \"none\"\n").unwrap();
    let said = Command::new(PROGRAM).args(["check-config", "--config"]).arg(&file).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    assert!(String::from_utf8(said.stderr).unwrap().contains("mutant:"));
}
