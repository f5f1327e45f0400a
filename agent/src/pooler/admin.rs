//! The admin console of one PgBouncer, over its Unix socket. Decides nothing.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::config::Pooler;

/// A command on the admin console takes milliseconds; PAUSE waits for server connections that are in use.
pub const COMMAND_DEADLINE: Duration = Duration::from_millis(1_000);

/// Its console.
#[derive(Clone)]
pub struct Admin {
    name: String,
    config: tokio_postgres::Config,
}

impl Admin {
    /// The console of this PgBouncer; nothing is opened yet.
    pub fn new(pooler: &Pooler) -> Self {
        Self { name: pooler.name.clone(), config: config(pooler) }
    }

    /// Commands, one after the other over one connection.
    pub async fn commands(&self, commands: &[&str]) -> Result<()> {
        self.within(COMMAND_DEADLINE, commands).await
    }

    /// The same, for one that waits.
    pub async fn within(&self, deadline: Duration, commands: &[&str]) -> Result<()> {
        let what = || format!("{} on the admin console of {}", commands.join(", "), self.name);
        let work = async {
            let (client, connection) = self.config.connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            for command in commands {
                client.simple_query(command).await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        tokio::time::timeout(deadline, work).await.with_context(what)?.with_context(what)
    }

    /// Lets clients go, who may not be waiting.
    pub async fn resume(&self) -> Result<()> {
        unless("not paused", self.commands(&["RESUME"]).await)
    }

    /// Lets clients go to whom the target file names now.
    pub async fn reload_and_resume(&self) -> Result<()> {
        unless("not paused", self.commands(&["RELOAD", "RESUME"]).await)
    }

    /// Where its server connections lead: address and port as PgBouncer prints them.
    pub async fn servers(&self) -> Result<Vec<(String, u16)>> {
        let what = || format!("SHOW SERVERS on the admin console of {}", self.name);
        let work = async {
            let (client, connection) = self.config.connect(NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            client.simple_query("SHOW SERVERS").await
        };
        let messages = tokio::time::timeout(COMMAND_DEADLINE, work).await.with_context(what)?;
        let server = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((row.get("addr")?.to_owned(), row.get("port")?.parse().ok()?))
            }
            _ => None,
        };
        Ok(messages.with_context(what)?.into_iter().filter_map(server).collect())
    }
}

/// How its console is connected to.
pub(super) fn config(pooler: &Pooler) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(&pooler.admin_socket_dir)
        .port(pooler.port)
        .user("pgbouncer")
        .dbname("pgbouncer")
        .connect_timeout(COMMAND_DEADLINE);
    config
}

/// A command that PgBouncer refuses with this text when all is already as it should be.
pub fn unless(already: &str, done: Result<()>) -> Result<()> {
    match done {
        Err(error) if format!("{error:#}").contains(already) => Ok(()),
        other => other,
    }
}
