//! What runs on a host: the lab's counterpart of our systemd units.
//!
//! Pure: from the plan to a table. How a unit comes back stands in the files that the packages install; see [`systemd`].

use std::path::PathBuf;

use super::plan::{HAPROXY, HostPlan, Instance, Plan, RegionPlan};
use super::render;
use super::spec::Role;
use super::systemd::{self, Policy};

/// One long-running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name, for people, for its log and for faults.
    pub name: String,
    /// The cgroup that it lives in.
    pub cgroup: PathBuf,
    /// Each start gets a new cgroup of that path, as from systemd, unless something of the last one is left in it. For Patroni's
    /// unit: the guard holds it open.
    pub has_new_cgroup: bool,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The user; root if absent.
    pub user: Option<&'static str>,
    /// What its environment has besides.
    pub environment: Vec<(String, String)>,
    /// How long after its end it is started again, whatever its end was.
    pub delay_ms: u64,
    /// It is started only when the oneshots of the boot have succeeded.
    pub requires_oneshots: bool,
    /// Installed and not enabled: no boot starts it.
    pub is_disabled: bool,
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
    if plan.spec.is_installed() && render::agent::has_agent(host.host.role) {
        units.push(agent(plan, host));
    }
    match host.host.role {
        Role::Etcd => units.push(etcd(plan, region, host)),
        Role::Database => {
            if plan.spec.is_installed() {
                units.insert(0, guard(plan, host));
            }
            units.extend(plan.instances().map(|instance| {
                let file = host.etc().join(format!("{}.yml", instance.unit()));
                Unit {
                    cgroup: host.cgroup.join(instance.unit()),
                    has_new_cgroup: true,
                    command: words(&[&plan.patroni("patroni"), &file]),
                    user: Some("postgres"),
                    environment: own_clock(plan, host, render::clock::python),
                    requires_oneshots: systemd::patroni().requires_boot_deny,
                    ..unit(&instance.unit(), systemd::patroni())
                }
            }));
            if host.host.pgbouncer {
                units.extend(plan.instances().map(|instance| pgbouncer(host, &instance)));
            }
        }
        Role::Pooler => {
            for instance in plan.instances() {
                units.push(pgbouncer(host, &instance));
                if !plan.spec.holdfast {
                    units.push(repoint(plan, host, &instance.cluster.scope));
                }
            }
            if plan.spec.haproxy {
                units.push(haproxy(host));
            }
        }
        Role::Backup if plan.spec.is_installed() => units.push(coordinator(plan, host)),
        Role::Backup | Role::Client => {}
    }
    units
}

/// What the unit file says. It says always, or the file is refused; what runs once is no unit here.
fn unit(name: &str, Policy { delay_ms, .. }: Policy) -> Unit {
    Unit {
        name: name.into(),
        cgroup: PathBuf::new(),
        has_new_cgroup: false,
        command: Vec::new(),
        user: None,
        environment: Vec::new(),
        delay_ms,
        requires_oneshots: false,
        is_disabled: false,
    }
}

fn pgbouncer(host: &HostPlan, instance: &Instance<'_>) -> Unit {
    let (name, file) = (instance.pooler_unit(), host.etc().join(format!("{}.ini", instance.pooler_unit())));
    Unit {
        cgroup: host.cgroup.join(&name),
        command: words(&[&"/usr/sbin/pgbouncer", &file]),
        user: Some("postgres"),
        ..unit(&name, systemd::pgbouncer())
    }
}

fn agent(plan: &Plan, host: &HostPlan) -> Unit {
    Unit {
        cgroup: host.cgroup.join("agent"),
        command: words(&[&plan.program("holdfast-agent"), &"run", &"--config", &host.agent_config()]),
        environment: own_clock(plan, host, render::clock::preloaded),
        is_disabled: plan.spec.adoptable,
        ..unit("agent", systemd::agent())
    }
}

fn coordinator(plan: &Plan, host: &HostPlan) -> Unit {
    Unit {
        cgroup: host.cgroup.join("coordinator"),
        command: words(&[&plan.program("holdfast"), &"coordinator", &"--config", &host.coordinator_config()]),
        is_disabled: plan.spec.adoptable,
        ..unit("coordinator", systemd::coordinator())
    }
}

fn guard(plan: &Plan, host: &HostPlan) -> Unit {
    let socket = host.run().join("holdfast").join("guard.sock");
    Unit {
        cgroup: host.cgroup.join("guard"),
        command: words(&[&plan.program("holdfast-guard"), &"--socket", &socket]),
        is_disabled: plan.spec.adoptable,
        ..unit("guard", systemd::guard())
    }
}

/// What gives the processes of a database host a wall clock that a fault can set.
fn own_clock(
    plan: &Plan,
    host: &HostPlan,
    environment: fn(&HostPlan) -> Vec<(String, String)>,
) -> Vec<(String, String)> {
    let faked = plan.spec.fake_clock && host.host.role == Role::Database;
    if faked { environment(host) } else { Vec::new() }
}

fn etcd(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> Unit {
    Unit {
        cgroup: host.cgroup.join("etcd"),
        command: render::etcd::command(&plan.spec, region, host),
        ..unit("etcd", systemd::etcd())
    }
}

/// The pooler's companion in a lab without us: no file of ours speaks of it, so it comes back as its pooler does.
fn repoint(plan: &Plan, host: &HostPlan, scope: &str) -> Unit {
    let name = format!("repoint-{scope}");
    Unit {
        cgroup: host.cgroup.join(&name),
        command: words(&[&plan.program("holdfast-lab"), &"repoint", &plan.lab, &host.name(), &scope]),
        ..unit(&name, systemd::pgbouncer())
    }
}

/// No file of ours speaks of it either.
fn haproxy(host: &HostPlan) -> Unit {
    Unit {
        cgroup: host.cgroup.join("haproxy"),
        // With a master, as Debian's unit has it: SIGUSR2 reloads.
        command: words(&[&HAPROXY, &"-W", &"-db", &"-f", &render::haproxy::file(host)]),
        ..unit("haproxy", systemd::pgbouncer())
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
        names_in(Spec { holdfast, ..Spec::default() }, host)
    }

    fn names_in(spec: Spec, host: &str) -> Vec<String> {
        let plan = Plan::new("a", spec, std::path::Path::new("/cg"), "/bin".into());
        let (region, host) = plan.host(host).unwrap();
        units(&plan, region, host).into_iter().map(|unit| unit.name).collect()
    }

    #[test]
    fn a_lab_that_can_be_adopted_has_what_it_has_without_us_and_our_units_beside_it() {
        let adoptable = || Spec { holdfast: false, adoptable: true, ..Spec::default() };
        assert_eq!(names_in(adoptable(), "db1"), ["guard", "agent", "patroni-main"]);
        assert_eq!(names_in(adoptable(), "pool1"), ["agent", "pgbouncer", "repoint-main"]);
    }

    #[test]
    fn agents_start_first_and_only_under_holdfast() {
        assert_eq!(names(true, "db1"), ["guard", "agent", "patroni-main"]);
        assert_eq!(names(false, "db1"), ["patroni-main"]);
        assert_eq!(names(true, "pool1"), ["agent", "pgbouncer"]);
        assert_eq!(names(false, "pool1"), ["pgbouncer", "repoint-main"]);
        assert_eq!(names(true, "e1"), ["etcd"]);
        assert_eq!(
            (names(true, "backup1"), names(false, "backup1")),
            (vec!["agent".to_owned(), "coordinator".into()], vec![])
        );
        let spec = Spec { haproxy: true, ..Spec::default() };
        let plan = Plan::new("a", spec, std::path::Path::new("/cg"), "/bin".into());
        let (region, pool1) = plan.host("pool1").unwrap();
        assert_eq!(units(&plan, region, pool1).last().unwrap().name, "haproxy");
        assert_eq!((names(true, "client"), names(false, "client")), (vec!["agent".to_owned()], vec![]));
    }
}
