//! A region whose etcd has users, as `holdfast permissions etcd` prints them: hosts and people are known by their
//! certificates, Patroni and (later) two agents by a password, and standbys log in to their writer by SCRAM. What each may
//! not do is refused by etcd; all else works, through a lost writer, orders, tokens that are over and a changed password.
//! Needs root, `tests/setup`, and the built workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Lab, eventually, host, text};
use holdfast_host::run::Output;
use holdfast_lab::lab::plan::{self, password_of};
use serde_json::Value;

/// Tokens end while the test goes on.
const TOKEN_TTL_S: u64 = 3;
const SPEC: &str = include_str!("../../specs/quick.toml");

#[test]
#[ignore = "minutes; tests/all --long"]
fn a_region_works_with_the_permissions_that_are_printed_and_no_more() {
    let own = format!(
        "etcd_auth = \"certificate\"\netcd_token_ttl_s = {TOKEN_TTL_S}\nreplication_auth = \"password\"\n"
    );
    let lab = Lab::up("t_users", &format!("{own}{SPEC}"));
    let described = lab.describe();
    eventually("the region is healthy", || lab.is_healthy());
    nobody_oversteps(&lab, &described);
    the_gateway_takes_no_common_name(&lab, &described);
    the_viewer_looks(&lab);
    the_weaker_proof_is_shown(&lab);

    // Two agents go over to a password, and their sessions go on.
    let before = sessions(&lab, &described);
    for name in ["db2", "pool1"] {
        by_password(&lab, &described, name);
    }
    std::thread::sleep(Duration::from_secs(2 * TOKEN_TTL_S));
    eventually("the region is healthy", || lab.is_healthy());
    assert_eq!(sessions(&lab, &described), before, "a session was lost");

    lose_the_writer(&lab);
    for words in [
        &["maintenance", "on", "--for", "10m"][..],
        &["maintenance", "off"],
        &["disarm"],
        &["arm", "--accept-unmeasured"],
    ] {
        eventually("an order is followed", || {
            lab.holdfast(&[words, &["--reason", "test", "--yes"]].concat()).success()
        });
    }
    a_changed_password(&lab, &described);
    assert!(lab.writes("libpq", None), "the writer must write");
    for name in ["db1", "db2", "db3", "db4", "pool1", "backup1", "client"] {
        let log = log(&described, name);
        assert!(!log.contains("permission denied"), "{name} lacks a permission: {log}");
    }
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

/// A viewer reads everything and orders nothing, neither by our command nor without it.
fn the_viewer_looks(lab: &Lab) {
    let folder = lab_dir(lab).join("viewer");
    let (out, dir) = (folder.display().to_string(), lab_dir(lab).join("pki").display().to_string());
    lab.order(&["pki", "viewer", "--dir", &dir, "--name", "wall", "--out", &out]);
    let described = lab.describe();
    let config = fs::read_to_string(text(&described["operator"]["config"])).unwrap();
    let config = config.replace("/operator/operator.", "/viewer/viewer.");
    let file = folder.join("viewer.toml");
    fs::write(&file, config).unwrap();
    let with = ["--config", file.to_str().unwrap()];
    assert!(lab.holdfast(&[&["status"], &with[..]].concat()).success());
    let order = lab.holdfast(&[&["fence", "db3", "--reason", "x", "--yes"], &with[..]].concat());
    assert_eq!(order.code, Some(3), "{order:?}");
    let raw = put(lab, &described, &folder, "viewer", "/holdfast/v1/r1/service/main/fence/db3");
    assert!(!raw.success() && raw.stderr.contains("permission denied"), "{raw:?}");
}

fn the_weaker_proof_is_shown(lab: &Lab) {
    eventually("doctor names the standbys that show no certificate", || {
        let said = lab.holdfast(&["doctor", "-o", "json"]).stdout;
        let found: Value = serde_json::from_str(&said).unwrap_or_default();
        let looks = found["looks"].as_array().cloned().unwrap_or_default();
        looks.iter().any(|look| {
            look["verdict"] == "warn"
                && look["found"].as_str().is_some_and(|found| found.contains("weaker proof"))
        })
    });
}

/// The host's agent is known by a password from now on, as a user with the role of its certificate's.
fn by_password(lab: &Lab, described: &Value, name: &str) {
    let user = format!("{name}-by-password");
    let role = format!("service/main/r1/host/{name}");
    as_root(lab, described, &["user", "add", &format!("{user}:{}", password_of(&user))]);
    as_root(lab, described, &["user", "grant-role", &user, &role]);
    let etc = lab_dir(lab).join("hosts").join(name).join("etc");
    fs::write(etc.join("etcd.password"), password_of(&user)).unwrap();
    let file = etc.join("agent.toml");
    let own =
        format!("user = {user:?}\npassword_file = {:?}\n", etc.join("etcd.password").display().to_string());
    let config = fs::read_to_string(&file).unwrap().replace("[etcd]\n", &format!("[etcd]\n{own}"));
    assert!(config.contains(&own), "{config}");
    fs::write(&file, config).unwrap();
    lab.run(&["fault", lab.name(), "kill", name, "agent"]);
}

fn lose_the_writer(lab: &Lab) {
    let events = lab.events().len();
    let writer = text(&lab.status()["term"]["holder"]).to_owned();
    lab.run(&["fault", lab.name(), "host-death", &writer]);
    eventually("another one writes", || {
        let holder = lab.status()["term"]["holder"].clone();
        holder.is_string() && holder != writer.as_str() && lab.writes("libpq", None)
    });
    eventually("the incident is recorded to its proof, the pooler's step too", || {
        let found = lab.events();
        found.len() > events && found.iter().all(|event| event["write_gap_ms"].is_number())
    });
    lab.run(&["heal", lab.name(), &writer]);
    eventually("the region is healthy again", || lab.is_healthy());
}

/// etcd's password of an agent changes before its file does: the next agent names the file, and takes the right password
/// from it without a restart.
fn a_changed_password(lab: &Lab, described: &Value) {
    let (user, file) = ("pool1-by-password", lab_dir(lab).join("hosts/pool1/etc/etcd.password"));
    let line = format!("echo another-one | etcdctl \"$@\" user passwd {user} --interactive=false");
    let said = etcdctl(lab, described, &["sh", "-c", &line, "sh"], &[]);
    assert!(said.success(), "{said:?}");
    lab.run(&["fault", lab.name(), "kill", "pool1", "agent"]);
    let complaint = format!("etcd refuses user {user} with the password in {}", file.display());
    eventually("the agent names the file", || log(described, "pool1").contains(&complaint));
    fs::write(&file, "another-one\n").unwrap();
    eventually("the password is read again", || {
        let lines = log(described, "pool1");
        lines.rfind("session announced") > lines.rfind(&complaint)
    });
    eventually("the region is healthy", || lab.is_healthy());
}

fn lab_dir(lab: &Lab) -> PathBuf {
    plan::dir(lab.name())
}

fn certs(lab: &Lab, host: &str) -> PathBuf {
    lab_dir(lab).join("hosts").join(host).join("certs")
}

fn log(described: &Value, name: &str) -> String {
    fs::read_to_string(text(&host(described, name)["logs"]["agent"])).unwrap()
}

/// The lease of each session.
fn sessions(lab: &Lab, described: &Value) -> Vec<(Value, Value)> {
    let output = as_root(lab, described, &["get", "--prefix", "/holdfast/v1/r1/session/", "-w", "json"]);
    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    let pairs = found["kvs"].as_array().unwrap().iter();
    pairs.map(|pair| (pair["key"].clone(), pair["lease"].clone())).collect()
}

fn put(lab: &Lab, described: &Value, folder: &Path, stem: &str, key: &str) -> Output {
    let file = |ending: &str| folder.join(format!("{stem}.{ending}")).display().to_string();
    let own = [format!("--cert={}", file("crt")), format!("--key={}", file("key"))];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    run(lab, described, &["etcdctl"], &own, &["put", key, "{}"])
}

fn as_root(lab: &Lab, described: &Value, words: &[&str]) -> Output {
    let output = etcdctl(lab, described, &["etcdctl"], words);
    assert!(output.success(), "{words:?}: {output:?}");
    output
}

fn etcdctl(lab: &Lab, described: &Value, program: &[&str], words: &[&str]) -> Output {
    let etcd = &described["regions"][0]["etcd"];
    let own = ["cert", "key"].map(|name| format!("--{name}={}", text(&etcd[name])));
    let user = format!("--user=root:{}", password_of("root"));
    run(lab, described, program, &[&own[0], &own[1], &user], words)
}

fn run(lab: &Lab, described: &Value, program: &[&str], own: &[&str], words: &[&str]) -> Output {
    let etcd = &described["regions"][0]["etcd"];
    let endpoints: Vec<&str> = etcd["endpoints"].as_array().unwrap().iter().map(text).collect();
    let all = [format!("--endpoints={}", endpoints.join(",")), format!("--cacert={}", text(&etcd["ca"]))];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    lab.exec("client", &[&["env", "ETCDCTL_API=3"], program, &all[..], own, words].concat())
}
