//! Looks at one PgBouncer once a second: one question to its console over a connection that stays, and now and then whether the
//! writer takes a connection from here. One that hangs is ended if its process stands still too, and its unit starts it again;
//! what is decided is in `holdfast-agent-core`'s `pooler`.

use std::sync::Arc;
use std::time::Duration;

use holdfast_agent_core::pooler::{self, Care, Process};
use holdfast_host::clock;
use holdfast_types::Mode;
use holdfast_types::keys::ClusterKeys;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};

use super::console::{Console, Unanswered};
use super::seen::{Said, Seen};
use crate::world::World;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Clients that have waited for so long may wait for more than a busy pool.
const WAITED_MS: u64 = 1_000;
/// Between two connections to a writer that takes them, if nobody waits: a pooler without clients is to know it too, and each
/// costs the writer a process.
const REACH_EVERY: Duration = Duration::from_secs(10);
/// A writer that takes a connection does so at once.
const REACH_DEADLINE: Duration = Duration::from_millis(500);

/// The task of one PgBouncer.
pub struct Look {
    console: Console,
    seen: Arc<Seen>,
    world: Arc<World>,
    keys: ClusterKeys,
    /// Its process as it was when it began to stand still.
    still: Option<Process>,
    reached: Option<Instant>,
    ended_ms: Option<u64>,
    called: bool,
}

impl Look {
    /// Prepares the task.
    pub fn new(seen: Arc<Seen>, world: Arc<World>) -> Self {
        Self {
            console: Console::new(&seen.pooler),
            keys: ClusterKeys::new(&seen.pooler.cluster),
            seen,
            world,
            still: None,
            reached: None,
            ended_ms: None,
            called: false,
        }
    }

    /// Runs until the runtime ends.
    pub async fn run(mut self) {
        let mut turn = tokio::time::interval(EVERY);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            let said = self.ask(clock::boottime_ms()).await;
            self.reach().await;
            self.care(&said);
        }
    }

    async fn ask(&mut self, asked_ms: u64) -> pooler::Console {
        let before = self.console.pid();
        let answer = self.console.clients().await;
        if answer.is_ok() && before.is_some() && before != self.console.pid() {
            self.seen.anew.notify_one();
        }
        let said = match answer {
            Ok(clients) => Said::Answers(clients),
            Err(Unanswered::Hangs) => Said::Hangs { since_ms: asked_ms },
            Err(Unanswered::Dead(why)) => Said::Dead { since_ms: asked_ms, why },
        };
        let (before, said) = self.seen.hear(said, asked_ms);
        let was_silent = matches!(before, Said::Hangs { .. } | Said::Dead { .. });
        if was_silent && matches!(said, Said::Answers(_)) {
            tracing::info!(pooler = self.seen.pooler.name, "PgBouncer answers again");
            self.called = false;
        }
        said.console(clock::boottime_ms())
    }

    async fn reach(&mut self) {
        let Some(writer) = self.seen.writer() else {
            self.reached = None;
            return self.seen.reach(true, clock::boottime_ms());
        };
        let is_due = self.reached.is_none_or(|at| at.elapsed() >= REACH_EVERY);
        if is_due || self.seen.is_unreached() || self.seen.wait_for(WAITED_MS) {
            let connecting = TcpStream::connect(writer);
            let reached = matches!(tokio::time::timeout(REACH_DEADLINE, connecting).await, Ok(Ok(_)));
            self.reached = Some(Instant::now());
            self.seen.reach(reached, clock::boottime_ms());
        }
    }

    /// For how long the process has stood still, in milliseconds; looked at only while its console is silent.
    fn still_ms(&mut self, said: &pooler::Console, now_ms: u64) -> Option<u64> {
        if !matches!(said, pooler::Console::Hangs { .. }) {
            self.still = None;
            return None;
        }
        let now = self.console.process(now_ms);
        if let (Some(before), Some(now)) = (&self.still, &now)
            && pooler::stood_still(before, now)
        {
            return Some(now.at_ms.saturating_sub(before.at_ms));
        }
        self.still = now;
        None
    }

    fn care(&mut self, said: &pooler::Console) {
        let now_ms = clock::boottime_ms();
        let still_ms = self.still_ms(said, now_ms);
        let ended_ms = self.ended_ms.map(|at_ms| now_ms.saturating_sub(at_ms));
        let may_act = self.may_act();
        let name = &self.seen.pooler.name;
        match pooler::care(said, still_ms, ended_ms, may_act) {
            Care::Nothing => {}
            Care::End => {
                self.ended_ms = Some(now_ms);
                let process = &self.still;
                match self.console.end() {
                    Ok(pid) => tracing::warn!(
                        pooler = name,
                        pid,
                        ?process,
                        "PgBouncer hangs: its console does not answer and its process stands still; it is ended, and its unit starts it again"
                    ),
                    Err(error) => {
                        tracing::warn!(pooler = name, "PgBouncer hangs and is not ended: {error:#}");
                    }
                }
            }
            Care::Call if !self.called => {
                self.called = true;
                tracing::error!(
                    pooler = name,
                    ?said,
                    still_ms,
                    may_act,
                    "PgBouncer does not answer its agent, and that does not end by itself: its clients may wait, and are not sent to the next writer; next: systemctl status pgbouncer, systemctl restart pgbouncer"
                );
            }
            Care::Call => {}
        }
    }

    /// By what was heard last: without etcd too.
    fn may_act(&self) -> bool {
        let (cluster, _) = self.world.watched(&self.keys);
        let armed = cluster.known_mode() == Some(Mode::Armed);
        armed && !self.seen.is_disarmed_here() && cluster.suspended(clock::wall_ms()) == Some(false)
    }
}
