//! `report`: what an observing Holdfast would have done, and the outage that Patroni had instead.
//!
//! Each agent tells what it saw itself. One incident that several of them saw is one line here; what they disagree on is
//! settled by who knows it best: the writer's own agent its last moment, the next leader's own agent the moment from which it
//! wrote. Nothing rests on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use holdfast_proto::message::HostReport;
use holdfast_types::record::{ObservedReason, ObservedRecord};
use holdfast_types::{ClusterId, MemberName, RegionName, Scope};
use serde::Serialize;

use super::stalls::{self, StallReport};
use super::status::FORMAT;
use super::text;

/// Agents notice the end of a writer within seconds of each other, and their clocks are about as far apart.
const SAME_MS: i64 = 30_000;

/// An agent that has not said anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// Its member, or its address.
    pub agent: String,
    /// Why.
    pub why: String,
}

/// What one agent would have done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct WouldReport {
    /// When, RFC 3339, by the clock of its host.
    pub at: String,
    /// Whose agent.
    pub member: MemberName,
    /// What, as it stands after the words "would have".
    pub text: String,
}

/// One incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IncidentReport {
    /// Which cluster: `namespace/scope`.
    pub cluster: String,
    /// When the first agent noticed, RFC 3339.
    pub noticed_at: String,
    /// Who wrote.
    pub writer: MemberName,
    /// By what it was noticed.
    pub reason: ObservedReason,
    /// Whose agents saw it.
    pub seen_by: Vec<MemberName>,
    /// The writer's last sign of life, RFC 3339.
    pub last_sign_at: Option<String>,
    /// What would have been done.
    pub would: Vec<WouldReport>,
    /// Why nothing, or no more, would have been done.
    pub waits: Vec<String>,
    /// When the reign would have been closed, RFC 3339.
    pub would_close_at: Option<String>,
    /// How long after the last sign of life that is, in milliseconds.
    pub would_close_after_ms: Option<i64>,
    /// To whom the lock would have been given.
    pub would_name: Option<MemberName>,
    /// Whom Patroni made the leader instead; the writer itself, if that went on.
    pub next: Option<MemberName>,
    /// When that one had the lock, RFC 3339.
    pub led_at: Option<String>,
    /// When that one was out of recovery, RFC 3339.
    pub writable_at: Option<String>,
    /// From the last sign of life until then, in milliseconds: the outage that Patroni had.
    pub outage_ms: Option<i64>,
    /// Its agent has not told when it was out of recovery: the outage was at least so long.
    pub outage_is_at_least: bool,
}

/// Everything, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version of the JSON.
    pub format: u64,
    /// The region.
    pub region: RegionName,
    /// The cluster that was asked for; all of those that the agents know when absent.
    pub cluster: Option<String>,
    /// From when on, RFC 3339.
    pub since: String,
    /// The incidents, newest first.
    pub incidents: Vec<IncidentReport>,
    /// How late session renewals were.
    pub hosts: Vec<StallReport>,
    /// Who did not answer.
    pub silent: Vec<Silent>,
    /// Records that could not be read.
    pub unreadable: u64,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The region.
    pub region: RegionName,
    /// The cluster, where it is known.
    pub cluster: Option<ClusterId>,
    /// Its scope alone, where no more is known; all clusters when both are absent.
    pub scope: Option<Scope>,
    /// From when on: wall clock, milliseconds since 1970.
    pub since_wall_ms: i64,
}

impl Question {
    fn means(&self, record: &ObservedRecord) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_none_or(|id| id.namespace == record.namespace && id.scope == record.scope)
            && self.scope.as_ref().is_none_or(|scope| *scope == record.scope)
            && record.noticed_wall_ms >= self.since_wall_ms
    }
}

impl Report {
    /// Of the answers of these agents, each by its member or its address.
    pub fn new(question: &Question, answers: &BTreeMap<String, Result<HostReport, String>>) -> Self {
        let (mut hosts, mut silent, mut records, mut unreadable) =
            (BTreeMap::new(), Vec::new(), Vec::new(), 0);
        for (agent, answer) in answers {
            match answer {
                Err(why) => silent.push(Silent { agent: agent.clone(), why: why.clone() }),
                // Two members of one host.
                Ok(report) if hosts.contains_key(&report.host) => {}
                Ok(report) => {
                    hosts.insert(report.host.clone(), StallReport::new(report));
                    records.extend(report.incidents.iter().filter(|one| question.means(one)).cloned());
                    unreadable += report.unreadable;
                }
            }
        }
        let mut incidents = merge(records);
        incidents.sort_by_key(|group| std::cmp::Reverse(noticed(group)));
        let name = |id: &ClusterId| format!("{}/{}", id.namespace, id.scope);
        Self {
            format: FORMAT,
            region: question.region.clone(),
            cluster: question.cluster.as_ref().map(name).or(question.scope.as_ref().map(ToString::to_string)),
            since: text::moment(question.since_wall_ms),
            incidents: incidents.iter().map(|group| incident(group)).collect(),
            hosts: hosts.into_values().collect(),
            silent,
            unreadable,
        }
    }

    /// Whether anybody answered.
    pub fn has_answers(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if self.incidents.is_empty() {
            let _ = writeln!(out, "no incident was observed since {}", self.since);
        }
        for incident in &self.incidents {
            incident.write(&mut out);
        }
        out.push_str(&stalls::text(&self.hosts));
        for Silent { agent, why } in &self.silent {
            let _ = writeln!(out, "the agent of {agent} does not answer, and what it saw is missing: {why}");
        }
        if self.unreadable > 0 {
            let _ = writeln!(out, "{} records cannot be read by this build or are damaged", self.unreadable);
        }
        out
    }
}

/// The records of one incident each. Two of one agent are two incidents, however close.
fn merge(mut records: Vec<ObservedRecord>) -> Vec<Vec<ObservedRecord>> {
    records.sort_by_key(|record| record.noticed_wall_ms);
    let mut groups: Vec<Vec<ObservedRecord>> = Vec::new();
    for record in records {
        let fits = |group: &&mut Vec<ObservedRecord>| {
            let first = &group[0];
            (&first.namespace, &first.scope, &first.writer)
                == (&record.namespace, &record.scope, &record.writer)
                && group.iter().all(|other| other.member != record.member)
                && record.noticed_wall_ms <= last_moment(group) + SAME_MS
        };
        match groups.iter_mut().rev().find(fits) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    groups
}

fn last_moment(group: &[ObservedRecord]) -> i64 {
    let moments =
        group.iter().map(|one| one.writable_wall_ms.or(one.led_wall_ms).unwrap_or(one.noticed_wall_ms));
    moments.max().unwrap_or(i64::MIN)
}

fn noticed(group: &[ObservedRecord]) -> i64 {
    group.iter().map(|one| one.noticed_wall_ms).min().unwrap_or(i64::MIN)
}

fn incident(group: &[ObservedRecord]) -> IncidentReport {
    let first = &group[0];
    let own = group.iter().find(|one| one.member == first.writer);
    let heard = group.iter().filter_map(|one| one.last_sign_wall_ms).max();
    let last_sign = own.and_then(|own| own.last_sign_wall_ms).or(heard);
    let close = group
        .iter()
        .filter(|one| one.would_close_wall_ms.is_some())
        .min_by_key(|one| one.would_close_wall_ms);
    let would_close = close.and_then(|one| one.would_close_wall_ms);
    // Where the lock went in the end: another's word counts over that of one for whom the writer was back for a moment.
    let followed = group.iter().filter(|one| one.next.is_some());
    let led =
        followed.max_by_key(|one| (one.next.as_ref() != Some(&first.writer), one.led_wall_ms.map(|at| -at)));
    let next = led.and_then(|one| one.next.clone());
    let by_next = group.iter().find(|one| Some(&one.member) == next.as_ref() && one.next == next);
    let writable = by_next.and_then(|one| one.writable_wall_ms);
    let back = writable.or(led.and_then(|one| one.led_wall_ms));
    let outage_ms = back.zip(last_sign).map(|(back, gone)| (back - gone).max(0));
    let mut would: Vec<WouldReport> = Vec::new();
    for record in group {
        let line = |line: &holdfast_types::record::WouldLine| WouldReport {
            at: text::moment(line.at_wall_ms),
            member: record.member.clone(),
            text: line.text.clone(),
        };
        would.extend(record.would.iter().map(line));
    }
    would.sort();
    let waits: BTreeSet<String> = group.iter().flat_map(|one| one.waits.clone()).collect();
    IncidentReport {
        cluster: format!("{}/{}", first.namespace, first.scope),
        noticed_at: text::moment(noticed(group)),
        writer: first.writer.clone(),
        reason: group.iter().map(|one| one.reason).max().unwrap_or(first.reason),
        seen_by: group.iter().map(|one| one.member.clone()).collect::<BTreeSet<_>>().into_iter().collect(),
        last_sign_at: last_sign.map(text::moment),
        would,
        waits: if would_close.is_some() { Vec::new() } else { waits.into_iter().collect() },
        would_close_at: would_close.map(text::moment),
        would_close_after_ms: would_close.zip(last_sign).map(|(close, gone)| (close - gone).max(0)),
        would_name: close.and_then(|one| one.would_name.clone()),
        next,
        led_at: led.and_then(|one| one.led_wall_ms).map(text::moment),
        writable_at: writable.map(text::moment),
        outage_ms,
        outage_is_at_least: outage_ms.is_some() && writable.is_none(),
    }
}

/// The reason in words, as they stand after "by".
fn words(reason: ObservedReason) -> &'static str {
    match reason {
        ObservedReason::LockLost => "its lock, which went to another",
        ObservedReason::SessionGone => "the end of its host's session (host, link or agent)",
        ObservedReason::PatroniHung => "its Patroni, which did not answer",
        ObservedReason::PostgresHung => "its PostgreSQL or disk, which hung",
        ObservedReason::PostmasterGone => "the end of its postmaster",
    }
}

impl IncidentReport {
    fn write(&self, out: &mut String) {
        let seen = text::list(&self.seen_by);
        let (at, writer) = (&self.noticed_at, &self.writer);
        let _ = writeln!(
            out,
            "{at}  {}: {writer}, noticed by {} (agents of {seen})",
            self.cluster,
            words(self.reason)
        );
        let after = |ms: Option<i64>| {
            ms.map_or_else(String::new, |ms| format!(", {ms} ms after the last sign of life"))
        };
        match (&self.would_close_at, &self.would_name) {
            (Some(at), name) => {
                let name = name.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
                let _ = writeln!(
                    out,
                    "  would have closed its reign at {at}{} and named {name}",
                    after(self.would_close_after_ms)
                );
            }
            (None, _) => {
                let _ = writeln!(out, "  would not have closed its reign");
            }
        }
        for wait in &self.waits {
            let _ = writeln!(out, "  would have waited: {wait}");
        }
        for line in &self.would {
            let _ = writeln!(out, "    {} {}: would have {}", line.at, line.member, line.text);
        }
        match (&self.next, self.outage_ms) {
            (Some(next), outage_ms) => {
                let least = if self.outage_is_at_least { "at least " } else { "" };
                let outage =
                    outage_ms.map_or_else(|| text::UNKNOWN.to_owned(), |ms| format!("{least}{ms} ms"));
                let who = if *next == self.writer {
                    format!("{next} itself went on")
                } else {
                    format!("{next} led")
                };
                let _ = writeln!(out, "  with Patroni alone {who}; nobody wrote for {outage}");
            }
            (None, _) => {
                let _ = writeln!(out, "  with Patroni alone nobody was seen to lead afterwards");
            }
        }
    }
}

#[cfg(test)]
mod tests;
