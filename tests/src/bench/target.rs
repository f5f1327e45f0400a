//! What must be reached, as data: the tables of issues 3 and 4, section 7, 5, and 6, section 6, one entry for each figure in them.
//!
//! It decides what is demanded of which system in which case. It measures nothing and judges nothing: `judge` does.

use super::case::{Case, Mode, System};
use crate::checker::record::RouteKind;

/// The two profiles of Holdfast.
const BOTH: &[System] = &[System::HoldfastFast, System::HoldfastNormal];
const FAST: &[System] = &[System::HoldfastFast];
const NORMAL: &[System] = &[System::HoldfastNormal];
/// "libpq and PgBouncer alike", "on both routes".
const ROUTES: &[RouteKind] = &[RouteKind::Libpq, RouteKind::Pgbouncer];

/// "No gap", as clients see it: they write every 40 ms, and a shared machine stalls them for a few turns now and then.
/// A writer may change in less, so that is looked at by itself: [`Demand::NoRoleChange`].
pub const NO_GAP_S: f64 = 0.5;

/// What is demanded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Demand {
    /// The longest gap that a client of any of these routes saw, in seconds. Compared is the maximum of all runs.
    GapAtMost {
        /// The routes.
        routes: &'static [RouteKind],
        /// Seconds.
        seconds: f64,
    },
    /// The same, compared by the median of all runs.
    MedianGapAtMost {
        /// The routes.
        routes: &'static [RouteKind],
        /// Seconds.
        seconds: f64,
    },
    /// No statement fails through PgBouncer. Compared is the sum of all runs.
    NoErrorsThroughPooler,
    /// On this route no client saw a gap that was longer than libpq's in the same run by more than so many seconds. Compared
    /// is the maximum of all runs; those without the route say nothing.
    GapBesideLibpq {
        /// The route.
        route: RouteKind,
        /// Seconds.
        seconds: f64,
    },
    /// Through PgBouncer only statements in flight fail: one for each client. Compared is the maximum of all clients.
    OnlyInFlightFails,
    /// No attempt on any route is refused or ends unknown. Compared is the sum of all runs.
    NoErrors,
    /// The writer stays where it is, and no other host is writable for a moment. Compared is the sum of all runs.
    NoRoleChange,
    /// The writer stays where it is in every stall up to this length. Compared is the sum of those runs.
    NoRoleChangeUpTo {
        /// Milliseconds.
        stall_ms: u64,
    },
    /// Every route acknowledges so soon after what the script mends while something else stays broken. Compared is the
    /// maximum of all runs.
    BackAfterMending {
        /// Seconds.
        seconds: f64,
    },
    /// No row that was plainly acknowledged is lost. Compared is the sum of all runs.
    NothingLost,
    /// The cost of being armed in percent, over at least so many pairs: the median of the pairs, and the upper end of
    /// its 95 % interval.
    CostAtMost {
        /// For the median.
        median_percent: f64,
        /// For the upper end.
        upper_percent: f64,
        /// Fewer pairs show nothing.
        pairs: usize,
    },
    /// Memory and processor time of an idle agent. Compared is the maximum of all hosts and measurements.
    FootprintAtMost {
        /// MB (10^6 bytes), proportional.
        pss_mb: f64,
        /// Percent of one core.
        cpu_percent: f64,
    },
    /// Entries that an idle agent adds to etcd's log. Compared is the maximum of all measurements.
    WritesAtMost {
        /// In a minute.
        per_minute: f64,
    },
}

/// One demand on some systems in one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// The case.
    pub case: Case,
    /// How commits are replicated; the measurements without a fault know `quorum` only.
    pub mode: Mode,
    /// The systems.
    pub systems: &'static [System],
    /// What is demanded of them.
    pub demand: Demand,
    /// Where it stands.
    pub source: &'static str,
}

const fn gap(
    case: Case,
    mode: Mode,
    systems: &'static [System],
    seconds: f64,
    source: &'static str,
) -> Target {
    Target { case, mode, systems, demand: Demand::GapAtMost { routes: ROUTES, seconds }, source }
}

const fn of_both(case: Case, mode: Mode, demand: Demand, source: &'static str) -> Target {
    Target { case, mode, systems: BOTH, demand, source }
}

const HOST: &str = "issue 3, section 7: host death";
const POSTMASTER: &str = "issue 3, section 7: postmaster killed";
const HUNG: &str = "issue 3, section 7: Patroni hung";
const LINK: &str = "issue 3, section 7: primary's link cut";
const HUNG_OFF: &str = "issue 3, section 7: Patroni hung, asynchronous cluster";
const LOST: &str = "issue 3, section 7: lost acknowledged rows in all quorum cases";
const ARMED: &str = "issue 3, section 7: armed against disarmed";
const IDLE: &str = "issue 3, section 7: idle agent";
const IDLE_WRITES: &str = "issue 3, section 4: idle, at most 1 raft write per minute";

const HAPROXY: &str = "issue 5: HAProxy route, host death, our check against Patroni's";
const THIRD_NODE: &str = "issue 4, section 7: Patroni of the primary hung + third node hung";
const POSTGRES: &str = "issue 4, section 7: all PostgreSQL processes hung";
const DISK: &str = "issue 4, section 7: no row lost, with disk-hang and disk-readonly among the faults";
const FROZEN: &str = "issue 4, section 7: whole host frozen, thawed later";
const ETCD_CUT: &str = "issue 4, section 7: only the primary loses etcd";
const ETCD_DOWN: &str = "issue 4, section 7: etcd down 60 s";
const ETCD_BACK: &str = "issue 4, section 7: etcd down, host death meanwhile, etcd back";
const AGENT: &str = "issue 4, section 7: agent killed on the primary";
const AGENT_RESTART: &str = "issue 4, section 7: agent restarted, upgraded on the primary";
const AGENT_GONE: &str = "issue 4, section 7: agent gone for good on the primary";
const SWITCHOVER: &str = "issue 6, section 6: planned switchover to a chosen node";
const STALLS: &str = "issue 4, section 7: stalls";

/// All of them, in the order of the issues.
pub const TARGETS: &[Target] = &[
    gap(Case::HostDeath, Mode::Quorum, FAST, 4.0, HOST),
    gap(Case::HostDeath, Mode::Quorum, NORMAL, 6.0, HOST),
    gap(Case::PostmasterKill, Mode::Quorum, BOTH, 0.5, POSTMASTER),
    of_both(Case::PostmasterKill, Mode::Quorum, Demand::OnlyInFlightFails, POSTMASTER),
    gap(Case::PatroniHung, Mode::Quorum, BOTH, NO_GAP_S, HUNG),
    of_both(Case::PatroniHung, Mode::Quorum, Demand::NoErrors, HUNG),
    of_both(Case::PatroniHung, Mode::Quorum, Demand::NoRoleChange, HUNG),
    gap(Case::LinkCut, Mode::Quorum, FAST, 4.0, LINK),
    gap(Case::LinkCut, Mode::Quorum, NORMAL, 6.0, LINK),
    gap(Case::PatroniHung, Mode::Off, BOTH, NO_GAP_S, HUNG_OFF),
    of_both(Case::PatroniHung, Mode::Off, Demand::NoErrors, HUNG_OFF),
    of_both(Case::PatroniHung, Mode::Off, Demand::NoRoleChange, HUNG_OFF),
    of_both(Case::PatroniHung, Mode::Off, Demand::NothingLost, HUNG_OFF),
    of_both(Case::HostDeath, Mode::Quorum, Demand::NothingLost, LOST),
    of_both(Case::PostmasterKill, Mode::Quorum, Demand::NothingLost, LOST),
    of_both(Case::PatroniHung, Mode::Quorum, Demand::NothingLost, LOST),
    of_both(Case::LinkCut, Mode::Quorum, Demand::NothingLost, LOST),
    of_both(
        Case::ArmedCost,
        Mode::Quorum,
        Demand::CostAtMost { median_percent: 2.0, upper_percent: 5.0, pairs: 30 },
        ARMED,
    ),
    Target {
        case: Case::Idle,
        mode: Mode::Quorum,
        systems: NORMAL,
        demand: Demand::FootprintAtMost { pss_mb: 10.0, cpu_percent: 0.07 },
        source: IDLE,
    },
    of_both(Case::Idle, Mode::Quorum, Demand::WritesAtMost { per_minute: 1.0 }, IDLE_WRITES),
    of_both(
        Case::HostDeath,
        Mode::Quorum,
        Demand::GapBesideLibpq { route: RouteKind::Haproxy, seconds: 0.5 },
        HAPROXY,
    ),
    of_both(Case::PatroniHungThirdNode, Mode::Quorum, Demand::NothingLost, THIRD_NODE),
    gap(Case::PostgresHung, Mode::Quorum, BOTH, 6.0, POSTGRES),
    of_both(Case::PostgresHung, Mode::Quorum, Demand::NothingLost, POSTGRES),
    of_both(Case::DiskHang, Mode::Quorum, Demand::NothingLost, DISK),
    of_both(Case::DiskReadonly, Mode::Quorum, Demand::NothingLost, DISK),
    gap(Case::HostFrozen, Mode::Quorum, BOTH, 6.0, FROZEN),
    of_both(Case::HostFrozen, Mode::Quorum, Demand::NothingLost, FROZEN),
    gap(Case::HostFrozen, Mode::Off, BOTH, 6.0, FROZEN),
    gap(Case::EtcdCut, Mode::Quorum, BOTH, NO_GAP_S, ETCD_CUT),
    of_both(Case::EtcdCut, Mode::Quorum, Demand::NoRoleChange, ETCD_CUT),
    of_both(Case::EtcdCut, Mode::Quorum, Demand::NothingLost, ETCD_CUT),
    gap(Case::EtcdDown, Mode::Quorum, BOTH, NO_GAP_S, ETCD_DOWN),
    of_both(Case::EtcdDown, Mode::Quorum, Demand::NoRoleChange, ETCD_DOWN),
    of_both(Case::EtcdDown, Mode::Quorum, Demand::NothingLost, ETCD_DOWN),
    of_both(Case::EtcdDownReplicaLost, Mode::Quorum, Demand::NothingLost, ETCD_DOWN),
    of_both(Case::EtcdDownHostDeath, Mode::Quorum, Demand::BackAfterMending { seconds: 6.0 }, ETCD_BACK),
    of_both(Case::EtcdDownHostDeath, Mode::Quorum, Demand::NothingLost, ETCD_BACK),
    gap(Case::AgentKill, Mode::Quorum, BOTH, NO_GAP_S, AGENT),
    of_both(Case::AgentKill, Mode::Quorum, Demand::NoRoleChange, AGENT),
    of_both(Case::AgentKill, Mode::Quorum, Demand::NothingLost, AGENT),
    gap(Case::AgentRestart, Mode::Quorum, BOTH, NO_GAP_S, AGENT_RESTART),
    of_both(Case::AgentRestart, Mode::Quorum, Demand::NoRoleChange, AGENT_RESTART),
    of_both(Case::AgentRestart, Mode::Quorum, Demand::NothingLost, AGENT_RESTART),
    of_both(Case::AgentGone, Mode::Quorum, Demand::NothingLost, AGENT_GONE),
    of_both(
        Case::Switchover,
        Mode::Quorum,
        Demand::MedianGapAtMost { routes: ROUTES, seconds: 0.5 },
        SWITCHOVER,
    ),
    of_both(
        Case::Switchover,
        Mode::Quorum,
        Demand::GapAtMost { routes: &[RouteKind::Pgbouncer], seconds: 0.8 },
        SWITCHOVER,
    ),
    of_both(Case::Switchover, Mode::Quorum, Demand::NoErrorsThroughPooler, SWITCHOVER),
    of_both(Case::Switchover, Mode::Quorum, Demand::NothingLost, SWITCHOVER),
    Target {
        case: Case::Stalls,
        mode: Mode::Quorum,
        systems: NORMAL,
        demand: Demand::NoRoleChangeUpTo { stall_ms: 3_000 },
        source: STALLS,
    },
    of_both(Case::Stalls, Mode::Quorum, Demand::NothingLost, STALLS),
];

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    fn gap_of(case: Case, mode: Mode, system: System) -> Vec<f64> {
        let own = TARGETS
            .iter()
            .filter(|target| (target.case, target.mode) == (case, mode) && target.systems.contains(&system));
        own.filter_map(|target| match target.demand {
            Demand::GapAtMost { seconds, .. } => Some(seconds),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn the_figures_are_those_of_the_issue() {
        use Mode::{Off, Quorum};
        use System::{HoldfastFast, HoldfastNormal};
        for (case, mode, fast, normal) in [
            (Case::HostDeath, Quorum, 4.0, 6.0),
            (Case::LinkCut, Quorum, 4.0, 6.0),
            (Case::PostmasterKill, Quorum, 0.5, 0.5),
            (Case::PatroniHung, Quorum, NO_GAP_S, NO_GAP_S),
            (Case::PatroniHung, Off, NO_GAP_S, NO_GAP_S),
            (Case::PostgresHung, Quorum, 6.0, 6.0),
            (Case::HostFrozen, Quorum, 6.0, 6.0),
            (Case::EtcdCut, Quorum, NO_GAP_S, NO_GAP_S),
            (Case::EtcdDown, Quorum, NO_GAP_S, NO_GAP_S),
            (Case::AgentKill, Quorum, NO_GAP_S, NO_GAP_S),
            (Case::AgentRestart, Quorum, NO_GAP_S, NO_GAP_S),
        ] {
            assert_eq!(gap_of(case, mode, HoldfastFast), [fast], "{case:?}");
            assert_eq!(gap_of(case, mode, HoldfastNormal), [normal], "{case:?}");
        }
    }

    #[test]
    fn every_case_has_a_target_with_its_source_and_patroni_has_none() {
        for case in Case::value_variants().iter().filter(|case| case.script().is_some()) {
            let case = *case;
            let lost = |target: &&Target| target.case == case && target.demand == Demand::NothingLost;
            assert!(TARGETS.iter().any(|target| lost(&target) && target.mode == Mode::Quorum), "{case:?}");
        }
        for case in [Case::ArmedCost, Case::Idle] {
            assert!(TARGETS.iter().any(|target| target.case == case), "{case:?}");
        }
        for target in TARGETS {
            assert!(target.systems.iter().all(|system| system.has_agents()), "{target:?}");
            let of_an_issue = ["issue 3, section ", "issue 4, section ", "issue 5: ", "issue 6, section "];
            assert!(of_an_issue.iter().any(|issue| target.source.starts_with(issue)), "{target:?}");
        }
    }
}
