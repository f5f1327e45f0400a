//! The totals of many calls: for each system what broke how often, the gaps that it made, and what was lost.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table, presets};

use super::record::{Record, StepRecord, Totals};
use crate::bench::case::System;
use crate::bench::statistics::{median, sorted};

/// Renders them.
pub fn render(records: &[Record]) -> String {
    let mut systems: BTreeMap<System, Vec<&Record>> = BTreeMap::new();
    for record in records {
        systems.entry(record.system).or_default().push(record);
    }
    systems.iter().map(|(system, records)| of_system(*system, records)).collect()
}

fn of_system(system: System, records: &[&Record]) -> String {
    let steps: Vec<&StepRecord> = records.iter().flat_map(|record| &record.steps).collect();
    let doubles = steps.iter().filter(|step| step.injected() > 1).count();
    let faults: usize = steps.iter().map(|step| step.injected()).sum();
    let builds: BTreeSet<&str> = records.iter().map(|record| record.build.as_str()).collect();
    let mut total = Totals::default();
    for record in records {
        total.add(&record.total);
    }
    let mut text = format!(
        "{}: {faults} faults in {} steps ({doubles} of them double), {} calls, builds {}\n{}\n\
         acknowledged {}, lost {}, lost though only warned {}, there though refused {}, two acknowledging {} ms, two writable {} ms\n",
        system.name(),
        steps.len(),
        records.len(),
        builds.into_iter().collect::<Vec<_>>().join(", "),
        table(&steps),
        total.acknowledged,
        total.lost,
        total.lost_warned,
        total.appeared_though_refused,
        total.two_acknowledging_ms,
        total.two_writable_ms,
    );
    for record in records {
        let last = record.steps.last().map_or(record.from, |step| step.number);
        let verdict = match (&record.stopped, record.total.broken()) {
            (Some(stop), _) => {
                format!(
                    "STOPPED in step {}: {}\n  logs in {}; again: {}",
                    stop.number,
                    stop.why,
                    stop.evidence.display(),
                    stop.replay
                )
            }
            (None, Some(broken)) => format!("NOT CLEAN: {broken}"),
            (None, None) => "clean".to_owned(),
        };
        text += &format!(
            "seed {} steps {}-{last}, {} faults: {verdict}\n",
            record.seed,
            record.from,
            record.faults()
        );
    }
    text + "\n"
}

/// A double counts for both of its kinds, but its gap stands in a column of its own: nobody can say whose it is.
fn table(steps: &[&StepRecord]) -> Table {
    let mut table = Table::new();
    let header = [
        "fault",
        "n",
        "alone: gap ms\nmedian / max",
        "in a double:\ngap ms max",
        "lost",
        "writer\nmoved",
        "whole after s\nmax",
    ];
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    let names: BTreeSet<&str> =
        steps.iter().flat_map(|step| step.faults.iter().map(|fault| fault.blow.as_str())).collect();
    for name in names {
        let of_name = |step: &&&StepRecord| {
            step.faults.iter().any(|fault| fault.blow == name && fault.not_injected.is_none())
        };
        let own: Vec<&StepRecord> = steps.iter().filter(of_name).copied().collect();
        let (alone, double): (Vec<&StepRecord>, Vec<&StepRecord>) =
            own.iter().copied().partition(|step| step.injected() == 1);
        let gaps = sorted(alone.iter().map(|step| float(step.gap_ms())).collect());
        let both = median(&gaps).zip(gaps.last()).map(|(median, max)| format!("{median:.0} / {max:.0}"));
        let most = |steps: &[&StepRecord], of: fn(&StepRecord) -> Option<u64>| {
            steps.iter().filter_map(|step| of(step)).max()
        };
        let shown = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
        table.add_row([
            name.to_owned(),
            own.len().to_string(),
            both.unwrap_or_default(),
            shown(most(&double, |step| Some(step.gap_ms()))),
            own.iter().map(|step| step.totals.lost).sum::<u64>().to_string(),
            own.iter().filter(|step| step.final_writer.as_ref() != Some(&step.writer)).count().to_string(),
            shown(most(&own, |step| step.whole_after_ms.map(|ms| ms / 1000))),
        ]);
    }
    table
}

fn float(count: u64) -> f64 {
    // Milliseconds of a campaign are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let count = count as f64;
    count
}

#[cfg(test)]
mod tests {
    use super::super::record::{FORMAT, FaultRecord, Stop};
    use super::*;

    fn step(number: u32, blows: &[&str], gap_ms: u64, lost: u64) -> StepRecord {
        let fault = |blow: &&str| FaultRecord {
            blow: (*blow).to_owned(),
            words: vec![(*blow).to_owned()],
            after_ms: 0,
            hold_ms: 0,
            not_injected: None,
        };
        StepRecord {
            number,
            writer: "db1".into(),
            final_writer: Some("db2".into()),
            faults: blows.iter().map(fault).collect(),
            gaps_ms: [("libpq".to_owned(), gap_ms)].into(),
            whole_after_ms: Some(4_200),
            totals: Totals { lost, acknowledged: 100, ..Totals::default() },
        }
    }

    fn record(steps: Vec<StepRecord>, total: Totals, stopped: Option<Stop>) -> Record {
        Record {
            format: FORMAT,
            build: "abc".into(),
            at: String::new(),
            system: System::HoldfastFast,
            seed: 7,
            from: 1,
            doubles_percent: 30,
            hold_ms_max: 25_000,
            kinds: None,
            steps,
            total,
            stopped,
        }
    }

    #[test]
    fn calls_add_up_and_each_stands_with_its_seed() {
        let stop = Stop { number: 3, why: "lost".into(), evidence: "/x".into(), replay: "again".into() };
        let total = Totals { lost: 2, acknowledged: 200, ..Totals::default() };
        let records = [
            record(
                vec![step(1, &["freeze"], 3_000, 0), step(2, &["freeze", "kill-agent"], 5_000, 0)],
                Totals { acknowledged: 200, ..Totals::default() },
                None,
            ),
            record(vec![step(3, &["freeze"], 1_000, 2)], total, Some(stop)),
        ];
        let text = render(&records);
        assert!(
            text.contains("holdfast-fast: 4 faults in 3 steps (1 of them double), 2 calls, builds abc"),
            "{text}"
        );
        let row = text.lines().find(|line| line.contains("freeze ")).unwrap();
        for part in ["┆ 3 ", "2000 / 3000", "5000", "┆ 2 "] {
            assert!(row.contains(part), "{part} in {row}");
        }
        assert!(text.contains("lost 2,") && text.contains("seed 7 steps 1-2, 3 faults: clean"), "{text}");
        assert!(text.contains("STOPPED in step 3: lost\n  logs in /x; again: again"), "{text}");
        let file = tempfile::NamedTempFile::new().unwrap();
        for record in &records {
            crate::bench::record::append(file.path(), record).unwrap();
        }
        assert_eq!(super::super::record::read(&[file.path()]).unwrap(), records);
    }
}
