//! Liveness: from wherever the writer's host dies, a promotion can still be reached.
//!
//! stateright's `eventually` is about every way; a model in which anything may be delayed for ever has ways on which
//! nothing happens. What is asked here is weaker and enough: no state is a trap. All states are generated, and those
//! from which the goal can be reached are found backwards.

use std::collections::HashMap;

use super::action::Action;
use super::node::NodeSet;
use super::state::State;
use super::world::{Bounds, World};

/// What the search came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Stuck {
    /// All states.
    pub states: usize,
    /// States in which the writer's host is dead and a promotion is due.
    pub due: usize,
    /// How many of those are traps.
    pub stuck: usize,
    /// A way to the first trap.
    pub steps: Vec<String>,
    /// There were more states than the limit.
    pub incomplete: bool,
}

/// Looks for traps.
pub fn search(world: &World, states_max: usize) -> Stuck {
    let graph = Graph::of(world, states_max);
    let reaches = graph.reaching(reigns);
    let is_due = |at: &usize| promotion_is_due(&graph.states[*at], &world.bounds);
    let due: Vec<usize> = (0..graph.states.len()).filter(is_due).collect();
    let trapped: Vec<usize> = due.iter().copied().filter(|at| !reaches[*at]).collect();
    Stuck {
        states: graph.states.len(),
        due: due.len(),
        stuck: trapped.len(),
        steps: trapped.first().map(|at| graph.way_to(*at)).unwrap_or_default(),
        incomplete: graph.incomplete,
    }
}

/// Somebody accepts writes in the open term.
fn reigns(state: &State) -> bool {
    state.open && state.writes(state.holder) && state.host(state.holder).term == state.term
}

/// The writer's host is dead, all others live, and Patroni had not emptied `/sync` before: without members nothing can be
/// proved, and nothing is promoted.
fn promotion_is_due(state: &State, bounds: &Bounds) -> bool {
    let others = NodeSet::first(bounds.nodes).without(state.holder);
    let others_live = others.iter().all(|node| state.host(node).up);
    let named = state.in_force.iter().all(|one| !one.members.is_empty());
    state.term < bounds.terms && !state.host(state.holder).up && others_live && named
}

struct Graph {
    states: Vec<State>,
    /// The step that led to each state first.
    parents: Vec<Option<(u32, Action)>>,
    /// Every state that leads to each state.
    sources: Vec<Vec<u32>>,
    incomplete: bool,
}

impl Graph {
    fn of(world: &World, states_max: usize) -> Self {
        let mut graph =
            Self { states: Vec::new(), parents: Vec::new(), sources: Vec::new(), incomplete: false };
        let mut known: HashMap<State, u32> = HashMap::new();
        for state in &world.initial {
            graph.add(&mut known, *state, None);
        }
        let mut at = 0;
        while at < graph.states.len() {
            let state = graph.states[at];
            // What comes after the next promotion is another search's.
            let is_over = state.term > graph.states[0].term && reigns(&state);
            let offered = if is_over { Vec::new() } else { world.offered(&state) };
            for action in offered {
                let Some(next) = world.step(&state, action) else { continue };
                let to = match known.get(&next) {
                    Some(to) => *to,
                    None => graph.add(&mut known, next, Some((at as u32, action))),
                };
                graph.sources[to as usize].push(at as u32);
            }
            at += 1;
            if graph.states.len() > states_max {
                graph.incomplete = true;
                break;
            }
        }
        graph
    }

    fn add(&mut self, known: &mut HashMap<State, u32>, state: State, parent: Option<(u32, Action)>) -> u32 {
        let at = self.states.len() as u32;
        known.insert(state, at);
        self.states.push(state);
        self.parents.push(parent);
        self.sources.push(Vec::new());
        at
    }

    fn reaching(&self, goal: impl Fn(&State) -> bool) -> Vec<bool> {
        let mut reaches: Vec<bool> = self.states.iter().map(goal).collect();
        let mut open: Vec<usize> = (0..reaches.len()).filter(|at| reaches[*at]).collect();
        while let Some(at) = open.pop() {
            for source in &self.sources[at] {
                let source = *source as usize;
                if !std::mem::replace(&mut reaches[source], true) {
                    open.push(source);
                }
            }
        }
        reaches
    }

    fn way_to(&self, mut at: usize) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some((from, action)) = self.parents[at] {
            steps.push(format!("{action:?}"));
            at = from as usize;
        }
        steps.reverse();
        steps
    }
}
