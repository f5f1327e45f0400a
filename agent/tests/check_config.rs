//! `check-config` as an operator runs it: every problem at once, each with its place, and exit code 2.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::process::Command;

fn check(content: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, content).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"))
        .args(["check-config", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn every_problem_is_reported_at_once_with_its_place() {
    let (code, said) = check(
        r#"
        region = "r1"
        hots = "db1"
        run_dir = 5
        state_dir = "/var/lib/holdfast"
        tls = { ca = "/nowhere/ca.crt", cert = "/nowhere/host.crt", key = "/nowhere/host.key" }
        etcd = { endpoints = ["10.0.0.1:2379"] }
        grpc = { listen = "here" }
        timings = { profile = "hasty" }
        client = [{ namespace = "service", scope = "main" }, { namespace = "service", scope = "main" }]
        "#,
    );
    assert_eq!(code, Some(2), "{said}");
    for place in
        ["hots", "host", "run_dir", "grpc.listen", "timings.profile", "client", "tls", "/nowhere/ca.crt"]
    {
        assert!(said.contains(place), "{place} is not named:\n{said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named_with_the_remedy() {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"))
        .args(["run", "--config", "/nowhere/agent.toml"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("/nowhere/agent.toml") && said.contains("--config"), "{said}");
}
