//! What this host keeps on disk of an instance: what the gates need without the agent, the last reign, and where we are in
//! leaving a writer. What contradicts it in etcd is told here too (rule 25). Decides nothing.

use std::path::Path;

use anyhow::Context as _;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::Phase;
use holdfast_agent_core::grant;
use holdfast_agent_core::member::Postgres;
use holdfast_agent_core::mutant::{Mutant, left_out};
use holdfast_agent_core::rollback::{self, KnownMode};
use holdfast_host::{clock, durable};
use holdfast_types::Mode;
use holdfast_types::record::Stored;
use holdfast_types::record::local_disarm::PROMISE_FILE as PHASE_FILE;

use super::Member;
use crate::act;
use crate::gate::remembered::{self, Remembered};

impl Member {
    /// Keeps on disk what the gates need without us: the mode, and whether we are fenced.
    pub(super) async fn follow_records(&self, cluster: &Cluster) {
        let Some(mode) = cluster.known_mode() else { return };
        if mode != Mode::Observe {
            self.state().observer.forget();
        }
        let was_armed = self.state().remembered.mode == Mode::Armed;
        if was_armed && mode != Mode::Armed {
            // Patroni alone from now on: a standby that could follow only the last writer would be in its way.
            if let Err(error) = self.firewall.remove().await {
                tracing::error!(cluster = %self.instance.cluster, %error, "replication is still restricted after disarming; nft delete table");
                return;
            }
            self.state().network_generation = None;
            tracing::info!(cluster = %self.instance.cluster, %mode, "no longer armed: the packet filter is free");
        }
        let fenced = act::why_kept_out(cluster, &self.instance.member);
        let uptime_ms = clock::boottime_ms().saturating_sub(self.started_ms);
        let own_ms = self.config.timings.grant_ms();
        let grant_ms = grant::longest_ms(self.state().remembered.grant_ms, own_ms, uptime_ms);
        let newly = mode == Mode::Armed && fenced.is_some() && self.state().remembered.fenced.is_none();
        let kept = self.remember(|remembered| {
            remembered.mode = mode;
            remembered.mode_at_wall_ms = cluster.mode.as_ref().map_or(0, |found| found.value.at_wall_ms);
            remembered.grant_ms = grant_ms;
            remembered.fenced = fenced;
        });
        if kept.await && newly && self.state().postgres == Some(Postgres::Gone) {
            act::fenced::kept_out(self, cluster);
        }
    }

    /// Rule 25: what etcd has forgotten.
    pub fn contradiction(&self, cluster: &Cluster) -> Option<String> {
        let state = self.state();
        let Remembered { mode, mode_at_wall_ms, reign, .. } = &state.remembered;
        let mode = KnownMode { mode: *mode, at_wall_ms: *mode_at_wall_ms };
        rollback::contradiction(mode, reign.as_ref(), cluster).map(|why| why.to_string())
    }

    pub(super) fn say_contradiction(&self, why: &str) {
        let mut state = self.state();
        state.waits = vec![why.to_owned()];
        if state.contradiction.as_deref() != Some(why) {
            tracing::error!(cluster = %self.instance.cluster, "nothing automatic happens: {why}");
            state.contradiction = Some(why.to_owned());
        }
    }

    /// Changes what is on disk for the gates; returns whether it is there now.
    pub async fn remember(&self, change: impl FnOnce(&mut Remembered)) -> bool {
        let mut wanted = self.state().remembered.clone();
        change(&mut wanted);
        if wanted == self.state().remembered {
            return true;
        }
        let file = Remembered::file(&self.config.state_dir, &self.instance.cluster);
        match self.disk.keep(file, Some(wanted.encode())).await {
            Ok(()) => {
                let mut state = self.state();
                (state.remembered, state.disk_problem) = (wanted, None);
                true
            }
            Err(error) => {
                let problem = error.to_string();
                let said = self.state().disk_problem.replace(problem.clone());
                if said.as_ref() != Some(&problem) {
                    tracing::error!(%error, path = %self.config.state_dir.display(), "what the gates need cannot be kept; free space or repair the disk");
                }
                false
            }
        }
    }

    /// For `status`, while the state directory takes nothing: whatever must be durable before it is done is not done.
    pub(super) fn why_nothing_is_kept(&self) -> Option<String> {
        let problem = self.state().disk_problem.clone()?;
        let folder = self.config.state_dir.display();
        Some(format!(
            "{folder} does not take what must be kept ({problem}): nothing is promised, attested or ended here until it does; \
             free space or repair the disk"
        ))
    }

    /// Persists where we are in leaving a writer, before the step that it names (promise I9).
    pub async fn set_phase(&self, phase: Option<Phase>) -> std::io::Result<()> {
        let file = remembered::folder(&self.config.state_dir, &self.instance.cluster).join(PHASE_FILE);
        let bytes = phase.as_ref().map(|phase| Stored::new(phase.clone()).encode());
        if !left_out(Mutant::PromiseNotKept) {
            self.disk.keep(file, bytes).await?;
        }
        self.state().phase = phase;
        Ok(())
    }
}

/// Reads where an earlier start of the agent was in leaving a writer; `folder` is the cluster's.
pub(super) fn load_phase(folder: &Path) -> anyhow::Result<Option<Phase>> {
    let file = folder.join(PHASE_FILE);
    let at = || format!("{} (a promise that binds this node)", file.display());
    let Some(bytes) = durable::read_optional(&file).with_context(at)? else { return Ok(None) };
    let stored = Stored::<Phase>::decode(&file.display().to_string(), &bytes).with_context(at)?;
    Ok(Some(stored.body))
}
