//! The names of the files in `pg_wal`: on which timeline the WAL that is there ends.
//!
//! A standby that was started again does not say on which timeline it had received, and its control file learns it at the
//! next restart point only. A promise that names too low a timeline counts for less than what its member acknowledged.

use holdfast_types::{Lsn, Timeline};

/// The highest timeline of which the segment that ends with the byte before `end` is there. `names` are separated by spaces;
/// what is no segment is passed over.
pub fn timeline_at(names: &str, segment_bytes: u64, end: Lsn) -> Option<Timeline> {
    let per_file = (1_u64 << 32).checked_div(segment_bytes).filter(|count| *count > 0)?;
    let wanted = end.0.checked_sub(1)? / segment_bytes;
    names
        .split_ascii_whitespace()
        .filter_map(segment)
        .filter(|found| found.number(per_file) == wanted)
        .map(|found| found.timeline)
        .max()
}

struct Segment {
    timeline: Timeline,
    high: u64,
    low: u64,
}

impl Segment {
    fn number(&self, per_file: u64) -> u64 {
        self.high * per_file + self.low
    }
}

fn segment(name: &str) -> Option<Segment> {
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let part = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
    Some(Segment { timeline: Timeline(part(0)?), high: part(8)?.into(), low: part(16)?.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;
    /// Of a standby that followed a promotion within the third segment.
    const NAMES: &str = "00000002.history 00000003.history archive_status 000000010000000000000002 \
        000000020000000000000003 000000030000000000000003 000000030000000000000004 000000030000000000000005";

    fn at(end: u64) -> Option<Timeline> {
        timeline_at(NAMES, SEGMENT, Lsn(end))
    }

    #[test]
    fn a_standby_that_was_started_again_knows_its_timeline() {
        assert_eq!(at(0x0300_AD00), Some(Timeline(3)));
        assert_eq!(at(0x0200_0100), Some(Timeline(1)));
    }

    #[test]
    fn the_end_of_a_segment_is_in_it() {
        assert_eq!(at(0x0300_0000), Some(Timeline(1)));
        assert_eq!(at(0x0300_0001), Some(Timeline(3)));
    }

    #[test]
    fn what_is_not_there_is_unknown() {
        assert_eq!(at(0x0900_0000), None);
        assert_eq!(at(0), None);
        assert_eq!(timeline_at(NAMES, 0, Lsn(1)), None);
        assert_eq!(timeline_at("", SEGMENT, Lsn(0x0300_AD00)), None);
        assert_eq!(timeline_at("00000003000000000000000é", SEGMENT, Lsn(0x0300_AD00)), None);
    }

    #[test]
    fn the_second_number_counts_up_to_four_gibibytes() {
        let beyond = timeline_at("0000000400000001000000FF", SEGMENT, Lsn(0x1_FF00_0001));
        assert_eq!(beyond, Some(Timeline(4)));
    }
}
