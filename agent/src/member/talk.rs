//! A session with the own PostgreSQL for one piece of work, apart from the one that is kept: what takes long there holds up
//! nobody else. Decides nothing.

use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::sql::SqlError;

/// Rows as text; a column that is null has none.
pub type Rows = Vec<Vec<Option<String>>>;

/// The session. It ends with this; a statement that runs then goes on without an asker.
pub struct Talk {
    client: Client,
    until: Instant,
}

impl Talk {
    pub(super) fn new(client: Client, until: Instant) -> Self {
        Self { client, until }
    }

    /// The rows of one statement, or of several.
    pub async fn rows(&self, sql: &str) -> Result<Rows, SqlError> {
        let asked = tokio::time::timeout_at(self.until, self.client.simple_query(sql));
        let messages = asked.await.map_err(|_| SqlError::Late)??;
        let row = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }
}
