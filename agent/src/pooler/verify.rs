//! Proves, after a planned change of the writer, that clients of one PgBouncer reach the new one: by a write of our own
//! through it, and by its server connections, of which none may lead to the old one any more.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use holdfast_types::MemberName;
use tokio::time::Instant;
use tokio_postgres::NoTls;

use super::admin::Admin;
use crate::config::Pooler;
use crate::config::pooler::Probe;

/// The first write waits for a login, and for the synchronous standbys to have found the new writer.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Server connections to the old writer end when their clients' transactions do, or with the old writer.
const SERVERS_DEADLINE: Duration = Duration::from_secs(2);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(50);
/// For the address of a host that is configured by its name.
const LOOKUP_DEADLINE: Duration = Duration::from_millis(500);

/// What is proved.
pub struct Proof {
    /// The PgBouncer.
    pub pooler: Pooler,
    /// Its console.
    pub admin: Admin,
    /// The old writer's address and port, if they are known.
    pub old: Option<(String, u16)>,
    /// The new writer, for the text that is written.
    pub writer: MemberName,
}

impl Proof {
    /// Proves it. What could not be looked at is a remark; what is not so is the error.
    pub async fn run(self) -> Result<Option<String>, String> {
        let (written, left) = tokio::join!(self.write(), self.nothing_left());
        let remarks: Vec<String> = [written?, left?].into_iter().flatten().collect();
        Ok((!remarks.is_empty()).then(|| remarks.join("; ")))
    }

    async fn write(&self) -> Result<Option<String>, String> {
        let Some(probe) = &self.pooler.probe else {
            return Ok(Some("no write was made through it: its configuration has no [pooler.probe]".into()));
        };
        let until = Instant::now() + WRITE_DEADLINE;
        loop {
            match tokio::time::timeout_at(until, self.attempt(probe)).await {
                Ok(Ok(())) => return Ok(None),
                Ok(Err(error)) if Instant::now() + AGAIN >= until => {
                    return Err(format!("no write goes through it: {error}"));
                }
                Ok(Err(_)) => tokio::time::sleep(AGAIN).await,
                Err(_) => {
                    return Err(format!("no write went through it in {} ms", WRITE_DEADLINE.as_millis()));
                }
            }
        }
    }

    async fn attempt(&self, probe: &Probe) -> Result<(), String> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.pooler.admin_socket_dir)
            .port(self.pooler.port)
            .user(&probe.user)
            .dbname(&probe.database)
            .application_name("holdfast-agent");
        if let Some(file) = &probe.password_file {
            let text = holdfast_proto::read_text(file, 1 << 16)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            config.password(text.lines().next().unwrap_or_default());
        }
        let work = async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            let (pooler, writer) = (&self.pooler.name, &self.writer);
            let sql = format!(
                "begin; set local synchronous_commit = on; \
                 select pg_logical_emit_message(true, 'holdfast', '{} reaches {writer}'); commit",
                pooler.replace('\'', "''")
            );
            client.batch_execute(&sql).await
        };
        work.await.map_err(|error: tokio_postgres::Error| match error.as_db_error() {
            Some(error) => error.message().to_owned(),
            None => error.to_string(),
        })
    }

    async fn nothing_left(&self) -> Result<Option<String>, String> {
        let Some((address, port)) = &self.old else {
            return Ok(Some(
                "the old writer's address is not known: nobody looked for what is left there".into(),
            ));
        };
        let addresses = addresses(address, *port).await;
        if addresses.is_empty() {
            return Ok(Some(format!("{address} has no address: nobody looked for what is left there")));
        }
        let until = Instant::now() + SERVERS_DEADLINE;
        loop {
            let servers = self.admin.servers().await.map_err(|error| format!("{error:#}"))?;
            let left = left_at(&servers, &addresses, *port);
            if left == 0 {
                return Ok(None);
            }
            if Instant::now() >= until {
                return Err(format!("{left} of its server connections still lead to {address}:{port}"));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn addresses(address: &str, port: u16) -> BTreeSet<IpAddr> {
    if let Ok(address) = address.parse() {
        return [address].into();
    }
    let found = tokio::time::timeout(LOOKUP_DEADLINE, tokio::net::lookup_host((address, port))).await;
    found.ok().and_then(Result::ok).into_iter().flatten().map(|found| found.ip()).collect()
}

/// How many server connections lead there.
fn left_at(servers: &[(String, u16)], addresses: &BTreeSet<IpAddr>, port: u16) -> usize {
    let is_there = |address: &str| address.parse().is_ok_and(|address: IpAddr| addresses.contains(&address));
    servers.iter().filter(|(address, at)| *at == port && is_there(address)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_to_the_old_writer_alone_count() {
        let old = addresses("10.0.0.1", 5432).await;
        let servers = [("10.0.0.1", 5432), ("10.0.0.1", 5433), ("10.0.0.2", 5432), ("unix", 5432)]
            .map(|(address, port)| (address.to_owned(), port));
        assert_eq!(left_at(&servers, &old, 5432), 1);
        assert_eq!(left_at(&servers[1..], &old, 5432), 0);
    }
}
