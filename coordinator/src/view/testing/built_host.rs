//! What an agent says of its host, built for tests.
#![allow(dead_code, clippy::unwrap_used)] // Each test uses a part; helpers of tests are not seen as tests.

use holdfast_proto::message::{HostReport, HostStatus, InstanceName, InstanceStatus, Role, TermSeen};
use holdfast_types::renewals::RenewalDay;
use holdfast_types::{
    Class, HostName, Incarnation, MemberName, Mode, Namespace, Profile, RegionName, Scope, Term,
};

use super::built::{NOW_WALL_MS, db, position};

/// The host has one instance of its own name, with this role.
pub fn host_status(host: &str, role: Role, etcd_reachable: bool) -> HostStatus {
    let name = InstanceName {
        namespace: Namespace::new("service").unwrap(),
        scope: Scope::new("main").unwrap(),
        member: MemberName::new(host).unwrap(),
    };
    let instance = InstanceStatus {
        name,
        class: Class::Quorum,
        mode: Mode::Armed,
        role: Some(role),
        position: Some(position(2, 0x0500_0060)),
        term: Some(TermSeen { term: Term(4), holder: db(1), open: true, writable: true }),
        promise: None,
        fenced: None,
        patroni_state: Some("running".into()),
        waits: Vec::new(),
        would: Vec::new(),
        problems: Vec::new(),
        hung_ms: None,
    };
    HostStatus {
        region: RegionName::new("r1").unwrap(),
        host: HostName::new(host).unwrap(),
        incarnation: Incarnation(1),
        version: "0.1.0".into(),
        at_wall_ms: 0,
        etcd_reachable: Some(etcd_reachable),
        instances: vec![instance],
        poolers: Vec::new(),
        problems: Vec::new(),
    }
}

/// What the agent of a host has kept: renewals so many times with a gap of so many milliseconds, and no incident.
pub fn host_report(host: &str, profile: Profile, gaps: &[(u64, u64)]) -> HostReport {
    let mut day = RenewalDay::new(RenewalDay::of(NOW_WALL_MS), profile);
    for (times, gap_ms) in gaps {
        (0..*times).for_each(|_| day.add(*gap_ms, NOW_WALL_MS));
    }
    HostReport {
        region: RegionName::new("r1").unwrap(),
        host: HostName::new(host).unwrap(),
        version: "0.1.0".into(),
        at_wall_ms: NOW_WALL_MS,
        profile: Some(profile),
        incidents: Vec::new(),
        renewals: vec![day],
        unreadable: 0,
    }
}
