//! `agent/src/member/kept.rs`: what the host keeps on disk for the agent's next start, and for the gates.

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::detach::Phase;

use super::{Agent, Done};
use crate::simulator::executor::ms;
use crate::simulator::fault::Moment;
use crate::simulator::world::{Remembered, StateDir};

impl Agent {
    /// A durable write into the state directory.
    pub(super) async fn keep(
        &self,
        what: &dyn std::fmt::Display,
        change: impl FnOnce(&mut StateDir),
    ) -> Done {
        self.step(&format_args!("keeps on disk: {what}")).await;
        self.world.pause(200, ms(8)).await;
        if self.here().disk_full.get() {
            return Err("no space left on the state directory".into());
        }
        change(&mut self.here().state_dir.borrow_mut());
        Ok(())
    }

    /// Keeps on disk what the gates need without us. A run is armed to its end.
    pub(super) async fn follow_records(&self, cluster: &Cluster) {
        let Some(mode) = cluster.known_mode() else { return };
        let fenced = cluster.fenced(&self.here().member).then(|| "by a record".to_owned());
        self.remember(|remembered| {
            remembered.mode = mode;
            remembered.fenced = fenced;
        })
        .await;
    }

    /// Changes what is on disk for the gates; returns whether it is there now.
    pub(super) async fn remember(&self, change: impl FnOnce(&mut Remembered)) -> bool {
        let mut wanted = self.state.borrow().remembered.clone();
        change(&mut wanted);
        if wanted == self.state.borrow().remembered {
            return true;
        }
        let text = format!("mode {}, attesting {}", wanted.mode, wanted.attesting);
        let kept = wanted.clone();
        if self.keep(&text, |dir| dir.remembered = kept).await.is_err() {
            return false;
        }
        self.state.borrow_mut().remembered = wanted;
        true
    }

    /// Persists where we are in leaving a writer, before the step that it names.
    pub(super) async fn set_phase(&self, phase: Option<Phase>) -> Done {
        let text = match &phase {
            Some(Phase::Intended { term, writer, .. }) => format!("leaves {writer} of term {term}"),
            Some(Phase::Positioned { promise }) => format!("position {}", promise.position),
            Some(Phase::Promised { promise }) => format!("promised {}", promise.position),
            None => "bound by nothing".to_owned(),
        };
        let kept = phase.clone();
        self.keep(&text, |dir| dir.phase = kept).await?;
        let positioned = matches!(phase, Some(Phase::Positioned { .. }));
        self.state.borrow_mut().phase = phase;
        if positioned {
            self.world.moment(Moment::Kept);
        }
        Ok(())
    }
}
