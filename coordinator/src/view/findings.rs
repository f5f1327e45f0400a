//! What is wrong with a cluster: cause, effect, and the next safe command, the worst first. Called by `status`, `watch`
//! and every wait that times out; it changes nothing.

mod reign;
mod servers;

use holdfast_store::EtcdHealth;
use holdfast_types::record::{FenceReason, OutsideState};
use holdfast_types::{Class, Mode, certificate};
use serde::Serialize;

pub use self::reign::evidence_word;
use super::cluster::ClusterView;
use super::{drained, local_disarm, maintenance, setup, text};

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
    // Before everything else: a promise that does not hold.
    for (cause, effect, next) in local_disarm::findings(view) {
        list.risk(cause, effect, next);
    }
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
    for (cause, effect, next) in drained::findings(view) {
        list.risk(cause, effect, next);
    }
    list.leader();
    list.fences();
    list.members();
    list.certificates();
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

    /// Each agent tells when its own certificate ends.
    fn certificates(&mut self) {
        let now_unix_s = self.view.read_wall_ms / 1_000;
        for (member, facts) in &self.view.facts {
            let end = facts.certificate_ends_unix_s.and_then(|ends| certificate::warning(ends, now_unix_s));
            if let Some(end) = end {
                self.risk(
                    format!("the certificate of the agent of {member} {end}"),
                    "after its end the agent loses etcd and its peers, and a writer there its lease",
                    format!(
                        "holdfast pki host for {}, and put the files in the place of the old ones",
                        facts.host
                    ),
                );
            }
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

#[cfg(test)]
mod tests;
