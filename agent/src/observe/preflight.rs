//! What PostgreSQL is asked before a planned change of its writer, and how its answers are read. Every statement reads only.

use std::fmt::Write as _;

use holdfast_types::preflight::{
    Archiver, OpenTransaction, OpenTransactions, StandbyLag, StandbyPreflight, TRANSACTION_AGE_MS_MIN,
    TRANSACTIONS_MAX,
};

/// Rows of text.
type Rows = [Vec<Option<String>>];

/// First of all: nothing here writes, and no statement keeps the others waiting.
pub const BEGIN: &str = "set default_transaction_read_only = on; set statement_timeout = '1s'";

/// What decides the other questions: the version, whether it is in recovery, and whether the role sees what others do.
pub const ROLE: &str = "select current_setting('server_version_num'), pg_is_in_recovery(), \
     pg_has_role('pg_read_all_stats', 'usage')";

/// The answer to [`ROLE`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Role {
    /// `server_version_num`.
    pub version_num: Option<u32>,
    /// `pg_is_in_recovery()`.
    pub in_recovery: Option<bool>,
    /// Without this right every session of others looks as if it had no transaction.
    pub sees_others: bool,
}

/// Reads the answer to [`ROLE`].
pub fn role(rows: &Rows) -> Role {
    Role {
        version_num: number(rows, 0),
        in_recovery: truth(rows, 1),
        sees_others: truth(rows, 2) == Some(true),
    }
}

/// Open transactions of clients; our own sessions are no clients.
pub fn transactions_sql() -> String {
    let mut sql = transactions_older_than(TRANSACTION_AGE_MS_MIN);
    write!(sql, " limit {TRANSACTIONS_MAX}").expect("a string takes everything");
    sql
}

/// The open transactions of clients that are older than this, the oldest first.
pub fn transactions_older_than(age_ms: u64) -> String {
    format!(
        "select count(*) over (), pid, (extract(epoch from clock_timestamp() - xact_start) * 1000)::bigint, \
         state like 'idle in transaction%', usename, application_name from pg_stat_activity \
         where backend_type = 'client backend' and pid <> pg_backend_pid() \
         and not (usename = current_user and application_name = 'holdfast-agent') \
         and xact_start < clock_timestamp() - interval '{age_ms} ms' order by xact_start"
    )
}

/// Ends one of them, if it is still that old.
pub fn terminate_sql(pid: u32, age_ms: u64) -> String {
    format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid = {pid} \
         and backend_type = 'client backend' and xact_start < clock_timestamp() - interval '{age_ms} ms'"
    )
}

/// Reads the answer to [`transactions_sql`].
pub fn transactions(rows: &Rows) -> OpenTransactions {
    let oldest = rows.iter().filter_map(|row| {
        let text = |column: usize| row.get(column)?.as_deref();
        Some(OpenTransaction {
            pid: text(1)?.parse().ok()?,
            age_ms: text(2)?.parse().ok()?,
            idle_in_transaction: text(3) == Some("t"),
            user: text(4).unwrap_or_default().to_owned(),
            application_name: text(5).unwrap_or_default().to_owned(),
        })
    });
    OpenTransactions { count: number(rows, 0).unwrap_or(0), oldest: oldest.collect() }
}

/// Transactions that wait for the second phase of their commit.
pub const PREPARED: &str = "select count(*) from pg_prepared_xacts";

/// The logical slots that stay behind.
pub fn lost_slots_sql(version_num: u32) -> String {
    // Before PostgreSQL 17 there is no such column: none goes over.
    let kept = if version_num >= 170_000 { " and not failover" } else { "" };
    format!(
        "select slot_name from pg_replication_slots where slot_type = 'logical' and not temporary{kept} order by 1"
    )
}

/// Reads the answer to [`lost_slots_sql`].
pub fn names(rows: &Rows) -> Vec<String> {
    rows.iter().filter_map(|row| row.first()?.clone()).collect()
}

/// The archiver, without its backlog.
pub const ARCHIVER: &str = "select current_setting('archive_mode') <> 'off', \
     case when last_failed_time is null and last_archived_time is null then null \
     else coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) end from pg_stat_archiver";

/// The segments that wait: a folder to list, which may be long.
pub const ARCHIVER_WAITING: &str = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'";

/// Reads the answers to [`ARCHIVER`] and [`ARCHIVER_WAITING`], the second of which may be missing.
pub fn archiver(rows: &Rows, waiting: Option<&Rows>) -> Option<Archiver> {
    let waiting = waiting.and_then(|rows| number(rows, 0));
    Some(Archiver { is_on: truth(rows, 0)?, fails: truth(rows, 1), waiting })
}

/// WAL since the place at which recovery would begin.
pub const SINCE_REDO: &str =
    "select (pg_current_wal_insert_lsn() - redo_lsn)::bigint from pg_control_checkpoint()";

/// The standbys, as their walsenders see them.
pub const STANDBYS: &str = "select application_name, state, \
     greatest(pg_current_wal_lsn() - flush_lsn, 0)::bigint, greatest(pg_current_wal_lsn() - replay_lsn, 0)::bigint, \
     (extract(epoch from replay_lag) * 1000)::bigint from pg_stat_replication order by 1, 2";

/// Reads the answer to [`STANDBYS`].
pub fn standbys(rows: &Rows) -> Vec<StandbyLag> {
    let lag = |row: &Vec<Option<String>>| {
        let text = |column: usize| row.get(column)?.as_deref();
        let bytes = |column: usize| text(column)?.parse().ok();
        Some(StandbyLag {
            application_name: text(0)?.to_owned(),
            state: text(1).map(str::to_owned),
            flush_bytes: bytes(2),
            replay_bytes: bytes(3),
            replay_ms: bytes(4),
        })
    };
    rows.iter().filter_map(lag).collect()
}

/// A standby.
pub const STANDBY: &str = "select greatest(pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn(), 0)::bigint, \
     pg_is_wal_replay_paused()";

/// Reads the answer to [`STANDBY`].
pub fn standby(rows: &Rows) -> StandbyPreflight {
    StandbyPreflight { replay_bytes: number(rows, 0), replay_paused: truth(rows, 1) }
}

/// A number in the first row.
pub fn number<T: std::str::FromStr>(rows: &Rows, column: usize) -> Option<T> {
    rows.first()?.get(column)?.as_deref()?.parse().ok()
}

fn truth(rows: &Rows, column: usize) -> Option<bool> {
    match rows.first()?.get(column)?.as_deref() {
        Some("t") => Some(true),
        Some("f") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(all: &[&[&str]]) -> Vec<Vec<Option<String>>> {
        let cell = |text: &&str| (*text != "NULL").then(|| (*text).to_owned());
        all.iter().map(|row| row.iter().map(cell).collect()).collect()
    }

    #[test]
    fn what_is_null_is_unknown() {
        let known = role(&rows(&[&["150018", "f", "t"]]));
        assert_eq!(known, Role { version_num: Some(150_018), in_recovery: Some(false), sees_others: true });
        assert_eq!(role(&[]), Role::default());
        assert_eq!(archiver(&rows(&[&["t", "NULL"]]), None).unwrap().fails, None, "never tried");
        let waiting = rows(&[&["60"]]);
        let failing = Archiver { is_on: true, fails: Some(true), waiting: Some(60) };
        assert_eq!(archiver(&rows(&[&["t", "t"]]), Some(&waiting)), Some(failing));
        assert_eq!(
            standby(&rows(&[&["NULL", "f"]])).replay_bytes,
            None,
            "it has not streamed since its start"
        );
        let lag = &standbys(&rows(&[&["db2", "streaming", "0", "8192", "NULL"]]))[0];
        assert_eq!((lag.flush_bytes, lag.replay_bytes, lag.replay_ms), (Some(0), Some(8_192), None));
    }

    #[test]
    fn all_open_transactions_are_counted_and_the_oldest_named() {
        assert_eq!(transactions(&[]), OpenTransactions::default());
        let found = transactions(&rows(&[&["21", "7", "3000", "t", "app", "NULL"]]));
        assert_eq!((found.count, found.oldest.len(), found.oldest[0].pid), (21, 1, 7));
        assert!(found.oldest[0].idle_in_transaction);
        assert!(transactions_sql().ends_with("limit 20"));
    }

    #[test]
    fn slots_go_over_from_postgresql_17_on_if_they_were_made_so() {
        assert!(!lost_slots_sql(150_018).contains("failover"));
        assert!(lost_slots_sql(170_000).contains("not failover"));
    }
}
