//! Faults: what breaks, what it takes to heal it, and the record of each.
//!
//! `at_monotonic_ns` is `CLOCK_MONOTONIC` read just before the first step of the fault, so nothing that a client saw
//! because of the fault is older.

mod act;
mod heal;
mod processes;
mod record;

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::health;
use super::plan::{HostPlan, Plan, RegionPlan};
use super::spec::Role;

pub use heal::heal;
pub use record::{Fault, all};

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Cable pulled; with a peer, only packets between the two are dropped.
    LinkCut,
    /// This host does not reach etcd.
    EtcdCut,
    /// etcd of one host, or of all, is killed and stays down.
    EtcdDown,
    /// SIGKILL. The process comes back as its unit says.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

const KINDS: [(&str, Kind); 10] = [
    ("host-death", Kind::HostDeath),
    ("power-cycle", Kind::PowerCycle),
    ("freeze", Kind::Freeze),
    ("thaw", Kind::Thaw),
    ("link-cut", Kind::LinkCut),
    ("etcd-cut", Kind::EtcdCut),
    ("etcd-down", Kind::EtcdDown),
    ("kill", Kind::Kill),
    ("stop", Kind::Stop),
    ("continue", Kind::Continue),
];

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

/// A fault that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Order {
    /// What is to break.
    pub kind: Kind,
    /// A host's name; `@leader[:SCOPE][@REGION]` is whoever is primary now; `@region:REGION` or nothing means all hosts of it,
    /// or of the lab, where that makes sense.
    #[serde(default)]
    pub host: Option<String>,
    /// For signals: `postmaster`, `postgres` (all of PostgreSQL), `patroni`, or a unit; where there are several clusters as
    /// `postmaster:SCOPE`.
    #[serde(default)]
    pub target: Option<String>,
    /// For a link cut: the other end.
    #[serde(default)]
    pub peer: Option<String>,
}

/// Where a fault strikes.
#[derive(Debug, Clone, Copy)]
pub enum Place<'p> {
    /// One host.
    Host(&'p HostPlan),
    /// Every host that it can strike in these regions.
    Regions(&'p [RegionPlan]),
}

/// Injects it and returns its record.
pub async fn inject(plan: &Plan, order: &Order) -> Result<Fault> {
    let place = match order.host.as_deref() {
        None if order.kind == Kind::EtcdDown => Place::Regions(&plan.regions),
        None => return Err(Failure::usage(format!("{} needs a host", order.kind))),
        Some(name) => match name.strip_prefix("@region:") {
            None => Place::Host(resolve(plan, name).await?),
            Some(_) if order.kind != Kind::EtcdDown => {
                return Err(Failure::usage(format!("{} needs a host, not a region", order.kind)));
            }
            Some(region) => Place::Regions(std::slice::from_ref(plan.named_region(Some(region))?)),
        },
    };
    let peer = match &order.peer {
        Some(name) => Some(resolve(plan, name).await?),
        None => None,
    };
    check(order, place)?;
    let mut fault = Fault::new(order.kind, place, order.target.as_deref(), peer);
    record::claim(plan, &mut fault)?;
    match act::act(plan, place, peer, &mut fault).await {
        Ok(()) => {
            record::save(plan, &fault)?;
            Ok(fault)
        }
        Err(error) => {
            record::forget(plan, &fault)?;
            Err(error)
        }
    }
}

/// Refuses what makes no sense before anything is touched.
fn check(order: &Order, place: Place<'_>) -> Result<()> {
    if order.peer.is_some() && order.kind != Kind::LinkCut {
        return Err(Failure::usage("--peer belongs to link-cut only"));
    }
    let signal = matches!(order.kind, Kind::Kill | Kind::Stop | Kind::Continue);
    if signal != order.target.is_some() {
        let text = format!("{}: a target belongs to kill, stop and continue, and to them always", order.kind);
        return Err(Failure::usage(text));
    }
    match place {
        Place::Host(host) if order.kind == Kind::EtcdDown && host.host.role != Role::Etcd => {
            Err(Failure::usage(format!("{} is no etcd host", host.name())))
        }
        _ => Ok(()),
    }
}

/// A host by its name, or the leader of a cluster: `@leader`, `@leader:SCOPE`, `@leader@REGION`, `@leader:SCOPE@REGION`. What
/// is left out must be the only one of its kind.
async fn resolve<'p>(plan: &'p Plan, name: &str) -> Result<&'p HostPlan> {
    let Some((scope, region)) = leader_of(name) else {
        return plan.named_host(name).map(|(_, host)| host);
    };
    let (instance, region) = (plan.named_instance(scope)?, plan.named_region(region)?);
    health::leader(region, &instance).await.map_err(anyhow::Error::msg)
}

/// Scope and region of `@leader...`; `None` when it is a host's name.
fn leader_of(name: &str) -> Option<(Option<&str>, Option<&str>)> {
    let rest = name.strip_prefix("@leader")?;
    let (scope, region) = rest.split_once('@').map_or((rest, None), |(scope, region)| (scope, Some(region)));
    match scope.strip_prefix(':') {
        None if scope.is_empty() => Some((None, region)),
        None => None,
        scope => Some((scope, region)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_named_by_scope_and_region_or_not_at_all() {
        assert_eq!(leader_of("@leader"), Some((None, None)));
        assert_eq!(leader_of("@leader:line-7"), Some((Some("line-7"), None)));
        assert_eq!(leader_of("@leader@r2"), Some((None, Some("r2"))));
        assert_eq!(leader_of("@leader:main@r2"), Some((Some("main"), Some("r2"))));
        assert_eq!(leader_of("db1"), None);
        assert_eq!(leader_of("@leaders"), None);
    }
}
