//! Answers of agents for tests.

use holdfast_proto::message::Role;

use super::built_host::host_status;
use crate::view::agents::HostAnswer;

/// The agent of `host` answers: its only instance has the same name and this role.
pub fn answer(host: &str, role: Role, etcd_reachable: bool) -> HostAnswer {
    let status = Some(host_status(host, role, etcd_reachable));
    HostAnswer { address: format!("{host}:7460"), status, problem: None }
}

/// Nobody answers there.
pub fn silent(address: &str, problem: &str) -> HostAnswer {
    HostAnswer { address: address.into(), status: None, problem: Some(problem.into()) }
}
