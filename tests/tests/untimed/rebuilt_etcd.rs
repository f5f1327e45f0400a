//! Rule 25 on real servers: etcd loses everything under an armed cluster. Nobody acts, the writer writes on, and a person
//! goes on in a term that was never used.

use std::path::Path;

use crate::support::{Lab, Session, eventually, text};
use serde_json::Value;

const SPEC: &str = include_str!("../../specs/quick.toml");
const SERVERS: [&str; 3] = ["e1", "e2", "e3"];

#[test]
fn an_etcd_that_was_rebuilt_stops_nobody_and_reuses_no_term() {
    let lab = Lab::up("t_rebuilt", SPEC);
    let described = lab.describe();
    eventually("the region is healthy", || lab.is_healthy());
    let before = lab.status()["term"].clone();
    let writer = text(&before["holder"]).to_owned();
    let mut session = Session::local(&lab, &described, &writer);
    let server = session.commit();

    lose_everything(&lab);
    eventually("the agents say what etcd has forgotten", || {
        lab.holdfast(&["doctor"]).stdout.contains("etcd has no mode record, but this cluster was armed")
    });
    eventually("status says it first", || first_cause(&lab).contains("etcd has no mode record"));
    assert_eq!(session.commit(), server, "the last writer goes on");

    // Refused until Patroni has its leader, its configuration and its synchronous standbys in the new etcd.
    eventually("the region is armed again", || {
        lab.holdfast(&["arm", "--reason", "etcd was rebuilt", "--yes", "--accept-unmeasured", "--wait"])
            .success()
    });
    let after = lab.status()["term"].clone();
    assert_eq!(after["holder"], writer.as_str());
    assert!(after["term"].as_u64() > before["term"].as_u64(), "{before} was used again: {after}");
    assert_eq!(session.commit(), server);

    goes_back(&lab, &after);
    eventually("status says that the term went back", || {
        first_cause(&lab).contains("etcd was restored from an older snapshot")
    });
    assert_eq!(session.commit(), server, "the last writer goes on");
    eventually("the region is armed once more", || {
        lab.holdfast(&["arm", "--reason", "an old snapshot", "--yes", "--accept-unmeasured", "--wait"])
            .success()
            && lab.is_healthy()
    });
    let last = lab.status()["term"].clone();
    assert_eq!(last["holder"], writer.as_str());
    assert!(last["term"].as_u64() > after["term"].as_u64(), "{after} was used again: {last}");
    assert_eq!(session.commit(), server);
}

/// The cause of the first finding; empty while there is none.
fn first_cause(lab: &Lab) -> String {
    lab.status()["findings"][0]["cause"].as_str().unwrap_or_default().to_owned()
}

/// What an etcd has that was restored from a snapshot of the term before: that term, under the arming of today.
fn goes_back(lab: &Lab, term: &Value) {
    let number = term["term"].as_u64().unwrap();
    let key = "/holdfast/v1/r1/service/main/term";
    let found = lab.etcdctl(&["get", key, "--print-value-only"]);
    let old = found.stdout.trim().replace(&format!("\"term\":{number}"), &format!("\"term\":{}", number - 1));
    assert_ne!(old, found.stdout.trim(), "{found:?}");
    assert!(lab.etcdctl(&["put", key, &old]).success());
}

fn lose_everything(lab: &Lab) {
    for server in SERVERS {
        lab.run(&["fault", lab.name(), "etcd-down", server]);
    }
    for server in SERVERS {
        let folder = Path::new("/var/lib/holdfast-lab").join(lab.name()).join(server).join("etcd");
        std::fs::remove_dir_all(&folder).unwrap();
    }
    lab.run(&["heal", lab.name()]);
}
