//! Certificates of all agents are replaced under load, twice, the first ones ending while the load goes on: no session is
//! lost, no role changes, no client waits for a second, and a certificate that has ended opens nothing any more. Needs root,
//! `tests/setup`, and the built workspace.

// The helpers of a test are a test.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use holdfast_lab::checker::monotonic_us;
use holdfast_lab::lab::plan;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use serde_json::Value;
use support::load::{Load, gap_ms};
use support::{Lab, eventually, host, text};

const SPEC: &str = include_str!("../specs/quick.toml");
/// Agents look at the files every two seconds: long enough for all of them on a busy machine, short enough to wait for.
const SHORT: Duration = Duration::from_secs(30);
/// So long that nobody is told of their end.
const LONG: Duration = Duration::from_secs(40 * 86_400);
/// No client waits longer.
const GAP_MS_MAX: u64 = 1_000;

#[test]
fn certificates_are_replaced_under_load_and_no_session_is_lost() {
    let lab = Lab::up("t_certificates", SPEC);
    let described = lab.describe();
    let hosts = hosts_with_agents(&described);
    eventually("the region is healthy", || lab.is_healthy());
    let load = Load::start(&lab, "certificates");
    let begin_us = monotonic_us();
    let before = standing(&lab);
    assert!(before.1.len() >= hosts.len(), "{before:?}");

    let ends = SystemTime::now() + SHORT;
    for name in &hosts {
        replace(&lab, &described, name, ends);
    }
    eventually("every agent has taken its short certificate", || taken(&described, &hosts) == 1);
    let old = lab_dir(&lab).join("old");
    fs::create_dir(&old).unwrap();
    for file in ["host.crt", "host.key"] {
        fs::copy(certs(&lab, &hosts[0]).join(file), old.join(file)).unwrap();
    }
    assert!(SystemTime::now() + Duration::from_secs(5) < ends, "the machine is too busy for this test");
    for name in &hosts {
        replace(&lab, &described, name, SystemTime::now() + LONG);
    }
    eventually("every agent has taken its next certificate", || taken(&described, &hosts) == 2);
    assert!(SystemTime::now() < ends, "the short certificates had ended before they were replaced");
    // Past their end, and a session's time more.
    let rest = ends.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(10);
    std::thread::sleep(rest);
    assert_eq!(standing(&lab), before, "the writer, its term, or a session has changed");
    load.steady(begin_us);
    assert_eq!(standing(&lab), before);
    let verdict = load.end(begin_us);
    assert_eq!(verdict.lost.count, 0, "{verdict:?}");
    let gap = gap_ms(&verdict);
    assert!(gap.is_some_and(|gap| gap < GAP_MS_MAX), "a client waited {gap:?} ms");
    assert!(lab.is_healthy());
    // What has ended opens nothing, neither at etcd nor at an agent.
    assert!(!reads_etcd(&lab, &described, &old), "etcd takes a certificate that has ended");
    assert!(reads_etcd(&lab, &described, &certs(&lab, &hosts[0])));
}

fn hosts_with_agents(described: &Value) -> Vec<String> {
    let hosts = described["regions"][0]["hosts"].as_array().unwrap().iter();
    hosts
        .filter(|host| host["logs"]["agent"].is_string())
        .map(|host| text(&host["name"]).to_owned())
        .collect()
}

fn lab_dir(lab: &Lab) -> PathBuf {
    plan::dir(lab.name())
}

fn certs(lab: &Lab, host: &str) -> PathBuf {
    lab_dir(lab).join("hosts").join(host).join("certs")
}

/// The writer with its term, and each session with the revision that made it and its lease.
fn standing(lab: &Lab) -> (Value, BTreeMap<String, (Value, Value)>) {
    let term = lab.status()["term"].clone();
    let output = lab.etcdctl(&["get", "--prefix", "/holdfast/v1/r1/session/", "-w", "json"]);
    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    let pairs = found["kvs"].as_array().unwrap().iter();
    let sessions = pairs
        .map(|pair| (text(&pair["key"]).to_owned(), (pair["create_revision"].clone(), pair["lease"].clone())))
        .collect();
    ((Value::from(vec![term["term"].clone(), term["holder"].clone()])), sessions)
}

/// How often the agents of all hosts have taken new files: the least of them.
fn taken(described: &Value, hosts: &[String]) -> usize {
    let count = |name: &String| {
        let log = fs::read_to_string(text(&host(described, name)["logs"]["agent"])).unwrap();
        log.matches("new certificate taken").count()
    };
    hosts.iter().map(count).min().unwrap()
}

/// A new key and its certificate with the names of the old one, each put in the place of the old file by a rename.
fn replace(lab: &Lab, described: &Value, name: &str, ends: SystemTime) {
    let pki = lab_dir(lab).join("pki");
    let read = |name: &str| fs::read_to_string(pki.join(name)).unwrap();
    let authority =
        Issuer::from_ca_cert_pem(&read("ca.crt"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let address = text(&host(described, name)["address"]).parse().unwrap();
    let uri = format!("holdfast://r1/host/{name}");
    params.subject_alt_names.push(SanType::IpAddress(address));
    params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let since_1970 = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    params.not_before =
        date_time_ymd(1970, 1, 1) + since_1970(SystemTime::now() - Duration::from_secs(3_600));
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(ends);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let folder = certs(lab, name);
    let begin = Instant::now();
    swap(&folder.join("host.key"), &key.serialize_pem());
    swap(&folder.join("host.crt"), &certificate.pem());
    assert!(begin.elapsed() < Duration::from_secs(2));
}

fn swap(path: &Path, text: &str) {
    let (old, new) = (fs::metadata(path).unwrap(), path.with_extension("new"));
    fs::write(&new, text).unwrap();
    chown(&new, Some(old.uid()), Some(old.gid())).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(old.mode() & 0o777)).unwrap();
    fs::rename(&new, path).unwrap();
}

fn reads_etcd(lab: &Lab, described: &Value, folder: &Path) -> bool {
    let etcd = &described["regions"][0]["etcd"];
    let endpoint = text(&etcd["endpoints"][0]);
    let file = |name: &str| folder.join(name).display().to_string();
    let (cert, key) = (format!("--cert={}", file("host.crt")), format!("--key={}", file("host.key")));
    let (ca, to) = (format!("--cacert={}", text(&etcd["ca"])), format!("--endpoints={endpoint}"));
    let words = ["env", "ETCDCTL_API=3", "etcdctl", &to, &ca, &cert, &key, "get", "/none"];
    lab.exec("client", &words).success()
}
