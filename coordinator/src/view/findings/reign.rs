//! Findings about the reign: a hold, a term that is closed or whose writer is silent, and whether its loss could be proved.

use holdfast_types::record::{Attestation, Evidence, Reign, StopKind};
use holdfast_types::{Class, MemberName};

use super::List;
use crate::view::cluster::Seen;
use crate::view::{overriding, text};

/// A successor opens the next term within half a second; the agents name another after 2 s, 4 s, 8 s. One that is not open
/// by then wants a person.
const CLOSED_PATIENCE_MS: i64 = 20_000;

impl List<'_> {
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
    pub(super) fn reign(&mut self) {
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
    pub(super) fn proof(&mut self) {
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
        if let Some((member, tag)) = overriding::kept_by_a_tag(self.view) {
            return format!(
                "{member} has everything that was acknowledged, and its tag {tag} keeps it from leading: take it out of its \
                 patroni.yml, then: patronictl reload {} {member}; nothing is lost by that",
                self.view.cluster.scope
            );
        }
        match self.view.read_wall_ms.saturating_sub(closed_wall_ms) > CLOSED_PATIENCE_MS {
            true => self.give_up("look at the members that have everything, and start them"),
            false => self.command("status --watch 1"),
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
