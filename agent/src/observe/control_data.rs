//! `pg_controldata`: whether a stopped PostgreSQL was shut down or died, and where its WAL ends then.

use std::path::Path;

use holdfast_agent_core::attest::ControlState;
use holdfast_host::run::{self, Command, Output, RunError};
use holdfast_types::{Lsn, Position, Timeline};

/// Why the control file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ControlDataError {
    /// A program did not end.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A program refused.
    #[error("{program}: {stderr}")]
    Refused {
        /// Which.
        program: &'static str,
        /// What it said.
        stderr: String,
    },
    /// Something that is expected is not in the output.
    #[error("pg_controldata does not say {0:?}")]
    Missing(&'static str),
}

/// Reads the state of the cluster in `data_dir`.
pub async fn state(bin_dir: &Path, data_dir: &Path) -> Result<ControlState, ControlDataError> {
    let text = run(bin_dir, "pg_controldata", &["-D".as_ref(), data_dir.as_os_str()]).await?;
    let found = parse(&text)?;
    match found.state.as_str() {
        "in production" => Ok(ControlState::InProduction),
        "shut down" => {
            Ok(ControlState::ShutDown { end: end_of_checkpoint(bin_dir, data_dir, &found).await? })
        }
        other => Ok(ControlState::Other(other.to_owned())),
    }
}

/// Where the WAL of a stopped cluster ends, however it stopped. For `status` and for the validation before a fence is
/// cleared; never for a promise. `None` when `pg_waldump` does not find the end.
pub async fn reached(bin_dir: &Path, data_dir: &Path) -> Result<Option<Position>, ControlDataError> {
    let text = run(bin_dir, "pg_controldata", &["-D".as_ref(), data_dir.as_os_str()]).await?;
    let found = parse(&text)?;
    // What follows the last checkpoint, or what a standby had replayed at least, stands in pg_wal only.
    let start = found.checkpoint.max(found.recovered);
    let output = waldump(bin_dir, data_dir, found.timeline, start, &["-q"]).await?;
    Ok(end_of_wal(&output.stderr).map(|lsn| Position { timeline: found.timeline, lsn }))
}

async fn waldump(
    bin_dir: &Path,
    data_dir: &Path,
    timeline: Timeline,
    start: Lsn,
    more: &[&str],
) -> Result<Output, ControlDataError> {
    let (timeline, start, wal) = (timeline.0.to_string(), start.to_string(), data_dir.join("pg_wal"));
    let mut arguments: Vec<&std::ffi::OsStr> =
        ["-p".as_ref(), wal.as_os_str(), "-t".as_ref(), timeline.as_ref(), "-s".as_ref(), start.as_ref()]
            .into();
    arguments.extend(more.iter().map(std::ffi::OsStr::new));
    Ok(run::run(Command::new(bin_dir.join("pg_waldump")).args(arguments)).await?)
}

/// The control file gives the begin of the shutdown checkpoint record; `pg_waldump` says where the next would begin.
async fn end_of_checkpoint(
    bin_dir: &Path,
    data_dir: &Path,
    found: &Found,
) -> Result<Position, ControlDataError> {
    let output = waldump(bin_dir, data_dir, found.timeline, found.checkpoint, &[]).await?;
    // It ends with an error at the end of WAL, which names where the next record was expected.
    let end = end_of_wal(&output.stderr).or_else(|| end_of_record(&output.stdout, found.checkpoint));
    let lsn = end.ok_or(ControlDataError::Missing("the end of the shutdown checkpoint record"))?;
    Ok(Position { timeline: found.timeline, lsn })
}

async fn run(
    bin_dir: &Path,
    program: &'static str,
    arguments: &[&std::ffi::OsStr],
) -> Result<String, ControlDataError> {
    let output = run::run(Command::new(bin_dir.join(program)).args(arguments)).await?;
    if output.success() {
        Ok(output.stdout)
    } else {
        Err(ControlDataError::Refused { program, stderr: output.stderr.trim().to_owned() })
    }
}

pub(super) struct Found {
    state: String,
    checkpoint: Lsn,
    recovered: Lsn,
    timeline: Timeline,
}

/// What `pg_controldata` has printed.
pub(super) fn parse(text: &str) -> Result<Found, ControlDataError> {
    let field = |name: &'static str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).ok_or(ControlDataError::Missing(name))
    };
    let number = |name: &'static str| {
        field(name)?.parse().map_err(|_| ControlDataError::Missing(name)) as Result<u32, _>
    };
    let checkpoint = "Latest checkpoint location";
    let timeline = "Latest checkpoint's TimeLineID";
    let recovered = "Minimum recovery ending location";
    let recovered_timeline = "Min recovery ending loc's timeline";
    Ok(Found {
        state: field("Database cluster state")?.to_owned(),
        checkpoint: field(checkpoint)?.parse().map_err(|_| ControlDataError::Missing(checkpoint))?,
        recovered: field(recovered)?.parse().map_err(|_| ControlDataError::Missing(recovered))?,
        timeline: Timeline(number(timeline)?.max(number(recovered_timeline)?)),
    })
}

/// Where `pg_waldump` found no further record. Its messages differ by what stands there (nothing, the rest of an older
/// segment, a record of which only a part has come), but each names its place last, after a last ` at `.
pub(super) fn end_of_wal(stderr: &str) -> Option<Lsn> {
    let line = stderr.lines().find(|line| {
        line.contains("error in WAL record at ") || line.contains("could not find a valid record after ")
    })?;
    let places = line.split(" at ").chain(line.split(" after ")).skip(1);
    places.filter_map(|rest| rest.split([':', ' ', ',']).next()?.parse().ok()).max()
}

/// When WAL goes on after the checkpoint (which a shutdown never leaves): the begin of the second record.
pub(super) fn end_of_record(stdout: &str, start: Lsn) -> Option<Lsn> {
    stdout
        .lines()
        .filter_map(|line| line.split_once("lsn: ")?.1.split(',').next()?.parse().ok())
        .find(|lsn: &Lsn| *lsn > start)
}

#[cfg(test)]
mod tests {
    use super::*;

    // PostgreSQL 15.14, shortened.
    const TEXT: &str = "pg_control version number:            1300
Database cluster state:               shut down
Latest checkpoint location:           0/3000028
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       2
Latest checkpoint's PrevTimeLineID:   1
Minimum recovery ending location:     0/3000100
Min recovery ending loc's timeline:   2
";

    #[test]
    fn the_three_fields_are_found() {
        let found = parse(TEXT).unwrap();
        assert_eq!(
            (found.state.as_str(), found.checkpoint, found.timeline),
            ("shut down", Lsn(0x300_0028), Timeline(2))
        );
        assert_eq!(found.recovered, Lsn(0x300_0100));
        assert!(parse("").is_err());
    }

    #[test]
    fn the_end_is_where_the_next_record_was_expected() {
        let stderr = "pg_waldump: error: error in WAL record at 0/3000028: invalid record length at 0/30000A0: wanted 24, got 0\n";
        assert_eq!(end_of_wal(stderr), Some(Lsn(0x300_00A0)));
        assert_eq!(end_of_wal("something else"), None);
    }
}
