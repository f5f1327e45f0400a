//! Rule 14: makes PostgreSQL take the timeline id that OPEN reserved, before it is promoted. Decides nothing.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use holdfast_agent_core::timeline;
use holdfast_host::durable;
use holdfast_types::{Position, Timeline};

use crate::member::Member;

/// PostgreSQL reads no ancestor from a comment, so it never follows this timeline, and looks for the next id above it.
const PLACE: &[u8] =
    b"# Holdfast: an earlier reign may have written on this timeline, so no later one may take its id.\n";

/// Puts a history file into `pg_wal` for each id below `reserved` that PostgreSQL has not seen. One that is there stays.
/// Only after OPEN: until then one of these timelines may still be the one to follow, and then its own file must come.
/// The files are not given to the archiver, which may hold the real ones.
pub async fn hold(member: &Member, replayed: Option<Position>, reserved: Option<Timeline>) -> Result<()> {
    // A record of a build that reserves nothing.
    let Some(reserved) = reserved else { return Ok(()) };
    let own = replayed.context("local WAL is not all replayed")?.timeline;
    let ids = timeline::to_hold(own, reserved).with_context(|| {
        format!("the term record reserves timeline {}, and this node is on {}: no history of one cluster; disarm, then look at what PostgreSQL runs on", reserved.0, own.0)
    })?;
    if ids.is_empty() {
        return Ok(());
    }
    let folder = member.instance.data_dir.join("pg_wal");
    let held = ids.clone();
    member.disk.write(move || held.iter().try_for_each(|id| hold_one(&folder, *id))).await.with_context(
        || format!("the history files that keep PostgreSQL from the timelines below {}", reserved.0),
    )?;
    let ids: Vec<u32> = ids.into_iter().map(|id| id.0).collect();
    tracing::warn!(
        cluster = %member.instance.cluster,
        timeline = reserved.0,
        "timelines {ids:?} were reserved by reigns that this node has not followed; it is promoted to {}. Unless their history files are in the archive, a restore from an older backup must name its target timeline: take a base backup",
        reserved.0
    );
    Ok(())
}

fn hold_one(folder: &Path, Timeline(id): Timeline) -> io::Result<()> {
    let file = folder.join(format!("{id:08X}.history"));
    if file.try_exists()? {
        return Ok(());
    }
    // PostgreSQL's user owns it: pg_rewind opens every file for writing.
    let owner = folder.metadata()?;
    durable::write_owned(&file, PLACE, Some((owner.uid(), owner.gid())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_that_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("0000000B.history");
        std::fs::write(&real, "1\t0/3000000\tno recovery target specified\n").unwrap();
        hold_one(folder.path(), Timeline(11)).unwrap();
        hold_one(folder.path(), Timeline(12)).unwrap();
        assert!(std::fs::read_to_string(&real).unwrap().starts_with('1'));
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 2);
        assert_eq!(std::fs::read(folder.path().join("0000000C.history")).unwrap(), PLACE);
    }
}
