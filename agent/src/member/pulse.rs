//! Feels the pulse of the writer on this host (rule 9): a question on an open session, and once that is overdue a new
//! connection, the processor time of its processes, and a small write beside its WAL.
//!
//! At rest it costs one short statement in each interval. What is asked is asked on tasks and threads of their own; one that
//! is stuck is left behind and told as silence, and no second is begun beside it. Decides nothing:
//! `holdfast-agent-core`'s `hung` judges the signs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_agent_core::detach::Life;
use holdfast_agent_core::hung::{self, Pulse, Signs};
use holdfast_agent_core::member::Postgres;
use holdfast_host::clock;
use holdfast_types::{Class, Lsn, Mode};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::Member;
use super::sql::Asked;
use crate::observe::disk_write::{self, Written};
use crate::observe::{life, processes};

/// How often it is looked again while an answer is outstanding.
const STEP: Duration = Duration::from_millis(200);
/// The time between two looks counts up to this: when we did not run either, nobody was silent.
const STEP_MS_MAX: u64 = 400;
/// An answer over the local socket takes well under a millisecond. It is waited for before anything is made of it.
const MOMENT: Duration = Duration::from_millis(50);
/// In doubt a write is not made more often: one that arrives has answered for so long.
const WRITE_AGAIN_MS: u64 = 1_000;
/// A file system that has turned read-only under an idle writer is found after this at the latest.
const WRITE_EVERY_MS: u64 = 30_000;

/// What is carried from look to look.
#[derive(Default)]
struct Wrist {
    looked_ms: u64,
    session: Option<Client>,
    question: Outstanding<Asked>,
    connection: Outstanding<Life>,
    /// Processor time when the connection was begun.
    ran_before_ms: Option<u64>,
    write: Outstanding<Written>,
    wrote_ms: u64,
    is_read_only: bool,
    flushed: Option<Lsn>,
    /// For how long WAL has stood that is not durable, or may.
    wal_stands_ms: u64,
    /// There was WAL that was not durable, as under any load: one more look, soon, tells whether it stands.
    looks_again: bool,
}

/// Something that was asked, and for how long there was no answer.
struct Outstanding<T> {
    task: Option<JoinHandle<T>>,
    silent_ms: u64,
}

impl<T> Default for Outstanding<T> {
    fn default() -> Self {
        Self { task: None, silent_ms: 0 }
    }
}

impl<T> Outstanding<T> {
    /// The answer, if it comes within a moment. A question that failed here has none, and is over too.
    async fn answer(&mut self) -> Option<T> {
        let task = self.task.as_mut()?;
        let answer = tokio::time::timeout(MOMENT, task).await.ok()?;
        self.task = None;
        if answer.is_err() {
            self.silent_ms = 0;
        }
        answer.ok()
    }

    fn silent_ms(&self) -> Option<u64> {
        self.task.as_ref().map(|_| self.silent_ms)
    }

    fn forget(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.silent_ms = 0;
    }
}

impl Member {
    /// Runs until the runtime ends.
    pub(super) async fn feel_pulse(self: Arc<Self>) {
        if self.instance.class != Class::Quorum {
            return;
        }
        let interval = Duration::from_millis(self.config.timings.pulse_interval_ms());
        let mut wrist = Wrist::default();
        let mut wait = interval;
        let mut told_ms = 0;
        loop {
            tokio::time::sleep(wait).await;
            wait = interval;
            if !self.is_to_be_felt() {
                wrist.let_go();
                self.state().pulse = None;
                continue;
            }
            let pulse = wrist.feel(&self).await;
            if wrist.is_in_doubt() {
                wait = STEP;
            }
            self.state().pulse = Some(pulse);
            let is_over = matches!(pulse, Pulse::Hung(hung) if hung.is_over(&self.config.timings));
            // Told often enough for a decision that waits for nothing but this, and no more.
            if is_over
                && clock::boottime_ms().saturating_sub(told_ms) >= self.config.timings.pulse_interval_ms()
            {
                told_ms = clock::boottime_ms();
                self.wake.notify_one();
            }
        }
    }

    /// It is the writer's. One that does not answer is felt too, whether or not this start of the agent has ever heard it:
    /// the last one may have ended in the middle of its hang, and the lease goes on. One that starts, or recovers, says so
    /// or runs.
    fn is_to_be_felt(&self) -> bool {
        let state = self.state();
        let me = &self.instance.member;
        let imagined = state.shadow.as_ref().filter(|_| state.remembered.mode == Mode::Observe);
        let is_ours = match imagined {
            Some(shadow) => shadow.open_holder() == Some(me),
            None => state.term.as_ref().is_some_and(|term| term.open && term.holder == *me),
        };
        is_ours
            && match state.postgres {
                Some(Postgres::Running { in_recovery: Some(recovers) }) => !recovers,
                Some(Postgres::Running { in_recovery: None } | Postgres::Unknown) => true,
                Some(Postgres::Gone) | None => false,
            }
    }
}

impl Wrist {
    /// A write that hangs is kept: it says something of the disk whoever is the writer.
    fn let_go(&mut self) {
        self.question.forget();
        self.connection.forget();
        (self.session, self.flushed, self.wal_stands_ms, self.is_read_only) = (None, None, 0, false);
        self.looks_again = false;
    }

    fn is_in_doubt(&self) -> bool {
        self.question.task.is_some() || self.write.task.is_some() || self.looks_again
    }

    async fn feel(&mut self, member: &Member) -> Pulse {
        let now_ms = clock::boottime_ms();
        let passed_ms = now_ms.saturating_sub(self.looked_ms).min(STEP_MS_MAX);
        self.looked_ms = now_ms;
        self.question.silent_ms += passed_ms;
        self.connection.silent_ms += passed_ms;
        self.write.silent_ms += passed_ms;
        self.ask(member, passed_ms).await;
        if self.question.task.is_some() {
            self.connect(member).await;
        } else {
            self.connection.forget();
            self.ran_before_ms = None;
        }
        self.write(&member.instance.data_dir, now_ms).await;
        hung::judge(&Signs {
            session_silent_ms: self.question.silent_ms(),
            connection_silent_ms: self.connection.silent_ms(),
            ran_ms: self.ran_ms(member),
            disk_silent_ms: self.write.silent_ms(),
            wal_stands_ms: self.wal_stands_ms,
            disk_is_read_only: self.is_read_only,
        })
    }

    async fn ask(&mut self, member: &Member, passed_ms: u64) {
        if self.question.task.is_none() {
            let (sql, session) = (Arc::clone(&member.sql), self.session.take());
            self.question = Outstanding {
                task: Some(tokio::spawn(async move { sql.ask_for_life(session).await })),
                silent_ms: 0,
            };
        }
        match self.question.answer().await {
            Some(Asked::Wal { session, inserted, flushed }) => {
                let waits = inserted > flushed;
                let stands = waits && self.flushed == Some(flushed);
                self.wal_stands_ms = if stands { self.wal_stands_ms + passed_ms } else { 0 };
                self.looks_again = stands || waits && !self.looks_again;
                (self.session, self.flushed) = (Some(session), Some(flushed));
            }
            // It lives, or cannot be asked; what becomes of its WAL is not known.
            Some(Asked::Refused | Asked::Failed) | None => {
                self.wal_stands_ms += passed_ms;
                self.looks_again = false;
            }
        }
    }

    /// A connection that is made anew, for as long as the open session is silent.
    async fn connect(&mut self, member: &Member) {
        if self.connection.task.is_none() {
            let instance = &member.instance;
            let socket = instance.socket_dir.join(format!(".s.PGSQL.{}", instance.port));
            let task = tokio::spawn(async move { life::probe_socket(&socket).await });
            self.connection = Outstanding { task: Some(task), silent_ms: 0 };
            self.ran_before_ms = processes::ran_ms(&instance.cgroup);
        }
        // Whatever it is, it is asked again: the session is still silent.
        self.connection.answer().await;
    }

    fn ran_ms(&self, member: &Member) -> Option<u64> {
        self.connection.task.as_ref()?;
        Some(processes::ran_ms(&member.instance.cgroup)?.saturating_sub(self.ran_before_ms?))
    }

    /// It costs an fsync: only when something speaks for a disk that hangs, and else once in a while.
    async fn write(&mut self, data_dir: &Path, now_ms: u64) {
        let doubt = self.question.task.is_some() || self.wal_stands_ms > 0;
        let pause_ms = if doubt { WRITE_AGAIN_MS } else { WRITE_EVERY_MS };
        if self.write.task.is_none() && now_ms.saturating_sub(self.wrote_ms) >= pause_ms {
            let data_dir = data_dir.to_owned();
            let task = tokio::task::spawn_blocking(move || disk_write::probe(&data_dir));
            self.write = Outstanding { task: Some(task), silent_ms: 0 };
            self.wrote_ms = now_ms;
        }
        if let Some(written) = self.write.answer().await {
            self.is_read_only = written == Written::ReadOnly;
        }
    }
}
