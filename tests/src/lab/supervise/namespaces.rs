//! The host's namespaces: its network (made by `up`), its mounts, and its IPC.
//!
//! With an own `/dev/shm` and an own IPC namespace, the shared memory of a killed PostgreSQL dies with the host: nobody
//! has to find out which segment of the machine belonged to which lab.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::lab::plan::HostPlan;
use crate::lab::render;
use crate::lab::spec::Role;

const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Moves the calling, still single-threaded process into the host's namespaces and makes its mounts.
pub fn enter(host: &HostPlan) -> Result<()> {
    let netns = Path::new("/run/netns").join(&host.netns);
    let file = fs::File::open(&netns).with_context(|| netns.display().to_string())?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| netns.display().to_string())?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC).context("unshare of mounts and IPC")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("making mounts private")?;
    // Our copies of the mounts below it would keep the namespaces of other labs alive after their end.
    let _ = umount2("/run/netns", MntFlags::MNT_DETACH);
    memory(Path::new("/dev/shm"), "mode=1777")?;
    if host.host.role == Role::Etcd {
        let dir = render::etcd::data_dir(host);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        memory(&dir, "mode=0700")?;
    }
    for name in &host.host.tablespaces {
        bind(&host.tablespace_device(name), &host.tablespace(name))?;
    }
    new_boot_id(host)?;
    bind_existing(&host.boot_id(), Path::new(KERNEL_BOOT_ID))
}

/// Writes another boot id. In place: the mount shows this very file.
pub fn new_boot_id(host: &HostPlan) -> Result<()> {
    let hex = format!("{:032x}", fastrand::u128(..));
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let file = host.boot_id();
    fs::write(&file, format!("{a}-{b}-{c}-{d}-{e}\n")).with_context(|| file.display().to_string())
}

fn memory(at: &Path, options: &str) -> Result<()> {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .with_context(|| format!("mounting a memory file system at {}", at.display()))
}

fn bind(from: &Path, at: &Path) -> Result<()> {
    for dir in [from, at] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    bind_existing(from, at)
}

fn bind_existing(from: &Path, at: &Path) -> Result<()> {
    mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {} at {}", from.display(), at.display()))
}
