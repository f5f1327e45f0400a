//! The model itself: a state, what may happen in it, and what must never be seen.
//!
//! `postgres`, `patroni` and `agents` each say what their part of the world may do; nothing here decides for them.

use stateright::{Model, Property};

use super::action::Action;
use super::mutant::Mutant;
use super::product::Product;
use super::search::REACHED;
use super::state::State;

/// How much may happen: what a search is complete for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Counts of the things that they name.
pub struct Bounds {
    pub nodes: usize,
    pub writes: u8,
    pub terms: u8,
    pub crashes: u8,
    pub sessions: u8,
    pub disconnects: u8,
    pub replacements: u8,
    /// Expiries and takings of Patroni's lock.
    pub locks: u8,
    /// Writes of `/sync` that land after their author gave them up.
    pub late_writes: u8,
    /// Hosts that died stay dead.
    pub dead_stay_dead: bool,
    /// Without assumption G: nothing stops a deposed writer.
    pub deposed_run: bool,
}

impl Bounds {
    /// Three members, and enough for any scripted trace.
    pub const WIDE: Self = Self {
        nodes: 3,
        writes: 4,
        terms: 4,
        crashes: 4,
        sessions: 4,
        disconnects: 4,
        replacements: 2,
        locks: 9,
        late_writes: 1,
        dead_stay_dead: false,
        deposed_run: false,
    };
    /// Three members, and nothing that cannot be prevented: searches add what they are about.
    pub const QUIET: Self = Self {
        nodes: 3,
        writes: 1,
        terms: 2,
        crashes: 0,
        sessions: 0,
        disconnects: 0,
        replacements: 0,
        locks: 0,
        late_writes: 0,
        dead_stay_dead: false,
        deposed_run: false,
    };
}

/// The protocol within some bounds, with all rules or all but one.
pub struct World {
    /// How much may happen.
    pub bounds: Bounds,
    /// The rule that is left out.
    pub mutant: Option<Mutant>,
    /// From here.
    pub initial: Vec<State>,
    pub(super) product: Product,
}

/// I1: what the protocol is for.
pub const NOTHING_LOST: &str = "I1: every later writer has every acknowledged write";
/// I2, as it is promised.
pub const NOTHING_LATE: &str = "I2: no earlier writer acknowledges what the open reign lacks";
/// A promotion can be reached at all.
pub const SECOND_REIGN: &str = "reached: a second reign writes";
/// I2, for writes that are yet to come.
pub const ONE_WRITER: &str = "I2: never could two members acknowledge a new write";

impl World {
    /// A healthy cluster within these bounds.
    pub fn new(bounds: Bounds, mutant: Option<Mutant>) -> Self {
        let initial = vec![State::healthy(bounds.nodes)];
        Self { bounds, mutant, initial, product: Product::new(mutant) }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Everything that might happen; `step` has the last word.
    pub fn offered(&self, state: &State) -> Vec<Action> {
        let mut offered = Vec::with_capacity(64);
        self.offer_postgres(state, &mut offered);
        self.offer_patroni(state, &mut offered);
        self.offer_agents(state, &mut offered);
        offered
    }

    /// What an action leads to; `None` when it cannot happen or changes nothing.
    pub fn step(&self, before: &State, action: Action) -> Option<State> {
        let mut state = *before;
        match action {
            Action::Write(_)
            | Action::Flush(_)
            | Action::Attach(_)
            | Action::Disconnect(_)
            | Action::HostDies(_)
            | Action::HostBoots(_)
            | Action::PostgresDies(_)
            | Action::StartAsPrimary(_)
            | Action::StartAsStandby(_)
            | Action::Replayed(_)
            | Action::Reinitialise(_) => self.step_postgres(&mut state, action)?,
            Action::Look(_)
            | Action::LockExpires
            | Action::TakeLock(_)
            | Action::SetNames(..)
            | Action::WriteSync(..)
            | Action::SendSync(..)
            | Action::SyncLands
            | Action::CallHook(_)
            | Action::Promote(_) => self.step_patroni(&mut state, action)?,
            _ => self.step_agents(&mut state, action)?,
        }
        state.acknowledge();
        (state != *before).then_some(state)
    }

    /// The first promise that a state breaks.
    pub fn broken(&self, state: &State) -> Option<&'static str> {
        let promises = self.properties().into_iter().filter(|one| !one.name.starts_with(REACHED));
        promises.into_iter().find(|one| !(one.condition)(self, state)).map(|one| one.name)
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.initial.clone()
    }
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.offered(state));
    }
    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.step(state, action)
    }
    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOTHING_LOST, |_, state: &State| !state.lost_at_open),
            Property::always(NOTHING_LATE, |_, state: &State| !state.acknowledged_by_deposed),
            Property::always(ONE_WRITER, |_, state: &State| {
                state.nodes().filter(|node| state.can_acknowledge(*node)).count() < 2
            }),
            Property::sometimes(SECOND_REIGN, |_, state: &State| {
                state.term > 1 && state.writes(state.holder) && state.host(state.holder).term == state.term
            }),
        ]
    }
}
