//! The table of many runs: for each case, mode and system the gaps of each route, errors, unknown commits, lost rows,
//! time with two writers, and time back to full redundancy; below them the other measurements and the targets.
//!
//! It shows; it judges nothing: `judge` does. `session` and the command `table` call it.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};

use super::case::{Case, Mode, System};
use super::judge::{self, Judgement, Met};
use super::record::{Records, RunRecord};
use super::statistics::{median, percentile, sorted};
use super::{armed, idle, stalls};
use crate::checker::record::RouteKind;

/// Runs of one case and mode, by system.
type Group<'r> = BTreeMap<System, Vec<&'r RunRecord>>;

/// Renders all records: a table for each case and mode, one for each other measurement, and the targets.
pub fn render(records: &Records) -> String {
    let mut groups: BTreeMap<(Case, Mode), Group<'_>> = BTreeMap::new();
    let (stalls, others): (Vec<&RunRecord>, Vec<&RunRecord>) =
        records.runs.iter().partition(|record| record.stall.is_some());
    for record in others {
        groups.entry((record.case, record.mode)).or_default().entry(record.system).or_default().push(record);
    }
    let mut parts: Vec<String> = groups
        .iter()
        .map(|((case, mode), systems)| {
            format!("{} ({} commit)\n{}\n{}\n", case.name(), mode.name(), gaps(systems), promises(systems))
        })
        .collect();
    if !stalls.is_empty() {
        parts.push(stalls::render(&stalls));
    }
    if !records.pairs.is_empty() {
        parts.push(armed::render(&records.pairs) + "\n");
    }
    if !records.footprints.is_empty() || !records.writes.is_empty() {
        parts.push(idle::render(&records.footprints, &records.writes) + "\n");
    }
    for run in &records.unmeasured {
        let (place, system) = (judge::place(run.case, run.mode), run.system.name());
        parts.push(format!(
            "not measured: {place} {system}, seed {} run {}: {}\n",
            run.seed, run.number, run.not_measured
        ));
    }
    let judged = judge::judge(records);
    if !judged.is_empty() {
        parts.push(targets(&judged));
    }
    parts.join("\n")
}

/// Every target of which there are records: what is compared, how it stands, and where the target comes from.
fn targets(judged: &[Judgement]) -> String {
    let mut table =
        new_table(&["case", "system", "target", "must be", "compared", "found", "median", "n", "verdict"]);
    for row in judged {
        let verdict = match &row.met {
            Met::Yes(spare) => format!("met, {spare}"),
            // The run on a line of its own: a terminal is narrow.
            Met::No(why) => format!("NOT MET, {}", why.replacen(" (", "\n(", 1)),
            Met::Open(why) => format!("open: {why}"),
        };
        table.add_row([
            judge::place(row.target.case, row.target.mode),
            row.system.name(),
            row.what.clone(),
            row.must.clone(),
            row.statistic.to_owned(),
            row.found.clone(),
            row.median.clone(),
            row.n.to_string(),
            verdict,
        ]);
    }
    let count = |of: fn(&Met) -> bool| judged.iter().filter(|row| of(&row.met)).count();
    let met = count(|met| matches!(met, Met::Yes(_)));
    let missed = count(|met| matches!(met, Met::No(_)));
    let mut sources: Vec<&str> = judged.iter().map(|row| row.target.source).collect();
    sources.dedup();
    format!(
        "targets: {met} met, {missed} not met, {} open\n{table}\nfrom {}\n",
        judged.len() - met - missed,
        sources.join("; ")
    )
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// Gaps in seconds. An open gap is a lower bound; it counts as it is, and the route as not returned.
fn gaps(systems: &Group<'_>) -> Table {
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
        for kind in [RouteKind::Libpq, RouteKind::Pgbouncer, RouteKind::Haproxy, RouteKind::HaproxyPatroni] {
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
                route_name(kind).to_owned(),
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

fn promises(systems: &Group<'_>) -> Table {
    let mut table = new_table(&[
        "system",
        "acked",
        "lost",
        "lost\nwarned",
        "though\nrefused",
        "2 writable\nmax s",
        "2 acked\nmax s",
        "not\nclean",
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
        let unclean = records.iter().filter(|record| !record.is_clean()).count();
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
            format!("{unclean} of {}", records.len()),
            format!("{moved} of {}", records.len()),
            held,
            redundancy(|record| record.verdict.full_redundancy_after_us),
            if held_any { redundancy(|record| record.full_redundancy_after_heal_us) } else { String::new() },
        ]);
    }
    table
}

/// The name of a kind of route, for people.
pub fn route_name(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Libpq => "libpq",
        RouteKind::Pgbouncer => "PgBouncer",
        RouteKind::Haproxy => "HAProxy",
        RouteKind::HaproxyPatroni => "HAProxy (Patroni)",
        RouteKind::Socket => "socket",
    }
}

/// Microseconds as seconds.
pub fn seconds(us: u64) -> f64 {
    // 52 bits of microseconds are 142 years.
    #[allow(clippy::cast_precision_loss)]
    let us = us as f64;
    us / 1e6
}

#[cfg(test)]
mod tests {
    use super::super::record::{FORMAT, Unmeasured};
    use super::super::testing::run;
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_system() {
        let runs = vec![
            run(Case::HostDeath, System::Patroni, 25_000),
            run(Case::HostDeath, System::HoldfastFast, 3_100),
            run(Case::HostDeath, System::HoldfastFast, 3_300),
        ];
        let text = render(&Records { runs, ..Records::default() });
        let holdfast =
            text.lines().find(|line| line.contains("holdfast-fast") && line.contains("libpq")).unwrap();
        for part in ["3.10 / 3.20 / 3.30 / 3.30", "57P01 4", "2 (0)"] {
            assert!(holdfast.contains(part), "{part} in {holdfast}");
        }
        assert!(text.contains("host-death (quorum commit)") && text.contains("25.00"), "{text}");
        assert!(text.contains("never in 2"), "{text}");
    }

    #[test]
    fn the_targets_stand_below_with_their_source() {
        let runs = vec![run(Case::HostDeath, System::HoldfastFast, 3_100)];
        let text = render(&Records { runs, ..Records::default() });
        assert!(text.contains("targets: 3 met, 0 not met, 0 open"), "{text}");
        assert!(text.contains("met, 0.90 s below"), "{text}");
        assert!(text.contains("from issue 3, section 7: host death; issue 3, section 7: lost"), "{text}");
        let patroni = vec![run(Case::HostDeath, System::Patroni, 3_100)];
        assert!(!render(&Records { runs: patroni, ..Records::default() }).contains("targets"));
    }

    #[test]
    fn a_run_without_a_record_is_shown() {
        let unmeasured = Unmeasured {
            format: FORMAT,
            case: Case::LinkCut,
            system: System::HoldfastFast,
            mode: Mode::Quorum,
            seed: 8,
            number: 2,
            not_measured: "the lab is not whole".into(),
        };
        let text = render(&Records { unmeasured: vec![unmeasured], ..Records::default() });
        let shown = "not measured: link-cut (quorum) holdfast-fast, seed 8 run 2: the lab is not whole";
        assert!(text.contains(shown), "{text}");
        assert!(text.contains("open: not measured: 1"), "{text}");
    }
}
