//! What can be broken, by its name, and what can be said of a kind without a lab.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Cable pulled and every process killed; stays so until it is healed, which is a boot.
    HostDeath,
    /// The same, and a boot after a while.
    PowerCycle,
    /// Every process of the host stands still, as in a paused virtual machine.
    Freeze,
    /// The end of a freeze.
    Thaw,
    /// Cable pulled; with a peer, only packets between the two are dropped; with a direction, only those that way.
    LinkCut,
    /// This host does not reach etcd.
    EtcdCut,
    /// etcd of one host, or of all, is killed and stays down.
    EtcdDown,
    /// etcd of one host, or of all, answers once every two seconds.
    EtcdSlow,
    /// etcd has another leader every three seconds.
    EtcdLeaderChurn,
    /// etcd takes no more writes: the alarm NOSPACE.
    EtcdFull,
    /// The file system of the data directory hangs: whoever writes to it waits, and cannot be killed while it does.
    DiskHang,
    /// The file system of the data directory has met an error and takes no more writes. Healing it is a boot with `fsck`.
    DiskReadonly,
    /// Every process of the host runs for a tenth of the time, as on an overcommitted hypervisor.
    CpuStarve,
    /// No process of the host gets more memory than it has, as where memory is not overcommitted.
    MemoryPressure,
    /// Somebody runs `nft flush ruleset` on the host, once.
    NftFlush,
    /// The wall clock of the host is set forwards or backwards.
    ClockJump,
    /// SIGKILL. The process comes back as its unit says.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

const KINDS: [(&str, Kind); 19] = [
    ("host-death", Kind::HostDeath),
    ("power-cycle", Kind::PowerCycle),
    ("freeze", Kind::Freeze),
    ("thaw", Kind::Thaw),
    ("link-cut", Kind::LinkCut),
    ("etcd-cut", Kind::EtcdCut),
    ("etcd-down", Kind::EtcdDown),
    ("etcd-slow", Kind::EtcdSlow),
    ("etcd-leader-churn", Kind::EtcdLeaderChurn),
    ("etcd-full", Kind::EtcdFull),
    ("disk-hang", Kind::DiskHang),
    ("disk-readonly", Kind::DiskReadonly),
    ("cpu-starve", Kind::CpuStarve),
    ("memory-pressure", Kind::MemoryPressure),
    ("nft-flush", Kind::NftFlush),
    ("clock-jump", Kind::ClockJump),
    ("kill", Kind::Kill),
    ("stop", Kind::Stop),
    ("continue", Kind::Continue),
];

impl Kind {
    /// Whether it is over when it has happened.
    pub fn is_an_instant(self) -> bool {
        matches!(self, Self::Kill | Self::Continue | Self::Thaw | Self::NftFlush)
    }

    /// Whether it may strike all etcd hosts of a region, or of the lab, at once.
    pub fn strikes_regions(self) -> bool {
        matches!(self, Self::EtcdDown | Self::EtcdSlow) || self.strikes_regions_only()
    }

    /// Whether it means etcd as a whole and never one host.
    pub fn strikes_regions_only(self) -> bool {
        matches!(self, Self::EtcdLeaderChurn | Self::EtcdFull)
    }

    /// Whether a boot of its host ends it: processes, memory and mounts are new then.
    pub fn ends_with_a_boot(self) -> bool {
        matches!(self, Self::Freeze | Self::Stop | Self::DiskHang | Self::DiskReadonly | Self::MemoryPressure)
    }

    /// Whether it is a signal to a process, which has to be named.
    pub fn is_a_signal(self) -> bool {
        matches!(self, Self::Kill | Self::Stop | Self::Continue)
    }

    /// Whether it needs the data directory on a file system of its own.
    pub fn needs_own_disk(self) -> bool {
        matches!(self, Self::DiskHang | Self::DiskReadonly)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = KINDS.iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| *kind).ok_or_else(|| {
            let names = KINDS.map(|(name, _)| name).join(", ");
            format!("{text} is no kind of fault; there are {names}")
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = KINDS.iter().find(|(_, kind)| kind == self);
        f.pad(found.map_or("", |(name, _)| name))
    }
}

/// Which packets of a link are dropped, as its host sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Those that arrive.
    In,
    /// Those that leave.
    Out,
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "in" => Ok(Self::In),
            "out" => Ok(Self::Out),
            other => Err(format!("{other} is no direction; there are in and out")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_on_the_command_line_is_the_name_in_records() {
        for (name, kind) in KINDS {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        assert!("earthquake".parse::<Kind>().unwrap_err().contains("etcd-leader-churn"));
    }
}
