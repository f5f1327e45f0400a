//! The disk of a host: a file with an ext4 file system in it, mounted in the host's mount namespace only.
//!
//! The loop device is taken by `mount` and given back by the kernel when the namespace ends, so a lab that was killed
//! leaves none behind. An error of the file system turns it read-only, as Debian's installer sets it; a boot checks it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::lab::plan::HostPlan;
use crate::lab::shell;

const DEADLINE_MS: u64 = 20_000;
/// PostgreSQL of the lab needs 100 MB and at most 256 MB of WAL, twice while it is rewound. Sparse.
const SIZE_BYTES: u64 = 2 << 30;

/// Makes the file system if it is not there, and mounts it.
pub async fn attach(host: &HostPlan) -> Result<()> {
    let (image, at) = (host.disk_image(), host.disk_mount());
    if !image.exists() {
        let file = fs::File::create(&image).with_context(|| image.display().to_string())?;
        file.set_len(SIZE_BYTES).with_context(|| image.display().to_string())?;
        shell::run(DEADLINE_MS, &["mkfs.ext4", "-q", "-F", &image.display().to_string()]).await?;
    }
    fs::create_dir_all(&at).with_context(|| at.display().to_string())?;
    mount(&image, &at).await
}

/// What a boot does with it: a file system that takes no writes is checked and mounted again. Nobody may use it.
pub async fn check(host: &HostPlan) -> Result<()> {
    let (image, at) = (host.disk_image(), host.disk_mount());
    let probe = at.join(".holdfast-lab");
    if fs::write(&probe, "").is_ok() {
        return fs::remove_file(&probe).with_context(|| probe.display().to_string());
    }
    let text = at.display().to_string();
    shell::run(DEADLINE_MS, &["umount", &text]).await?;
    // Exit code 1 is "errors corrected": that there are some is why we are here.
    let image_text = image.display().to_string();
    shell::run(DEADLINE_MS, &["sh", "-c", r#"e2fsck -p "$0"; test $? -le 1"#, &image_text]).await?;
    mount(&image, &at).await
}

async fn mount(image: &Path, at: &Path) -> Result<()> {
    let (image, at) = (image.display().to_string(), at.display().to_string());
    shell::run(DEADLINE_MS, &["mount", "-o", "loop,errors=remount-ro", &image, &at]).await.map(drop)
}
