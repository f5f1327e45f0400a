//! Twenty faults of a campaign, single and double, under load: none loses an acknowledged row, none makes a second writer,
//! and the cluster is whole after each. Needs root, `tests/setup`, and the built workspace.

// The helpers of a test are a test.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::path::Path;
use std::process::Command;

use holdfast_lab::campaign::record;
use support::{Lab, eventually, leftovers};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-lab");
const NAME: &str = "t_campaign";
/// Of all faults that a test of a few minutes could make, always the same: what it finds is found again.
const SEED: &str = "4";
const FAULTS: usize = 20;
/// Shorter than a campaign of its own would hold them: what follows a fault takes its time in any case.
const HOLD_MAX_MS: &str = "3000";

#[test]
fn twenty_faults_lose_nothing_and_make_no_second_writer() {
    // What an earlier, killed test left is removed, and what this one leaves.
    let _lab = Lab::named(NAME);
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    let output = Command::new(PROGRAM)
        .args(["campaign", "--name", NAME, "--seed", SEED, "--faults", &FAULTS.to_string()])
        .args(["--doubles", "40", "--hold-max-ms", HOLD_MAX_MS, "--results"])
        .arg(&results)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    eprintln!("{said}\n{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{said}");
    let records = record::read(&[&results]).unwrap();
    let [record] = &records[..] else { panic!("one call, one record: {records:?}") };
    assert!(record.faults() >= FAULTS && record.total.broken().is_none(), "{record:?}");
    assert!(record.total.acknowledged > 5_000, "nobody wrote: {record:?}");
    assert!(record.steps.iter().any(|step| step.final_writer.as_ref() != Some(&step.writer)), "{record:?}");
    report_prints(&results);
    eventually("nothing of the lab is left", || leftovers(NAME).is_empty());
}

fn report_prints(results: &Path) {
    let output = Command::new(PROGRAM).arg("campaign-report").args([results, results]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("holdfast-fast: ") && text.contains("2 calls"), "{text}");
    assert_eq!(text.matches("faults: clean").count(), 2, "{text}");
}
