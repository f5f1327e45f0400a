//! A region whose etcd has users, as `holdfast permissions etcd` prints them: hosts and people are known by their
//! certificates, Patroni by a password, and standbys log in to their writer by SCRAM. It comes up, is armed and healthy, and
//! what each may not do is refused by etcd. Needs root, `tests/setup`, and the built workspace.

use std::path::{Path, PathBuf};

use crate::support::{Lab, eventually, text};
use holdfast_host::run::Output;
use holdfast_lab::lab::plan;
use serde_json::Value;

/// Tokens end while the test goes on.
const TOKEN_TTL_S: u64 = 3;
const SPEC: &str = include_str!("../../specs/quick.toml");

#[test]
fn a_region_works_with_the_permissions_that_are_printed_and_no_more() {
    let own = format!(
        "etcd_auth = \"certificate\"\netcd_token_ttl_s = {TOKEN_TTL_S}\nreplication_auth = \"password\"\n"
    );
    let lab = Lab::up("e_users", &format!("{own}{SPEC}"));
    let described = lab.describe();
    eventually("the region is healthy", || lab.is_healthy());
    nobody_oversteps(&lab, &described);
    the_gateway_takes_no_common_name(&lab, &described);
    assert!(lab.writes("libpq", None), "the writer must write");
}

/// Keys of the region's only cluster, and who may not write them.
fn nobody_oversteps(lab: &Lab, described: &Value) {
    let ours = |key: &str| format!("/holdfast/v1/r1/service/main/{key}");
    let refused = [
        ("pool1", "/service/main/leader".to_owned()),
        ("pool1", ours("promise/db2/9")),
        ("pool1", ours("term")),
        ("backup1", "/service/main/sync".to_owned()),
        ("backup1", ours("promise/db2/9")),
        ("backup1", "/holdfast/v1/r1/session/db1".to_owned()),
        ("client", "/service/main/leader".to_owned()),
        ("db1", ours("promise/db2/9")),
        ("db1", ours("mode")),
        ("db1", "/service/main/config".to_owned()),
        ("db1", "/holdfast/v1/r1/session/pool1".to_owned()),
    ];
    for (name, key) in refused {
        let said = put(lab, described, &certs(lab, name), "host", &key);
        assert!(!said.success() && said.stderr.contains("permission denied"), "{name} {key}: {said:?}");
    }
    let said = put(lab, described, &lab_dir(lab).join("operator"), "operator", &ours("promise/db2/9"));
    assert!(!said.success() && said.stderr.contains("permission denied"), "{said:?}");
}

/// Why Patroni's certificate has no common name: the gateway takes none that has one.
fn the_gateway_takes_no_common_name(lab: &Lab, described: &Value) {
    let etcd = &described["regions"][0]["etcd"];
    let url = format!("https://{}/v3/kv/range", text(&etcd["endpoints"][0]));
    for (stem, refused) in [("host", true), ("etcd-client", false)] {
        let [cert, key] =
            ["crt", "key"].map(|end| certs(lab, "db1").join(format!("{stem}.{end}")).display().to_string());
        let own =
            ["--cacert", text(&etcd["ca"]), "--cert", &cert, "--key", &key, "--data", "{\"key\":\"YQ==\"}"];
        let said = lab.exec("db1", &[&["curl", "-s", "--max-time", "5"][..], &own, &[url.as_str()]].concat());
        // The other is answered that it has no token.
        assert_eq!(said.stdout.contains("CommonName"), refused, "{stem}: {said:?}");
    }
}

fn lab_dir(lab: &Lab) -> PathBuf {
    plan::dir(lab.name())
}

fn certs(lab: &Lab, host: &str) -> PathBuf {
    lab_dir(lab).join("hosts").join(host).join("certs")
}

fn put(lab: &Lab, described: &Value, folder: &Path, stem: &str, key: &str) -> Output {
    let file = |ending: &str| folder.join(format!("{stem}.{ending}")).display().to_string();
    let own = [format!("--cert={}", file("crt")), format!("--key={}", file("key"))];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    run(lab, described, &["etcdctl"], &own, &["put", key, "{}"])
}

fn run(lab: &Lab, described: &Value, program: &[&str], own: &[&str], words: &[&str]) -> Output {
    let etcd = &described["regions"][0]["etcd"];
    let endpoints: Vec<&str> = etcd["endpoints"].as_array().unwrap().iter().map(text).collect();
    let all = [format!("--endpoints={}", endpoints.join(",")), format!("--cacert={}", text(&etcd["ca"]))];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    lab.exec("client", &[&["env", "ETCDCTL_API=3"], program, &all[..], own, words].concat())
}
