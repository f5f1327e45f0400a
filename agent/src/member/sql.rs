//! What the agent asks its own PostgreSQL, over the Unix socket, each time with a deadline. The role needs
//! `pg_monitor`, and for planned operations `pg_checkpoint` and `pg_signal_backend`: `holdfast adopt plan` prints how it is
//! made.
//!
//! One connection is kept and made again when it breaks; a statement that does not answer costs the connection, so
//! that a stuck backend never holds up the next question (promise I8). Decides nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use holdfast_agent_core::sync::AnySetting;
use holdfast_types::{Lsn, MemberName, Position, Timeline};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::talk::Talk;
use crate::observe::{synchronous_standby_names, wal_files};

/// A statement over the local socket takes well under a millisecond; PostgreSQL that needs this long is no help.
const DEADLINE: Duration = Duration::from_millis(1_000);

/// The connection to one instance.
pub struct Sql {
    config: tokio_postgres::Config,
    /// The same without a deadline: whoever waits for it counts for how long.
    patient: tokio_postgres::Config,
    client: Mutex<Option<Client>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// Not in time.
    #[error("PostgreSQL did not answer within {} ms", DEADLINE.as_millis())]
    Deadline,
    /// Not within the time that all of a piece of work has.
    #[error("PostgreSQL did not answer in time")]
    Late,
    /// It said no, or the connection broke.
    #[error("PostgreSQL: {0}")]
    Failed(#[from] tokio_postgres::Error),
    /// It answered something else than was asked for.
    #[error("PostgreSQL answered {0}")]
    Nonsense(String),
}

/// What the writer is asked.
#[derive(Debug, Clone)]
pub struct WriterState {
    /// `pg_current_wal_flush_lsn()` on the timeline that is being written.
    pub flushed: Position,
    /// `synchronous_standby_names`, if it is of the form `ANY k (S)`.
    pub setting: Option<AnySetting>,
    /// What each connected standby reports as flushed, with its address: `application_name` alone can be claimed by
    /// anything that connects (rule 3).
    pub standbys: Vec<(MemberName, Option<String>, Position)>,
}

impl WriterState {
    /// The flush positions of the members that stream from the address that they are known by.
    pub fn flushed_by(
        &self,
        address_of: impl Fn(&MemberName) -> Option<String>,
    ) -> BTreeMap<MemberName, Position> {
        self.standbys
            .iter()
            .filter(|(member, address, _)| address.is_some() && *address == address_of(member))
            .map(|(member, _, position)| (member.clone(), *position))
            .collect()
    }
}

/// Where a server's log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `pg_current_logfile()`, below the data directory unless absolute; absent without a logging collector.
    pub current_logfile: Option<String>,
    /// `log_destination`.
    pub log_destination: String,
    /// `log_min_messages`.
    pub log_min_messages: String,
    /// `lc_messages`.
    pub lc_messages: String,
}

/// What came of a question to a writer that may hang.
pub enum Asked {
    /// An answer: how far WAL was written into memory, and how far it is durable.
    Wal {
        /// The session, for the next question.
        session: Client,
        /// `pg_current_wal_insert_lsn()`.
        inserted: Lsn,
        /// `pg_current_wal_flush_lsn()`.
        flushed: Lsn,
    },
    /// It said something else: too many clients, recovery, a shutdown.
    Refused,
    /// It could not be asked, or the session broke.
    Failed,
}

/// What a standby is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyState {
    /// `pg_last_wal_receive_lsn()`: received and flushed; absent until it has streamed since its start.
    pub received: Option<Lsn>,
    /// `pg_last_wal_replay_lsn()`.
    pub replayed: Option<Lsn>,
    /// `received_tli` while a walreceiver runs.
    pub received_timeline: Option<Timeline>,
    /// The timeline of the control file, for when no walreceiver has run.
    pub control_timeline: Timeline,
    /// The startup process waits for WAL that is not there yet: everything complete that this disk has is replayed.
    pub waits_for_wal: bool,
    /// A walreceiver runs and streams.
    pub streaming: bool,
    /// When the walreceiver heard last of its sender, as PostgreSQL prints it; only compared for change.
    pub last_message: Option<String>,
    /// The same by our wall clock, milliseconds since 1970, for people.
    pub heard_wall_ms: Option<i64>,
}

impl Sql {
    /// Prepares a connection as `role` to `port` in `socket_dir`; nothing is opened yet.
    pub fn new(socket_dir: &Path, port: u16, role: &str) -> Self {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(socket_dir)
            .port(port)
            .user(role)
            .dbname("postgres")
            .application_name("holdfast-agent");
        let patient = config.clone();
        config.connect_timeout(DEADLINE);
        Self { config, patient, client: Mutex::new(None) }
    }

    /// A session of its own for one piece of work, all of which ends at a moment.
    pub async fn talk(&self, until: Instant) -> Result<Talk, SqlError> {
        let connected = tokio::time::timeout_at(until, connect(&self.patient));
        Ok(Talk::new(connected.await.map_err(|_| SqlError::Late)??, until))
    }

    async fn rows(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, SqlError> {
        let work = async {
            let mut kept = self.client.lock().await;
            let client = match kept.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => connect(&self.config).await?,
            };
            let messages = client.simple_query(sql).await?;
            // Put back only after a full answer: a late one must never be read as the next one's.
            *kept = Some(client);
            Ok::<_, SqlError>(messages)
        };
        let messages = tokio::time::timeout(DEADLINE, work).await.map_err(|_| SqlError::Deadline)??;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect())
    }

    /// Asks for a sign of life, on `session` or on a new one, and waits for as long as it takes. It reads no table and writes
    /// nothing: a disk that hangs does not keep it from answering.
    pub async fn ask_for_life(&self, session: Option<Client>) -> Asked {
        let work = async {
            let session = match session.filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => connect(&self.patient).await?,
            };
            let messages = session
                .simple_query("select pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()")
                .await?;
            Ok::<_, SqlError>((session, messages))
        };
        match work.await {
            Ok((session, messages)) => {
                let row = messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                let at = |place| required_lsn(row.and_then(|row| row.get(place)));
                match (at(0), at(1)) {
                    (Ok(inserted), Ok(flushed)) => Asked::Wal { session, inserted, flushed },
                    _ => Asked::Refused,
                }
            }
            Err(SqlError::Failed(error)) if error.as_db_error().is_some() => Asked::Refused,
            Err(_) => Asked::Failed,
        }
    }

    /// `pg_is_in_recovery()`.
    pub async fn is_in_recovery(&self) -> Result<bool, SqlError> {
        let rows = self.rows("select pg_is_in_recovery()").await?;
        match rows.first().and_then(|row| row.get(0)) {
            Some("t") => Ok(true),
            Some("f") => Ok(false),
            other => Err(SqlError::Nonsense(format!("{other:?} to pg_is_in_recovery()"))),
        }
    }

    /// The writer's flush position, its setting, and its standbys.
    pub async fn writer(&self) -> Result<WriterState, SqlError> {
        let rows = self
            .rows(
                "select pg_current_wal_flush_lsn(), pg_walfile_name(pg_current_wal_flush_lsn()), \
                 current_setting('synchronous_standby_names'), r.application_name, r.client_addr, r.flush_lsn \
                 from (values (1)) one left join pg_stat_replication r on r.flush_lsn is not null",
            )
            .await?;
        let first = rows.first().ok_or_else(|| SqlError::Nonsense("no row".into()))?;
        let timeline = timeline_of_file(first.get(1))?;
        let at = |lsn: Option<&str>| Ok(Position { timeline, lsn: required_lsn(lsn)? });
        let standbys = rows
            .iter()
            .filter_map(|row| {
                let member = MemberName::new(row.get(3)?).ok()?;
                let position = at(row.get(5)).ok()?;
                Some((member, row.get(4).map(str::to_owned), position))
            })
            .collect::<Vec<_>>();
        let flushed: Result<Position, SqlError> = at(first.get(0));
        let setting = synchronous_standby_names::parse(first.get(2).unwrap_or_default()).ok();
        Ok(WriterState { flushed: flushed?, setting, standbys })
    }

    /// `synchronous_standby_names` alone, which a standby has too.
    pub async fn setting(&self) -> Result<Option<AnySetting>, SqlError> {
        Ok(synchronous_standby_names::parse(&self.setting_text().await?).ok())
    }

    /// The same as PostgreSQL has it, whatever it is.
    pub async fn setting_text(&self) -> Result<String, SqlError> {
        let rows = self.rows("select current_setting('synchronous_standby_names')").await?;
        Ok(rows.first().and_then(|row| row.get(0)).unwrap_or_default().to_owned())
    }

    /// The standbys that stream from another host without a certificate of their own.
    pub async fn without_certificate(&self) -> Result<Vec<MemberName>, SqlError> {
        let rows = self
            .rows(
                "select distinct r.application_name from pg_stat_replication r left join pg_stat_ssl s using (pid) \
                 where r.client_addr is not null and r.state = 'streaming' and s.client_dn is null order by 1",
            )
            .await?;
        // What is no name of a member is none.
        Ok(rows.iter().filter_map(|row| MemberName::new(row.get(0)?).ok()).collect())
    }

    /// Where its log goes, and in which words.
    pub async fn log_settings(&self) -> Result<LogSettings, SqlError> {
        let rows = self
            .rows(
                "select pg_current_logfile(), current_setting('log_destination'), \
                 current_setting('log_min_messages'), current_setting('lc_messages')",
            )
            .await?;
        let row = rows.first().ok_or_else(|| SqlError::Nonsense("no row".into()))?;
        let text = |column: usize| row.get(column).unwrap_or_default().to_owned();
        let current_logfile = row.get(0).map(str::to_owned);
        Ok(LogSettings {
            current_logfile,
            log_destination: text(1),
            log_min_messages: text(2),
            lc_messages: text(3),
        })
    }

    /// What a standby has received and replayed.
    pub async fn standby(&self) -> Result<StandbyState, SqlError> {
        let rows = self
            .rows(
                // The startup process goes to sleep in these events only after it has found no further complete record in
                // the archive and in pg_wal. The wait is read before the position that it vouches for: it stands in FROM,
                // whose rows are made before the functions of the list are called.
                "with startup as materialized (select exists (select from pg_stat_activity \
                   where backend_type = 'startup' and wait_event in \
                   ('RecoveryWalStream', 'RecoveryWalAll', 'RecoveryRetrieveRetryInterval')) as waits) \
                 select pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), w.received_tli, \
                 greatest(c.timeline_id, r.min_recovery_end_timeline), w.status, w.last_msg_receipt_time, \
                 (extract(epoch from w.last_msg_receipt_time) * 1000)::bigint, s.waits \
                 from startup s, pg_control_checkpoint() c, pg_control_recovery() r \
                 left join pg_stat_wal_receiver w on true",
            )
            .await?;
        let row = rows.first().ok_or_else(|| SqlError::Nonsense("no row".into()))?;
        let control_timeline = number(row.get(3)).ok_or_else(|| SqlError::Nonsense("no timeline".into()))?;
        Ok(StandbyState {
            received: row.get(0).and_then(|text| text.parse().ok()),
            replayed: row.get(1).and_then(|text| text.parse().ok()),
            received_timeline: number(row.get(2)).filter(|timeline| *timeline != 0).map(Timeline),
            control_timeline: Timeline(control_timeline),
            waits_for_wal: row.get(7) == Some("t"),
            streaming: row.get(4) == Some("streaming"),
            last_message: row.get(5).map(str::to_owned),
            heard_wall_ms: row.get(6).and_then(|text| text.parse().ok()),
        })
    }

    /// On which timeline the WAL in `pg_wal` ends, when it ends at `end`; `None` when that segment is not there.
    pub async fn timeline_on_disk(&self, end: Lsn) -> Result<Option<Timeline>, SqlError> {
        let rows = self
            .rows(
                "select pg_size_bytes(current_setting('wal_segment_size')), string_agg(name, ' ') from pg_ls_waldir()",
            )
            .await?;
        let row = rows.first().ok_or_else(|| SqlError::Nonsense("no row".into()))?;
        let segment_bytes = row.get(0).and_then(|text| text.parse().ok());
        let segment_bytes = segment_bytes.ok_or_else(|| SqlError::Nonsense("no segment size".into()))?;
        Ok(wal_files::timeline_at(row.get(1).unwrap_or_default(), segment_bytes, end))
    }

    /// A write that needs no table and waits for the synchronous standbys like any commit; its own connection.
    ///
    /// A wait that was cancelled ends with a warning and not with an error, so the setting of a statement timeout would
    /// prove nothing: here the deadline drops the connection instead.
    pub async fn prove(&self, text: &str, deadline: Duration) -> Result<(), SqlError> {
        let work = async {
            let client = connect(&self.config).await?;
            let quoted = text.replace('\'', "''");
            client
                .batch_execute(&format!(
                    "set synchronous_commit = on; select pg_logical_emit_message(true, 'holdfast', '{quoted}')"
                ))
                .await?;
            Ok::<_, SqlError>(())
        };
        tokio::time::timeout(deadline, work).await.map_err(|_| SqlError::Deadline)?
    }
}

async fn connect(config: &tokio_postgres::Config) -> Result<Client, SqlError> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends when the client is dropped or the server goes.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

fn number(text: Option<&str>) -> Option<u32> {
    text?.parse().ok()
}

fn required_lsn(text: Option<&str>) -> Result<Lsn, SqlError> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| SqlError::Nonsense(format!("{text:?} for an LSN")))
}

/// The timeline is the first eight hexadecimal digits of a WAL file's name.
fn timeline_of_file(name: Option<&str>) -> Result<Timeline, SqlError> {
    name.and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok())
        .map(Timeline)
        .ok_or_else(|| SqlError::Nonsense(format!("{name:?} for a WAL file")))
}
