//! The lab's certificates, made by `holdfast pki` as an operator would.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::plan::{HostPlan, Plan, RegionPlan};
use super::shell;
use super::spec::{EtcdAuth, Role};

const DEADLINE_MS: u64 = 10_000;
/// The roles that log in by certificate: PostgreSQL's superuser, Patroni's two, and the clients'.
pub const ROLES: [&str; 4] = ["postgres", "replicator", "rewind", "app"];

/// Makes the authority and everybody's certificate.
pub async fn create(plan: &Plan, postgres_group: u32) -> Result<()> {
    pki(plan, &["init"]).await?;
    for (region, host) in plan.hosts() {
        let (address, out) = (host.address.to_string(), path(&host.certs())?);
        let who = ["host", "--region", &region.name, "--host", host.name(), "--address", &address];
        let services = services(plan, region, host);
        let names = services.iter().flat_map(|address| ["--address", address.as_str()]);
        let names: Vec<&str> = names.chain(["--out", &out]).collect();
        pki(plan, &[&who[..], &names].concat()).await?;
        readable_for(&host.certs().join("host.key"), postgres_group)?;
        if host.host.role == Role::Database && region.etcd_auth != EtcdAuth::Off {
            pki(plan, &["etcd-client", "--out", &out]).await?;
            readable_for(&host.certs().join("etcd-client.key"), postgres_group)?;
        }
    }
    let out = path(&plan.operator())?;
    pki(plan, &["operator", "--name", "lab", "--out", &out]).await?;
    for role in ROLES {
        let out = path(&plan.users())?;
        pki(plan, &["user", "--name", role, "--out", &out]).await?;
        readable_for(&plan.users().join(format!("{role}.key")), postgres_group)?;
    }
    Ok(())
}

/// The addresses that clients name instead of a database host's own: HAProxy passes their TLS on to the writer.
fn services(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> Vec<String> {
    if !plan.spec.haproxy || host.host.role != Role::Database {
        return Vec::new();
    }
    region.of(Role::Pooler).map(|pooler| pooler.address.to_string()).collect()
}

async fn pki(plan: &Plan, arguments: &[&str]) -> Result<()> {
    let (verb, rest) = arguments.split_first().context("there is no verb")?;
    let (program, dir) = (path(&plan.program("holdfast"))?, path(&plan.pki())?);
    let line = [&[program.as_str(), "pki", verb, "--dir", &dir], rest].concat();
    shell::run(DEADLINE_MS, &line).await.map(drop)
}

fn path(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Owned by root and readable for the group: what PostgreSQL and libpq accept for a key that several users need.
fn readable_for(key: &Path, group: u32) -> Result<()> {
    let at = || key.display().to_string();
    chown(key, Some(0), Some(group)).with_context(at)?;
    fs::set_permissions(key, fs::Permissions::from_mode(0o640)).with_context(at)
}
