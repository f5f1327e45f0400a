//! `pg_controldata`: whether a stopped PostgreSQL was shut down or died, and where its WAL ends then.

use std::path::Path;

use holdfast_agent_core::attest::ControlState;
use holdfast_host::run::{self, Command, RunError};
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

/// Where the WAL of a stopped cluster ends at least: its last checkpoint, or what a standby's recovery had reached. For
/// `status` and for the validation before a fence is cleared; never for a promise.
pub async fn reached(bin_dir: &Path, data_dir: &Path) -> Result<Position, ControlDataError> {
    let text = run(bin_dir, "pg_controldata", &["-D".as_ref(), data_dir.as_os_str()]).await?;
    let found = parse(&text)?;
    Ok(Position { timeline: found.timeline, lsn: found.checkpoint.max(found.recovered) })
}

/// The control file gives the begin of the shutdown checkpoint record; `pg_waldump` says where the next would begin.
async fn end_of_checkpoint(
    bin_dir: &Path,
    data_dir: &Path,
    found: &Found,
) -> Result<Position, ControlDataError> {
    let (timeline, start) = (found.timeline.0.to_string(), found.checkpoint.to_string());
    let wal = data_dir.join("pg_wal");
    let arguments =
        ["-p".as_ref(), wal.as_os_str(), "-t".as_ref(), timeline.as_ref(), "-s".as_ref(), start.as_ref()];
    let output = run::run(Command::new(bin_dir.join("pg_waldump")).args(arguments)).await?;
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

struct Found {
    state: String,
    checkpoint: Lsn,
    recovered: Lsn,
    timeline: Timeline,
}

fn parse(text: &str) -> Result<Found, ControlDataError> {
    let field = |name: &'static str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).ok_or(ControlDataError::Missing(name))
    };
    let checkpoint = "Latest checkpoint location";
    let timeline = "Latest checkpoint's TimeLineID";
    let recovered = "Minimum recovery ending location";
    Ok(Found {
        state: field("Database cluster state")?.to_owned(),
        checkpoint: field(checkpoint)?.parse().map_err(|_| ControlDataError::Missing(checkpoint))?,
        recovered: field(recovered)?.parse().map_err(|_| ControlDataError::Missing(recovered))?,
        timeline: Timeline(field(timeline)?.parse().map_err(|_| ControlDataError::Missing(timeline))?),
    })
}

/// `error in WAL record at 0/3000028: invalid record length at 0/30000A0: wanted 24, got 0`.
fn end_of_wal(stderr: &str) -> Option<Lsn> {
    let (_, rest) = stderr.split_once("invalid record length at ")?;
    rest.split(':').next()?.parse().ok()
}

/// When WAL goes on after the checkpoint (which a shutdown never leaves): the begin of the second record.
fn end_of_record(stdout: &str, start: Lsn) -> Option<Lsn> {
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
