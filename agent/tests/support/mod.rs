//! The host that the tests of the start gate begin with.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

/// Lays a host with one instance out below `here`: its directories, a server that says what it became, the gate, and the
/// configuration.
pub fn lay_out(here: &Path, mode: &str) {
    for name in ["run", "data/pg_wal", "bin", "gate", "state/service.main"] {
        fs::create_dir_all(here.join(name)).unwrap();
    }
    fs::write(here.join("data/PG_VERSION"), "15\n").unwrap();
    let postgres = here.join("bin/postgres");
    fs::write(&postgres, "#!/bin/sh\necho became postgres \"$@\"\n").unwrap();
    fs::set_permissions(&postgres, fs::Permissions::from_mode(0o755)).unwrap();
    symlink(env!("CARGO_BIN_EXE_holdfast-agent"), here.join("gate/postgres")).unwrap();
    remember(here, mode);
    fs::write(here.join("agent.toml"), configuration(here)).unwrap();
}

/// What its agent has left of the cluster's mode.
pub fn remember(here: &Path, mode: &str) {
    let text = format!(r#"{{"format":1,"min_reader":1,"mode":"{mode}","fenced":null,"attesting":false}}"#);
    fs::write(here.join("state/service.main/remembered.json"), text).unwrap();
}

fn configuration(here: &Path) -> String {
    let here = here.display();
    format!(
        r#"
        region = "r1"
        host = "db1"
        run_dir = "{here}/run"
        state_dir = "{here}/state"
        tls = {{ ca = "{here}/ca", cert = "{here}/cert", key = "{here}/key" }}
        etcd = {{ endpoints = ["10.0.0.1:2379"] }}
        grpc = {{ listen = "10.0.0.2:7460" }}
        [[instance]]
        namespace = "service"
        scope = "main"
        member = "db1"
        data_dir = "{here}/data"
        bin_dir = "{here}/bin"
        socket_dir = "{here}/run"
        port = 5432
        address = "10.0.0.2"
        patroni_url = "https://10.0.0.2:8008"
        cgroup = "{here}/cgroup"
        "#
    )
}
