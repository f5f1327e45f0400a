//! A host's report. Its records travel as they stand on disk, each with its own envelope: one that this build cannot read is
//! counted, and costs nobody the others.

use holdfast_types::record::Stored;
use holdfast_types::{HostName, Profile, RegionName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ConvertError, envelope, opened};
use crate::message::HostReport;
use crate::wire;

fn lines<T: Serialize + DeserializeOwned + Clone>(records: &[T]) -> Vec<Vec<u8>> {
    records.iter().map(|record| Stored::new(record.clone()).encode()).collect()
}

fn records<T: Serialize + DeserializeOwned>(lines: &[Vec<u8>], unreadable: &mut u64) -> Vec<T> {
    let read = |line: &Vec<u8>| Stored::decode("report", line).ok().map(|stored| stored.body);
    let found: Vec<T> = lines.iter().filter_map(read).collect();
    *unreadable = unreadable.saturating_add((lines.len() - found.len()) as u64);
    found
}

impl From<&HostReport> for wire::HostReport {
    fn from(report: &HostReport) -> Self {
        let profile = match report.profile {
            None => wire::Profile::Unspecified,
            Some(Profile::Fast) => wire::Profile::Fast,
            Some(Profile::Normal) => wire::Profile::Normal,
            Some(Profile::Wide) => wire::Profile::Wide,
        };
        Self {
            envelope: envelope(),
            region: report.region.to_string(),
            host: report.host.to_string(),
            version: report.version.clone(),
            at_wall_ms: report.at_wall_ms,
            profile: profile.into(),
            incidents: lines(&report.incidents),
            renewals: lines(&report.renewals),
            unreadable: report.unreadable,
        }
    }
}

impl TryFrom<wire::HostReport> for HostReport {
    type Error = ConvertError;
    fn try_from(report: wire::HostReport) -> Result<Self, ConvertError> {
        let profile = match report.profile() {
            wire::Profile::Unspecified => None,
            wire::Profile::Fast => Some(Profile::Fast),
            wire::Profile::Normal => Some(Profile::Normal),
            wire::Profile::Wide => Some(Profile::Wide),
        };
        opened(report.envelope)?;
        let mut unreadable = report.unreadable;
        Ok(Self {
            region: RegionName::new(report.region)?,
            host: HostName::new(report.host)?,
            version: report.version,
            at_wall_ms: report.at_wall_ms,
            profile,
            incidents: records(&report.incidents, &mut unreadable),
            renewals: records(&report.renewals, &mut unreadable),
            unreadable,
        })
    }
}
