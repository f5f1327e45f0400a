//! What an agent says of its host, built for tests.
#![allow(dead_code, clippy::unwrap_used)] // Each test uses a part; helpers of tests are not seen as tests.

use holdfast_proto::message::{HostStatus, InstanceName, InstanceStatus, Role, TermSeen};
use holdfast_types::{Class, HostName, Incarnation, MemberName, Mode, Namespace, RegionName, Scope, Term};

use super::built::{db, position};

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
