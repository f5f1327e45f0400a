//! Does one step: waits until everything is steady, breaks and heals on time, waits until the cluster is whole, and asks the
//! checker.
//!
//! It decides nothing about what breaks, and judges nothing: it says what it found, or what it waited for in vain.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::place;
use super::record::{FaultRecord, StepRecord, Totals};
use super::schedule::{Planned, Step};
use crate::bench::case::Mode;
use crate::bench::lab::Lab;
use crate::bench::watch::Watch;
use crate::checker::describe::Describe;
use crate::checker::record::{NodeState, Recording, Standbys};
use crate::checker::rows;
use crate::checker::verdict::{Verdict, judge};

/// A member that was away must be rewound, follow and be named again, on a machine that does other things too.
pub const WHOLE_DEADLINE: Duration = Duration::from_secs(180);
const ASK_OPERATOR_EVERY: Duration = Duration::from_secs(1);
/// Clients give an attempt up after this: a campaign has no time for those without a query timeout.
const CLIENT_DEADLINE_MS: u64 = 10_000;
/// For how long the cluster must have been whole.
const WHOLE_FOR: Duration = Duration::from_secs(2);

/// A lab in which a campaign runs.
pub struct Field {
    /// The lab.
    pub lab: Lab,
    /// Its description, as it came up.
    pub describe: Describe,
    /// Whether agents run, which must say that all is well in the end.
    pub has_agents: bool,
    /// The recording of all clients.
    pub recording: PathBuf,
    /// Name of the run: part of every row's key.
    pub run: String,
    watch: Watch,
    wanted: Standbys,
    /// Up to where the recording has been judged, in bytes.
    judged: usize,
}

/// How a step ended.
pub struct Done {
    /// Its record.
    pub record: StepRecord,
    /// What was waited for in vain.
    pub not_whole: Option<String>,
}

impl Field {
    /// Starts the clients and waits until they are steady.
    pub async fn enter(lab: Lab, has_agents: bool, folder: &Path, run: &str) -> anyhow::Result<Self> {
        let (_, session) = crate::bench::health::wait_whole(&lab, Mode::Quorum).await?;
        rows::create_table(&session.client).await.context("the table of the clients")?;
        let recording = folder.join("recording");
        let mut watch = Watch::start(&lab, run, folder, &recording, CLIENT_DEADLINE_MS).await?;
        let wanted = watch.until_steady(Mode::Quorum).await?;
        let (describe, run) = (lab.describe().await?, run.to_owned());
        Ok(Self { lab, describe, has_agents, recording, run, watch, wanted, judged: 0 })
    }

    /// Does one step.
    pub async fn step(&mut self, step: &Step) -> anyhow::Result<Done> {
        self.watch.until_steady(Mode::Quorum).await?;
        let writer = self.watch.tail.writer().context("there is no single writer")?.to_owned();
        tokio::time::sleep(step.phase).await;
        let (faults, first_us) = self.break_and_heal(step, &writer).await?;
        let healed = Instant::now();
        let not_whole = self.until_whole(healed).await?;
        let whole_after = not_whole.is_none().then(|| healed.elapsed());
        let final_writer = self.watch.tail.writer().map(str::to_owned);
        let (totals, gaps_ms) = match self.verdict(first_us).await {
            Ok(verdict) => {
                let routes = verdict.routes.iter().filter_map(|route| Some((route, route.gap?)));
                let gaps = routes.map(|(route, gap)| (route.route.clone(), gap.gap_us / 1000)).collect();
                (totals(&verdict), gaps)
            }
            // Without a writer there is nobody to be asked for the rows.
            Err(error) if not_whole.is_some() => {
                eprintln!("campaign: no verdict: {error:#}");
                Default::default()
            }
            Err(error) => return Err(error),
        };
        let record = StepRecord {
            number: step.number,
            writer,
            final_writer,
            faults,
            gaps_ms,
            whole_after_ms: whole_after.map(milliseconds),
            totals,
        };
        Ok(Done { record, not_whole })
    }

    /// Injects and heals what the step says, each at its moment. Returns what became of each fault, and the moment of the
    /// first one.
    async fn break_and_heal(
        &mut self,
        step: &Step,
        writer: &str,
    ) -> anyhow::Result<(Vec<FaultRecord>, Option<u64>)> {
        let begin = Instant::now();
        let mut moments: Vec<(Duration, usize, bool)> = Vec::new();
        for (at, fault) in step.faults.iter().enumerate() {
            moments.push((fault.after, at, true));
            if fault.blow.lasts() {
                moments.push((fault.after + fault.hold, at, false));
            }
        }
        moments.sort();
        let mut records: Vec<FaultRecord> =
            step.faults.iter().map(|fault| self.record(fault, writer)).collect();
        let mut ids: Vec<Option<String>> = vec![None; records.len()];
        let mut first_us = None;
        for (moment, at, breaks) in moments {
            tokio::time::sleep_until((begin + moment).into()).await;
            if !breaks {
                if let Some(id) = &ids[at]
                    && let Err(error) = self.lab.heal(id).await
                {
                    // The other fault may stand in its way: a full etcd that is down as well takes no order.
                    eprintln!("campaign: {id} is healed at the end of the step: {error:#}");
                }
                continue;
            }
            let words: Vec<&str> = records[at].words.iter().map(String::as_str).collect();
            match self.lab.inject(&words).await {
                Ok(injected) => {
                    first_us = first_us.or(Some(injected.at_us));
                    ids[at] = Some(injected.id);
                }
                Err(error) => records[at].not_injected = Some(format!("{error:#}")),
            }
        }
        self.lab.heal_all().await.context("the heal of everything")?;
        Ok((records, first_us))
    }

    fn record(&self, fault: &Planned, writer: &str) -> FaultRecord {
        FaultRecord {
            blow: fault.blow.name.to_owned(),
            words: place::words(&self.describe, fault, writer),
            after_ms: milliseconds(fault.after),
            hold_ms: milliseconds(fault.hold),
            not_injected: None,
        }
    }

    /// Waits until every route acknowledges, redundancy is what it was, and the agents say that all is well. Returns what
    /// was waited for in vain.
    async fn until_whole(&mut self, since: Instant) -> anyhow::Result<Option<String>> {
        let (mut whole_since, mut asked): (Option<Instant>, Option<Instant>) = (None, None);
        let mut missing = "nothing was seen".to_owned();
        while since.elapsed() < WHOLE_DEADLINE {
            let now_us = self.watch.look().await?;
            let seen = if !self.watch.is_steady(now_us) {
                Some("a route does not acknowledge".to_owned())
            } else if !self.watch.is_redundant(now_us, self.wanted) {
                Some("redundancy is not what it was".to_owned())
            } else {
                None
            };
            if let Some(seen) = seen {
                (missing, whole_since) = (seen, None);
                continue;
            }
            let since = *whole_since.get_or_insert_with(Instant::now);
            if since.elapsed() < WHOLE_FOR {
                continue;
            }
            if !self.has_agents {
                return Ok(None);
            }
            if asked.is_some_and(|asked| asked.elapsed() < ASK_OPERATOR_EVERY) {
                continue;
            }
            asked = Some(Instant::now());
            match self.not_healthy().await {
                None => return Ok(None),
                Some(why) => missing = why,
            }
        }
        Ok(Some(missing))
    }

    /// What the agents complain of.
    async fn not_healthy(&self) -> Option<String> {
        let said = match self.lab.operator(&["status", "-o", "json"]).await {
            Ok(said) => said,
            Err(error) => return Some(format!("holdfast status: {error:#}")),
        };
        let status: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        let causes =
            status["findings"].as_array().into_iter().flatten().filter_map(|one| one["cause"].as_str());
        let causes = causes.collect::<Vec<_>>().join("; ");
        (status["healthy"] != true).then(|| format!("holdfast status is not healthy: {causes}"))
    }

    /// Judges what was recorded since the last verdict. The rows are read after the recording, so each acknowledgement in
    /// it must have its row.
    async fn verdict(&mut self, fault_us: Option<u64>) -> anyhow::Result<Verdict> {
        let text = std::fs::read_to_string(&self.recording).context("the recording")?;
        let header = text.find('\n').map_or(0, |at| at + 1);
        let from = self.judged.max(header);
        let recording = Recording::parse(&format!("{}{}", &text[..header], &text[from..]))?;
        self.judged = text.rfind('\n').map_or(from, |at| at + 1);
        let found = self.rows(&recording).await?;
        Ok(judge(&recording, &found, fault_us))
    }

    async fn rows(&self, recording: &Recording) -> anyhow::Result<rows::RowSet> {
        let writable = recording.probes.iter().rev().find(|probe| probe.state == NodeState::Writable);
        let writer = &writable.context("no host accepts writes")?.host;
        let sockets = self.lab.sockets().await?;
        let target = sockets.iter().find(|(host, _)| host == writer).context("the writer has a socket")?;
        let session = target.1.connect().await.with_context(|| format!("the socket of {writer}"))?;
        rows::read(&session.client, &self.run).await.context("the rows of the writer")
    }

    /// Ends the clients, and judges everything that they ever recorded.
    pub async fn leave(self) -> anyhow::Result<Totals> {
        let Self { lab, recording, run, watch, .. } = self;
        watch.stop().await?;
        let recording = Recording::read(&recording)?;
        let (_, session) = crate::bench::health::wait_whole(&lab, Mode::Quorum).await?;
        let found = rows::read(&session.client, &run).await.context("the rows of the writer")?;
        Ok(totals(&judge(&recording, &found, None)))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn totals(verdict: &Verdict) -> Totals {
    Totals {
        acknowledged: verdict.counts.acknowledged,
        refused: verdict.counts.refused,
        unknown: verdict.counts.unknown,
        lost: verdict.lost.count,
        lost_warned: verdict.lost_warned.count,
        appeared_though_refused: verdict.appeared_though_refused.count,
        two_writable_ms: verdict.two_writable.certain_us / 1000,
        two_acknowledging_ms: verdict.two_acknowledging.certain_us.div_ceil(1000),
    }
}
