//! A writer that is started again in its own term: nobody followed, no reign has ended, and clients have waited. The start
//! gate notes that it was away; once it is in office again it is proved by a write and told in etcd, in the trace and in one
//! line of the log. Nothing waits for it, and no decision rests on it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use holdfast_host::clock;
use holdfast_store::{Txn, Write};
use holdfast_types::record::{RestartEnd, RestartRecord, Stored};

use super::Member;
use crate::act::trace;
use crate::gate::remembered::Away;
use crate::observe::last_write;

/// PostgreSQL waits for the gate; its disk is asked for no longer than this.
const DISK_DEADLINE: Duration = Duration::from_millis(300);
/// As for the proof of a new writer: a synchronous standby may be on its way.
const PROOF_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to prove or to put it.
const AGAIN: Duration = Duration::from_secs(1);

impl Member {
    /// Our PostgreSQL may start. If it was the writer of a term that nobody has closed, it was away since it ended.
    pub(super) async fn note_away(&self) {
        let (term, gone_wall_ms, ended, why) = {
            let state = self.state();
            let reign = state.remembered.reign.as_ref();
            let ours = reign.filter(|reign| !reign.closed && reign.holder == self.instance.member);
            let Some(term) = ours.map(|reign| reign.term) else { return };
            if state.away.as_ref().is_some_and(|away| away.term == term) {
                // Another attempt of the same restart.
                return;
            }
            let ended = match state.gone_wall_ms {
                Some(_) => state.ended.unwrap_or(RestartEnd::Crashed),
                None => RestartEnd::Unseen,
            };
            (term, state.gone_wall_ms, ended, state.left_alone.clone().unwrap_or_default())
        };
        let gone_wall_ms = match gone_wall_ms {
            Some(gone_wall_ms) => gone_wall_ms,
            None => self.last_write_wall_ms().await.unwrap_or_else(clock::wall_ms),
        };
        self.state().away = Some(Away { term, gone_wall_ms, ended, why });
    }

    async fn last_write_wall_ms(&self) -> Option<i64> {
        let data_dir = self.instance.data_dir.clone();
        let look = tokio::task::spawn_blocking(move || last_write::wall_ms(&data_dir));
        tokio::time::timeout(DISK_DEADLINE, look).await.ok()?.ok()?
    }

    /// Keeps on disk what is still to be told, for the next start of the agent. What was noted in a reign that is over belongs to
    /// the incident that ended it. Only the member's loop writes that file.
    pub(super) async fn keep_away(&self) {
        let (away, restarts) = {
            let mut state = self.state();
            let reign = state.remembered.reign.clone();
            let is_of = |away: &Away| reign.is_some_and(|reign| !reign.closed && reign.term == away.term);
            state.away = state.away.take().filter(is_of);
            (state.away.clone(), state.restarts)
        };
        self.remember(|remembered| (remembered.away, remembered.restarts) = (away, restarts)).await;
    }

    /// Runs until the runtime ends; woken when a writer that was away is back in office.
    pub(super) async fn tell_restarts(self: Arc<Self>) {
        loop {
            self.restart_wake.notified().await;
            let mut said = false;
            loop {
                let away = self.state().away.clone();
                let Some(away) = away else { break };
                let Err(error) = self.tell_restart(&away).await else { break };
                if !said {
                    tracing::warn!(cluster = %self.instance.cluster, "the writer that was away is back and cannot be told yet: {error:#}");
                }
                said = true;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    async fn tell_restart(&self, away: &Away) -> anyhow::Result<()> {
        let (me, cluster) = (&self.instance.member, &self.instance.cluster);
        let proof = format!("{cluster} {me} writes again in term {}", away.term);
        self.sql.prove(&proof, PROOF_DEADLINE).await.context("a write that proves it")?;
        let number = self.state().restarts;
        let context = trace::of_restart(me, away.term, away.gone_wall_ms);
        let because = if away.why.is_empty() { String::new() } else { format!(" ({})", away.why) };
        let record = RestartRecord {
            number,
            member: me.clone(),
            term: away.term,
            ended: away.ended,
            gone_wall_ms: away.gone_wall_ms,
            back_wall_ms: clock::wall_ms(),
            trace_id: context.as_ref().and_then(trace::id),
            text: format!("PostgreSQL of {me} {} and was started again in its term{because}", away.ended),
        };
        let put = Write::put(self.keys.restart(me, number), Stored::new(record.clone()).encode());
        let put = Txn { writes: vec![put], ..Txn::default() };
        self.world.store.txn(put).await.context("its record in etcd")?;
        {
            let mut state = self.state();
            state.restarts = number + 1;
            state.away = state.away.take().filter(|later| later != away);
        }
        self.wake.notify_one();
        trace::restart(&self.telemetry, context, &record);
        let (away_ms, trace_id) = (record.away_ms(), record.trace_id.as_deref().unwrap_or("none"));
        let said = "the writer was away and is back in its term; see: holdfast events";
        if record.ended == RestartEnd::ShutDown {
            // Somebody wanted it.
            tracing::warn!(%cluster, term = away.term.0, member = %me, away_ms, trace_id, "{said}");
        } else {
            tracing::error!(%cluster, term = away.term.0, member = %me, away_ms, trace_id, "{said}");
        }
        Ok(())
    }
}
