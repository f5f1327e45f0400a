//! Whether the targets are met, and by how much: a pure function over the records.
//!
//! A target is met only if every run was measured and the compared statistic reaches it. Which statistic that is stands
//! with the demand and in every row. It never leaves out a run: one that could not be measured leaves the target open.

use super::armed::{self, Pair};
use super::case::{Case, Mode, System};
use super::record::{Records, RunRecord};
use super::statistics::{median, sorted};
use super::target::{Demand, TARGETS, Target};
use super::writes::RaftWrites;
use crate::checker::record::RouteKind;
use crate::checker::verdict::RouteVerdict;

/// How a target stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Met {
    /// With what is to spare.
    Yes(String),
    /// By how much it is missed, and where.
    No(String),
    /// What is missing to say so.
    Open(String),
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The target.
    pub target: Target,
    /// Of whom.
    pub system: System,
    /// What was measured.
    pub what: String,
    /// What must be reached.
    pub must: String,
    /// The statistic that is compared.
    pub statistic: &'static str,
    /// Its value.
    pub found: String,
    /// The median, where it is another figure.
    pub median: String,
    /// Of how many values.
    pub n: usize,
    /// How it stands.
    pub met: Met,
}

/// Judges every target of which there are records, in the order of the targets.
pub fn judge(records: &Records) -> Vec<Judgement> {
    let mut rows = Vec::new();
    for target in TARGETS {
        for system in target.systems {
            rows.extend(Judge { target, system: *system, records }.rows());
        }
    }
    rows
}

/// The targets of which there are no records: `case (mode) system`.
pub fn missing(records: &Records) -> Vec<String> {
    let mut missing: Vec<String> = Vec::new();
    for target in TARGETS {
        for system in target.systems {
            let with =
                if matches!(target.demand, Demand::GapBesideLibpq { .. }) { " with --haproxy" } else { "" };
            let name = format!("{} {}{with}", place(target.case, target.mode), system.name());
            if (Judge { target, system: *system, records }).rows().is_empty() && !missing.contains(&name) {
                missing.push(name);
            }
        }
    }
    missing
}

/// `host-death (quorum)`; the measurements without a fault have no mode.
pub fn place(case: Case, mode: Mode) -> String {
    match case {
        Case::ArmedCost | Case::Idle => case.name(),
        _ => format!("{} ({})", case.name(), mode.name()),
    }
}

/// One target of one system.
struct Judge<'r> {
    target: &'r Target,
    system: System,
    records: &'r Records,
}

impl Judge<'_> {
    fn rows(&self) -> Vec<Judgement> {
        match self.target.demand {
            Demand::GapAtMost { routes, seconds } => {
                routes.iter().filter_map(|kind| self.gap(*kind, seconds)).collect()
            }
            Demand::MedianGapAtMost { routes, seconds } => {
                routes.iter().filter_map(|kind| self.median_gap(*kind, seconds)).collect()
            }
            Demand::NoErrorsThroughPooler => self.none_of("refused or unknown, PgBouncer", |run| {
                of_kind(run, RouteKind::Pgbouncer).map(|one| one.counts.refused + one.counts.unknown).sum()
            }),
            Demand::GapBesideLibpq { route, seconds } => {
                self.beside_libpq(route, seconds).into_iter().collect()
            }
            Demand::OnlyInFlightFails => self.in_flight().into_iter().collect(),
            Demand::NoErrors => self
                .none_of("refused or unknown", |run| run.verdict.counts.refused + run.verdict.counts.unknown),
            Demand::NoRoleChange => self.none_of("changes of role", |run| u64::from(run.role_changed())),
            Demand::NoRoleChangeUpTo { stall_ms } => self.stalls(stall_ms),
            Demand::BackAfterMending { seconds } => self.back(seconds).into_iter().collect(),
            Demand::NothingLost => self.none_of("lost acknowledged rows", |run| run.verdict.lost.count),
            Demand::CostAtMost { median_percent, upper_percent, pairs } => {
                self.cost(median_percent, upper_percent, pairs)
            }
            Demand::FootprintAtMost { pss_mb, cpu_percent } => self.footprint(pss_mb, cpu_percent),
            Demand::WritesAtMost { per_minute } => self.writes(per_minute).into_iter().collect(),
        }
    }

    fn runs(&self) -> Vec<&RunRecord> {
        let wanted = (self.target.case, self.target.mode, self.system);
        let all = self.records.runs.iter();
        all.filter(|run| (run.case, run.mode, run.system) == wanted).collect()
    }

    /// Whether there is anything to judge: runs, or attempts at them.
    fn unmeasured(&self) -> usize {
        let wanted = (self.target.case, self.target.mode, self.system);
        let all = self.records.unmeasured.iter();
        all.filter(|run| (run.case, run.mode, run.system) == wanted).count()
    }

    fn gap(&self, kind: RouteKind, seconds: f64) -> Option<Judgement> {
        let mut gaps: Vec<(f64, bool, &RunRecord)> = Vec::new();
        for run in self.runs() {
            for gap in of_kind(run, kind).filter_map(|route| route.gap) {
                gaps.push((super::summary::seconds(gap.gap_us), gap.open, run));
            }
        }
        gaps.sort_by(|one, other| one.0.total_cmp(&other.0));
        let values: Vec<f64> = gaps.iter().map(|(value, ..)| *value).collect();
        let never = gaps.iter().filter(|(_, open, _)| *open).count();
        let worst = gaps.last().map(|(value, _, run)| Worst { value: *value, place: run_of(run) });
        let met = match &worst {
            Some(worst) if never > 0 => {
                Met::No(format!("{never} of {} routes were not back ({})", gaps.len(), worst.place))
            }
            _ => limit(worst.as_ref(), seconds, "s", 2),
        };
        let what = format!("gap, {}", super::summary::route_name(kind));
        self.row(what, format!("<= {seconds} s"), "maximum", &values, 2, met)
    }

    fn median_gap(&self, kind: RouteKind, seconds: f64) -> Option<Judgement> {
        let row = self.gap(kind, seconds)?;
        let runs = self.runs();
        let gaps = runs.iter().flat_map(|run| of_kind(run, kind)).filter_map(|route| route.gap);
        let found = median(&sorted(gaps.map(|gap| super::summary::seconds(gap.gap_us)).collect()));
        let worst = found.map(|value| Worst { value, place: format!("{} runs", runs.len()) });
        let met = match row.met {
            Met::Open(why) => Met::Open(why),
            _ => limit(worst.as_ref(), seconds, "s", 2),
        };
        let found = row.median.clone();
        Some(Judgement { statistic: "median", found, median: String::new(), met, ..row })
    }

    /// The longest gap of the route less the longest of libpq in the same run, of the runs that have the route.
    fn beside_libpq(&self, kind: RouteKind, seconds: f64) -> Option<Judgement> {
        let longest = |run: &RunRecord, kind| {
            of_kind(run, kind).filter_map(|route| route.gap).max_by_key(|gap| gap.gap_us)
        };
        let of_run = |run: &'_ RunRecord| {
            let (own, libpq) = (longest(run, kind)?, longest(run, RouteKind::Libpq)?);
            let longer = super::summary::seconds(own.gap_us) - super::summary::seconds(libpq.gap_us);
            Some((longer, own.open || libpq.open))
        };
        let runs = self.runs();
        let mut found: Vec<(f64, bool, &RunRecord)> =
            runs.iter().filter_map(|run| of_run(run).map(|(longer, open)| (longer, open, *run))).collect();
        found.sort_by(|one, other| one.0.total_cmp(&other.0));
        let worst = found.last().map(|(value, _, run)| Worst { value: *value, place: run_of(run) })?;
        let met = match found.iter().find(|(_, open, _)| *open) {
            Some((.., run)) => Met::No(format!("a route was not back ({})", run_of(run))),
            None => limit(Some(&worst), seconds, "s", 2),
        };
        let values: Vec<f64> = found.iter().map(|(value, ..)| *value).collect();
        let what = format!("gap beyond libpq's, {}", super::summary::route_name(kind));
        self.row(what, format!("<= {seconds} s"), "maximum", &values, 2, met)
    }

    fn in_flight(&self) -> Option<Judgement> {
        let runs = self.runs();
        let routes: Vec<(&RunRecord, &RouteVerdict)> = runs
            .iter()
            .flat_map(|run| of_kind(run, RouteKind::Pgbouncer).map(|route| (*run, route)))
            .collect();
        let counts: Vec<(u64, &RunRecord)> =
            routes.iter().filter_map(|(run, route)| Some((route.errors_of_one_client_max?, *run))).collect();
        let worst = counts.iter().max_by_key(|(count, _)| *count);
        let values: Vec<f64> = counts.iter().map(|(count, _)| float(*count)).collect();
        let met = match worst {
            _ if values.len() < routes.len() => {
                Met::Open("records of an earlier build do not count errors by client".into())
            }
            Some((count, run)) if *count > 1 => {
                Met::No(format!("{} more than were in flight ({})", count - 1, run_of(run)))
            }
            Some(_) => Met::Yes("only statements in flight failed".into()),
            None => Met::Open("no records".into()),
        };
        let what = "failed statements of one client, PgBouncer".to_owned();
        self.row(what, "<= 1 (the one in flight)".into(), "maximum", &sorted(values), 0, met)
    }

    /// Of runs without a mended fault nothing is said; a route that never came back has no moment.
    fn back(&self, seconds: f64) -> Option<Judgement> {
        let runs = self.runs();
        let of = |run: &RunRecord| Some(super::summary::seconds(run.back_after_mending_us?));
        let worst = runs
            .iter()
            .max_by(|one, other| of(one).unwrap_or(f64::MAX).total_cmp(&of(other).unwrap_or(f64::MAX)));
        let met = match worst.map(|run| (of(run), *run)) {
            Some((None, run)) => Met::No(format!("a route was not back ({})", run_of(run))),
            Some((Some(value), run)) => limit(Some(&Worst { value, place: run_of(run) }), seconds, "s", 2),
            None => Met::Open("no records".into()),
        };
        let values = sorted(runs.iter().filter_map(|run| of(run)).collect());
        self.row(
            "every route back after the return".into(),
            format!("<= {seconds} s"),
            "maximum",
            &values,
            2,
            met,
        )
    }

    fn stalls(&self, stall_ms: u64) -> Vec<Judgement> {
        let what = format!("changes of role by stalls up to {stall_ms} ms");
        self.none_of_those(
            &what,
            |run| u64::from(run.role_changed()),
            |run| run.stall.is_some_and(|stall| stall.length_ms <= stall_ms),
        )
    }

    fn none_of(&self, what: &str, of: fn(&RunRecord) -> u64) -> Vec<Judgement> {
        self.none_of_those(what, of, |_| true)
    }

    fn none_of_those(
        &self,
        what: &str,
        of: fn(&RunRecord) -> u64,
        meant: impl Fn(&RunRecord) -> bool,
    ) -> Vec<Judgement> {
        let runs: Vec<&RunRecord> = self.runs().into_iter().filter(|run| meant(run)).collect();
        let total: u64 = runs.iter().map(|run| of(run)).sum();
        let worst = runs.iter().max_by_key(|run| of(run));
        let met = match worst {
            Some(run) if total > 0 => Met::No(format!("{total} too many (most in {})", run_of(run))),
            Some(_) => Met::Yes("none".into()),
            None => Met::Open("no records".into()),
        };
        let values = sorted(runs.iter().map(|run| float(of(run))).collect());
        let row = self.row(what.to_owned(), "0".into(), "sum", &values, 0, met);
        row.map(|row| Judgement { found: total.to_string(), ..row }).into_iter().collect()
    }

    fn cost(&self, median_percent: f64, upper_percent: f64, wanted: usize) -> Vec<Judgement> {
        let pairs: Vec<Pair> =
            self.records.pairs.iter().filter(|pair| pair.system == self.system).cloned().collect();
        let rows = armed::MEASURES.iter().filter_map(|measure| {
            let cost = armed::cost(&pairs, measure)?;
            let rows = [
                ("median of the pairs", cost.median_percent, median_percent),
                ("upper end of the 95 % interval", cost.upper_percent, upper_percent),
            ];
            Some(rows.map(|(statistic, value, most)| {
                let enough = pairs.len() >= wanted;
                let worst = Worst { value, place: format!("{} pairs", pairs.len()) };
                let met =
                    if enough { limit(Some(&worst), most, "%", 2) } else { too_few(pairs.len(), wanted) };
                let what = format!("cost of being armed, {}", measure.name);
                let row = self.row(what, format!("<= {most} %"), statistic, &[value], 2, met);
                row.map(|row| Judgement { n: pairs.len(), median: String::new(), ..row })
            }))
        });
        rows.flatten().flatten().collect()
    }

    fn footprint(&self, pss_mb: f64, cpu_percent: f64) -> Vec<Judgement> {
        let all = self.records.footprints.iter();
        let own: Vec<_> = all.filter(|one| one.system == self.system && one.process == "agent").collect();
        let figure = |what: &str, unit: &str, digits, most: f64, of: fn(&super::idle::Footprint) -> f64| {
            let worst = own.iter().max_by(|one, other| of(one).total_cmp(&of(other)));
            let worst =
                worst.map(|one| Worst { value: of(one), place: format!("{}, {}", one.host, one.role) });
            let met = limit(worst.as_ref(), most, unit, digits);
            let values = sorted(own.iter().map(|one| of(one)).collect());
            self.row(what.into(), format!("<= {most} {unit}"), "maximum", &values, digits, met)
        };
        let memory = figure("idle agent, PSS", "MB", 1, pss_mb, |one| one.pss_mb);
        let time = figure("idle agent, of a core", "%", 3, cpu_percent, |one| one.cpu_percent);
        memory.into_iter().chain(time).collect()
    }

    fn writes(&self, per_minute: f64) -> Option<Judgement> {
        let own: Vec<&RaftWrites> =
            self.records.writes.iter().filter(|one| one.system == self.system).collect();
        let worst =
            own.iter().max_by(|one, other| one.agent_per_minute().total_cmp(&other.agent_per_minute()));
        let worst = worst.map(|one| Worst { value: one.agent_per_minute(), place: one.worst_agent.clone() });
        let met = limit(worst.as_ref(), per_minute, "a minute", 2);
        let values = sorted(own.iter().map(|one| one.agent_per_minute()).collect());
        let what = "writes to etcd's log of one agent".to_owned();
        self.row(what, format!("<= {per_minute} a minute"), "maximum", &values, 2, met)
    }

    /// `values` are sorted; the last of them is the compared one. None if there is nothing to judge.
    fn row(
        &self,
        what: String,
        must: String,
        statistic: &'static str,
        values: &[f64],
        digits: usize,
        met: Met,
    ) -> Option<Judgement> {
        let unmeasured = self.unmeasured();
        if values.is_empty() && unmeasured == 0 && self.runs().is_empty() {
            return None;
        }
        let text = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.digits$}"));
        let met = match met {
            Met::Yes(spare) if unmeasured > 0 => {
                Met::Open(format!("met where measured ({spare}); not measured: {unmeasured}"))
            }
            Met::Open(_) if values.is_empty() && unmeasured > 0 => {
                Met::Open(format!("not measured: {unmeasured}"))
            }
            met => met,
        };
        Some(Judgement {
            target: *self.target,
            system: self.system,
            what,
            must,
            statistic,
            found: text(values.last().copied()),
            median: text(median(values)),
            n: values.len(),
            met,
        })
    }
}

/// The compared value and where it comes from.
struct Worst {
    value: f64,
    place: String,
}

fn limit(worst: Option<&Worst>, most: f64, unit: &str, digits: usize) -> Met {
    let Some(Worst { value, place }) = worst else { return Met::Open("no records".into()) };
    let distance = (value - most).abs();
    if *value <= most {
        Met::Yes(format!("{distance:.digits$} {unit} below"))
    } else {
        Met::No(format!("{distance:.digits$} {unit} above ({place})"))
    }
}

fn too_few(found: usize, wanted: usize) -> Met {
    Met::Open(format!("{found} pairs of at least {wanted}"))
}

fn of_kind(run: &RunRecord, kind: RouteKind) -> impl Iterator<Item = &RouteVerdict> {
    run.verdict.routes.iter().filter(move |route| route.kind == kind)
}

/// What finds the run again: `--seed` gives the order and the phases, the number the turn.
fn run_of(run: &RunRecord) -> String {
    format!("seed {} run {}, fault on {} after {} ms", run.seed, run.number, run.primary, run.phase_ms)
}

fn float(count: u64) -> f64 {
    // Counts of a bench are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let count = count as f64;
    count
}

#[cfg(test)]
mod tests;
