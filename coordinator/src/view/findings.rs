//! What is wrong with a cluster: cause, effect, and the next safe command, the worst first. Called by `status`, `watch`
//! and every wait that times out; it changes nothing.

mod servers;

use holdfast_store::EtcdHealth;
use holdfast_types::record::{Attestation, Evidence, FenceReason, OutsideState, Reign, StopKind};
use holdfast_types::{Class, MemberName, Mode};
use serde::Serialize;

use super::cluster::{ClusterView, Seen};
use super::{maintenance, overriding, setup, text};

/// A successor opens the next term within half a second; the agents name another after 2 s, 4 s, 8 s. One that is not open
/// by then wants a person.
const CLOSED_PATIENCE_MS: i64 = 20_000;

/// How bad a finding is. The order is the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is written, or nothing can be.
    Outage,
    /// It works, but the next fault will not be covered as promised.
    Risk,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What was seen.
    pub cause: String,
    /// What follows from it.
    pub effect: String,
    /// The next safe command, or the next thing to look at.
    pub next: String,
}

impl Finding {
    /// One line for the head of a status.
    pub fn line(&self) -> String {
        format!("{}; {}; next: {}", self.cause, self.effect, self.next)
    }
}

/// Everything that is wrong, the worst first. `etcd` is absent when the servers were not asked.
pub fn find(view: &ClusterView, etcd: Option<&EtcdHealth>) -> Vec<Finding> {
    let mut list = List { view, findings: Vec::new() };
    // Whatever etcd says besides is not the last word.
    if let Some(contradiction) = view.contradiction() {
        let effect = "nothing is failed over, closed or let go; the last writer goes on";
        list.risk(contradiction, effect, text::order("arm", &view.cluster));
    }
    if view.mode() == Mode::Armed {
        list.maintenance();
    }
    if let Some(etcd) = etcd {
        list.etcd(etcd);
    }
    if view.mode() == Mode::Armed {
        list.reign();
        list.proof();
        list.outside();
        list.settings();
        list.agents();
        list.routes();
    }
    list.leader();
    list.fences();
    list.members();
    for problem in &view.problems {
        list.risk(problem.clone(), "this record is left out of everything below", "holdfast doctor");
    }
    // Stable: within one severity the order above stands.
    list.findings.sort_by_key(|finding| finding.severity);
    list.findings
}

struct List<'v> {
    view: &'v ClusterView,
    findings: Vec<Finding>,
}

impl List<'_> {
    fn add(
        &mut self,
        severity: Severity,
        cause: impl Into<String>,
        effect: impl Into<String>,
        next: impl Into<String>,
    ) {
        let (cause, effect, next) = (cause.into(), effect.into(), next.into());
        self.findings.push(Finding { severity, cause, effect, next });
    }

    fn outage(&mut self, cause: impl Into<String>, effect: impl Into<String>, next: impl Into<String>) {
        self.add(Severity::Outage, cause, effect, next);
    }

    fn risk(&mut self, cause: impl Into<String>, effect: impl Into<String>, next: impl Into<String>) {
        self.add(Severity::Risk, cause, effect, next);
    }

    /// Class `off`: nothing rests on agents' promises.
    fn is_asynchronous(&self) -> bool {
        self.view.patroni.class() == Some(Class::Off)
    }

    fn command(&self, verb: &str) -> String {
        text::command(verb, &self.view.cluster)
    }

    /// The first that is said of what is at risk: it explains why nothing is done about the rest.
    fn maintenance(&mut self) {
        if let Some(report) = maintenance::report(self.view) {
            let effect = "nothing is failed over, closed or restarted by itself";
            self.risk(report.text, effect, text::order("maintenance off", &self.view.cluster));
        }
    }

    /// A writer that was lost in a pause (rule 24).
    fn held(&mut self) {
        let view = self.view;
        if let Some(held) = view.held_by_a_lost_writer().map(Seen::body) {
            self.outage(
                format!(
                    "the writer {} could write without a lease in a pause or a maintenance, and its agent is gone since",
                    held.holder
                ),
                "nobody follows it until it is back, or a person says that its host is off",
                text::order("hold end", &view.cluster),
            );
        }
    }

    /// The term and the hold.
    fn reign(&mut self) {
        let view = self.view;
        if let Some(hold) = view.hold_in_force().map(Seen::body) {
            let last = text::ago(hold.last_failover_wall_ms, view.read_wall_ms);
            self.outage(
                format!("the failover of term {} is held (last one {last}): {}", hold.term, hold.text),
                "nobody becomes the writer until a person ends the hold",
                text::order("hold end", &view.cluster),
            );
        }
        self.held();
        let Some(term) = view.reign() else {
            let effect = match self.is_asynchronous() {
                true => "the poolers follow nobody yet",
                false => "no promotion is let through yet",
            };
            let next = text::order("arm --wait", &view.cluster);
            return self.risk("armed, but no term has been opened since", effect, next);
        };
        match &term.reign {
            Reign::Closed { holder, at_wall_ms, evidence, successor, .. } => {
                let when = text::ago(*at_wall_ms, view.read_wall_ms);
                let next = self.after_close(*at_wall_ms);
                let follows = successor.as_ref().map_or("nobody".into(), ToString::to_string);
                self.outage(
                    format!("term {} of {holder} was closed {when} ({})", term.term, evidence_word(evidence)),
                    format!("nothing is written until {follows} opens term {}", term.term.next()),
                    next,
                );
            }
            Reign::Open { holder, writable, .. } => {
                if !writable {
                    self.outage(
                        format!(
                            "term {} is open for {holder}, whose PostgreSQL is still in recovery",
                            term.term
                        ),
                        "clients wait until it has been promoted",
                        self.command("status --watch 1"),
                    );
                }
                if view.agent_alive(holder) != Some(true) {
                    self.risk(
                        format!("the agent of the writer {holder} has no session"),
                        match self.is_asynchronous() {
                            true => "its lease is over: its port closes, and Patroni elects another",
                            false => "if its PostgreSQL falls silent too, its standbys leave it and a failover begins",
                        },
                        format!("systemctl status holdfast-agent on the host of {holder}"),
                    );
                }
                if self.is_asynchronous() {
                    return;
                }
                if let Some(word) = view.attestations.iter().find(|word| word.term == term.term) {
                    self.outage(word_of(word), "a failover is under way", self.command("status --watch 1"));
                }
                let left = view.promises.iter().filter(|(_, promise)| promise.term == term.term);
                for (member, _) in left {
                    self.risk(
                        format!("{member} has left the writer of term {}", term.term),
                        "it acknowledges no commit until it withdraws its promise",
                        self.command("status --watch 1"),
                    );
                }
            }
        }
    }

    /// Whether the loss of the writer could be proved.
    fn proof(&mut self) {
        let view = self.view;
        if view.patroni.class() != Some(Class::Quorum) || view.writer().is_none() {
            return;
        }
        let Some(floor) = view.floor.as_ref().map(|floor| floor.body()) else {
            let effect = "the loss of the writer could not be proved, and nothing would be promoted";
            return self.risk(
                "the writer has published no floor record",
                effect,
                self.command("status --watch 1"),
            );
        };
        let members = &floor.configuration.members;
        let alive: Vec<&MemberName> =
            members.iter().filter(|member| view.agent_alive(member) == Some(true)).collect();
        let needed = floor.configuration.quorum + 1;
        if members.is_empty() {
            self.risk(
                "no synchronous standby counts at present",
                "the writer acknowledges alone, and nothing would be promoted in its place",
                self.command("list"),
            );
        } else if alive.len() < needed
            && view.writer().is_some_and(|(_, w)| view.agent_alive(w) == Some(false))
        {
            self.outage(
                format!(
                    "the writer is gone, and of {} only {} have a live agent, {needed} are needed",
                    text::list(members),
                    alive.len()
                ),
                "its loss cannot be proved: nothing is promoted, so that nothing is lost",
                self.give_up("start the others"),
            );
        } else if alive.len() < needed {
            self.risk(
                format!(
                    "of {} only {} have a live agent, {needed} are needed",
                    text::list(members),
                    alive.len()
                ),
                "the loss of the writer could not be proved, and nothing would be promoted",
                "start holdfast-agent on the others",
            );
        }
    }

    /// The remedy of a failover that cannot be had without a loss: what keeps everything first, then the verb.
    fn give_up(&self, first: &str) -> String {
        match overriding::least_loss(self.view) {
            Some(member) => {
                let verb = format!("failover {member} --accept-data-loss --dry-run");
                format!("{first}; if they are lost for good: {}", self.command(&verb))
            }
            None => first.to_owned(),
        }
    }

    /// A successor that does not come wants a person.
    fn after_close(&self, closed_wall_ms: i64) -> String {
        match self.view.read_wall_ms.saturating_sub(closed_wall_ms) > CLOSED_PATIENCE_MS {
            true => self.give_up("look at the members that have everything, and start them"),
            false => self.command("status --watch 1"),
        }
    }

    /// What fence devices have said of hosts that are still gone.
    fn outside(&mut self) {
        let view = self.view;
        let Some(term) = view.reign() else { return };
        for (asker, found) in &view.outside {
            let recent = found.term == term.term || found.term.next() == term.term;
            if !recent || view.sessions.contains_key(&found.host) {
                continue;
            }
            let cause = format!("{found}, asked by {asker}");
            match found.state {
                OutsideState::Asking => {}
                OutsideState::Off => self.risk(
                    cause,
                    "it stays off until a person switches it on; then it comes back as a standby",
                    format!("look at the host {}, then switch it on", found.host),
                ),
                OutsideState::NotProved => self.risk(
                    cause,
                    "nothing rests on the device: the failover goes by promises alone",
                    format!("look at the device, and whether the host {} runs", found.host),
                ),
            }
        }
    }

    /// Patroni's setup, as far as the promises rest on it.
    fn settings(&mut self) {
        let patroni = &self.view.patroni;
        if patroni.switch("pause") == Some(true) {
            let effect = "Patroni does nothing of its own, so a failover would wait";
            self.risk("Patroni is paused", effect, "patronictl resume");
        }
        for fault in setup::faults(self.view) {
            self.risk(fault.cause, fault.effect, fault.remedy);
        }
    }

    fn agents(&mut self) {
        let view = self.view;
        let writer = view.writer().map(|(_, writer)| writer);
        for member in view.members().iter().filter(|member| Some(*member) != writer) {
            let cause = match view.agent_alive(member) {
                Some(true) => continue,
                Some(false) => format!("the agent of {member} has no session"),
                None => format!("{member} has never had an agent"),
            };
            let effect = match self.is_asynchronous() {
                true => "it grants no lease while etcd is away, and is not promoted",
                false => "it gives no promise and cannot be chosen as successor",
            };
            self.risk(cause, effect, format!("systemctl status holdfast-agent on the host of {member}"));
        }
    }

    fn leader(&mut self) {
        let view = self.view;
        match (&view.patroni.leader, view.writer()) {
            (None, _) => {
                let effect = "no member may accept writes for long";
                self.outage("Patroni has no leader", effect, self.command("list"));
            }
            (Some(leader), Some((term, writer))) if leader != writer && view.mode() == Mode::Armed => self
                .risk(
                    format!("Patroni's leader is {leader}, but term {term} belongs to {writer}"),
                    "the two are about to follow each other, or one of them is cut off",
                    self.command("status --watch 1"),
                ),
            _ => {}
        }
    }

    fn fences(&mut self) {
        for (member, fence) in &self.view.fences {
            let why = match &fence.body().why {
                FenceReason::Operator { by, text } => format!("by {by}: {text}"),
                FenceReason::Deposed { term } => format!("it was the writer of term {term}"),
            };
            let next = self.command(&format!("unfence {member} --dry-run"));
            self.risk(
                format!("{member} is fenced ({why})"),
                "it stays out until it has been validated",
                next,
            );
        }
    }

    fn members(&mut self) {
        let view = self.view;
        for (name, member) in &view.patroni.members {
            if view.fences.contains_key(name) {
                continue;
            }
            let state = member.state.as_deref().unwrap_or(text::UNKNOWN);
            let leads = view.patroni.leader.as_ref() == Some(name);
            let streams = member.replication_state.as_deref() == Some("streaming");
            let effect = "there is one copy less";
            let primary = matches!(member.role.as_deref(), Some("primary" | "master"));
            if primary && !leads {
                if let Some(leader) = &view.patroni.leader {
                    self.risk(
                        format!("{name} runs as primary, but Patroni's leader is {leader}"),
                        "sessions that are still open there must not be acknowledged any more",
                        self.command("status --watch 1"),
                    );
                }
                continue;
            }
            if state != "running" {
                self.risk(format!("{name} is {state}"), effect, self.command("list"));
            } else if !leads && !streams {
                let how = member.replication_state.as_deref().unwrap_or("not streaming");
                self.risk(format!("{name} runs, {how}"), effect, self.command("list"));
            }
        }
        for name in view.facts.keys().filter(|name| !view.patroni.members.contains_key(name)) {
            if !view.fences.contains_key(name) {
                self.risk(
                    format!("Patroni of {name} is gone"),
                    "there is one copy less",
                    self.command("list"),
                );
            }
        }
    }
}

/// What the holder of an open term says of itself.
fn word_of(word: &Attestation) -> String {
    match word.stop {
        StopKind::Relinquished => {
            format!("{} has given term {} back before it wrote", word.holder, word.term)
        }
        StopKind::Clean { .. } | StopKind::Stopped => {
            format!("{} attests that its PostgreSQL has stopped", word.holder)
        }
    }
}

/// Evidence in one word or two.
pub fn evidence_word(evidence: &Evidence) -> String {
    match evidence {
        Evidence::AttestedClean => "attested, clean".into(),
        Evidence::AttestedStopped { .. } => "attested".into(),
        Evidence::Revoked { promisers, outside: None } => format!("revoked by {}", text::list(promisers)),
        Evidence::Revoked { promisers, outside: Some(_) } => {
            format!("switched off from outside, revoked by {}", text::list(promisers))
        }
        Evidence::Relinquished => "given back".into(),
        Evidence::Override { by, .. } => format!("override by {by}"),
    }
}

#[cfg(test)]
mod tests;
