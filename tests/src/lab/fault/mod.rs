//! Faults: what breaks, what it takes to heal it, and the record of each.
//!
//! `at_monotonic_ns` is `CLOCK_MONOTONIC` read just before the first step of the fault, so nothing that a client saw
//! because of the fault is older.

mod act;
mod clock;
mod disk;
mod etcd;
mod heal;
mod kind;
mod memory;
mod processes;
mod record;
mod still;
pub mod torment;

use anyhow::Result;
use serde::Deserialize;

use super::failure::Failure;
use super::health;
use super::plan::{HostPlan, Plan, RegionPlan};
use super::spec::Role;

pub use disk::{thaw_all, thaw_here};
pub use heal::heal;
pub use kind::{Direction, Kind};
pub use record::{Fault, all};

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
    /// `postmaster:SCOPE`. For a jump of the clock: its seconds, such as `30` or `-30`.
    #[serde(default)]
    pub target: Option<String>,
    /// For a link cut: the other end.
    #[serde(default)]
    pub peer: Option<String>,
    /// For a link cut: only the packets that way.
    #[serde(default)]
    pub direction: Option<Direction>,
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
        None if order.kind.strikes_regions() => Place::Regions(&plan.regions),
        None => return Err(Failure::usage(format!("{} needs a host", order.kind))),
        Some(name) => match name.strip_prefix("@region:") {
            None => Place::Host(resolve(plan, name).await?),
            Some(_) if !order.kind.strikes_regions() => {
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
    let mut fault =
        Fault { direction: order.direction, ..Fault::new(order.kind, place, order.target.as_deref(), peer) };
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
    let kind = order.kind;
    if (order.peer.is_some() || order.direction.is_some()) && kind != Kind::LinkCut {
        return Err(Failure::usage("--peer and --direction belong to link-cut only"));
    }
    if (kind.is_a_signal() || kind == Kind::ClockJump) != order.target.is_some() {
        let text = format!(
            "{kind}: a target belongs to kill, stop and continue, seconds belong to clock-jump, and to them always"
        );
        return Err(Failure::usage(text));
    }
    let Place::Host(host) = place else { return Ok(()) };
    match (kind, host.host.role) {
        _ if kind.strikes_regions_only() => {
            Err(Failure::usage(format!("{kind} means etcd as a whole: name no host, or @region:REGION")))
        }
        (Kind::EtcdDown | Kind::EtcdSlow, role) if role != Role::Etcd => {
            Err(Failure::usage(format!("{} is no etcd host", host.name())))
        }
        (_, role) if role != Role::Database && (kind.needs_own_disk() || kind == Kind::ClockJump) => {
            Err(Failure::usage(format!("{kind} is for database hosts; {} is none", host.name())))
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
