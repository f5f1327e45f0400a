//! The file that PgBouncer's configuration includes, which names the writer.

use std::io::Result;
use std::path::Path;

use holdfast_host::durable;

/// Its content: every database name goes to the writer.
pub fn text(address: &str, port: u16) -> String {
    format!(
        "; written by holdfast-agent, which follows the term record\n[databases]\n* = host={address} port={port}\n"
    )
}

/// Replaces the file, if it says something else, and keeps its owner: PgBouncer reads it as its own user. Clients wait
/// meanwhile, so it is synced to the disk afterwards, by [`durable::sync`]. Returns whether it was replaced.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    if durable::read_optional(path)?.is_some_and(|before| before == bytes) {
        return Ok(false);
    }
    let owner = std::fs::metadata(path).ok().map(|before| (before.uid(), before.gid()));
    durable::replace_unsynced(path, bytes, owner).map(|()| true)
}
