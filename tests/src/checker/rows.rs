//! The table that the clients write to, and what the final leader holds of it.

use std::collections::BTreeSet;

use tokio_postgres::{Client, SimpleQueryMessage};

/// The keys of one run: client and number of the attempt.
pub type RowSet = BTreeSet<(u32, u64)>;

/// Name of the table, in the schema `public` of the routes' database.
pub const TABLE: &str = "holdfast_checker";

/// Makes the table if it is not there; harmless when it is.
pub async fn create_table(client: &Client) -> Result<(), tokio_postgres::Error> {
    // Whoever may log in may write: the routes' users differ from the socket's.
    let sql = format!(
        "create table if not exists public.{TABLE} (run text, client int4, seq int8, primary key (run, client, seq)); \
         grant select, insert on public.{TABLE} to public"
    );
    client.batch_execute(&sql).await
}

/// The insert of one row, as text: PgBouncer 1.18 in transaction mode knows no prepared statements.
pub fn insert(run: &str, client: u32, seq: u64) -> String {
    format!("insert into public.{TABLE} values ('{}', {client}, {seq})", run.replace('\'', "''"))
}

/// Reads the rows of one run.
pub async fn read(client: &Client, run: &str) -> Result<RowSet, tokio_postgres::Error> {
    let run = run.replace('\'', "''");
    let sql = format!("select client, seq from public.{TABLE} where run = '{run}'");
    let messages = client.simple_query(&sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?)),
        _ => None,
    });
    Ok(rows.collect())
}

/// Deletes the rows of one run, so that a lab that serves many runs does not grow.
pub async fn delete(client: &Client, run: &str) -> Result<(), tokio_postgres::Error> {
    let run = run.replace('\'', "''");
    client.batch_execute(&format!("delete from public.{TABLE} where run = '{run}'")).await
}
