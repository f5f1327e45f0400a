//! `etcdctl` and a host's certificate files, as the lab's own commands use them: in the namespace of an etcd host, under its
//! certificate. Decides nothing. `up` waits with it, and the faults of etcd are made with it.

use anyhow::{Context as _, Result};

use super::plan::{HostPlan, RegionPlan, password_of};
use super::shell;
use super::spec::{EtcdAuth, Role};

/// etcdctl's own deadlines are shorter; this is for one that hangs.
const DEADLINE_MS: u64 = 10_000;

/// Runs it against one endpoint, or all of the region; what it printed.
pub async fn run(region: &RegionPlan, endpoint: Option<&str>, words: &[&str]) -> Result<String> {
    let host = host(region)?;
    let [ca, cert, key] = certificate(host);
    let endpoints = endpoint.map_or_else(|| region.etcd_endpoints().join(","), str::to_owned);
    let place = ["ip", "netns", "exec", &host.netns, "etcdctl", "--endpoints", &endpoints];
    let identity = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    let deadlines = ["--dial-timeout=1s", "--command-timeout=5s"];
    let root = format!("--user=root:{}", password_of("root"));
    let user = if region.etcd_auth == EtcdAuth::Off { [].as_slice() } else { &[root.as_str()] };
    let line = [&place[..], &identity, &deadlines, user, words].concat();
    Ok(shell::run(DEADLINE_MS, &line).await?.stdout)
}

/// A host of the region from which etcd is asked.
pub fn host(region: &RegionPlan) -> Result<&HostPlan> {
    region.of(Role::Etcd).next().context("a region has an etcd host")
}

/// The paths of the authority, the certificate and the key of a host.
pub fn certificate(host: &HostPlan) -> [String; 3] {
    ["ca.crt", "host.crt", "host.key"].map(|file| host.certs().join(file).display().to_string())
}
