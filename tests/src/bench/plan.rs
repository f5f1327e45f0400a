//! In which order the systems take their turns: alternating, each round in a new random order, from one printed seed.

use std::time::Duration;

use super::case::System;

/// The fault falls anywhere into the longest `loop_wait` of the systems.
const PHASE_MS_MAX: u64 = 10_000;

/// One turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Whose.
    pub system: System,
    /// Random wait before the fault.
    pub phase: Duration,
}

/// `rounds` rounds of all systems.
pub fn turns(systems: &[System], rounds: u32, seed: u64) -> Vec<Turn> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut turns = Vec::new();
    for _ in 0..rounds {
        let mut round = systems.to_vec();
        random.shuffle(&mut round);
        let phase = |random: &mut fastrand::Rng| Duration::from_millis(random.u64(..PHASE_MS_MAX));
        turns.extend(round.into_iter().map(|system| Turn { system, phase: phase(&mut random) }));
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_system_once_and_a_seed_gives_the_same_again() {
        let systems = [System::Patroni, System::PatroniTuned, System::HoldfastFast];
        let all = turns(&systems, 5, 42);
        assert_eq!(all, turns(&systems, 5, 42));
        assert_ne!(all, turns(&systems, 5, 43));
        for round in all.chunks(3) {
            let mut round: Vec<System> = round.iter().map(|turn| turn.system).collect();
            round.sort();
            assert_eq!(round, systems);
        }
    }
}
