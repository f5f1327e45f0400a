//! The verdict as a table for people.

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
