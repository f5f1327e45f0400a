//! Breadth-first searches with stateright, and the shortening of what they find.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use super::action::Action;
use super::state::State;
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
    /// Which of the things that must be reachable were.
    pub reached: Vec<&'static str>,
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

/// Examples of what must be reachable begin so: a model in which nothing happens breaks no promise either.
pub const REACHED: &str = "reached: ";

/// What a model's search found, and the steps to a broken promise.
pub type Failure<A> = Option<(&'static str, Vec<A>)>;

/// Searches a model until a promise is broken or a limit is reached.
pub fn search<M>(model: M, limits: Limits) -> (Found, Failure<M::Action>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Send + Sync + Debug + Hash + PartialEq + 'static,
    M::Action: Clone + Send + Sync + Debug + PartialEq + 'static,
{
    let started = Instant::now();
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
    let (reached, broken): (Vec<_>, Vec<_>) =
        checker.discoveries().into_iter().partition(|(property, _)| property.starts_with(REACHED));
    let failure = broken.into_iter().next().map(|(property, path)| (property, path.into_actions()));
    let stopped = checker.state_count() >= limits.states
        || checker.max_depth() >= limits.depth
        || elapsed >= limits.time
        || failure.is_some();
    let found = Found {
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        complete: !stopped,
        milliseconds: elapsed.as_millis(),
        reached: reached.into_iter().map(|(property, _)| property).collect(),
        violation: None,
    };
    (found, failure)
}

/// Searches the protocol; a violation comes with its shortened steps.
pub fn search_protocol(world: World, limits: Limits) -> Found {
    let again = World::new(world.bounds, world.mutant);
    let (mut found, failure) = search(world, limits);
    found.violation =
        failure.map(|(property, actions)| Violation { property, steps: shown(&shortened(&again, &actions)) });
    found
}

/// Steps as they are printed.
pub fn shown<A: Debug>(steps: &[A]) -> Vec<String> {
    steps.iter().map(|step| format!("{step:?}")).collect()
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
    let mut state = world.initial[0];
    for (at, action) in actions.iter().enumerate() {
        state = world.offered(&state).contains(action).then(|| world.step(&state, *action)).flatten()?;
        if world.broken(&state).is_some() {
            return Some(at + 1);
        }
    }
    None
}

/// How a script ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// A promise was broken at this step, counted from 1.
    Broken(usize, &'static str),
    /// The rules refuse this step, counted from 1.
    Refused(usize),
    /// Every step was taken and every promise kept.
    Kept,
}

/// Takes the steps of a script, one after the other.
pub fn replay(world: &World, actions: &[Action]) -> Replayed {
    replay_to(world, actions).1
}

/// The same, and the last state that was reached.
pub fn replay_to(world: &World, actions: &[Action]) -> (State, Replayed) {
    let mut state = world.initial[0];
    for (at, action) in actions.iter().enumerate() {
        if world.mutant.is_none() && action.is_a_mutants() {
            continue;
        }
        let offered = world.offered(&state).contains(action);
        match world.step(&state, *action).filter(|_| offered) {
            Some(next) => state = next,
            None => return (state, Replayed::Refused(at + 1)),
        }
        if let Some(property) = world.broken(&state) {
            return (state, Replayed::Broken(at + 1, property));
        }
    }
    (state, Replayed::Kept)
}
