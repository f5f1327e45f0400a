//! What may break in a campaign: each kind of fault with its places, its length and its weight. Data only.

use crate::lab::fault::{Direction, Kind};

/// Where a blow falls, by the role that a host has at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The primary.
    Writer,
    /// A synchronous standby.
    Standby,
    /// The asynchronous replica.
    Replica,
    /// A pooler.
    Pooler,
    /// A member of etcd.
    Etcd,
    /// All of etcd.
    Everywhere,
}

/// Something that may break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blow {
    /// Its name on the command line and in records.
    pub name: &'static str,
    /// The kind of fault.
    pub kind: Kind,
    /// Which process, for signals.
    pub target: Option<&'static str>,
    /// Only what goes that way, for links.
    pub direction: Option<Direction>,
    /// Whether it concerns the link to one other host only.
    pub has_peer: bool,
    /// Where, each with its weight.
    pub places: &'static [(Place, u32)],
    /// For how long, at least and at most, in milliseconds.
    pub hold_ms: (u32, u32),
    /// How often, relative to the others.
    pub weight: u32,
}

use Place::{Etcd, Everywhere, Pooler, Replica, Standby, Writer};

const MOSTLY_WRITER: &[(Place, u32)] = &[(Writer, 5), (Standby, 3), (Replica, 1)];
const MEMBERS: &[(Place, u32)] = &[(Writer, 3), (Standby, 2)];
const AGENTS: &[(Place, u32)] = &[(Writer, 4), (Standby, 3), (Replica, 1), (Pooler, 2)];
const LINKED: &[(Place, u32)] = &[(Writer, 4), (Standby, 3), (Replica, 1), (Pooler, 1), (Etcd, 1)];
const ETCD: &[(Place, u32)] = &[(Etcd, 1)];
const EVERYWHERE: &[(Place, u32)] = &[(Everywhere, 1)];
const POOLER: &[(Place, u32)] = &[(Pooler, 1)];

const fn blow(
    name: &'static str,
    kind: Kind,
    places: &'static [(Place, u32)],
    hold_ms: (u32, u32),
    weight: u32,
) -> Blow {
    Blow { name, kind, target: None, direction: None, has_peer: false, places, hold_ms, weight }
}

const fn signal(
    name: &'static str,
    kind: Kind,
    target: &'static str,
    places: &'static [(Place, u32)],
    hold_ms: (u32, u32),
    weight: u32,
) -> Blow {
    Blow { target: Some(target), ..blow(name, kind, places, hold_ms, weight) }
}

const fn link(name: &'static str, direction: Option<Direction>) -> Blow {
    Blow { direction, has_peer: true, ..blow(name, Kind::LinkCut, LINKED, (300, 12_000), 5) }
}

/// An instant fault is held for no time; a power cycle ends by itself within this.
const AT_ONCE: (u32, u32) = (0, 0);
const POWER_CYCLE_MS: (u32, u32) = (6_000, 8_000);

/// All of them.
pub const BLOWS: &[Blow] = &[
    blow("host-death", Kind::HostDeath, MOSTLY_WRITER, (1_000, 15_000), 10),
    blow("power-cycle", Kind::PowerCycle, MOSTLY_WRITER, POWER_CYCLE_MS, 6),
    blow("freeze", Kind::Freeze, MOSTLY_WRITER, (300, 15_000), 8),
    blow("link-cut", Kind::LinkCut, LINKED, (300, 12_000), 8),
    link("link-cut-peer", None),
    link("link-cut-in", Some(Direction::In)),
    link("link-cut-out", Some(Direction::Out)),
    blow("etcd-cut", Kind::EtcdCut, AGENTS, (500, 15_000), 8),
    blow("etcd-member-down", Kind::EtcdDown, ETCD, (500, 12_000), 4),
    blow("etcd-down", Kind::EtcdDown, EVERYWHERE, (1_000, 15_000), 6),
    blow("etcd-slow", Kind::EtcdSlow, EVERYWHERE, (3_000, 12_000), 4),
    blow("etcd-leader-churn", Kind::EtcdLeaderChurn, EVERYWHERE, (4_000, 12_000), 4),
    blow("etcd-full", Kind::EtcdFull, EVERYWHERE, (1_000, 10_000), 4),
    blow("disk-hang", Kind::DiskHang, MOSTLY_WRITER, (300, 12_000), 6),
    blow("disk-readonly", Kind::DiskReadonly, MOSTLY_WRITER, (500, 8_000), 4),
    blow("cpu-starve", Kind::CpuStarve, MOSTLY_WRITER, (2_000, 12_000), 4),
    blow("memory-pressure", Kind::MemoryPressure, MOSTLY_WRITER, (2_000, 10_000), 4),
    blow("nft-flush", Kind::NftFlush, AGENTS, AT_ONCE, 4),
    blow("clock-jump", Kind::ClockJump, MOSTLY_WRITER, (2_000, 10_000), 4),
    signal("kill-postmaster", Kind::Kill, "postmaster", MOSTLY_WRITER, AT_ONCE, 8),
    signal("kill-patroni", Kind::Kill, "patroni", MEMBERS, AT_ONCE, 5),
    signal("kill-agent", Kind::Kill, "agent", AGENTS, AT_ONCE, 6),
    signal("kill-guard", Kind::Kill, "guard", MEMBERS, AT_ONCE, 4),
    signal("kill-pgbouncer", Kind::Kill, "pgbouncer", POOLER, AT_ONCE, 2),
    signal("stop-postmaster", Kind::Stop, "postmaster", MOSTLY_WRITER, (300, 15_000), 6),
    signal("stop-postgres", Kind::Stop, "postgres", MOSTLY_WRITER, (300, 15_000), 6),
    signal("stop-patroni", Kind::Stop, "patroni", MEMBERS, (500, 25_000), 6),
    signal("stop-agent", Kind::Stop, "agent", AGENTS, (300, 15_000), 6),
    signal("stop-pgbouncer", Kind::Stop, "pgbouncer", POOLER, (300, 5_000), 1),
    signal("stop-etcd", Kind::Stop, "etcd", ETCD, (300, 8_000), 2),
];

impl Blow {
    /// The blow of that name.
    pub fn named(name: &str) -> Result<&'static Self, String> {
        BLOWS.iter().find(|blow| blow.name == name).ok_or_else(|| {
            let names: Vec<&str> = BLOWS.iter().map(|blow| blow.name).collect();
            format!("{name} is nothing that a campaign breaks; there are {}", names.join(", "))
        })
    }

    /// Whether it breaks something that Patroni alone does not have.
    pub fn needs_agents(&self) -> bool {
        matches!(self.target, Some("agent" | "guard"))
    }

    /// Whether there is something to heal when it is held no longer.
    pub fn lasts(&self) -> bool {
        !self.kind.is_an_instant()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_a_place_and_a_length_if_it_lasts() {
        for (at, blow) in BLOWS.iter().enumerate() {
            assert_eq!(BLOWS.iter().position(|other| other.name == blow.name), Some(at), "{}", blow.name);
            assert!(blow.weight > 0 && blow.places.iter().all(|(_, weight)| *weight > 0), "{}", blow.name);
            assert!(
                blow.hold_ms.0 <= blow.hold_ms.1 && blow.lasts() == (blow.hold_ms.1 > 0),
                "{}",
                blow.name
            );
            assert_eq!(blow.kind.is_a_signal(), blow.target.is_some(), "{}", blow.name);
        }
        assert!(Blow::named("earthquake").unwrap_err().contains("kill-postmaster"));
    }
}
