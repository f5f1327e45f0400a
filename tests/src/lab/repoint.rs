//! The best routing that users of Patroni have without us: a poll of `GET /primary`, and PgBouncer repointed when the
//! answer changes. Runs on pooler hosts of labs without Holdfast.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::health;
use super::plan::{HostPlan, Instance, Plan, RegionPlan};
use super::spec::Role;

const EVERY: Duration = Duration::from_millis(200);
/// A member that does not answer within this is not the primary.
const DEADLINE: Duration = Duration::from_secs(1);
const STATUS_LINE: usize = 12;

/// Polls until it is killed.
pub async fn run(plan: &Plan, host: &str, scope: &str) -> Result<()> {
    let (region, host) = plan.host(host).with_context(|| format!("lab {} has no host {host}", plan.lab))?;
    let instance = plan.instances().find(|instance| instance.cluster.scope == scope);
    let instance = instance.with_context(|| format!("lab {} has no cluster {scope}", plan.lab))?;
    let tls = identity(host)?;
    poll(region, host, instance, tls).await
}

async fn poll(
    region: &RegionPlan,
    pooler: &HostPlan,
    instance: Instance<'_>,
    tls: TlsConnector,
) -> Result<()> {
    let mut pointed: Option<Ipv4Addr> = None;
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let mut asked = tokio::task::JoinSet::new();
        for host in region.of(Role::Database) {
            let (address, port, tls) = (host.address, instance.rest_port, tls.clone());
            asked.spawn(async move {
                let answer = tokio::time::timeout(DEADLINE, is_primary(address, port, tls)).await;
                (address, answer.is_ok_and(|answer| answer.unwrap_or(false)))
            });
        }
        // The first that says yes decides; those that hang are not waited for.
        while let Some(answer) = asked.join_next().await {
            let Ok((address, true)) = answer else { continue };
            if pointed != Some(address) {
                let writer = region.of(Role::Database).find(|host| host.address == address);
                let Some(writer) = writer else { continue };
                match health::point(pooler, &instance, writer).await {
                    Ok(()) => {
                        eprintln!("{}: clients are sent to {}", instance.cluster.scope, writer.name());
                        pointed = Some(address);
                    }
                    Err(error) => eprintln!("{error:#}; tried again"),
                }
            }
            break;
        }
    }
}

/// Whether `GET /primary` answers 200.
async fn is_primary(address: Ipv4Addr, port: u16, tls: TlsConnector) -> Result<bool> {
    let stream = TcpStream::connect((address, port)).await?;
    let mut stream = tls.connect(ServerName::from(std::net::IpAddr::from(address)), stream).await?;
    stream.write_all(b"GET /primary HTTP/1.0\r\n\r\n").await?;
    let mut status = [0; STATUS_LINE];
    stream.read_exact(&mut status).await?;
    Ok(status.ends_with(b" 200"))
}

fn identity(host: &HostPlan) -> Result<TlsConnector> {
    let certs = host.certs();
    let read = |name: &str| {
        let file = certs.join(name);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect);
        chain.with_context(|| file.display().to_string())
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in read("ca.crt")? {
        roots.add(certificate).context("ca.crt")?;
    }
    let key = PrivateKeyDer::from_pem_file(certs.join("host.key")).context("host.key")?;
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS")?
            .with_root_certificates(roots)
            .with_client_auth_cert(read("host.crt")?, key)
            .context("host.crt and host.key")?;
    Ok(TlsConnector::from(Arc::new(config)))
}
