//! Keeps what PostgreSQL's directories lie on while it runs there (promise I12). What is wrong is told, and nothing is kept then.
//!
//! Blocking: `member::places` calls it on a thread of its own, which is left behind when a disk hangs.

use std::path::Path;

use holdfast_agent_core::places::{self, Keep};
use holdfast_host::{clock, disk, durable};
use holdfast_types::ClusterId;
use holdfast_types::record::{PLACES_FILE, Places, Stored};

use crate::gate::{places::recorded, remembered};

/// Looks, and returns why the start gate would refuse a start now, a line each. `runs`: PostgreSQL runs in an armed cluster, so
/// what is there is what belongs there, as far as nothing is known that contradicts it.
pub fn look(data_dir: &Path, state_dir: &Path, cluster: &ClusterId, runs: bool) -> Vec<String> {
    let before = match recorded(state_dir, cluster) {
        Ok(before) => before,
        Err(why) => return vec![why],
    };
    let owner = ClusterId::folder_name(&cluster.namespace, &cluster.scope);
    let found = match disk::look(data_dir, &owner) {
        Ok(found) => found,
        Err(error) => return vec![format!("{}: {error}", data_dir.display())],
    };
    // Before Patroni has made the data directory there is nothing to be misplaced.
    if before.is_none() && !data_dir.join("PG_VERSION").exists() {
        return Vec::new();
    }
    let wrong = places::judge(before.as_ref().map(|stored| &stored.body), &found);
    if !wrong.is_empty() || !runs {
        return wrong.iter().map(ToString::to_string).collect();
    }
    let Ok(word) = std::fs::read_to_string("/proc/sys/kernel/random/uuid") else { return Vec::new() };
    let keep =
        places::keep(before.as_ref().map(|stored| &stored.body), &found, clock::wall_ms(), word.trim());
    let file = remembered::folder(state_dir, cluster).join(PLACES_FILE);
    let write = |places: Places| {
        let stored =
            before.as_ref().map_or_else(|| Stored::new(places.clone()), |old| old.with_body(places.clone()));
        durable::write(&file, &stored.encode())
    };
    let kept = match keep {
        Keep::Nothing => Ok(()),
        Keep::Record(places) => write(places),
        Keep::Mark { before, word, after } => {
            write(before).and_then(|()| mark(&after, &owner, &word)).and_then(|()| write(after))
        }
    };
    if let Err(error) = kept {
        // The record names the marker of before too; a disk that takes no write is told of elsewhere.
        tracing::debug!(%cluster, %error, "the places of PostgreSQL are not kept; tried again at the next look");
    }
    Vec::new()
}

fn mark(places: &Places, owner: &str, word: &str) -> std::io::Result<()> {
    let marked = places.places.iter().filter(|place| place.markers.iter().any(|marker| marker == word));
    marked.into_iter().try_for_each(|place| disk::mark(Path::new(&place.path), owner, word))
}
