//! What this member is told to say before a planned change of the writer. It reads only; called by the gRPC service.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_types::preflight::{OPERATIONS, Preflight, StandbyPreflight, WriterPreflight};
use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use super::Member;
use super::sql::SqlError;
use super::talk::{Rows, Talk};
use crate::disk;
use crate::observe::preflight as ask;

/// All of it. What has not been answered by then is unknown.
const DEADLINE: Duration = Duration::from_secs(3);

impl Member {
    /// Looks now. Never longer than three seconds.
    pub async fn preflight(&self) -> Preflight {
        let until = Instant::now() + DEADLINE;
        let data_dir = &self.instance.data_dir;
        let (data_free_bytes, wal_free_bytes, found) =
            tokio::join!(free_bytes(data_dir.clone()), free_bytes(data_dir.join("pg_wal")), self.ask(until));
        let found = found.unwrap_or_else(|error| {
            tracing::debug!(cluster = %self.instance.cluster, %error, "PostgreSQL is not known before a planned change");
            Preflight::default()
        });
        Preflight {
            data_free_bytes,
            wal_free_bytes,
            operations: OPERATIONS.map(str::to_owned).to_vec(),
            ..found
        }
    }

    async fn ask(&self, until: Instant) -> Result<Preflight, SqlError> {
        let talk = self.sql.talk(until).await?;
        talk.rows(ask::BEGIN).await?;
        let role = ask::role(&talk.rows(ask::ROLE).await?);
        let (mut writer, mut standby) = (None, None);
        match role.in_recovery {
            Some(false) => writer = Some(of_writer(&talk, role).await),
            Some(true) => standby = Some(of_standby(&talk).await),
            None => {}
        }
        Ok(Preflight { server_version_num: role.version_num, writer, standby, ..Preflight::default() })
    }
}

async fn of_writer(talk: &Talk, role: ask::Role) -> WriterPreflight {
    // Without the right, sessions of others show nothing: that is not the same as no transaction.
    let transactions = match role.sees_others {
        true => answer(talk, &ask::transactions_sql()).await.map(|rows| ask::transactions(&rows)),
        false => None,
    };
    let lost_slots = match role.version_num {
        Some(version) => answer(talk, &ask::lost_slots_sql(version)).await.map(|rows| ask::names(&rows)),
        None => None,
    };
    let prepared_transactions = answer(talk, ask::PREPARED).await;
    let archiver = answer(talk, ask::ARCHIVER).await;
    let waiting = answer(talk, ask::ARCHIVER_WAITING).await;
    let since_redo = answer(talk, ask::SINCE_REDO).await;
    let standbys = match role.sees_others {
        true => answer(talk, ask::STANDBYS).await,
        false => None,
    };
    WriterPreflight {
        transactions,
        prepared_transactions: prepared_transactions.and_then(|rows| ask::number(&rows, 0)),
        lost_slots,
        archiver: archiver.and_then(|rows| ask::archiver(&rows, waiting.as_deref())),
        wal_since_redo_bytes: since_redo.and_then(|rows| ask::number(&rows, 0)),
        standbys: standbys.map(|rows| ask::standbys(&rows)),
    }
}

async fn of_standby(talk: &Talk) -> StandbyPreflight {
    answer(talk, ask::STANDBY).await.map(|rows| ask::standby(&rows)).unwrap_or_default()
}

/// One answer; what is refused or late leaves the others known.
async fn answer(talk: &Talk, sql: &str) -> Option<Rows> {
    match talk.rows(sql).await {
        Ok(rows) => Some(rows),
        Err(error) => {
            tracing::debug!(sql, %error, "not known before a planned change");
            None
        }
    }
}

/// What is free for others than root.
async fn free_bytes(path: PathBuf) -> Option<u64> {
    let look = move || statvfs(&path).map(|found| found.blocks_available() * found.fragment_size());
    disk::look(look).await.ok()?.ok()
}
