//! What runs on a host, and how it comes back: the lab's counterpart of our systemd units.
//!
//! Pure: from the plan to a table. The restart policies and delays are those of the units that the packages install.

use std::path::PathBuf;

use super::plan::{HostPlan, PATRONI, Plan, RegionPlan};
use super::render;
use super::spec::Role;

/// One long-running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name, for people, for its log and for faults.
    pub name: String,
    /// The cgroup that it lives in.
    pub cgroup: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The user; root if absent.
    pub user: Option<&'static str>,
    /// When it is started again.
    pub restart: Restart,
    /// How long after its end.
    pub delay_ms: u64,
    /// A file that exists when others may rely on it. Waited for at boot, for a bounded time.
    pub ready: Option<PathBuf>,
}

/// systemd's `Restart=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whatever its end was.
    Always,
    /// Unless it ended with exit code 0.
    OnFailure,
}

/// What is run once at boot before everything else, as root.
pub fn oneshots(plan: &Plan, host: &HostPlan) -> Vec<Vec<String>> {
    if !plan.spec.holdfast || host.host.role != Role::Database {
        return Vec::new();
    }
    vec![words(&[&plan.program("holdfast-agent"), &"boot-deny", &"--config", &host.agent_config()])]
}

/// The units of a host, in the order of their start.
pub fn units(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> Vec<Unit> {
    let mut units = Vec::new();
    if plan.spec.holdfast && render::agent::has_agent(host.host.role) {
        units.push(agent(plan, host));
    }
    match host.host.role {
        Role::Etcd => units.push(etcd(region, host)),
        Role::Database => units.extend(plan.instances().map(|instance| {
            let file = host.etc().join(format!("{}.yml", instance.unit()));
            Unit {
                cgroup: host.cgroup.join(instance.unit()),
                command: words(&[&PATRONI, &file]),
                user: Some("postgres"),
                ..unit(&instance.unit(), 1_000)
            }
        })),
        Role::Pooler => {
            for instance in plan.instances() {
                let file = host.etc().join(format!("{}.ini", instance.pooler_unit()));
                units.push(Unit {
                    cgroup: host.cgroup.join(instance.pooler_unit()),
                    command: words(&[&"/usr/sbin/pgbouncer", &file]),
                    user: Some("postgres"),
                    ..unit(&instance.pooler_unit(), 100)
                });
                if !plan.spec.holdfast {
                    units.push(repoint(plan, host, &instance.cluster.scope));
                }
            }
        }
        Role::Backup | Role::Client => {}
    }
    units
}

fn unit(name: &str, delay_ms: u64) -> Unit {
    Unit {
        name: name.into(),
        cgroup: PathBuf::new(),
        command: Vec::new(),
        user: None,
        restart: Restart::OnFailure,
        delay_ms,
        ready: None,
    }
}

fn agent(plan: &Plan, host: &HostPlan) -> Unit {
    Unit {
        cgroup: host.cgroup.join("agent"),
        command: words(&[&plan.program("holdfast-agent"), &"run", &"--config", &host.agent_config()]),
        restart: Restart::Always,
        ready: Some(host.run().join("holdfast").join("agent.sock")),
        ..unit("agent", 100)
    }
}

fn etcd(region: &RegionPlan, host: &HostPlan) -> Unit {
    Unit {
        cgroup: host.cgroup.join("etcd"),
        command: render::etcd::command(region, host),
        restart: Restart::Always,
        ..unit("etcd", 1_000)
    }
}

fn repoint(plan: &Plan, host: &HostPlan, scope: &str) -> Unit {
    let name = format!("repoint-{scope}");
    Unit {
        cgroup: host.cgroup.join(&name),
        command: words(&[&plan.program("holdfast-lab"), &"repoint", &plan.lab, &host.name(), &scope]),
        restart: Restart::Always,
        ..unit(&name, 100)
    }
}

fn words(words: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<String> {
    words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::spec::Spec;
    use super::*;

    fn names(holdfast: bool, host: &str) -> Vec<String> {
        let spec = Spec { holdfast, ..Spec::default() };
        let plan = Plan::new("a", spec, std::path::Path::new("/cg"), "/bin".into());
        let (region, host) = plan.host(host).unwrap();
        units(&plan, region, host).into_iter().map(|unit| unit.name).collect()
    }

    #[test]
    fn agents_start_first_and_only_under_holdfast() {
        assert_eq!(names(true, "db1"), ["agent", "patroni-main"]);
        assert_eq!(names(false, "db1"), ["patroni-main"]);
        assert_eq!(names(true, "pool1"), ["agent", "pgbouncer"]);
        assert_eq!(names(false, "pool1"), ["pgbouncer", "repoint-main"]);
        assert_eq!(names(true, "e1"), ["etcd"]);
        assert_eq!((names(true, "client"), names(false, "client")), (vec!["agent".to_owned()], vec![]));
    }
}
