//! The next step of a running operation, and how it changes the journal.

use holdfast_types::HostName;
use holdfast_types::record::{
    OperationEnd, OperationPhase, OperationRecord, OperationState, OperationStep, Wanted,
};

use crate::observation::Observation;
use crate::switchover;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// The next phase.
    Go(OperationPhase),
    /// It goes no further: the poolers let their clients go, then it ends.
    GiveUp(String),
    /// It is over.
    End {
        /// How.
        state: OperationState,
        /// What is true now.
        text: String,
        /// The next safe command, where something is left to do.
        next: Option<String>,
    },
}

impl Step {
    pub(crate) fn end(state: OperationState, text: impl Into<String>) -> Self {
        Self::End { state, text: text.into(), next: None }
    }

    pub(crate) fn end_with(state: OperationState, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self::End { state, text: text.into(), next: Some(next.into()) }
    }
}

/// Decides the next step. `phase_ms`: for how long this coordinator has seen the operation in its phase; after a change of
/// the coordinator that count begins anew, so a phase takes twice its time at most for each of them.
pub fn step(record: &OperationRecord, seen: &Observation, phase_ms: u64) -> Step {
    match &record.wanted {
        Wanted::Switchover(wanted) => switchover::step(record, wanted, seen, phase_ms),
        // It is carried out when it is taken; a record of one that runs is nobody's work.
        Wanted::Cancel { .. } => Step::end(OperationState::Unchanged, "a request to cancel does not run"),
    }
}

/// The record that is to be stored for a step; `None`: nothing.
pub fn after(
    record: &OperationRecord,
    step: Step,
    coordinator: &HostName,
    now_wall_ms: i64,
) -> Option<OperationRecord> {
    let mut after = OperationRecord { coordinator: coordinator.clone(), ..record.clone() };
    let enter = |after: &mut OperationRecord, phase| {
        after.phase = phase;
        after.steps.push(OperationStep { phase, at_wall_ms: now_wall_ms });
    };
    match step {
        Step::Wait => return None,
        Step::Go(phase) => enter(&mut after, phase),
        Step::GiveUp(why) => {
            after.given_up = Some(why);
            enter(&mut after, OperationPhase::Release);
        }
        Step::End { state, text, next } => {
            after.ended = Some(OperationEnd { state, text, next, at_wall_ms: now_wall_ms });
        }
    }
    Some(after)
}
