//! The lab's files: its record, and the configuration of every host.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::control;
use super::failure::{Exit, Failure};
use super::plan::{HostPlan, Plan, RUN_ROOT, RegionPlan, dir, password_of};
use super::render;
use super::spec::{EtcdAuth, Role};

/// The plan, below the lab's run directory.
const RECORD: &str = "lab.json";

/// Takes the name: makes the lab's run directory and writes its plan there, before anything else of it exists.
pub fn claim(plan: &Plan) -> Result<()> {
    fs::create_dir_all(RUN_ROOT).context(RUN_ROOT)?;
    let dir = plan.dir();
    match fs::create_dir(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text =
                format!("lab {0} is there already; take it down first: holdfast-lab down {0}", plan.lab);
            return Err(Failure::with(Exit::Refused, text));
        }
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    }
    write(&dir.join(RECORD), &serde_json::to_string_pretty(plan)?)
}

/// The plan of a lab that is there.
pub fn load(lab: &str) -> Result<Plan> {
    let file = dir(lab).join(RECORD);
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::usage(format!("there is no lab {lab}; see: holdfast-lab list")));
        }
        other => other.with_context(|| file.display().to_string())?,
    };
    serde_json::from_str(&text).with_context(|| format!("{} is not understood", file.display()))
}

/// Names of the labs that are there, also of those whose `up` was killed.
pub fn labs() -> Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(RUN_ROOT) {
        Ok(entries) => {
            names.extend(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context(RUN_ROOT),
    }
    names.sort();
    Ok(names)
}

/// Writes the configuration of every host, and the operator's.
pub fn write_all(plan: &Plan) -> Result<()> {
    for (region, host) in plan.hosts() {
        for dir in [&host.etc(), &host.run(), &host.logs(), &host.data] {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        write_host(plan, region, host).with_context(|| format!("configuration of {}", host.name()))?;
    }
    if plan.spec.etcd_auth == EtcdAuth::Password {
        write_secret(&plan.operator().join("etcd.password"), &password_of(render::OPERATOR))?;
    }
    write(&plan.operator_config(), &render::agent::operator(plan)?)
}

/// Writes a file that its owner alone may read.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(|| path.display().to_string())
}

fn write_host(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> Result<()> {
    if plan.spec.is_installed() && render::agent::has_agent(host.host.role) {
        write(&host.agent_config(), &render::agent::config(plan, region, host)?)?;
        if region.etcd_auth == EtcdAuth::Password {
            write_secret(&host.etcd_password(), &password_of(&region.etcd_user(host)))?;
        }
    }
    match host.host.role {
        Role::Database => write_database(plan, region, host),
        Role::Pooler => {
            if plan.spec.haproxy {
                write_haproxy(plan, region, host)?;
            }
            let first = region.of(Role::Database).next().context("a region has a database host")?;
            write_pooler(plan, host, first.address)
        }
        Role::Backup if plan.spec.is_installed() => {
            write(&host.coordinator_config(), &render::agent::coordinator(plan, region, host)?)
        }
        Role::Etcd | Role::Backup | Role::Client => Ok(()),
    }
}

fn write_database(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> Result<()> {
    for instance in plan.instances() {
        let file = host.etc().join(format!("{}.yml", instance.unit()));
        write(&file, &render::patroni::config(plan, region, host, &instance))?;
    }
    if host.host.pgbouncer {
        write_pooler(plan, host, Ipv4Addr::LOCALHOST)?;
    }
    if plan.spec.fake_clock {
        write(&host.clock(), "+0\n")?;
        let module = host.clock_module();
        fs::create_dir_all(&module).with_context(|| module.display().to_string())?;
        write(&module.join(render::clock::MODULE_FILE), render::clock::MODULE)?;
    }
    if plan.spec.is_installed() {
        let bin = host.dir.join("bin");
        fs::create_dir_all(&bin)?;
        std::os::unix::fs::symlink(plan.program("holdfast-agent"), bin.join("postgres"))?;
    }
    Ok(())
}

fn write_pooler(plan: &Plan, host: &HostPlan, leads_to: Ipv4Addr) -> Result<()> {
    let etc = host.etc();
    write(&etc.join("pgbouncer-hba.conf"), render::pgbouncer::HBA)?;
    write(&etc.join("userlist.txt"), render::pgbouncer::USERLIST)?;
    for instance in plan.instances() {
        let unit = instance.pooler_unit();
        write(&etc.join(format!("{unit}.ini")), &render::pgbouncer::config(plan, host, &instance))?;
        let target = host.target_file(&unit);
        fs::create_dir_all(target.parent().context("the target file has a directory")?)?;
        write(&target, &render::pgbouncer::target(leads_to, instance.port))?;
    }
    Ok(())
}

fn write_haproxy(plan: &Plan, region: &RegionPlan, host: &HostPlan) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let read = |name: &str| {
        let file = host.certs().join(name);
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    };
    let identity = render::haproxy::identity(host);
    write(&identity, &(read("host.crt")? + &read("host.key")?))?;
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).context("the identity of HAProxy")?;
    write(&render::haproxy::file(host), &render::haproxy::config(plan, region, host))
}

/// PGDATA of a cluster as the root mount namespace sees it: a disk of the host's own is mounted on the host only.
pub async fn data_dir_from_outside(plan: &Plan, host: &HostPlan, scope: &str) -> Result<PathBuf> {
    let inside = host.data_dir(scope);
    if !plan.has_own_disk(host) {
        return Ok(inside);
    }
    let supervisor = control::ask(&host.control_socket(), &control::Request::Status).await?;
    Ok(from_outside(supervisor.pid, &inside))
}

/// A path that only the host of that process sees.
pub fn from_outside(pid: i32, inside: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{}", inside.display()))
}

/// Writes a file whole.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// User and group of PostgreSQL, Patroni and PgBouncer.
pub fn postgres_user() -> Result<(u32, u32)> {
    let user = nix::unistd::User::from_name("postgres")
        .context("the user database")?
        .context("there is no user postgres; tests/setup installs PostgreSQL, which makes it")?;
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}

/// Undoes a claim after which nothing else was made: the record, and the directory if nothing else is in it.
pub fn unclaim(lab: &str) -> Result<()> {
    let dir = dir(lab);
    let record = dir.join(RECORD);
    match fs::remove_file(&record) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| record.display().to_string());
        }
        _ => {}
    }
    fs::remove_dir(&dir).with_context(|| format!("{} holds what is not the lab's", dir.display()))
}

/// Removes a directory and everything below it; absent is removed. Refuses while something is mounted there in our own
/// mount namespace: the lab mounts nothing in it, so that is somebody else's, and we would empty it.
pub fn remove(path: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    if let Some(mount) = mount_below(&mounts, path) {
        let text = format!("{mount} is mounted and not the lab's; unmount it, and call down again");
        return Err(Failure::with(Exit::Refused, text));
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| path.display().to_string()),
    }
}

fn mount_below<'m>(mountinfo: &'m str, path: &Path) -> Option<&'m str> {
    let mut points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.find(|point| Path::new(point).starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_below_is_found_and_one_beside_is_not() {
        let mounts = "22 1 0:20 / / rw - ext4 a rw\n30 22 0:30 / /run/lab/x rw - tmpfs b rw\n";
        assert_eq!(mount_below(mounts, Path::new("/run/lab")), Some("/run/lab/x"));
        assert_eq!(mount_below(mounts, Path::new("/run/lab/x")), Some("/run/lab/x"));
        assert_eq!(mount_below(mounts, Path::new("/run/lab/x_")), None);
        assert_eq!(mount_below(mounts, Path::new("/run/la")), None);
    }
}
