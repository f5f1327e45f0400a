//! The next step of a running operation, and how it changes the journal.

use holdfast_types::HostName;
use holdfast_types::record::{
    OperationEnd, OperationPhase, OperationRecord, OperationState, OperationStep, Rolling, Wanted,
};

use crate::observation::Observation;
use crate::{drain, restart, switchover};

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// The next phase.
    Go(OperationPhase),
    /// The turn of the next member begins.
    Turn {
        /// With this phase.
        phase: OperationPhase,
        /// Whose turn it is, and who comes after it.
        rolling: Box<Rolling>,
        /// How it hands over, if it is the writer.
        hand_over: Option<Box<switchover::Plan>>,
    },
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
        Wanted::Drain(wanted) => drain::step(record, wanted, seen, phase_ms),
        Wanted::Restart(wanted) => restart::step(record, wanted, seen, phase_ms),
        // It is carried out when it is taken; a record of one that runs is nobody's work.
        Wanted::Cancel { .. } | Wanted::Undrain { .. } => {
            Step::end(OperationState::Unchanged, "a request of this kind does not run")
        }
    }
}

/// Whether the next step needs to know what agents say when they are asked.
pub fn asks(record: &OperationRecord, seen: &Observation) -> bool {
    matches!(record.wanted, Wanted::Restart(_)) && restart::asks(record, seen)
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
        Step::Turn { phase, rolling, hand_over } => {
            after.rolling = Some(*rolling);
            if let Some(plan) = hand_over {
                plan.fill(&mut after);
            }
            enter(&mut after, phase);
        }
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
