//! The whole check: the right protocol searched, and every mutant hunted.

use serde::Serialize;

use super::action::Action;
use super::hunt::{self, DEATH, Hunt};
use super::lease::Lease;
use super::mutant::Mutant;
use super::scripts;
use super::search::{self, Found, Limits, Replayed};
use super::stuck::{self, Stuck};
use super::world::{Bounds, SECOND_REIGN, World};

/// One search of the right protocol.
#[derive(Clone, Debug, Serialize)]
pub struct Right {
    /// What is looked at.
    pub what: &'static str,
    /// Different states.
    pub states: usize,
    /// Longest way from the beginning; absent for a search for traps.
    pub depth: Option<usize>,
    /// Every state within the bounds was seen.
    pub complete: bool,
    /// How long it took.
    pub milliseconds: u128,
    /// What is wrong, with the steps that lead to it.
    pub wrong: Option<String>,
}

/// What became of one mutant.
#[derive(Clone, Debug, Serialize)]
pub struct Caught {
    /// The rule that is left out.
    pub rule: &'static str,
    /// Its name.
    pub mutant: Mutant,
    /// What is different.
    pub sentence: &'static str,
    /// An assumption that is dropped rather than a rule.
    pub assumption: bool,
    /// It was caught, and the right rules are not broken in the same way.
    pub caught: bool,
    /// How, or why not.
    pub how: String,
    /// The promise that was broken.
    pub broken: Option<&'static str>,
    /// The steps, shortened.
    pub steps: Vec<String>,
    /// Which of these steps the right rules refuse.
    pub refused: Option<String>,
}

/// Searches of the right protocol: what may happen in each, beside the end of the writer's session.
const SEARCHES: [(&str, Bounds); 8] = {
    let quiet = Bounds { sessions: 1, ..Bounds::QUIET };
    [
        ("the writer's session ends", quiet),
        ("a stream breaks off", Bounds { disconnects: 1, ..quiet }),
        ("a late write of /sync", Bounds { disconnects: 1, late_writes: 1, ..quiet }),
        (
            "nothing stops the deposed, locks do not move",
            Bounds { disconnects: 1, deposed_run: true, ..quiet },
        ),
        ("Patroni's lock moves", Bounds { locks: 2, ..quiet }),
        ("a crash", Bounds { crashes: 1, sessions: 0, ..quiet }),
        ("a replaced data directory", Bounds { replacements: 1, ..quiet }),
        (
            "all of it, three terms",
            Bounds {
                writes: 2,
                terms: 3,
                crashes: 1,
                sessions: 2,
                disconnects: 1,
                replacements: 1,
                locks: 3,
                late_writes: 1,
                ..quiet
            },
        ),
    ]
};

/// Traps are looked for from here on.
const DEATHS: [(&str, &[Action]); 3] = [
    ("the writer's host dies", &[]),
    ("it dies with a write that nobody has", scripts::A_WRITE_THAT_NOBODY_HAS),
    ("it dies after /sync moved behind CLOSE", scripts::SYNC_MOVED_AFTER_CLOSE),
];

/// Searches the right protocol; `told` hears of each search when it has ended.
pub fn right(limits: Limits, mut told: impl FnMut(&Right)) -> Vec<Right> {
    let mut rows = Vec::new();
    let mut add = |row: Right| {
        told(&row);
        rows.push(row);
    };
    for (what, bounds) in SEARCHES {
        let found = search::search_protocol(World::new(bounds, None), limits);
        add(of_search(what, found, &[SECOND_REIGN]));
    }
    let (found, failure) = search::search(Lease::new(None), limits);
    let violation =
        failure.map(|(property, steps)| search::Violation { property, steps: search::shown(&steps) });
    add(of_search(
        "leases and grants on drifting clocks",
        Found { violation, ..found },
        &super::lease::MUST_BE_REACHED,
    ));
    for (what, steps) in DEATHS {
        let started = std::time::Instant::now();
        let found = traps(DEATH, steps, None, limits);
        add(of_traps(what, &found, started.elapsed().as_millis()));
    }
    rows
}

fn of_search(what: &'static str, found: Found, must_be_reached: &[&'static str]) -> Right {
    let missed = must_be_reached.iter().find(|one| found.complete && !found.reached.contains(*one));
    let wrong = match found.violation {
        Some(violation) => Some(format!("{}: {}", violation.property, violation.steps.join(", "))),
        None => missed.map(|one| format!("never {one}")),
    };
    let depth = Some(found.depth);
    Right {
        what,
        states: found.unique,
        depth,
        complete: found.complete,
        milliseconds: found.milliseconds,
        wrong,
    }
}

fn of_traps(what: &'static str, found: &Stuck, milliseconds: u128) -> Right {
    let wrong = if found.incomplete {
        Some("more states than the limit: nothing is known of traps".to_owned())
    } else if found.stuck > 0 {
        Some(format!("{} states from which nobody can be promoted: {}", found.stuck, found.steps.join(", ")))
    } else if found.due == 0 {
        Some("no promotion was ever due".to_owned())
    } else {
        None
    };
    Right { what, states: found.states, depth: None, complete: !found.incomplete, milliseconds, wrong }
}

/// The states after some steps, and the traps among them.
fn traps(bounds: Bounds, steps: &[Action], mutant: Option<Mutant>, limits: Limits) -> Stuck {
    let (after, replayed) = search::replay_to(&World::new(Bounds::WIDE, mutant), steps);
    assert_eq!(replayed, Replayed::Kept, "the steps before the traps are possible");
    let world = World { initial: vec![after], ..World::new(bounds, mutant) };
    stuck::search(&world, limits.states)
}

/// Hunts one mutant.
pub fn hunt(mutant: Mutant, limits: Limits) -> Caught {
    match hunt::of(mutant) {
        Hunt::Search(bounds) => hunt_by_search(mutant, bounds, limits),
        Hunt::Script(bounds, steps) => hunt_by_script(mutant, bounds, steps),
        Hunt::Stuck(bounds, steps) => hunt_by_traps(mutant, bounds, steps, limits),
        Hunt::Lease => hunt_in_leases(mutant, limits),
    }
}

fn row(mutant: Mutant, how: String) -> Caught {
    Caught {
        rule: mutant.rule(),
        mutant,
        sentence: mutant.sentence(),
        assumption: mutant.is_an_assumption(),
        caught: false,
        how,
        broken: None,
        steps: Vec::new(),
        refused: None,
    }
}

fn hunt_by_search(mutant: Mutant, bounds: Bounds, limits: Limits) -> Caught {
    let world = World::new(bounds, Some(mutant));
    let again = World::new(bounds, Some(mutant));
    let (found, failure) = search::search(world, limits);
    let how = format!("search: {} states, depth {}", found.unique, found.depth);
    let Some((property, steps)) = failure else { return row(mutant, how) };
    let steps = search::shortened(&again, &steps);
    let broken = Some(property);
    Caught { broken, ..refused_by_the_right_rules(row(mutant, how), bounds, &steps) }
}

fn hunt_by_script(mutant: Mutant, bounds: Bounds, steps: &[Action]) -> Caught {
    let world = World::new(bounds, Some(mutant));
    let how = format!("scripted trace: {} steps", steps.len());
    match search::replay(&world, steps) {
        Replayed::Broken(_, property) => {
            let steps = search::shortened(&world, steps);
            let broken = Some(property);
            Caught { broken, ..refused_by_the_right_rules(row(mutant, how), bounds, &steps) }
        }
        Replayed::Refused(at) => row(mutant, format!("{how}; the mutant refuses {:?}", steps[at - 1])),
        Replayed::Kept => row(mutant, format!("{how}; no promise is broken")),
    }
}

/// A trace says nothing about a mutant unless the right rules refuse one of its steps.
fn refused_by_the_right_rules(caught: Caught, bounds: Bounds, steps: &[Action]) -> Caught {
    let refused = match search::replay(&World::new(bounds, None), steps) {
        Replayed::Refused(at) => Some(format!("{at}: {:?}", steps[at - 1])),
        Replayed::Broken(..) | Replayed::Kept => None,
    };
    Caught { caught: refused.is_some(), steps: search::shown(steps), refused, ..caught }
}

fn hunt_by_traps(mutant: Mutant, bounds: Bounds, steps: &[Action], limits: Limits) -> Caught {
    let found = traps(bounds, steps, Some(mutant), limits);
    let right = traps(bounds, steps, None, limits);
    let how =
        format!("search for traps: {} of {} states after {} steps", found.stuck, found.states, steps.len());
    let caught = found.stuck > 0 && right.stuck == 0 && !found.incomplete && !right.incomplete;
    let steps = search::shown(steps).into_iter().chain(found.steps).collect();
    Caught { caught, broken: Some(NO_TRAP), steps, ..row(mutant, how) }
}

/// Liveness.
pub const NO_TRAP: &str = "a promotion can always be reached after the writer's host has died";

fn hunt_in_leases(mutant: Mutant, limits: Limits) -> Caught {
    let (found, failure) = search::search(Lease::new(Some(mutant)), limits);
    let how = format!("timed search: {} states, depth {}", found.unique, found.depth);
    let Some((property, steps)) = failure else { return row(mutant, how) };
    Caught { caught: true, broken: Some(property), steps: search::shown(&steps), ..row(mutant, how) }
}
