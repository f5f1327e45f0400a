//! The cases: which fault, for how long it is held, and what a run of it waits for.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A case of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// All processes of the primary's host are killed and its link is cut; it comes back in the end.
    HostDeath,
    /// SIGKILL of the primary's postmaster.
    PostmasterKill,
    /// SIGSTOP of the primary's Patroni, far longer than its lock lives, then SIGCONT.
    PatroniHung,
    /// The primary's host loses its link; it comes back in the end.
    LinkCut,
    /// pgbench with the cluster armed and disarmed, in pairs.
    ArmedCost,
    /// Memory and processor time of an idle agent and of Patroni.
    Idle,
}

/// What is done to the host of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// KIND of `holdfast-lab fault`.
    pub kind: &'static str,
    /// TARGET of it.
    pub target: Option<&'static str>,
    /// For how long it is held.
    pub hold: Hold,
    /// It needs a heal.
    pub heals: bool,
}

/// For how long a fault is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// So long, whatever the clients see.
    Fixed(Duration),
    /// Until every route acknowledges again, or the deadline of a run, and so much longer: a second writer may show
    /// only then.
    UntilReturnAnd(Duration),
}

/// Longer than the lock of any system lives (30 s) and its next look (10 s), by 15 s.
const HUNG: Duration = Duration::from_secs(55);

impl Case {
    /// The fault of a case; none for the measurements without one.
    pub fn fault(self) -> Option<Fault> {
        let until_return = |seconds| Hold::UntilReturnAnd(Duration::from_secs(seconds));
        let fault = |kind, target, hold, heals| Some(Fault { kind, target, hold, heals });
        match self {
            Self::HostDeath => fault("host-death", None, until_return(5), true),
            Self::LinkCut => fault("link-cut", None, until_return(5), true),
            Self::PatroniHung => fault("stop", Some("patroni"), Hold::Fixed(HUNG), true),
            Self::PostmasterKill => fault("kill", Some("postmaster"), until_return(2), false),
            Self::ArmedCost | Self::Idle => None,
        }
    }

    /// Its name on the command line and in records.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// A system under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Patroni alone as most users run it: 30/10/10.
    Patroni,
    /// Patroni alone, tuned: 20/1/3, failsafe, a pooler that tries again soon.
    PatroniTuned,
    /// Holdfast with the profile `fast`.
    HoldfastFast,
    /// Holdfast with the profile `normal`.
    HoldfastNormal,
}

impl System {
    /// Its specification among `tests/specs`.
    pub fn spec(self) -> &'static str {
        match self {
            Self::Patroni => "patroni-default",
            Self::PatroniTuned => "patroni-tuned",
            Self::HoldfastFast => "holdfast-fast",
            Self::HoldfastNormal => "holdfast",
        }
    }

    /// Its name on the command line and in records.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether agents run.
    pub fn has_agents(self) -> bool {
        matches!(self, Self::HoldfastFast | Self::HoldfastNormal)
    }
}

/// How commits are replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Quorum commit, ANY 1 of 2.
    Quorum,
    /// Asynchronous.
    Off,
}

impl Mode {
    /// Its name on the command line and in records.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
