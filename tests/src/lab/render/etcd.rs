//! etcd's command line.

use crate::lab::plan::{HostPlan, RegionPlan};
use crate::lab::spec::{EtcdAuth, Role, Spec};

/// Where its clients connect.
pub const CLIENT_PORT: u16 = 2379;
/// Where its peers do.
pub const PEER_PORT: u16 = 2380;

/// Where the member keeps its data: a memory file system of the host, so that no disk of this machine decides a timing.
pub fn data_dir(host: &HostPlan) -> std::path::PathBuf {
    host.data.join("etcd")
}

/// Starts the member. It finds its cluster again after a restart, because its data is still there.
pub fn command(spec: &Spec, region: &RegionPlan, host: &HostPlan) -> Vec<String> {
    let (address, certs) = (host.address, host.certs());
    let cluster: Vec<String> = region
        .of(Role::Etcd)
        .map(|member| format!("{}=https://{}:{PEER_PORT}", member.name(), member.address))
        .collect();
    let file = |name: &str| certs.join(name).display().to_string();
    let mut line = vec!["/usr/bin/etcd".to_owned()];
    let mut set = |name: &str, value: String| line.push(format!("--{name}={value}"));
    set("name", host.name().into());
    set("data-dir", data_dir(host).display().to_string());
    set("listen-client-urls", format!("https://{address}:{CLIENT_PORT}"));
    set("advertise-client-urls", format!("https://{address}:{CLIENT_PORT}"));
    set("listen-peer-urls", format!("https://{address}:{PEER_PORT}"));
    set("initial-advertise-peer-urls", format!("https://{address}:{PEER_PORT}"));
    set("initial-cluster", cluster.join(","));
    set("initial-cluster-token", region.name.clone());
    set("initial-cluster-state", "new".into());
    for prefix in ["", "peer-"] {
        set(&format!("{prefix}trusted-ca-file"), file("ca.crt"));
        set(&format!("{prefix}cert-file"), file("host.crt"));
        set(&format!("{prefix}key-file"), file("host.key"));
        let by_password = prefix.is_empty() && spec.etcd_auth == EtcdAuth::Password;
        set(&format!("{prefix}client-cert-auth"), (!by_password).to_string());
    }
    set("auth-token-ttl", spec.etcd_token_ttl_s.to_string());
    set("logger", "zap".into());
    set("log-outputs", "stderr".into());
    line
}
