//! The verdict as a table for people. It shows what was judged, decides nothing and hides nothing; the bench and the
//! program `holdfast-bench gaps` call it.

use comfy_table::{Table, presets};

use super::verdict::{RouteVerdict, Rows, Verdict};

/// Milliseconds with one digit behind the point, or seconds from one second on.
pub fn duration(us: u64) -> String {
    // 52 bits of microseconds are 142 years.
    #[allow(clippy::cast_precision_loss)]
    let us = us as f64;
    if us < 1e6 { format!("{:.0} ms", us / 1e3) } else { format!("{:.2} s", us / 1e6) }
}

/// The whole verdict: the routes, then one line for each promise.
pub fn render(verdict: &Verdict) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "route",
        "acknowledged",
        "warned",
        "refused",
        "unknown (there)",
        "longest gap",
        "errors",
    ]);
    for route in &verdict.routes {
        table.add_row(row(route));
    }
    let redundancy = verdict.full_redundancy_after_us.map_or_else(|| "not seen".into(), duration);
    let lines = [
        ("lost, plainly acknowledged", rows(&verdict.lost)),
        ("lost, acknowledged with WARNING 01000", rows(&verdict.lost_warned)),
        ("appeared though refused", rows(&verdict.appeared_though_refused)),
        ("two nodes writable", overlap(&verdict.two_writable)),
        ("two nodes acknowledged", overlap(&verdict.two_acknowledging)),
        ("full redundancy after", redundancy),
    ];
    let lines: Vec<String> = lines.iter().map(|(what, value)| format!("{what}: {value}")).collect();
    format!("{table}\n{}\n", lines.join("\n"))
}

fn row(route: &RouteVerdict) -> [String; 7] {
    let counts = &route.counts;
    let gap = route.gap.map_or_else(String::new, |gap| {
        format!("{}{}", if gap.open { "> " } else { "" }, duration(gap.gap_us))
    });
    let errors: Vec<String> =
        route.errors.iter().map(|(reason, count)| format!("{reason} x{count}")).collect();
    [
        route.route.clone(),
        counts.acknowledged.to_string(),
        counts.warned.to_string(),
        counts.refused.to_string(),
        format!("{} ({})", counts.unknown, counts.unknown_present),
        gap,
        errors.join(" "),
    ]
}

fn rows(rows: &Rows) -> String {
    let named: Vec<String> = rows.examples.iter().map(|key| format!("{}/{}", key.client, key.seq)).collect();
    match rows.count {
        0 => "0".into(),
        count => format!("{count} (client/seq {})", named.join(", ")),
    }
}

fn overlap(overlap: &super::writers::Overlap) -> String {
    if overlap.certain_us == 0 {
        return "never".into();
    }
    format!("{} ({})", duration(overlap.certain_us), overlap.hosts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::gap::Gap;
    use super::super::record::{Recording, RouteKind};
    use super::super::verdict::{Counts, RowKey, judge};
    use super::super::writers::Overlap;
    use super::*;

    fn verdict() -> Verdict {
        judge(&Recording::default(), &std::collections::BTreeSet::new(), None)
    }

    /// The line of the table, or below it, that begins with these words.
    fn line<'t>(text: &'t str, begin: &str) -> &'t str {
        let bare = |line: &&str| line.trim_start_matches(['│', ' ']).starts_with(begin);
        text.lines().find(bare).unwrap_or_else(|| panic!("no line {begin:?} in\n{text}"))
    }

    #[test]
    fn durations_are_short() {
        assert_eq!((duration(0), duration(40_400)), ("0 ms".into(), "40 ms".into()));
        assert_eq!((duration(1_000_000), duration(25_346_000)), ("1.00 s".into(), "25.35 s".into()));
    }

    #[test]
    fn a_clean_verdict_says_never_and_none() {
        let text = render(&verdict());
        assert!(line(&text, "lost, plainly acknowledged").ends_with(": 0"));
        assert!(line(&text, "two nodes writable").ends_with(": never"));
        assert!(line(&text, "full redundancy after").ends_with(": not seen"));
    }

    #[test]
    fn everything_that_was_found_is_shown() {
        let mut found = verdict();
        let counts = Counts { acknowledged: 900, warned: 3, refused: 4, unknown: 5, unknown_present: 2 };
        let gap = Some(Gap { gap_us: 3_210_000, begin_us: 0, open: true });
        found.routes.push(super::super::verdict::RouteVerdict {
            route: "pgbouncer:pool1".into(),
            kind: RouteKind::Pgbouncer,
            counts,
            gap,
            errors: [("08P01".to_owned(), 4), ("closed".to_owned(), 5)].into(),
            errors_of_one_client_max: Some(5),
        });
        found.lost = Rows { count: 12, examples: vec![RowKey { client: 1, seq: 77, end_us: 0 }] };
        let hosts = vec!["db1".to_owned(), "db2".to_owned()];
        found.two_acknowledging = Overlap { certain_us: 1_957_000, possible_us: 1_957_000, hosts };
        found.full_redundancy_after_us = Some(8_100_000);
        let text = render(&found);
        let route = line(&text, "pgbouncer:pool1");
        for part in ["900", " 3 ", " 4 ", "5 (2)", "> 3.21 s", "08P01 x4 closed x5"] {
            assert!(route.contains(part), "{part} in {route}");
        }
        assert!(line(&text, "lost, plainly acknowledged").ends_with(": 12 (client/seq 1/77)"), "{text}");
        assert!(line(&text, "two nodes acknowledged").ends_with(": 1.96 s (db1, db2)"), "{text}");
        assert!(line(&text, "full redundancy after").ends_with(": 8.10 s"), "{text}");
    }
}
