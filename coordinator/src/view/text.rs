//! Small pieces of text: times, sizes, tables.

use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use holdfast_types::{ClusterId, Lsn};
use jiff::Timestamp;

/// What is shown where nothing is known.
pub const UNKNOWN: &str = "unknown";

/// A moment as RFC 3339 in UTC, to the millisecond.
pub fn moment(wall_ms: i64) -> String {
    match Timestamp::from_millisecond(wall_ms) {
        Ok(moment) => format!("{moment:.3}"),
        Err(_) => UNKNOWN.to_owned(),
    }
}

/// How long ago `then` was, in the largest unit that fits.
pub fn ago(then_wall_ms: i64, now_wall_ms: i64) -> String {
    let seconds = now_wall_ms.saturating_sub(then_wall_ms) / 1_000;
    match seconds {
        // Clocks of two hosts differ a little.
        ..0 => "just now".into(),
        0..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// How long it is until `then`, likewise.
pub fn ahead(then_wall_ms: i64, now_wall_ms: i64) -> String {
    let seconds = then_wall_ms.saturating_sub(now_wall_ms) / 1_000;
    match seconds {
        ..=119 => format!("in {seconds} s"),
        120..=7_199 => format!("in {} min", seconds / 60),
        7_200.. => format!("in {} h", seconds / 3_600),
    }
}

/// Bytes with a binary unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut scaled, mut unit) = (count, 0);
    while scaled >= 10 * 1_024 && unit + 1 < UNITS.len() {
        scaled /= 1_024;
        unit += 1;
    }
    format!("{scaled} {}", UNITS[unit])
}

/// A time that is measured in microseconds.
pub fn micros(count: u64) -> String {
    match count {
        0..=9_999 => format!("{}.{} ms", count / 1_000, count % 1_000 / 100),
        _ => format!("{} ms", count / 1_000),
    }
}

/// How far `lsn` is behind `end`; nothing if it is not behind.
pub fn lag(end: Option<Lsn>, lsn: Option<Lsn>) -> Option<u64> {
    Some(end?.0.saturating_sub(lsn?.0))
}

/// A verb with the target that it needs, ready to be pasted.
pub fn command(verb: &str, cluster: &ClusterId) -> String {
    let target = if cluster.namespace.as_str() == "service" {
        cluster.scope.to_string()
    } else {
        format!("{}/{}", cluster.namespace, cluster.scope)
    };
    format!("holdfast {verb} --region {} --cluster {target}", cluster.region)
}

/// A verb that acts, likewise; it wants a reason of the person who gives it.
pub fn order(verb: &str, cluster: &ClusterId) -> String {
    command(&format!("{verb} --reason WHY"), cluster)
}

/// An empty table with a header.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    // A pipe must get the same table as a terminal: only the terminal's width may wrap it.
    table.load_style(ASCII_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table
}

/// A list of things with commas, or a dash.
pub fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if texts.is_empty() { "-".into() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        assert_eq!(moment(1_795_478_400_123), "2026-11-24T00:00:00.123Z");
        assert_eq!(ago(0, 59_000), "59 s ago");
        assert_eq!(ago(0, 600_000), "10 min ago");
        assert_eq!(ago(5_000, 0), "just now");
        assert_eq!(
            [30_000, 1_800_000, 86_400_000].map(|then| ahead(then, 0)),
            ["in 30 s", "in 30 min", "in 24 h"]
        );
        assert_eq!((bytes(900), bytes(20 * 1_024 * 1_024)), ("900 B".into(), "20 MiB".into()));
        assert_eq!((micros(850), micros(12_300)), ("0.8 ms".into(), "12 ms".into()));
        assert_eq!(lag(Some(Lsn(10)), Some(Lsn(12))), Some(0));
        assert_eq!(lag(None, Some(Lsn(12))), None);
    }
}
