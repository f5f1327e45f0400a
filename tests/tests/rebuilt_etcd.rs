//! Rule 25 on real servers: etcd loses everything under an armed cluster. Nobody acts, the writer writes on, and a person
//! goes on in a term that was never used. Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Lab, Session, eventually, host, text};

const SPEC: &str = include_str!("../specs/quick.toml");
const SERVERS: [&str; 3] = ["e1", "e2", "e3"];

struct Region {
    lab: Lab,
    described: Value,
}

#[test]
fn an_etcd_that_was_rebuilt_stops_nobody_and_reuses_no_term() {
    let lab = Lab::up("t_rebuilt", SPEC);
    let described = lab.describe();
    let region = Region { lab, described };
    eventually("the region is healthy", || region.status()["healthy"] == Value::Bool(true));
    let before = region.status()["term"].clone();
    let writer = text(&before["holder"]).to_owned();
    let socket = text(&host(&region.described, &writer)["instances"][0]["socket_dir"]).to_owned();
    let mut session =
        Session::open(&region.lab, &writer, &format!("host={socket} user=postgres dbname=postgres"));
    let server = session.commit();

    region.lose_everything();
    eventually("the agents say what etcd has forgotten", || {
        region.holdfast(&["doctor"]).contains("etcd has no mode record, but this cluster was armed")
    });
    assert_eq!(session.commit(), server, "the last writer goes on");

    // Refused until Patroni has its leader, its configuration and its synchronous standbys in the new etcd.
    eventually("the region is armed again", || {
        region.holdfast(&["arm", "--reason", "etcd was rebuilt", "--yes", "--wait"]).contains("is open for")
    });
    let after = region.status()["term"].clone();
    assert_eq!(after["holder"], writer.as_str());
    assert!(after["term"].as_u64() > before["term"].as_u64(), "{before} was used again: {after}");
    assert_eq!(session.commit(), server);
}

impl Region {
    fn holdfast(&self, arguments: &[&str]) -> String {
        let config = text(&self.described["operator"]["config"]);
        let variable = format!("HOLDFAST_CONFIG={config}");
        let program = env!("CARGO_BIN_EXE_holdfast-lab").replace("holdfast-lab", "holdfast");
        self.lab.exec("client", &[&["env", &variable, &program], arguments].concat()).stdout
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.holdfast(&["status", "-o", "json"])).unwrap_or(Value::Null)
    }

    fn lose_everything(&self) {
        for server in SERVERS {
            self.lab.run(&["fault", self.lab.name(), "etcd-down", server]);
        }
        for server in SERVERS {
            let folder = Path::new("/var/lib/holdfast-lab").join(self.lab.name()).join(server).join("etcd");
            std::fs::remove_dir_all(&folder).unwrap();
        }
        self.lab.run(&["heal", self.lab.name()]);
    }
}
