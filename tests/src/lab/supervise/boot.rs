//! The start of a host: what a power failure leaves is forgotten, then everything is started in the order of its units.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use holdfast_host::run::{self, Command};

use super::namespaces::new_boot_id;
use super::{Supervisor, disk};
use crate::lab::files::postgres_user;
use crate::lab::spec::Role;
use crate::lab::{cgroup, fault, network, shell, units};

const ONESHOT_DEADLINE_MS: u64 = 10_000;
const SYSTEM_DEADLINE_MS: u64 = 10_000;

impl Supervisor {
    /// Boots the host, except for the units that a fault keeps down. An order to keep everything down, given meanwhile, wins.
    pub async fn boot(&self, keep_down: &[String]) -> Result<()> {
        let _alone = self.booting.lock().await;
        self.units.iter().for_each(|unit| unit.hold());
        let generation = self.generation.load(Ordering::SeqCst);
        self.forget().await?;
        let mut denied = true;
        for line in units::oneshots(&self.plan, &self.host) {
            if self.generation.load(Ordering::SeqCst) == generation {
                denied &= oneshot(&line).await;
            }
        }
        for unit in &self.units {
            cgroup::create(&unit.unit().cgroup)?;
            if self.generation.load(Ordering::SeqCst) != generation {
                return Ok(());
            }
            if unit.unit().requires_oneshots && !denied {
                eprintln!("{}: not started, because what it requires has failed", unit.name());
            } else if !unit.unit().is_disabled && !keep_down.iter().any(|name| name == unit.name()) {
                unit.start();
            }
        }
        Ok(())
    }

    /// Memory, sockets, packet filters and processes are gone after a power failure; disks are not.
    async fn forget(&self) -> Result<()> {
        cgroup::kill(&self.host.cgroup)?;
        cgroup::freeze(&self.host.cgroup, false)?;
        fault::thaw_here(&self.plan, &self.host).await?;
        cgroup::wait_empty(&self.host.cgroup).await?;
        if self.plan.has_own_disk(&self.host) {
            disk::check(&self.host).await?;
        }
        empty(&self.host.run())?;
        empty(Path::new("/dev/shm"))?;
        shell::run(SYSTEM_DEADLINE_MS, &["ipcrm", "--all=shm", "--all=sem", "--all=msg"]).await?;
        network::forget_tables().await?;
        new_boot_id(&self.host)?;
        self.directories()
    }

    fn directories(&self) -> Result<()> {
        let (user, group) = postgres_user()?;
        let make = |path: &Path, owner: (u32, u32), mode: u32| {
            let at = || path.display().to_string();
            fs::create_dir_all(path).with_context(at)?;
            chown(path, Some(owner.0), Some(owner.1)).with_context(at)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(at)
        };
        match self.host.host.role {
            Role::Database => {
                // RuntimeDirectory= of the units of agent and guard.
                make(&self.host.run().join("holdfast"), (0, 0), 0o755)?;
                make(&self.host.socket_dir(), (user, group), 0o755)?;
                make(&self.host.data.join("data"), (user, group), 0o755)?;
                if self.host.host.pgbouncer {
                    make(&self.host.pooler_socket_dir(), (user, group), 0o755)?;
                }
                for name in &self.host.host.tablespaces {
                    make(&self.host.tablespace(name), (user, group), 0o700)?;
                }
                Ok(())
            }
            Role::Pooler => make(&self.host.pooler_socket_dir(), (user, group), 0o755),
            Role::Etcd | Role::Backup | Role::Client => Ok(()),
        }
    }
}

/// Whether it succeeded.
async fn oneshot(line: &[String]) -> bool {
    let Some((program, arguments)) = line.split_first() else { return true };
    match run::run(Command::new(program).args(arguments).deadline_ms(ONESHOT_DEADLINE_MS)).await {
        Ok(output) if output.success() => return true,
        Ok(output) => eprintln!("{}: exit {:?}: {}", line.join(" "), output.code, output.stderr.trim()),
        Err(error) => eprintln!("{}: {error}", line.join(" ")),
    }
    false
}

fn empty(dir: &Path) -> Result<()> {
    let at = || dir.display().to_string();
    fs::create_dir_all(dir).with_context(at)?;
    for entry in fs::read_dir(dir).with_context(at)?.flatten() {
        let path = entry.path();
        let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| path.display().to_string())?;
    }
    Ok(())
}
