//! What a seed asks for, and what it loses meanwhile.

use holdfast_types::MemberName;
use holdfast_types::record::{OperationPhase, Switchover, Wanted};

use super::fault::{Loss, Planned, Stage, When, lasts_us};
use super::{Role, Setup};
use crate::simulator::executor::ms;
use crate::simulator::fault::{Fault, Kind, Target};
use crate::simulator::mutant::Mutant;

const LOSSES_MAX: usize = 4;
/// What a phase of an operation has to live through beside the loss of a whole host.
const KINDS: [Kind; 12] = [
    Kind::PowerCycle,
    Kind::HostFreeze,
    Kind::LinksCut,
    Kind::EtcdCut,
    Kind::EtcdDown,
    Kind::EtcdSlow,
    Kind::AgentKill,
    Kind::AgentFreeze,
    Kind::AgentKillAtStep,
    Kind::PatroniKill,
    Kind::PatroniFreeze,
    Kind::PostmasterKill,
];
const PHASES: [OperationPhase; 6] = [
    OperationPhase::Prepare,
    OperationPhase::Pause,
    OperationPhase::HandOver,
    OperationPhase::Verify,
    OperationPhase::Settle,
    OperationPhase::Release,
];

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// So long after the cluster is healthy, in microseconds.
    pub at_us: u64,
    /// What is wanted.
    pub wanted: Wanted,
}

/// What happens in a run with operations.
#[derive(Debug, Clone)]
pub struct Course {
    /// The hosts beside the database's.
    pub setup: Setup,
    /// What is asked for.
    pub requests: Vec<Request>,
    /// What is lost.
    pub losses: Vec<Planned>,
}

impl Course {
    /// That of a seed.
    pub fn of(seed: u64, members: usize, mutant: Option<Mutant>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x0b5e);
        let setup = Setup {
            coordinators: random.usize(1..3),
            poolers: random.usize(1..4),
            stops_at_once: random.u8(0..3) > 0,
        };
        let mut at_us = ms(300);
        let mut requests = Vec::new();
        for number in 0..random.usize(1..4) {
            at_us += random.u64(0..=ms(12_000));
            let to = random.bool().then(|| member(random.usize(0..members)));
            let wanted = Wanted::Switchover(Switchover { to, ..Switchover::default() });
            requests.push(Request { at_us, wanted });
            if random.u8(0..6) == 0 {
                let at_us = at_us + random.u64(0..=ms(2_500));
                requests.push(Request { at_us, wanted: Wanted::Cancel { number: number as u64 + 1 } });
            }
        }
        let losses = (0..random.usize(1..=LOSSES_MAX)).map(|_| loss(&mut random, members, at_us));
        let mut losses: Vec<Planned> = losses.collect();
        losses.extend(of_mutant(mutant, &mut random));
        Self { setup, requests, losses }
    }

    /// When the last of it begins.
    pub fn begins_until_us(&self) -> u64 {
        let requests = self.requests.iter().map(|request| request.at_us);
        let losses = self.losses.iter().map(|planned| match planned.when {
            When::At(at_us) => at_us,
            When::Upon(_) => 0,
        });
        requests.chain(losses).max().unwrap_or(0)
    }
}

/// What a rule is for must come up more often than by chance, in the runs without it.
fn of_mutant(mutant: Option<Mutant>, random: &mut fastrand::Rng) -> Option<Planned> {
    let upon = |phase| When::Upon(Stage::Stored(phase));
    let (when, loss) = match mutant? {
        Mutant::StaleCoordinator => {
            (upon(PHASES[random.usize(0..3)]), Loss::StallBeforeStoring(random.u64(ms(5_000)..=ms(20_000))))
        }
        Mutant::OrderWithoutCompare => {
            (upon(OperationPhase::Pause), Loss::StallBeforeOrdering(random.u64(ms(1_000)..=ms(40_000))))
        }
        _ => return None,
    };
    Some(Planned { when, loss })
}

pub(super) fn member(host: usize) -> MemberName {
    let letter = char::from(b'a' + u8::try_from(host).expect("a handful of hosts"));
    MemberName::new(letter).expect("a letter is a name")
}

fn loss(random: &mut fastrand::Rng, members: usize, until_us: u64) -> Planned {
    let stage = |random: &mut fastrand::Rng| match random.usize(0..8) {
        at @ 0..6 => Stage::Stored(PHASES[at]),
        6 => Stage::Stored(OperationPhase::HandOver),
        _ => Stage::Ended,
    };
    let when = match random.u8(0..10) {
        0..3 => When::At(random.u64(0..=until_us + ms(5_000))),
        _ => When::Upon(stage(random)),
    };
    let (at, for_us) = (random.usize(0..3), lasts_us(random));
    let role = if random.bool() { Role::Coordinator } else { Role::Pooler };
    let loss = match random.u8(0..20) {
        0..8 => {
            let target = if random.bool() { Target::Writer } else { Target::Host(random.usize(0..members)) };
            let kind = KINDS[random.usize(0..KINDS.len())];
            let (peer, count) = (random.usize(0..members), random.u32(0..20));
            Loss::Cluster(Fault { at_us: 0, kind, upon: None, target, peer, for_us, count })
        }
        8 | 9 => Loss::Kill(role, at),
        10 | 11 => Loss::Down(role, at, for_us),
        12 => Loss::Freeze(role, at, for_us),
        13 => Loss::Off(role, at, for_us),
        14 | 15 => Loss::EtcdCut(role, at, for_us),
        16 => Loss::Busy(at, for_us),
        17 => Loss::StallBeforeStoring(for_us),
        18 => Loss::StallBeforeOrdering(for_us),
        _ => Loss::WorkingCoordinator(for_us),
    };
    Planned { when, loss }
}
