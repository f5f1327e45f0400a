//! One client: one attempt after the other at a modest rate, each with a deadline, each recorded.

use std::time::Duration;

use tokio_postgres::error::{DbError, Severity};
use tokio_util::sync::CancellationToken;

use super::connect::{Session, Target};
use super::record::{Attempt, ClientInfo, Line, Outcome, RouteKind};
use super::recorder::Recorder;
use super::{monotonic_us, rows};

/// A host that does not accept writes is asked this often whether it does now.
const STANDBY_POLL: Duration = Duration::from_millis(100);

/// An attempt that hangs when the clients are told to stop gets so much more.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How all clients behave.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Time between the begins of two attempts of one client.
    pub period: Duration,
    /// An attempt that has not ended after this is unknown and its connection is closed.
    pub deadline: Duration,
}

/// One client of a run.
pub(super) struct Writer {
    pub run: String,
    pub info: ClientInfo,
    pub target: Target,
    pub pace: Pace,
    /// A statement that runs for so long is cancelled, as query timeouts of drivers do.
    pub cancel_after: Option<Duration>,
    pub recorder: Recorder,
    pub stop: CancellationToken,
}

impl Writer {
    /// Works until it is told to stop. An attempt that has begun is ended and recorded.
    pub(super) async fn work(self) {
        let mut tick = tokio::time::interval(self.pace.period);
        // Attempts that a stall has kept from beginning are not made up for: the rate stays modest.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut session: Option<Session> = None;
        let mut seq = 0;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            if self.info.kind == RouteKind::Socket && session.is_none() {
                session = self.wait_for_writer().await;
                if session.is_none() {
                    continue;
                }
            }
            let begin_us = monotonic_us();
            let outcome = self.attempt(&mut session, seq).await;
            if keeps_nothing(&outcome, self.info.kind) {
                session = None;
            }
            let end_us = monotonic_us();
            let attempt = Attempt { client: self.info.client, seq, begin_us, end_us, outcome };
            if !self.recorder.write(Line::Attempt(attempt)).await {
                return;
            }
            seq += 1;
        }
    }

    /// A session with a host that accepts writes; none when the host does not, after a moment.
    async fn wait_for_writer(&self) -> Option<Session> {
        let ask = async {
            let session = self.target.connect().await.ok()?;
            let messages = session.client.simple_query("select pg_is_in_recovery()").await.ok()?;
            let writable = messages.iter().any(|message| {
                matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("f"))
            });
            writable.then_some(session)
        };
        let session = tokio::time::timeout(self.pace.deadline, ask).await.ok().flatten();
        if session.is_none() {
            tokio::time::sleep(STANDBY_POLL).await;
        }
        session
    }

    async fn attempt(&self, session: &mut Option<Session>, seq: u64) -> Outcome {
        if session.is_none() {
            match self.target.connect().await {
                Ok(opened) => *session = Some(opened),
                Err(error) => return Outcome::Refused { reason: error.reason() },
            }
        }
        let Some(session) = session else { return Outcome::Refused { reason: "connect".into() } };
        let sql = rows::insert(&self.run, self.info.client, seq);
        session.take_warning();
        let ended = tokio::select! {
            ended = self.execute(session, &sql) => Some(ended),
            () = tokio::time::sleep(self.pace.deadline) => None,
            () = self.stopped_long_enough() => None,
        };
        match ended {
            Some(Ok(())) if session.take_warning() => Outcome::Warned,
            Some(Ok(())) => Outcome::Acknowledged,
            Some(Err(error)) => classify(error.as_db_error()),
            None => Outcome::Unknown { reason: "deadline".into() },
        }
    }

    async fn stopped_long_enough(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    }

    async fn execute(&self, session: &Session, sql: &str) -> Result<(), tokio_postgres::Error> {
        let statement = session.client.batch_execute(sql);
        let Some(cancel_after) = self.cancel_after else { return statement.await };
        tokio::pin!(statement);
        tokio::select! {
            ended = &mut statement => return ended,
            () = tokio::time::sleep(cancel_after) => {}
        }
        Session::cancel(session.client.cancel_token()).await;
        statement.await
    }
}

/// Whether the session ends with this attempt. Over a socket a refusal may mean that the host is no writer any more.
fn keeps_nothing(outcome: &Outcome, kind: RouteKind) -> bool {
    match outcome {
        Outcome::Acknowledged | Outcome::Warned => false,
        Outcome::Unknown { .. } => true,
        // 25006: read-only. A pooled session moves on by itself; a direct one has the wrong server.
        Outcome::Refused { reason } => kind != RouteKind::Pgbouncer || reason != "25006",
    }
}

/// PgBouncer's words for a client that it drops before it gave the statement to a server.
const NEVER_SENT: [&str; 3] = ["query_wait_timeout", "server login has been failing", "client_login_timeout"];

/// What an error after sending says of the commit. None is a connection that ended without a word.
///
/// ERROR is always before the commit: PostgreSQL reports nothing of that level after its commit record. FATAL ends a
/// session at any moment, also between the commit record and the acknowledgement; class 08 is the pooler's word for a
/// server connection that went away under a statement.
fn classify(error: Option<&DbError>) -> Outcome {
    let Some(error) = error else { return Outcome::Unknown { reason: "closed".into() } };
    let ended = matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic) | None);
    classify_words(error.code().code(), ended, error.message())
}

fn classify_words(code: &str, session_ended: bool, message: &str) -> Outcome {
    let reason = code.to_owned();
    let never_sent = code.starts_with("08") && NEVER_SENT.iter().any(|words| message.starts_with(words));
    if !never_sent && (session_ended || code.starts_with("08")) {
        Outcome::Unknown { reason }
    } else {
        Outcome::Refused { reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str) -> Outcome {
        Outcome::Refused { reason: reason.into() }
    }

    fn unknown(reason: &str) -> Outcome {
        Outcome::Unknown { reason: reason.into() }
    }

    #[test]
    fn only_an_error_before_the_commit_is_a_refusal() {
        assert_eq!(classify(None), unknown("closed"));
        assert_eq!(classify_words("25006", false, "cannot execute INSERT"), refused("25006"));
        assert_eq!(classify_words("57P01", true, "terminating connection"), unknown("57P01"));
        assert_eq!(classify_words("08P01", true, "server conn crashed?"), unknown("08P01"));
        assert_eq!(classify_words("08P01", true, "query_wait_timeout"), refused("08P01"));
    }

    #[test]
    fn a_read_only_server_is_left_by_direct_clients_only() {
        assert!(keeps_nothing(&refused("25006"), RouteKind::Libpq));
        assert!(keeps_nothing(&refused("25006"), RouteKind::Socket));
        assert!(!keeps_nothing(&refused("25006"), RouteKind::Pgbouncer));
        assert!(keeps_nothing(&unknown("deadline"), RouteKind::Pgbouncer));
        assert!(!keeps_nothing(&Outcome::Warned, RouteKind::Socket));
    }
}
