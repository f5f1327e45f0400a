//! Records for the tests of the bench.

use super::armed::{Pair, Throughput};
use super::case::{Case, Mode, System};
use super::idle::Footprint;
use super::record::{FORMAT, RunRecord};
use super::writes::RaftWrites;
use crate::checker::gap::Gap;
use crate::checker::record::{Recording, RouteKind};
use crate::checker::verdict::{Counts, RouteVerdict, judge};

/// A run with the same gap on both routes, and one unknown commit and two errors of one client on each.
pub fn run(case: Case, system: System, gap_ms: u64) -> RunRecord {
    let mut verdict = judge(&Recording::default(), &std::collections::BTreeSet::new(), Some(0));
    for (route, kind) in [("libpq", RouteKind::Libpq), ("pgbouncer:pool1", RouteKind::Pgbouncer)] {
        verdict.routes.push(RouteVerdict {
            route: route.into(),
            kind,
            counts: Counts { unknown: 1, ..Counts::default() },
            gap: Some(Gap { gap_us: gap_ms * 1000, begin_us: 0, open: false }),
            errors: [("57P01".to_owned(), 2)].into(),
            errors_of_one_client_max: Some(1),
        });
    }
    RunRecord {
        format: FORMAT,
        at: String::new(),
        seed: 1,
        number: 1,
        case,
        system,
        mode: Mode::Quorum,
        phase_ms: 0,
        primary: "db1".into(),
        final_writer: "db2".into(),
        injection_ms: 10,
        held_ms: Some(9000),
        routes_returned: true,
        full_redundancy_after_heal_us: None,
        redundancy_missed_s: None,
        back_after_mending_us: None,
        stall: None,
        verdict,
    }
}

/// A pair of `armed-cost`: transactions a second armed and disarmed; the 99 % quantiles are alike.
pub fn pair(armed: f64, disarmed: f64) -> Pair {
    Pair {
        format: FORMAT,
        case: Case::ArmedCost,
        system: System::HoldfastFast,
        seed: 1,
        armed_first: true,
        armed: Throughput { tps: armed, p99_ms: 2.0 },
        disarmed: Throughput { tps: disarmed, p99_ms: 2.0 },
    }
}

/// A process on the primary of the profile `normal`.
pub fn footprint(process: &str, pss_mb: f64, cpu_percent: f64) -> Footprint {
    Footprint {
        format: FORMAT,
        case: Case::Idle,
        system: System::HoldfastNormal,
        host: "db1".into(),
        role: "primary".into(),
        process: process.into(),
        pss_mb,
        cpu_percent,
        seconds: 60.0,
    }
}

/// Writes to etcd within a minute, of one agent and of nobody known.
pub fn writes(worst: u64, without_revision: u64) -> RaftWrites {
    RaftWrites {
        format: FORMAT,
        case: Case::Idle,
        system: System::HoldfastNormal,
        seconds: 60.0,
        raft_entries: 20 + worst + without_revision,
        ours: worst,
        ours_of_worst_agent: worst,
        worst_agent: "db1".into(),
        of_others: 20,
        without_revision,
    }
}
