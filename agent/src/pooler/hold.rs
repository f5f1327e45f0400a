//! Holding clients for a planned operation, for no longer than was promised, whoever of the others is there.

use std::time::Duration;

use anyhow::Result;
use holdfast_agent_core::planned::Held;
use holdfast_host::clock;
use holdfast_types::Term;
use holdfast_types::record::{OperationPhase, PhaseDone};
use tokio::sync::watch;

use super::{Router, TICK};
use crate::world::Mirror;

impl Router {
    /// Holds clients back: new statements wait at once, and PAUSE ends when those that run have ended. Returns whether it
    /// has; if not, they are to be let go.
    pub(super) async fn hold_for(
        &mut self,
        term: Term,
        held: Held,
        changes: watch::Receiver<Mirror>,
    ) -> Result<bool> {
        self.term = Some(term);
        self.held_until_ms = Some(held.until_ms);
        self.keep_held(true).await?;
        // From here on they may wait, whatever comes of it: the next route is put in place even if it is the last one again.
        self.applied = None;
        let left_ms = held.until_ms.saturating_sub(clock::boottime_ms());
        let paused = tokio::select! {
            paused = self.admin.within(Duration::from_millis(left_ms), &["PAUSE"]) => {
                paused.map_err(|error| format!("{error:#}"))
            }
            () = self.no_longer(held, changes) => {
                Err("a transaction was still open when the clients were to be let go".to_owned())
            }
        };
        let (name, operation) = (&self.pooler.name, held.operation);
        match paused {
            Ok(()) => {
                self.done =
                    Some(PhaseDone { operation, phase: OperationPhase::Pause, problem: None, remark: None });
                tracing::info!(pooler = name, operation, "clients wait for a planned operation");
                Ok(true)
            }
            Err(why) => {
                tracing::warn!(
                    pooler = name,
                    operation,
                    "clients do not wait for a planned operation: {why}"
                );
                self.planned.give_up(operation, why);
                Ok(false)
            }
        }
    }

    /// Waits until clients are not to be held any more.
    async fn no_longer(&self, held: Held, mut changes: watch::Receiver<Mirror>) {
        loop {
            changes.mark_unchanged();
            let (cluster, connected) = self.world.watched(&self.keys);
            let now_ms = clock::boottime_ms();
            let still = || self.planned.held(&cluster, &self.full_name, now_ms);
            if now_ms >= held.until_ms
                || connected && still().is_none_or(|still| still.operation != held.operation)
            {
                return;
            }
            let left = Duration::from_millis(held.until_ms.saturating_sub(now_ms));
            // Over is over: the loop looks for itself.
            let _ = tokio::time::timeout(left.min(TICK), changes.changed()).await;
        }
    }

    /// etcd is not heard: nothing is decided, but clients that wait for an operation are let go in time, to the writer of
    /// before. Returns when to look again at the latest.
    pub(super) async fn let_go_in_time(&mut self, now_ms: u64) -> Result<Duration> {
        let Some(until_ms) = self.held_until_ms else { return Ok(TICK) };
        if now_ms < until_ms {
            return Ok(TICK.min(Duration::from_millis(until_ms - now_ms)));
        }
        self.admin.resume().await?;
        self.seen.show(None, false);
        (self.applied, self.held_at, self.held_until_ms, self.reported) = (None, None, None, None);
        tracing::warn!(
            pooler = self.pooler.name,
            "clients have waited for as long as they may, and etcd is not heard: they are let go"
        );
        self.keep_held(false).await?;
        Ok(TICK)
    }
}
