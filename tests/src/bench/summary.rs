//! The table of many runs: for each case, mode and system the gaps of each route, errors, unknown commits, lost rows,
//! time with two writers, and time back to full redundancy.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};

use super::case::{Case, Mode, System};
use super::record::RunRecord;
use super::statistics::{median, percentile, sorted};
use crate::checker::record::RouteKind;

/// Renders all records, a table for each case and mode.
pub fn render(records: &[RunRecord]) -> String {
    let mut groups: BTreeMap<(Case, Mode), BTreeMap<System, Vec<&RunRecord>>> = BTreeMap::new();
    for record in records {
        groups.entry((record.case, record.mode)).or_default().entry(record.system).or_default().push(record);
    }
    let tables = groups.iter().map(|((case, mode), systems)| {
        format!("{} ({} commit)\n{}\n{}\n", case.name(), mode.name(), gaps(systems), promises(systems))
    });
    tables.collect::<Vec<_>>().join("\n")
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// Gaps in seconds. An open gap is a lower bound; it counts as it is, and the route as not returned.
fn gaps(systems: &BTreeMap<System, Vec<&RunRecord>>) -> Table {
    let mut table = new_table(&[
        "system",
        "route",
        "n",
        "gap s\nmin / median / p95 / max",
        "not\nback",
        "unknown\n(there)",
        "errors by SQLSTATE",
    ]);
    for (system, records) in systems {
        for kind in [RouteKind::Libpq, RouteKind::Pgbouncer] {
            let routes =
                || records.iter().flat_map(|record| &record.verdict.routes).filter(|r| r.kind == kind);
            let all: Vec<_> = routes().filter_map(|route| route.gap).collect();
            let values = sorted(all.iter().map(|gap| seconds(gap.gap_us)).collect());
            if values.is_empty() {
                continue;
            }
            let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
            for (reason, count) in routes().flat_map(|route| &route.errors) {
                *errors.entry(reason).or_default() += count;
            }
            let errors: Vec<String> =
                errors.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            let unknown: u64 = routes().map(|route| route.counts.unknown).sum();
            let present: u64 = routes().map(|route| route.counts.unknown_present).sum();
            let figures =
                [values.first().copied(), median(&values), percentile(&values, 95.0), values.last().copied()];
            let figures: Vec<String> = figures.iter().flatten().map(|value| format!("{value:.2}")).collect();
            table.add_row([
                system.name(),
                if kind == RouteKind::Libpq { "libpq".into() } else { "PgBouncer".to_owned() },
                values.len().to_string(),
                figures.join(" / "),
                all.iter().filter(|gap| gap.open).count().to_string(),
                format!("{unknown} ({present})"),
                errors.join(", "),
            ]);
        }
    }
    table
}

fn promises(systems: &BTreeMap<System, Vec<&RunRecord>>) -> Table {
    let mut table = new_table(&[
        "system",
        "acked",
        "lost",
        "lost\nwarned",
        "though\nrefused",
        "2 writable\nmax s",
        "2 acked\nmax s",
        "primary\nmoved",
        "held s\nmedian",
        "redundancy after fault\nmedian / max s",
        "after heal\nmedian / max s",
    ]);
    for (system, records) in systems {
        let total =
            |of: fn(&RunRecord) -> u64| records.iter().map(|record| of(record)).sum::<u64>().to_string();
        let worst = |of: fn(&RunRecord) -> u64| {
            let us = records.iter().map(|record| of(record)).max().unwrap_or_default();
            format!("{:.2}", seconds(us))
        };
        let redundancy = |of: fn(&RunRecord) -> Option<u64>| {
            let seen = sorted(records.iter().filter_map(|record| of(record)).map(seconds).collect());
            let missing = records.len() - seen.len();
            let both = median(&seen).zip(seen.last()).map(|(median, max)| format!("{median:.1} / {max:.1}"));
            let both = both.unwrap_or_default();
            if missing == 0 { both } else { format!("{both} (never in {missing})") }
        };
        let held_any = records.iter().any(|record| record.held_ms.is_some());
        let held = records.iter().filter_map(|record| record.held_ms).map(|ms| seconds(ms * 1000));
        let held = median(&sorted(held.collect())).map_or_else(String::new, |held| format!("{held:.1}"));
        let moved = records.iter().filter(|record| record.primary != record.final_writer).count();
        table.add_row([
            system.name(),
            total(|record| record.verdict.counts.acknowledged),
            total(|record| record.verdict.lost.count),
            total(|record| record.verdict.lost_warned.count),
            total(|record| record.verdict.appeared_though_refused.count),
            worst(|record| record.verdict.two_writable.certain_us),
            worst(|record| record.verdict.two_acknowledging.certain_us),
            format!("{moved} of {}", records.len()),
            held,
            redundancy(|record| record.verdict.full_redundancy_after_us),
            if held_any { redundancy(|record| record.full_redundancy_after_heal_us) } else { String::new() },
        ]);
    }
    table
}

/// Microseconds as seconds.
fn seconds(us: u64) -> f64 {
    // 52 bits of microseconds are 142 years.
    #[allow(clippy::cast_precision_loss)]
    let us = us as f64;
    us / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::gap::Gap;
    use crate::checker::record::Recording;
    use crate::checker::verdict::{Counts, RouteVerdict, judge};

    fn record(system: System, gap_ms: u64) -> RunRecord {
        let mut verdict = judge(&Recording::default(), &std::collections::BTreeSet::new(), Some(0));
        verdict.routes.push(RouteVerdict {
            route: "libpq".into(),
            kind: RouteKind::Libpq,
            counts: Counts { unknown: 1, ..Counts::default() },
            gap: Some(Gap { gap_us: gap_ms * 1000, begin_us: 0, open: false }),
            errors: [("57P01".to_owned(), 2)].into(),
        });
        RunRecord {
            format: super::super::record::FORMAT,
            at: String::new(),
            seed: 1,
            number: 1,
            case: Case::HostDeath,
            system,
            mode: Mode::Quorum,
            phase_ms: 0,
            primary: "db1".into(),
            final_writer: "db2".into(),
            injection_ms: 10,
            held_ms: Some(9000),
            routes_returned: true,
            full_redundancy_after_heal_us: None,
            verdict,
        }
    }

    #[test]
    fn a_table_has_a_row_for_each_system() {
        let records = [
            record(System::Patroni, 25_000),
            record(System::HoldfastFast, 3_100),
            record(System::HoldfastFast, 3_300),
        ];
        let text = render(&records);
        let holdfast =
            text.lines().find(|line| line.contains("holdfast-fast") && line.contains("libpq")).unwrap();
        for part in ["3.10 / 3.20 / 3.30 / 3.30", "57P01 4", "2 (0)"] {
            assert!(holdfast.contains(part), "{part} in {holdfast}");
        }
        assert!(text.contains("host-death (quorum commit)") && text.contains("25.00"), "{text}");
        assert!(text.contains("never in 2"), "{text}");
    }

    #[test]
    fn records_come_back_from_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records");
        let written = record(System::Patroni, 5);
        super::super::record::append(&file, &written).unwrap();
        super::super::record::append(&file, &serde_json::json!({"format": 1, "case": "idle"})).unwrap();
        assert_eq!(super::super::record::read(&file).unwrap(), [written]);
        std::fs::write(&file, "{\"format\":2}\n").unwrap();
        assert!(super::super::record::read(&file).is_err());
    }
}
