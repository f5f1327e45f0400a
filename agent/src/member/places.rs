//! What PostgreSQL's directories lie on, on a thread of its own that nobody waits for: a look writes now and then, and a disk that
//! hangs keeps it. Decides nothing: that is `holdfast-agent-core`'s `places`.

use holdfast_agent_core::member::Postgres;
use holdfast_host::clock;
use holdfast_types::{ClusterId, Mode};
use tokio::task::JoinHandle;

use super::Member;
use crate::act;

/// Mounts change seldom, and a look costs some twenty calls of the kernel.
const INTERVAL_MS: u64 = 10_000;

/// The look that is under way, and when the last one was begun.
#[derive(Default)]
pub struct Placing {
    looking: Option<JoinHandle<Vec<String>>>,
    begun_ms: Option<u64>,
}

impl Member {
    /// Takes what a look has found, and begins the next one when it is time. One that hangs is left behind, and no second is
    /// begun beside it.
    pub(super) async fn look_at_places(&self, placing: &mut Placing) {
        if let Some(done) = placing.looking.take_if(|looking| looking.is_finished())
            && let Ok(misplaced) = done.await
        {
            let mut state = self.state();
            if misplaced != state.misplaced {
                tell(&self.instance.cluster, &misplaced);
                state.misplaced = misplaced;
            }
        }
        let now_ms = clock::boottime_ms();
        let is_due = placing.begun_ms.is_none_or(|begun_ms| now_ms.saturating_sub(begun_ms) >= INTERVAL_MS);
        if placing.looking.is_some() || !is_due {
            return;
        }
        let runs = {
            let state = self.state();
            let is_up = matches!(state.postgres, Some(Postgres::Running { in_recovery: Some(_) }));
            is_up && state.remembered.mode == Mode::Armed
        };
        let (data_dir, state_dir) = (self.instance.data_dir.clone(), self.config.state_dir.clone());
        let cluster = self.instance.cluster.clone();
        placing.begun_ms = Some(now_ms);
        placing.looking = Some(tokio::task::spawn_blocking(move || {
            act::places::look(&data_dir, &state_dir, &cluster, runs)
        }));
    }
}

fn tell(cluster: &ClusterId, misplaced: &[String]) {
    if misplaced.is_empty() {
        tracing::info!(%cluster, "PostgreSQL's directories lie where they belong");
    }
    for why in misplaced {
        tracing::error!(%cluster, "a start of PostgreSQL would be refused: {why}; if it is meant: holdfast disk adopt --reason WHY");
    }
}
