//! Patroni does what the protocol rests on: the lab's own version here, all that are installed with
//! `HOLDFAST_CONTRACT=all`. Needs `tests/setup`, and for the servers root.

use crate::support::{Lab, text, within};
use holdfast_lab::contract::fact::FACTS;
use holdfast_types::patroni_versions::TESTED_PATRONI;
use serde_json::Value;

const LAB: &str = "t_contract";
/// A version takes about a minute.
const DEADLINE_MS: u64 = 600_000;

#[test]
fn patronis_own_code_does_what_the_protocol_rests_on() {
    let facts = FACTS.iter().filter(|fact| !fact.needs_servers).count();
    ask(&["--without-servers"], facts);
}

#[test]
#[ignore = "a minute; tests/all --long"]
fn patronis_servers_do_what_the_protocol_rests_on() {
    // Takes down what it leaves behind.
    let lab = Lab::named(LAB);
    ask(&["--name", lab.name()], FACTS.len());
}

fn ask(options: &[&str], facts: usize) {
    let program = [env!("CARGO_BIN_EXE_holdfast-lab"), "contract", "-o", "json"];
    let all = std::env::var("HOLDFAST_CONTRACT").is_ok_and(|word| word == "all");
    let versions: &[&str] = if all { &["--all"] } else { &[] };
    let said = within(DEADLINE_MS, &[&program, options, versions].concat());
    let versions: Vec<Value> =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    for version in &versions {
        let answers = version["answers"].as_array().unwrap();
        let broken: Vec<&Value> = answers.iter().filter(|answer| answer["holds"] != true).collect();
        assert!(broken.is_empty(), "Patroni {}: {broken:#?}", version["version"]);
        assert_eq!(answers.len(), facts, "{answers:#?}");
        let own = text(&version["version"]);
        let minor: Vec<&str> = own.split('.').take(2).collect();
        assert!(
            TESTED_PATRONI.contains(&minor.join(".").as_str()),
            "{own} is not in the list of tested versions"
        );
    }
    let tested =
        |minor: &&str| versions.iter().any(|one| text(&one["version"]).starts_with(&format!("{minor}.")));
    assert!(!all || TESTED_PATRONI.iter().all(tested), "not all of {TESTED_PATRONI:?} were asked");
    assert!(said.success(), "{}", said.stderr);
}
