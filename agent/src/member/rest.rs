//! What is left of a PostgreSQL that hung and was ended here (rule 9): seen by the cgroup and `/proc` alone, because its disk
//! may not answer. Its port stays closed for as long as the kernel holds a process of it.

use std::time::Duration;

use holdfast_agent_core::attest::ControlState;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::{AfterStop, Postgres, term_in_force};
use holdfast_host::{clock, process};

use super::Member;
use crate::act;
use crate::observe::{control_data, processes};

/// A disk that has not let the control file be read by then is not waited for.
const CONTROL_DEADLINE: Duration = Duration::from_millis(300);

impl Member {
    /// Looks at what is left, if a PostgreSQL that hung is being ended or was. Returns whether that is all there is to see:
    /// the rest of a look would wait for the disk.
    pub(super) async fn look_at_rest(&self, cluster: &Cluster) -> bool {
        if !self.state().remembered.ends_hung {
            return false;
        }
        let Ok(all) = processes::postgres(&self.instance.cgroup) else { return false };
        let (held, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .map(|(pid, _)| pid)
            .partition(|pid| process::is_held_by_kernel(*pid).unwrap_or(false));
        let (killed, gate_shut) = {
            let mut state = self.state();
            state.stuck.clone_from(&held);
            (state.killed, state.remembered.attesting)
        };
        if held.is_empty() && !gate_shut {
            // The stop has been used or taken back: whatever runs here has come through the gate since.
            if self.remember(|remembered| remembered.ends_hung = false).await {
                self.fence_wake.notify_one();
            }
            return false;
        }
        if !others.is_empty() && !killed {
            // Not ended yet, or by an earlier start of the agent: looked at like any other.
            return false;
        }
        let closed = held.is_empty() || act::fence::is_closed(self).await;
        {
            let mut state = self.state();
            if matches!(state.postgres, Some(Postgres::Running { .. })) {
                state.gone_wall_ms = Some(clock::wall_ms());
            }
            (state.postgres, state.streaming, state.stream_lost_ms) =
                (Some(Postgres::Gone), Some(false), None);
            state.postmaster = None;
        }
        let considered = self.considered(cluster.clone());
        let ours =
            term_in_force(&considered).filter(|term| term.value.open_holder() == Some(&self.instance.member));
        let after_stop = match ours.map(|term| term.value.term) {
            Some(term) if gate_shut => {
                let control = self.control_of_rest(!held.is_empty()).await;
                let answering = self.answering_after_stop(&considered, term, &control).await;
                Some(AfterStop { processes_gone: killed && others.is_empty() && closed, control, answering })
            }
            _ => None,
        };
        self.state().after_stop = after_stop;
        true
    }

    /// What the control file says, if the disk lets it be read: a process that the kernel holds says that it does not.
    async fn control_of_rest(&self, is_held: bool) -> ControlState {
        if is_held {
            return ControlState::NotRead;
        }
        let read = control_data::state(&self.instance.bin_dir, &self.instance.data_dir);
        match tokio::time::timeout(CONTROL_DEADLINE, read).await {
            Ok(Ok(control)) => control,
            Ok(Err(error)) => ControlState::Other(error.to_string()),
            Err(_) => ControlState::NotRead,
        }
    }
}
