//! How a seed plans its faults.

use super::{Fault, Kind, Moment, Target};
use crate::simulator::executor::ms;

const KINDS: [Kind; 36] = [
    Kind::PowerCycle,
    Kind::HostFreeze,
    Kind::LockTaken,
    Kind::SessionLost,
    Kind::LinksCut,
    Kind::LinksCutOutwards,
    Kind::LinksCutInwards,
    Kind::PeersCut,
    Kind::PeerCut,
    Kind::PeerCutOneWay,
    Kind::EtcdCut,
    Kind::EtcdCutOneWay,
    Kind::EtcdDown,
    Kind::EtcdSlow,
    Kind::AnswersLost,
    Kind::WatchLate,
    Kind::AgentKill,
    Kind::AgentKillAtStep,
    Kind::AgentLosesRun,
    Kind::AgentDown,
    Kind::AgentFreeze,
    Kind::PatroniKill,
    Kind::PatroniFreeze,
    Kind::PatroniDown,
    Kind::PostmasterKill,
    Kind::PostgresFreeze,
    Kind::PostgresRestart,
    Kind::NftFlush,
    Kind::Reinit,
    Kind::DiskFull,
    Kind::StandbyLags,
    Kind::Pause,
    Kind::GuardKill,
    Kind::Duplicates,
    Kind::AnswersLate,
    Kind::CloseLate,
];

const MOMENTS: [Moment; 6] =
    [Moment::Kept, Moment::Promised, Moment::Closed, Moment::Opened, Moment::SyncWritten, Moment::Granted];

/// Kinds of which a failover is made; a seed chooses one of them as often as one of all.
const HARD: [Kind; 8] = [
    Kind::PowerCycle,
    Kind::HostFreeze,
    Kind::LockTaken,
    Kind::SessionLost,
    Kind::LinksCut,
    Kind::PeersCut,
    Kind::PostmasterKill,
    Kind::StandbyLags,
];

/// The faults of a seed. Each run has a few kinds of its own, so that they meet; others come close upon the first, often on
/// the same host, or in the middle of the failover that it causes.
pub fn plan(seed: u64, members: usize, faults: usize) -> Vec<Fault> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0xfa17);
    if random.u8(0..10) < 4 {
        return trace(&mut random, members);
    }
    let kinds: Vec<Kind> = (0..random.usize(2..7)).map(|_| kind(&mut random)).collect();
    // In some runs one thing after the other, in others all at once.
    let together_of_ten = [3, 6, 10][random.usize(0..3)];
    let mut planned: Vec<Fault> = Vec::new();
    let mut at_us = ms(500);
    while planned.len() < faults {
        planned.push(one(&mut random, &kinds, at_us, members));
        while planned.len() < faults && random.u8(0..10) < together_of_ten {
            let mut next = one(&mut random, &kinds, at_us, members);
            if random.u8(0..10) < 4 {
                next.upon = Some(MOMENTS[random.usize(0..MOMENTS.len())]);
            } else {
                let within_ms = [200, 3_000, 10_000][random.usize(0..3)];
                next.at_us += random.u64(0..=ms(within_ms));
            }
            if random.u8(0..10) < 3 {
                next.target = planned[planned.len() - 1].target;
            }
            planned.push(next);
        }
        at_us += random.u64(ms(1_000)..=ms(14_000));
    }
    planned
}

/// A fault of a trace: when it begins, from and to, and how long it lasts, in milliseconds.
type Step = (Kind, Target, Option<Moment>, (u64, u64), (u64, u64));

const WRITER: Target = Target::Writer;
const ONE: Target = Target::Host(1);
const OTHER: Target = Target::Host(2);
const ALL: Target = Target::Host(0);

/// The traces that break weaker rules, at random times: what a rule is for must come up more often than by chance.
const TRACES: [&[Step]; 17] = [
    // Patroni's resolver: the standby that has the write goes, then the writer.
    &[
        (Kind::StandbyLags, OTHER, None, (400, 600), (20_000, 40_000)),
        (Kind::PowerCycle, ONE, None, (1_000, 3_000), (12_000, 30_000)),
        (Kind::PowerCycle, WRITER, None, (3_000, 14_000), (20_000, 40_000)),
    ],
    // A writer without the lock writes on while its standbys leave it.
    &[
        (Kind::StandbyLags, OTHER, None, (400, 600), (200, 3_000)),
        (Kind::LockTaken, WRITER, None, (600, 4_000), (100, 3_000)),
    ],
    // A session that ends and comes back while the promises are made.
    &[
        (Kind::PostgresFreeze, WRITER, None, (500, 700), (2_500, 12_000)),
        (Kind::SessionLost, WRITER, None, (500, 1_000), (1_000, 5_000)),
        (Kind::CloseLate, ALL, None, (400, 500), (10_000, 20_000)),
        (Kind::EtcdSlow, ALL, None, (500, 7_000), (5_000, 20_000)),
    ],
    // A writer cut off from its standbys changes `/sync` while its reign is closed.
    &[
        (Kind::PeersCut, WRITER, None, (500, 1_000), (30_000, 40_000)),
        (Kind::CloseLate, ALL, None, (500, 1_000), (30_000, 40_000)),
        (Kind::SessionLost, WRITER, None, (500, 12_000), (20_000, 40_000)),
    ],
    // The same while etcd is slow: every view is old.
    &[
        (Kind::PeersCut, WRITER, None, (500, 1_000), (30_000, 40_000)),
        (Kind::EtcdSlow, ALL, None, (500, 1_000), (30_000, 40_000)),
        (Kind::SessionLost, WRITER, None, (500, 12_000), (20_000, 40_000)),
    ],
    // The writer is the only one without etcd, lives by grants, and is then lost for its standbys.
    &[
        (Kind::EtcdCut, WRITER, None, (500, 700), (30_000, 40_000)),
        (Kind::LinksCut, WRITER, Some(Moment::Granted), (3_000, 9_000), (20_000, 40_000)),
    ],
    // The same, and those who granted forget it.
    &[
        (Kind::EtcdCut, WRITER, None, (500, 700), (30_000, 40_000)),
        (Kind::LinksCut, WRITER, Some(Moment::Granted), (6_000, 9_000), (20_000, 40_000)),
        (Kind::AgentKill, ONE, Some(Moment::Granted), (6_000, 9_000), (100, 200)),
        (Kind::AgentKill, OTHER, Some(Moment::Granted), (6_000, 9_000), (100, 200)),
    ],
    // Nobody on the host but the guard sees that the lease has ended.
    &[
        (Kind::AgentFreeze, WRITER, None, (500, 700), (20_000, 30_000)),
        (Kind::PatroniFreeze, WRITER, None, (500, 700), (20_000, 30_000)),
        (Kind::LinksCut, WRITER, None, (700, 1_200), (20_000, 30_000)),
    ],
    // The kernel's part of the fence is gone, and its agent does not see it.
    &[
        (Kind::AgentFreeze, WRITER, None, (500, 700), (15_000, 30_000)),
        (Kind::NftFlush, WRITER, None, (700, 900), (100, 200)),
        (Kind::PatroniFreeze, WRITER, None, (500, 700), (15_000, 30_000)),
        (Kind::LinksCut, WRITER, None, (700, 1_200), (15_000, 30_000)),
    ],
    // The guard is gone, and its agent does not see it: the kernel closes the port.
    &[
        (Kind::AgentFreeze, WRITER, None, (500, 700), (15_000, 30_000)),
        (Kind::GuardKill, WRITER, None, (700, 900), (100, 200)),
        (Kind::LinksCut, WRITER, None, (700, 1_200), (15_000, 30_000)),
    ],
    // etcd alone is away, for any length: nothing happens.
    &[(Kind::EtcdDown, ALL, None, (500, 3_000), (1_000, 90_000))],
    &[
        (Kind::EtcdDown, ALL, None, (500, 700), (100, 12_000)),
        (Kind::EtcdDown, ALL, None, (13_000, 14_000), (100, 12_000)),
        (Kind::EtcdCut, WRITER, None, (27_000, 30_000), (1_000, 60_000)),
    ],
    // Answers come as late as they may, and then no more: a lease that counts from them is too long.
    &[
        (Kind::AnswersLate, WRITER, None, (500, 700), (20_000, 30_000)),
        (Kind::LinksCut, WRITER, None, (2_000, 5_000), (15_000, 30_000)),
    ],
    // A promise is on disk, or in etcd, and its host goes.
    &[
        (Kind::LinksCut, WRITER, None, (500, 700), (6_000, 14_000)),
        (Kind::PowerCycle, Target::Promiser, Some(Moment::Kept), (400, 500), (100, 4_000)),
        (Kind::PowerCycle, Target::Promiser, Some(Moment::Promised), (2_000, 6_000), (100, 4_000)),
    ],
    // The writer comes back while its standbys leave it, and they come back to it.
    &[
        (Kind::LinksCut, WRITER, None, (500, 700), (3_000, 7_000)),
        (Kind::WatchLate, ONE, None, (500, 2_000), (3_000, 30_000)),
        (Kind::AgentKillAtStep, OTHER, Some(Moment::Kept), (500, 700), (5_000, 6_000)),
        (Kind::LinksCut, WRITER, Some(Moment::Promised), (500, 9_000), (15_000, 20_000)),
    ],
    // The successor goes between OPEN and its first `/sync`, and after it.
    &[
        (Kind::PowerCycle, WRITER, None, (500, 700), (10_000, 20_000)),
        (Kind::AgentKill, Target::LockHolder, Some(Moment::Opened), (500, 600), (100, 200)),
        (Kind::PowerCycle, Target::LockHolder, Some(Moment::SyncWritten), (600, 4_000), (5_000, 20_000)),
    ],
    // The lock goes while the standbys that leave are not heard of: what they saw is old.
    &[
        (Kind::EtcdSlow, ALL, None, (500, 700), (10_000, 20_000)),
        (Kind::PostgresFreeze, WRITER, None, (600, 900), (1_500, 9_000)),
        (Kind::SessionLost, WRITER, None, (600, 1_000), (1_000, 5_000)),
        (Kind::WatchLate, ONE, None, (1_500, 6_000), (4_000, 12_000)),
    ],
];

fn trace(random: &mut fastrand::Rng, members: usize) -> Vec<Fault> {
    let steps = TRACES[random.usize(0..TRACES.len())];
    steps
        .iter()
        .map(|(kind, target, upon, (at_from, at_to), (for_from, for_to))| Fault {
            at_us: random.u64(ms(*at_from)..=ms(*at_to)),
            kind: *kind,
            upon: *upon,
            target: *target,
            peer: random.usize(0..members),
            for_us: random.u64(ms(*for_from)..=ms(*for_to)),
            count: random.u32(0..30),
        })
        .collect()
}

fn kind(random: &mut fastrand::Rng) -> Kind {
    if random.bool() { HARD[random.usize(0..HARD.len())] } else { KINDS[random.usize(0..KINDS.len())] }
}

fn one(random: &mut fastrand::Rng, kinds: &[Kind], at_us: u64, members: usize) -> Fault {
    let host = random.usize(0..members);
    let lasts_ms = [1_500, 8_000, 12_000, 40_000][random.usize(0..4)];
    Fault {
        at_us,
        kind: kinds[random.usize(0..kinds.len())],
        upon: None,
        target: match random.u8(0..10) {
            0..5 => Target::Writer,
            5 => Target::LockHolder,
            6 => Target::Promiser,
            _ => Target::Host(host),
        },
        peer: random.usize(0..members),
        for_us: random.u64(ms(100)..=ms(lasts_ms)),
        count: random.u32(0..30),
    }
}
