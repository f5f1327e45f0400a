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

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::health;
use super::plan::{HostPlan, Plan};

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
    /// A host's name; `@leader` or `@leader:SCOPE` is whoever is primary now; nothing means all, where that makes sense.
    #[serde(default)]
    pub host: Option<String>,
    /// For signals: `postmaster`, `postgres` (all of PostgreSQL), `patroni`, or a unit; of another cluster than the
    /// first as `postmaster:SCOPE`.
    #[serde(default)]
    pub target: Option<String>,
    /// For a link cut: the other end.
    #[serde(default)]
    pub peer: Option<String>,
}

/// Injects it and returns its record.
pub async fn inject(plan: &Plan, order: &Order) -> Result<Fault> {
    let host = match &order.host {
        Some(name) => Some(resolve(plan, name).await?),
        None if order.kind == Kind::EtcdDown => None,
        None => bail!("{} needs a host", order.kind),
    };
    let peer = match &order.peer {
        Some(name) => Some(resolve(plan, name).await?),
        None => None,
    };
    if peer.is_some() && order.kind != Kind::LinkCut {
        bail!("--peer belongs to link-cut only");
    }
    let signal = matches!(order.kind, Kind::Kill | Kind::Stop | Kind::Continue);
    if signal != order.target.is_some() {
        bail!("{}: a target belongs to kill, stop and continue, and to them always", order.kind);
    }
    let mut fault = Fault::new(order.kind, host, order.target.as_deref(), peer);
    record::claim(plan, &mut fault)?;
    match act::act(plan, host, peer, &mut fault).await {
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

/// A host by its name, or the leader of a cluster.
async fn resolve<'p>(plan: &'p Plan, name: &str) -> Result<&'p HostPlan> {
    let Some(leader) = name.strip_prefix("@leader") else {
        let found = plan.host(name).map(|(_, host)| host);
        return found.with_context(|| format!("lab {} has no host {name}", plan.lab));
    };
    let scope = leader.strip_prefix(':');
    let instance = plan.instances().find(|one| scope.is_none_or(|scope| one.cluster.scope == scope));
    let instance = instance.with_context(|| format!("lab {} has no cluster {leader}", plan.lab))?;
    let region = plan.regions.first().context("a lab has a region")?;
    health::leader(region, &instance).await.map_err(anyhow::Error::msg)
}
