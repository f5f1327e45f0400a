//! What the other faults of a host still break: healing one must leave it so.

use super::Kind;
use super::heal::strikes;
use super::record::Fault;
use crate::lab::plan::{HostPlan, RegionPlan};

/// What is still broken on a host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Still {
    /// Its cable is pulled.
    pub unplugged: bool,
    /// It is off.
    pub dead: bool,
    /// It stands still.
    pub frozen: bool,
    /// Its etcd is to stay down.
    pub etcd_down: bool,
    /// Its disk hangs.
    pub disk_hangs: bool,
    /// Its processes get no memory.
    pub no_memory: bool,
    /// These processes are stopped.
    pub stopped: Vec<i32>,
    /// The seconds by which its clock is wrong.
    pub clock: Option<String>,
}

impl Still {
    /// What `others` break of `host`.
    pub fn of(others: &[Fault], region: &RegionPlan, host: &HostPlan) -> Self {
        let mut still = Self::default();
        for fault in others.iter().filter(|fault| strikes(fault, region, host)) {
            match fault.kind {
                Kind::HostDeath | Kind::PowerCycle => {
                    still.unplugged = true;
                    still.dead = true;
                }
                Kind::LinkCut => still.unplugged |= fault.peer.is_none() && fault.direction.is_none(),
                Kind::Freeze => still.frozen = true,
                Kind::EtcdDown => still.etcd_down = true,
                Kind::DiskHang => still.disk_hangs = true,
                Kind::MemoryPressure => still.no_memory = true,
                Kind::Stop => still.stopped.extend(&fault.pids),
                Kind::ClockJump => still.clock = fault.target.clone(),
                // Each of these has a rule, a process or an alarm of its own.
                Kind::EtcdCut | Kind::EtcdSlow | Kind::EtcdLeaderChurn | Kind::EtcdFull | Kind::CpuStarve => {
                }
                // A second error of a disk in error changes nothing, and one boot mends both.
                Kind::DiskReadonly => {}
                Kind::Thaw | Kind::Kill | Kind::Continue | Kind::NftFlush => {}
            }
        }
        still
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, Place};
    use super::*;
    use crate::lab::plan::Plan;
    use crate::lab::spec::Spec;

    #[test]
    fn what_another_fault_breaks_stays_broken() {
        let plan = Plan::new("a", Spec::default(), std::path::Path::new("/cg"), "/bin".into());
        let (region, db1) = plan.host("db1").unwrap();
        let (_, db2) = plan.host("db2").unwrap();
        let (_, e1) = plan.host("e1").unwrap();
        let fault = |kind, host, peer| Fault::new(kind, Place::Host(host), None, peer);
        let unplugged = Still { unplugged: true, ..Still::default() };
        assert_eq!(Still::of(&[fault(Kind::LinkCut, db1, None)], region, db1), unplugged);
        assert_eq!(Still::of(&[fault(Kind::LinkCut, db1, Some(db2))], region, db1), Still::default());
        assert_eq!(Still::of(&[fault(Kind::LinkCut, db1, None)], region, db2), Still::default());
        let one_way = Fault { direction: Some(Direction::Out), ..fault(Kind::LinkCut, db1, None) };
        assert_eq!(Still::of(&[one_way], region, db1), Still::default());
        let dead = Still { dead: true, ..unplugged };
        assert_eq!(Still::of(&[fault(Kind::HostDeath, db1, None)], region, db1), dead);
        let everywhere = Fault::new(Kind::EtcdDown, Place::Regions(&plan.regions), None, None);
        let etcd_down = Still { etcd_down: true, ..Still::default() };
        assert_eq!(Still::of(std::slice::from_ref(&everywhere), region, e1), etcd_down);
        assert_eq!(Still::of(&[everywhere], region, db1), Still::default());
    }
}
