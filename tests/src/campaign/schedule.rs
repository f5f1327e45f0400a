//! What breaks when: a pure function of a seed and a number, so that each step can be replayed without those before it.

use std::time::Duration;

use super::blow::{BLOWS, Blow, Place};
use crate::lab::fault::Kind;

/// A fault falls anywhere into the looks of Patroni and of the agents: a second, and more.
const PHASE_MS_MAX: u32 = 1_500;
/// The second of two faults comes while the first is being dealt with, or after.
const SECOND_AFTER_MS_MAX: u32 = 5_000;
/// One double in so many falls at one moment.
const AT_ONCE_ONE_IN: u32 = 4;
/// How far a clock jumps.
const JUMP_S: (u32, u32) = (2, 600);

/// What is drawn from.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Percent of the steps that have two faults.
    pub doubles_percent: u32,
    /// What may break.
    pub blows: Vec<&'static Blow>,
    /// No fault is held for longer.
    pub hold_ms_max: u32,
}

/// One step: a wait, and one or two faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number, from 1.
    pub number: u32,
    /// The wait between "everything is steady" and the first fault.
    pub phase: Duration,
    /// The faults, in order.
    pub faults: Vec<Planned>,
}

/// One fault of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What breaks.
    pub blow: &'static Blow,
    /// Where.
    pub place: Place,
    /// Which of several hosts of that place, and which peer: modulo their number.
    pub pick: u32,
    /// By how much a clock jumps.
    pub jump_s: i64,
    /// How long after the first fault.
    pub after: Duration,
    /// For how long; nothing for what is over at once.
    pub hold: Duration,
}

/// Everything that may break of a system with or without agents.
pub fn all(has_agents: bool) -> Vec<&'static Blow> {
    BLOWS.iter().filter(|blow| has_agents || !blow.needs_agents()).collect()
}

/// The step of a number. `rules.blows` must not be empty.
pub fn step(rules: &Rules, seed: u64, number: u32) -> Step {
    // Neighbouring seeds must not give each other's steps: one round of a generator between the two.
    let base = fastrand::Rng::with_seed(seed).u64(..);
    let mut random = fastrand::Rng::with_seed(base ^ u64::from(number));
    let phase = Duration::from_millis(random.u32(..PHASE_MS_MAX).into());
    let mut faults = vec![planned(rules, &mut random)];
    if random.u32(..100) < rules.doubles_percent {
        let at_once = random.u32(..AT_ONCE_ONE_IN) == 0;
        let after_ms = if at_once { 0 } else { random.u32(..SECOND_AFTER_MS_MAX) };
        let after = Duration::from_millis(after_ms.into());
        faults.push(Planned { after, ..planned(rules, &mut random) });
    }
    Step { number, phase, faults }
}

fn planned(rules: &Rules, random: &mut fastrand::Rng) -> Planned {
    let blow = *drawn(random, &rules.blows, |blow| blow.weight);
    let (place, _) = *drawn(random, blow.places, |(_, weight)| *weight);
    let (least, most) = blow.hold_ms;
    let hold_ms = random.u32(least..=most);
    // What ends by itself must have ended: its length is no choice.
    let hold_ms = if blow.kind == Kind::PowerCycle { hold_ms } else { hold_ms.min(rules.hold_ms_max) };
    let jump_s = i64::from(random.u32(JUMP_S.0..=JUMP_S.1)) * if random.bool() { 1 } else { -1 };
    let pick = random.u32(..);
    let hold = Duration::from_millis(hold_ms.into());
    Planned { blow, place, pick, jump_s, after: Duration::ZERO, hold }
}

/// One of a list, by weight.
fn drawn<'l, T>(random: &mut fastrand::Rng, list: &'l [T], weight: impl Fn(&T) -> u32) -> &'l T {
    let mut left = random.u32(..list.iter().map(&weight).sum::<u32>());
    let found = list.iter().find(|one| match left.checked_sub(weight(one)) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    });
    found.expect("the number is below the sum of the weights")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn rules() -> Rules {
        Rules { doubles_percent: 40, blows: all(true), hold_ms_max: 10_000 }
    }

    #[test]
    fn a_step_is_the_same_again_whatever_came_before() {
        let forwards: Vec<Step> = (1..50).map(|number| step(&rules(), 42, number)).collect();
        let mut backwards: Vec<Step> = (1..50).rev().map(|number| step(&rules(), 42, number)).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards);
        let other: Vec<Step> = (1..50).map(|number| step(&rules(), 43, number)).collect();
        assert!(forwards.iter().zip(&other).filter(|(one, other)| one.faults == other.faults).count() < 3);
    }

    #[test]
    fn doubles_and_lengths_keep_to_the_rules() {
        let steps: Vec<Step> = (1..2_001).map(|number| step(&rules(), 7, number)).collect();
        let doubles = steps.iter().filter(|step| step.faults.len() == 2).count();
        assert!((700..900).contains(&doubles), "{doubles} of 2000");
        let none = Rules { doubles_percent: 0, ..rules() };
        assert!((1..200).all(|number| step(&none, 7, number).faults.len() == 1));
        for fault in steps.iter().flat_map(|step| &step.faults) {
            let longest = if fault.blow.kind == Kind::PowerCycle { 8_000 } else { 10_000 };
            assert!(fault.hold.as_millis() <= longest, "{fault:?}");
            assert_eq!(fault.blow.lasts(), !fault.hold.is_zero(), "{fault:?}");
            assert!(fault.blow.places.iter().any(|(place, _)| *place == fault.place), "{fault:?}");
        }
    }

    #[test]
    fn everything_is_drawn_as_often_as_its_weight_says() {
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for number in 1..10_001 {
            *counts.entry(step(&rules(), 1, number).faults[0].blow.name).or_default() += 1;
        }
        let sum: u32 = BLOWS.iter().map(|blow| blow.weight).sum();
        for blow in BLOWS {
            let (expected, found) = (10_000 * blow.weight / sum, counts[blow.name]);
            assert!((expected * 7 / 10..expected * 13 / 10 + 10).contains(&found), "{}: {found}", blow.name);
        }
        assert!(all(false).iter().all(|blow| blow.target != Some("agent")));
    }
}
