//! Counts the commits of this node that ended with a warning: PostgreSQL's log is read as it grows, from where the last
//! look, or the last start of the agent, had come.
//!
//! A client whose wait for a synchronous standby was cancelled is told of success: nobody but the log knows afterwards. A
//! log that cannot be read, or that does not have these lines, is *unknown* with its reason and never zero. Nothing rests on
//! the count but what people are told.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::member::{Postgres, term_in_force};
use holdfast_host::{clock, durable};
use holdfast_types::record::{Stored, WarnedCommits};
use holdfast_types::{Class, Term};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::Member;
use super::look::Eyes;
use super::sql::LogSettings;
use crate::disk;
use crate::gate::remembered;
use crate::observe::warned;

const FILE: &str = "warned.json";
/// What one look reads at most; the rest waits for the next.
const PIECE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// A disk that has not answered by then is not waited for.
const READ_DEADLINE: Duration = Duration::from_millis(500);
/// How far the place on disk may lag behind while nothing is counted: as much is read again after a restart.
const LAG_BYTES_MAX: u64 = 1024 * 1024;

/// What is on disk: the count, and the place up to which it counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    commits: WarnedCommits,
    #[serde(default)]
    place: Option<Place>,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    device: u64,
    inode: u64,
    offset: u64,
}

/// What is carried from look to look.
#[derive(Default)]
pub struct Log {
    loaded: bool,
    kept: Kept,
    saved: Kept,
    file: Option<File>,
    /// Why the last reading failed.
    trouble: Option<String>,
    reading: Option<JoinHandle<(Reader, io::Result<()>)>>,
    /// The postmaster whose log [`current`](Self::current) is.
    postmaster: Option<i32>,
    /// Where the server writes now, when that was last known.
    current: Option<PathBuf>,
}

impl Log {
    /// Reads on, on a thread of its own. One that a dead disk holds up is left behind, and no second is begun beside it.
    async fn read(&mut self) {
        let (kept, file, current) = (self.kept.clone(), self.file.take(), self.current.clone());
        let reading = self.reading.get_or_insert_with(|| {
            let mut reader = Reader { kept, file, now_wall_ms: clock::wall_ms() };
            tokio::task::spawn_blocking(move || {
                let done = reader.read_on(current.as_deref());
                (reader, done)
            })
        });
        let Ok(ended) = tokio::time::timeout(READ_DEADLINE, reading).await else {
            self.trouble = Some("the disk of PostgreSQL's log does not answer".into());
            return;
        };
        self.reading = None;
        let Ok((reader, done)) = ended else { return };
        // What was noted beside it meanwhile: the reign and the problem.
        let WarnedCommits { term, problem, .. } = std::mem::take(&mut self.kept.commits);
        (self.kept, self.file) = (reader.kept, reader.file);
        if self.kept.commits.term != term {
            (self.kept.commits.term, self.kept.commits.in_term) = (term, 0);
        }
        self.kept.commits.problem = problem;
        self.trouble = done.err().map(|error| format!("PostgreSQL's log cannot be read: {error}"));
    }
}

impl Member {
    /// The term in which this node reigned last, as far as it is known here.
    pub fn last_term(&self) -> Option<Term> {
        self.state().warned.as_ref().and_then(|warned| warned.term)
    }

    /// Reads on. Costs one query of a writer, and a few calls of a file that has not grown.
    pub(super) async fn count_warned(&self, eyes: &mut Eyes, cluster: &Cluster) {
        if self.instance.class == Class::Off {
            // Nobody waits for a standby there.
            return;
        }
        let log = &mut eyes.log;
        let folder = remembered::folder(&self.config.state_dir, &self.instance.cluster);
        if !log.loaded {
            let Ok(kept) = disk::look(move || load(&folder.join(FILE))).await else { return };
            (log.kept, log.saved, log.loaded) = (kept.clone(), kept, true);
        }
        self.follow_reign(&mut log.kept.commits, cluster);
        let (postgres, postmaster) = {
            let state = self.state();
            (state.postgres, state.postmaster)
        };
        if log.postmaster != postmaster {
            // What is held is read to its end; the path may be another process's by now.
            (log.postmaster, log.current) = (postmaster, None);
        }
        let ask = match postgres {
            Some(Postgres::Running { in_recovery: Some(false) }) => true,
            // It may be the next writer: what its log gets before the first look at that counts too.
            Some(Postgres::Running { in_recovery: Some(true) }) => log.current.is_none(),
            _ => false,
        };
        if ask {
            log.kept.commits.problem = match self.sql.log_settings().await {
                Ok(settings) => self.place_of_log(&settings).map_or_else(Some, |path| {
                    log.current = Some(path);
                    None
                }),
                // It is asked again; what was known of it stands.
                Err(_) => log.kept.commits.problem.take(),
            };
        }
        if log.current.is_none() && log.file.is_none() {
            return self.publish_warned(log);
        }
        log.read().await;
        self.save_warned(log).await;
        self.publish_warned(log);
    }

    fn follow_reign(&self, commits: &mut WarnedCommits, cluster: &Cluster) {
        let ours = term_in_force(cluster)
            .filter(|term| term.value.open_holder() == Some(&self.instance.member))
            .map(|term| term.value.term);
        if ours.is_some() && ours != commits.term {
            (commits.term, commits.in_term) = (ours, 0);
        }
    }

    /// Where the log is, or why it cannot be read.
    fn place_of_log(&self, settings: &LogSettings) -> Result<PathBuf, String> {
        if let Some(why) = warned::why_not(&settings.log_min_messages, &settings.lc_messages) {
            return Err(why);
        }
        if let Some(file) = &settings.current_logfile {
            return Ok(self.instance.data_dir.join(file));
        }
        let remedy = "set logging_collector to on";
        if !settings.log_destination.contains("stderr") {
            return Err(format!("log_destination is {}; {remedy}", settings.log_destination));
        }
        let postmaster = self.state().postmaster.ok_or("its postmaster is not known")?;
        let stderr = PathBuf::from(format!("/proc/{postmaster}/fd/2"));
        match stderr.metadata() {
            Ok(found) if found.is_file() => Ok(stderr),
            Ok(_) => Err(format!("PostgreSQL's log goes to the journal or nowhere; {remedy}")),
            Err(error) => Err(format!("{}: {error}", stderr.display())),
        }
    }

    async fn save_warned(&self, log: &mut Log) {
        let at = |kept: &Kept| kept.place.map(|place| (place.device, place.inode));
        let offset = |kept: &Kept| kept.place.map_or(0, |place| place.offset);
        let grown = offset(&log.kept).abs_diff(offset(&log.saved)) > LAG_BYTES_MAX;
        if log.kept.commits == log.saved.commits && at(&log.kept) == at(&log.saved) && !grown {
            return;
        }
        let file = remembered::folder(&self.config.state_dir, &self.instance.cluster).join(FILE);
        match self.disk.keep(file, Some(Stored::new(log.kept.clone()).encode())).await {
            Ok(()) => log.saved = log.kept.clone(),
            Err(error) => tracing::debug!(%error, "the count of warned commits is not on disk yet"),
        }
    }

    fn publish_warned(&self, log: &Log) {
        if log.kept == Kept::default() {
            return;
        }
        let commits = log.kept.commits.clone();
        let problem = commits.problem.clone().or_else(|| log.trouble.clone());
        self.state().warned = Some(WarnedCommits { problem, ..commits });
    }
}

fn load(file: &Path) -> Kept {
    let read = || -> anyhow::Result<Option<Kept>> {
        let Some(bytes) = durable::read_optional(file)? else { return Ok(None) };
        Ok(Some(Stored::decode(&file.display().to_string(), &bytes)?.body))
    };
    // Counting begins now where there is none, and the record says since when.
    let kept = read().unwrap_or_else(|error| {
        tracing::warn!(path = %file.display(), %error, "the count of warned commits cannot be read; it begins anew");
        None
    });
    kept.unwrap_or_default()
}

/// The part that may block on a disk.
struct Reader {
    kept: Kept,
    file: Option<File>,
    now_wall_ms: i64,
}

impl Reader {
    /// Reads to the end of the file that is held, then of the one that the server has gone over to.
    fn read_on(&mut self, current: Option<&Path>) -> io::Result<()> {
        let mut left = PIECE_BYTES_MAX;
        if self.file.is_none()
            && let Some(file) = current.map(open).transpose()?.flatten()
        {
            self.begin(file)?;
        }
        if self.read_to_end(&mut left)?
            && let Some(file) = current.map(open).transpose()?.flatten()
        {
            let found = file.metadata()?;
            let held = self.kept.place.map(|place| (place.device, place.inode));
            if held != Some((found.dev(), found.ino())) {
                self.take(file, 0)?;
                self.read_to_end(&mut left)?;
            }
        }
        Ok(())
    }

    /// A file that is not held: the one that was read last, another one since, or the first of all.
    fn begin(&mut self, file: File) -> io::Result<()> {
        let found = file.metadata()?;
        match self.kept.place {
            Some(place) if (place.device, place.inode) == (found.dev(), found.ino()) => {
                self.take(file, place.offset)
            }
            Some(_) => {
                self.kept.commits.at_least = true;
                self.take(file, 0)
            }
            None => {
                self.kept.commits.since_wall_ms = self.now_wall_ms;
                self.take(file, found.len())
            }
        }
    }

    fn take(&mut self, file: File, offset: u64) -> io::Result<()> {
        let found = file.metadata()?;
        self.kept.place = Some(Place { device: found.dev(), inode: found.ino(), offset });
        self.file = Some(file);
        Ok(())
    }

    /// Returns whether the end was reached.
    fn read_to_end(&mut self, left: &mut u64) -> io::Result<bool> {
        let (Some(file), Some(place)) = (&mut self.file, &mut self.kept.place) else { return Ok(true) };
        let length = file.metadata()?.len();
        if length < place.offset {
            // Somebody has cut it; what it held since is gone.
            (place.offset, self.kept.commits.at_least) = (0, true);
        }
        let wanted = (length - place.offset).min(*left);
        if wanted == 0 {
            return Ok(length == place.offset);
        }
        file.seek(SeekFrom::Start(place.offset))?;
        let mut piece = Vec::with_capacity(usize::try_from(wanted).expect("a few megabytes"));
        let read = file.take(wanted).read_to_end(&mut piece)? as u64;
        *left -= read;
        let (counts, whole) = warned::count(&piece);
        let commits = &mut self.kept.commits;
        commits.answered += counts.answered;
        commits.cut_off += counts.cut_off;
        commits.in_term += counts.answered + counts.cut_off;
        // A line that is longer than a piece is none of ours.
        let passed = if whole == 0 && read == PIECE_BYTES_MAX { read } else { whole as u64 };
        place.offset += passed;
        Ok(passed == 0 || place.offset == length)
    }
}

/// The server may have ended, and its log with it.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const LINE: &str = "WARNING:  canceling wait for synchronous replication due to user request\n";

    struct Ground {
        folder: tempfile::TempDir,
        reader: Reader,
    }

    impl Ground {
        fn new() -> Self {
            let reader = Reader { kept: Kept::default(), file: None, now_wall_ms: 77 };
            Self { folder: tempfile::tempdir().unwrap(), reader }
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            File::options().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
        }

        fn read(&mut self, name: &str) -> (u64, bool) {
            let path = self.folder.path().join(name);
            self.reader.read_on(Some(&path)).unwrap();
            let commits = &self.reader.kept.commits;
            (commits.total(), commits.at_least)
        }

        /// The agent starts again with what it had saved.
        fn restart(&mut self) {
            self.reader.file = None;
        }
    }

    #[test]
    fn what_was_there_before_the_first_look_is_not_counted() {
        let mut ground = Ground::new();
        ground.write("a", LINE);
        assert_eq!(ground.read("a"), (0, false));
        assert_eq!(ground.reader.kept.commits.since_wall_ms, 77);
        ground.write("a", &LINE[..30]);
        assert_eq!(ground.read("a"), (0, false), "its end is not there yet");
        ground.write("a", &LINE[30..]);
        assert_eq!(ground.read("a"), (1, false));
        assert_eq!(ground.read("a"), (1, false));
    }

    #[test]
    fn a_restart_goes_on_and_a_rotation_is_followed() {
        let mut ground = Ground::new();
        ground.write("a", "x\n");
        ground.read("a");
        ground.write("a", LINE);
        ground.restart();
        assert_eq!(ground.read("a"), (1, false));
        ground.write("a", LINE);
        ground.write("b", LINE);
        assert_eq!(ground.read("b"), (3, false), "the end of the one, then all of the other");
        ground.write("c", LINE);
        ground.restart();
        assert_eq!(ground.read("c"), (4, true), "what b got after the last look is not known");
    }

    #[test]
    fn a_log_that_was_cut_says_that_something_is_missing() {
        let mut ground = Ground::new();
        ground.write("a", "a long line before\n");
        ground.read("a");
        File::create(ground.folder.path().join("a")).unwrap();
        ground.write("a", "short\n");
        assert_eq!(ground.read("a"), (0, true));
        ground.write("a", LINE);
        assert_eq!(ground.read("a"), (1, true));
    }

    #[test]
    fn much_is_read_in_pieces_and_an_endless_line_is_passed_over() {
        let mut ground = Ground::new();
        ground.write("a", "");
        ground.read("a");
        ground.write("a", &"y".repeat(3 * PIECE_BYTES_MAX as usize));
        ground.write("a", "\n");
        ground.write("a", LINE);
        for _ in 0..3 {
            assert_eq!(ground.read("a").0, 0);
        }
        assert_eq!(ground.read("a"), (1, false));
    }
}
