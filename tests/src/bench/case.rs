//! The cases: what is done in each, and the systems under test.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::script::{Hold, Place, Script, Step, What, When};

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
    /// Patroni of the primary hung, and that of the third node from the moment when another has the leader key.
    PatroniHungThirdNode,
    /// All PostgreSQL processes of the primary hung.
    PostgresHung,
    /// The file system of the primary's data directory hangs.
    DiskHang,
    /// The same file system meets an error and turns read-only.
    DiskReadonly,
    /// The primary's host frozen, and thawed after somebody has taken its place.
    HostFrozen,
    /// Only the primary loses etcd.
    EtcdCut,
    /// etcd is down for a minute.
    EtcdDown,
    /// The same, and a synchronous standby's host dies meanwhile.
    EtcdDownReplicaLost,
    /// etcd goes down, the primary's host dies, etcd comes back.
    EtcdDownHostDeath,
    /// SIGKILL of the primary's agent.
    AgentKill,
    /// The primary's agent ends in order and is started again, as an upgrade of its package does it.
    AgentRestart,
    /// The primary's agent hangs for good: its lease runs out, and another follows.
    AgentGone,
    /// A planned switchover to a chosen standby, ordered as the operator of the system does it.
    Switchover,
    /// A host, a link, etcd or a disk stands still for 0.2 to 10 s.
    Stalls,
    /// pgbench with the cluster armed and disarmed, in pairs.
    ArmedCost,
    /// Memory and processor time of an idle agent and of Patroni.
    Idle,
}

/// Longer than the lock of any system lives (30 s) and its next look (10 s), by 15 s.
const HUNG: Duration = Duration::from_secs(55);
/// Longer than that lock lives, so that somebody would have taken it.
const CUT: Duration = Duration::from_secs(45);
/// "etcd down 60 s".
const DOWN: Duration = Duration::from_secs(60);
/// By then what the loss of etcd brings about at once has happened.
const MEANWHILE: Duration = Duration::from_secs(5);
/// Longer than Patroni's failsafe mode needs to notice that a member is gone.
const ETCD_BACK: Duration = Duration::from_secs(25);
/// A killed agent is back within a second; its session lives for some.
const AGENT: Duration = Duration::from_secs(15);

impl Case {
    /// What is done in a case; none for the measurements without a fault, and for stalls, which differ from run to run.
    pub fn script(self) -> Option<Script> {
        let until_return = |seconds| Hold::UntilReturnAnd(Duration::from_secs(seconds));
        let on_primary =
            |kind, target, lasts, hold| Script::single(Place::Primary, kind, target, lasts, hold);
        let etcd_down = |hold| Script::single(Place::Everywhere, "etcd-down", None, true, hold);
        let and = |mut script: Script, when, what| {
            script.steps.push(Step { when, what });
            script
        };
        let breaks = |place, kind, target| What::Break { place, kind, target, lasts: true };
        let script = match self {
            Self::HostDeath => on_primary("host-death", None, true, until_return(5)),
            Self::LinkCut => on_primary("link-cut", None, true, until_return(5)),
            Self::PatroniHung => on_primary("stop", Some("patroni"), true, Hold::Fixed(HUNG)),
            Self::PostmasterKill => on_primary("kill", Some("postmaster"), false, until_return(2)),
            Self::PatroniHungThirdNode => and(
                on_primary("stop", Some("patroni"), true, Hold::Fixed(HUNG)),
                When::LeaderMovedOrAfter(CUT),
                breaks(Place::Standby(0), "stop", Some("patroni")),
            ),
            Self::PostgresHung => on_primary("stop", Some("postgres"), true, until_return(5)),
            Self::DiskHang => on_primary("disk-hang", None, true, until_return(5)),
            Self::DiskReadonly => on_primary("disk-readonly", None, true, until_return(5)),
            Self::HostFrozen => on_primary("freeze", None, true, until_return(10)),
            Self::EtcdCut => on_primary("etcd-cut", None, true, Hold::Fixed(CUT)),
            Self::EtcdDown => etcd_down(Hold::Fixed(DOWN)),
            Self::EtcdDownReplicaLost => and(
                etcd_down(Hold::Fixed(DOWN)),
                When::After(MEANWHILE),
                breaks(Place::Standby(0), "host-death", None),
            ),
            Self::EtcdDownHostDeath => {
                let both = and(
                    etcd_down(until_return(5)),
                    When::After(MEANWHILE),
                    breaks(Place::Primary, "host-death", None),
                );
                and(both, When::After(ETCD_BACK), What::Heal(0))
            }
            Self::AgentKill => on_primary("kill", Some("agent"), false, Hold::Fixed(AGENT)),
            Self::AgentRestart => Script {
                steps: vec![Step {
                    when: When::After(Duration::ZERO),
                    what: What::Terminate { place: Place::Primary, unit: "agent" },
                }],
                hold: Hold::Fixed(AGENT),
            },
            Self::AgentGone => on_primary("stop", Some("agent"), true, until_return(10)),
            Self::Switchover => Script {
                steps: vec![Step {
                    when: When::After(Duration::ZERO),
                    what: What::HandOver(Place::Standby(0)),
                }],
                hold: until_return(2),
            },
            Self::Stalls | Self::ArmedCost | Self::Idle => return None,
        };
        Some(script)
    }

    /// Whether the case breaks disks, which then have to be of the hosts' own.
    pub fn needs_own_disk(self) -> bool {
        matches!(self, Self::Stalls | Self::DiskHang | Self::DiskReadonly)
    }

    /// Whether it breaks agents, which Patroni alone does not have.
    pub fn needs_agents(self) -> bool {
        matches!(self, Self::AgentKill | Self::AgentRestart | Self::AgentGone)
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
