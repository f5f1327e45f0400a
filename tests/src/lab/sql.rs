//! Questions to the lab's PostgreSQL and PgBouncer over their Unix sockets, which cross network namespaces.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

const DEADLINE: Duration = Duration::from_secs(3);

/// Whom to ask, and as whom.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// Directory of the socket.
    pub socket_dir: &'a Path,
    /// Port in its name.
    pub port: u16,
    /// Role.
    pub user: &'a str,
    /// Database.
    pub dbname: &'a str,
}

impl At<'_> {
    /// Sends one text and returns the rows of its answers.
    pub async fn ask(&self, sql: &str) -> Result<Vec<SimpleQueryRow>> {
        let what = || format!("{sql} at {} port {}", self.socket_dir.display(), self.port);
        let work = async {
            let client = self.connect().await?;
            let messages = client.simple_query(sql).await?;
            Ok::<_, tokio_postgres::Error>(messages)
        };
        let messages = tokio::time::timeout(DEADLINE, work).await.with_context(what)?.with_context(what)?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_dir).port(self.port).user(self.user).dbname(self.dbname);
        let (client, connection) = config.connect(NoTls).await?;
        // Ends when the client is dropped.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }
}
