//! Breadth-first searches with stateright, and the shortening of what they find.

use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model};

use super::action::Action;
use super::world::World;

/// When a search stops at the latest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// States that were generated, repeated ones too.
    pub states: usize,
    /// Steps from the beginning.
    pub depth: usize,
    /// Wall clock.
    pub time: Duration,
}

/// What a search came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Found {
    /// Different states.
    pub unique: usize,
    /// Longest way from the beginning.
    pub depth: usize,
    /// Every state within the bounds was seen.
    pub complete: bool,
    /// How long it took.
    pub milliseconds: u128,
    /// The broken promise, and the way to it.
    pub violation: Option<Violation>,
}

/// A way to a broken promise.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Violation {
    /// The promise.
    pub property: &'static str,
    /// Its steps, shortened.
    pub steps: Vec<String>,
}

/// Searches a model with `always` properties.
pub fn search<M>(model: M, limits: Limits) -> (Found, Option<(&'static str, Vec<M::Action>)>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Send + Sync + std::fmt::Debug + std::hash::Hash + PartialEq + 'static,
    M::Action: Clone + std::fmt::Debug + Send + Sync + PartialEq + 'static,
{
    let started = std::time::Instant::now();
    let checker = model
        .checker()
        .threads(1)
        .target_state_count(limits.states)
        .target_max_depth(limits.depth)
        .timeout(limits.time)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let elapsed = started.elapsed();
    let failure = checker
        .discoveries()
        .into_iter()
        .next()
        .map(|(property, path)| (property, path.into_actions()));
    let stopped = checker.state_count() >= limits.states
        || checker.max_depth() >= limits.depth
        || elapsed >= limits.time
        || failure.is_some();
    let found = Found {
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        complete: !stopped,
        milliseconds: elapsed.as_millis(),
        violation: None,
    };
    (found, failure)
}

/// Searches the protocol; a violation comes with its shortened steps.
pub fn search_protocol(world: World, limits: Limits) -> Found {
    let again = World::new(world.bounds, world.mutant);
    let (mut found, failure) = search(world, limits);
    found.violation = failure.map(|(property, actions)| {
        let steps = shortened(&again, &actions);
        Violation { property, steps: steps.iter().map(|step| format!("{step:?}")).collect() }
    });
    found
}

/// Leaves out every step without which the promise is broken all the same.
pub fn shortened(world: &World, actions: &[Action]) -> Vec<Action> {
    let mut kept = actions.to_vec();
    let mut at = kept.len();
    while at > 0 {
        at -= 1;
        let mut shorter = kept.clone();
        shorter.remove(at);
        if let Some(end) = breaks_after(world, &shorter) {
            shorter.truncate(end);
            at = at.min(end);
            kept = shorter;
        }
    }
    kept
}

/// After how many steps a promise is broken; `None` when none is, or a step cannot be taken.
fn breaks_after(world: &World, actions: &[Action]) -> Option<usize> {
    let mut state = *world.initial.first()?;
    for (at, action) in actions.iter().enumerate() {
        state = world.offered(&state).contains(action).then(|| world.step(&state, *action)).flatten()?;
        if world.broken(&state).is_some() {
            return Some(at + 1);
        }
    }
    None
}
