//! What an agent has to do in a phase of a planned operation: the writer's for its PostgreSQL, a pooler's for its clients.
//!
//! The coordinator stores the phase, agents act on the phase that they read. Nothing here rests on the coordinator being
//! there, and nothing is done twice for the same operation and phase once it was answered for. Called by the writer's task and
//! by the router of each pooler.

mod restart;

use holdfast_types::record::{OperationPhase, OperationRecord, PAUSE_MS_MAX, PhaseDone, Reign};
use holdfast_types::{MemberName, Term};

use crate::cluster::Cluster;
use crate::member::term_in_force;
use crate::route::Route;

/// What a member's agent does; the writer's, if it does not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// A checkpoint, and waiting for open transactions.
    Prepare {
        /// The operation.
        operation: u64,
        /// How long they may go on, in milliseconds.
        drain_timeout_ms: u64,
        /// Whether they are ended then.
        terminate: bool,
    },
    /// Telling Patroni to hand over, by [`hand_over`] on a fresh read.
    HandOver {
        /// The operation.
        operation: u64,
    },
    /// Of a standby: having its PostgreSQL restarted.
    Restart {
        /// The operation.
        operation: u64,
    },
}

impl Task {
    /// The operation and the phase that it belongs to.
    pub fn place(&self) -> (u64, OperationPhase) {
        match self {
            Self::Prepare { operation, .. } => (*operation, OperationPhase::Prepare),
            Self::HandOver { operation } => (*operation, OperationPhase::HandOver),
            Self::Restart { operation } => (*operation, OperationPhase::Restart),
        }
    }
}

/// What `me` has to do. `said` is what its agent has answered last: the watch may not show it yet.
pub fn task(cluster: &Cluster, me: &MemberName, said: Option<&PhaseDone>, now_wall_ms: i64) -> Option<Task> {
    let record = match restart::is_due(cluster, me, now_wall_ms) {
        Some(record) => record,
        None => reigns(cluster, me, now_wall_ms)?.0,
    };
    let wanted = record.wanted.hand_over()?;
    let operation = record.number;
    let answers = |done: &PhaseDone| done.is_of(operation, record.phase);
    if said.is_some_and(answers) || cluster.done.get(me).is_some_and(answers) {
        return None;
    }
    match record.phase {
        OperationPhase::Prepare => Some(Task::Prepare {
            operation,
            drain_timeout_ms: wanted.drain_timeout_ms,
            terminate: wanted.terminate,
        }),
        OperationPhase::HandOver => Some(Task::HandOver { operation }),
        // Never that of the writer, whoever has stored it.
        OperationPhase::Restart if record.writer.as_ref() != Some(me) => Some(Task::Restart { operation }),
        OperationPhase::Restart
        | OperationPhase::Rejoin
        | OperationPhase::Pause
        | OperationPhase::Verify
        | OperationPhase::Settle
        | OperationPhase::Release => None,
    }
}

/// The operation that runs, if `me` writes in the very term in which it was begun and nothing has come in between.
fn reigns<'c>(
    cluster: &'c Cluster,
    me: &MemberName,
    now_wall_ms: i64,
) -> Option<(&'c OperationRecord, Term)> {
    let record = running(cluster)?;
    if record.given_up.is_some() || cluster.suspended(now_wall_ms) != Some(false) {
        return None;
    }
    let term = writable_term(cluster, record)?;
    let holder = term_in_force(cluster)?.value.open_holder()?;
    (holder == me && record.writer.as_ref() == Some(me)).then_some((record, term))
}

/// The operation that runs, in an armed cluster.
fn running(cluster: &Cluster) -> Option<&OperationRecord> {
    cluster.operation.as_ref().map(|found| &found.value).filter(|record| record.runs() && cluster.is_armed())
}

/// The term of the operation, while it is written in and its writer has not said that it has stopped.
fn writable_term(cluster: &Cluster, record: &OperationRecord) -> Option<Term> {
    let term = &term_in_force(cluster)?.value;
    let writable = matches!(term.reign, Reign::Open { writable: true, .. });
    (writable && record.term == Some(term.term) && !cluster.attested()).then_some(term.term)
}

/// What the writer's agent does about Patroni in the phase of handing over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOver {
    /// Nothing any more: the operation, the term or the phase is another.
    Over,
    /// It has been ordered already, perhaps by an earlier start of this agent: Patroni will act on it.
    Ordered,
    /// It must not be ordered; why, for people.
    Refused(String),
    /// Order it.
    Order {
        /// The successor, as Patroni spells it.
        successor: MemberName,
        /// Whether PostgreSQL is told to stop at once. Otherwise Patroni does it, once it has asked the successor and made a
        /// checkpoint (0.4 s); that must be where something of the user's runs at a stop, or where it is not known.
        stop_at_once: bool,
    },
}

/// Decides on a linearizable read. Whoever is named leads in the end, or nothing changes: CLOSE would name another for a
/// successor that cannot lead.
pub fn hand_over(cluster: &Cluster, me: &MemberName, operation: u64, now_wall_ms: i64) -> HandOver {
    let Some((record, _)) = reigns(cluster, me, now_wall_ms) else { return HandOver::Over };
    let Some(successor) = record.successor.as_ref().filter(|successor| *successor != me) else {
        return HandOver::Refused("the operation names no successor".into());
    };
    if record.number != operation || record.phase != OperationPhase::HandOver {
        return HandOver::Over;
    }
    if cluster.failover_key {
        return match &cluster.failover_candidate {
            Some(candidate) if candidate == successor => HandOver::Ordered,
            _ => HandOver::Refused(
                "Patroni has another order for a switchover; look at: patronictl list".into(),
            ),
        };
    }
    if let Some(why) = cannot_lead(cluster, successor) {
        return HandOver::Refused(format!("{successor} {why}"));
    }
    match cluster.members.get_key_value(successor) {
        Some((spelt, _)) => {
            HandOver::Order { successor: spelt.clone(), stop_at_once: !acts_on_stop(cluster, me) }
        }
        None => HandOver::Refused(format!("Patroni does not know {successor}")),
    }
}

/// Whether something of the user's may run when Patroni stops PostgreSQL.
fn acts_on_stop(cluster: &Cluster, me: &MemberName) -> bool {
    let file = cluster.facts.get(me).and_then(|facts| facts.setup.as_ref()?.file.as_ref()?.acts_on_stop);
    file != Some(false) || cluster.config.as_ref().is_none_or(|config| config.acts_on_stop)
}

fn cannot_lead(cluster: &Cluster, successor: &MemberName) -> Option<&'static str> {
    let Some(facts) = cluster.facts.get(successor) else { return Some("has no agent") };
    if cluster.fenced(successor) {
        Some("is fenced")
    } else if cluster.is_drained(successor.as_str()) {
        Some("is drained")
    } else if !cluster.agent_alive(&facts.host) {
        Some("has no agent that lives")
    } else if facts.disarmed_locally().is_some() {
        Some("is on a host that was disarmed locally")
    } else if facts.eligible != Some(true) {
        Some("may not lead, by its own agent's word")
    } else {
        None
    }
}

/// Whether the order in `/failover` has outlived its operation: one of ours has given it that does not hand over any more, and
/// `me` is in office. Patroni would obey it again whenever the leader that it names is in office (simulator, operations, seed
/// 57: again and again). One without a number is a person's. Where the operation cannot be read, or is gone, it is not known.
pub fn is_left_over(cluster: &Cluster, me: &MemberName) -> bool {
    let Some(record) = cluster.operation.as_ref().map(|found| &found.value) else { return false };
    let in_office = term_in_force(cluster).is_some_and(|term| term.value.open_holder() == Some(me));
    let hands_over = |number| {
        let is_it = record.number == number && record.phase == OperationPhase::HandOver;
        is_it && record.runs() && record.given_up.is_none()
    };
    let is_over = cluster.failover_operation.is_some_and(|number| !hands_over(number));
    cluster.is_armed() && in_office && is_over
}

/// Whether a PostgreSQL of `me` that was shut down is on its way to another: the operation of the term in force hands over, and
/// Patroni has its order. With the lock in hand it would otherwise be taken for a restart, and Patroni gives the lock up only
/// two seconds later.
pub fn is_handing_over(cluster: &Cluster, me: &MemberName) -> bool {
    let Some(record) = running(cluster).filter(|record| record.phase >= OperationPhase::HandOver) else {
        return false;
    };
    let in_office = term_in_force(cluster)
        .is_some_and(|term| term.value.open_holder() == Some(me) && record.term == Some(term.value.term));
    let is_ordered = record.successor.is_some() && record.successor == cluster.failover_candidate;
    in_office && record.writer.as_ref() == Some(me) && is_ordered
}

/// The term that ends by a planned operation, from the moment at which its writer was to hand over. Only for the words in
/// which that is told.
pub fn hands_over(cluster: &Cluster) -> Option<Term> {
    let record = cluster.operation.as_ref().map(|found| &found.value)?;
    (record.phase >= OperationPhase::HandOver && record.given_up.is_none()).then_some(record.term)?
}

/// What a pooler's agent remembers of the operation for which its clients were to be held.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// It has looked before: what stands there now, and did not then, is new.
    looked: bool,
    /// The operation, and what became of it here.
    asked: Option<(u64, Asked)>,
}

#[derive(Debug, Clone)]
enum Asked {
    /// Since this moment.
    Since(u64),
    /// Clients are not held for it; why.
    Not(String),
}

/// Clients are held for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The operation.
    pub operation: u64,
    /// When they are let go, whoever of the others is there: on the clock of `now_ms`.
    pub until_ms: u64,
}

impl Seen {
    /// Keeps when a pause was first asked for. Called at each look at a cluster that etcd was heard of.
    pub fn look(&mut self, cluster: &Cluster, pooler: &str, now_ms: u64) {
        let number = pausing(cluster, pooler).map(|record| record.number);
        let known = self.asked.as_ref().map(|(number, _)| *number);
        if let Some(number) = number.filter(|number| known != Some(*number)) {
            let asked = match self.looked {
                true => Asked::Since(now_ms),
                false => {
                    Asked::Not("this agent was started in the middle of it, and holds no clients".into())
                }
            };
            self.asked = Some((number, asked));
        }
        let has_stopped =
            pausing(cluster, pooler).is_some_and(|record| writable_term(cluster, record).is_none());
        if has_stopped && let Some((_, asked)) = &mut self.asked {
            // Should it come back in its term, clients have waited for long enough.
            *asked = Asked::Not("its writer has stopped and is back".into());
        }
        self.looked = true;
    }

    /// Clients could not be held for this operation, or not for long enough.
    pub fn give_up(&mut self, operation: u64, why: String) {
        self.asked = Some((operation, Asked::Not(why)));
    }

    /// What became of the operation that wants this pooler's clients to wait, while its writer is in office.
    fn of<'c>(&self, cluster: &'c Cluster, pooler: &str) -> Option<(&'c OperationRecord, &Asked)> {
        let record = pausing(cluster, pooler)?;
        writable_term(cluster, record)?;
        let (_, asked) = self.asked.as_ref().filter(|(number, _)| *number == record.number)?;
        Some((record, asked))
    }

    /// Whether clients are held now. An agent that began to look in the middle does not hold them: it cannot know for how
    /// long they have waited.
    pub fn held(&self, cluster: &Cluster, pooler: &str, now_ms: u64) -> Option<Held> {
        let (record, asked) = self.of(cluster, pooler)?;
        let Asked::Since(since_ms) = asked else { return None };
        let until_ms = since_ms.saturating_add(PAUSE_MS_MAX);
        (now_ms < until_ms).then_some(Held { operation: record.number, until_ms })
    }

    /// The answer to the phase when clients are not held although the operation asks for it.
    pub fn why_not_held(&self, cluster: &Cluster, pooler: &str, now_ms: u64) -> Option<PhaseDone> {
        let (record, asked) = self.of(cluster, pooler)?;
        let why = match asked {
            Asked::Not(why) => why.clone(),
            Asked::Since(since_ms) if now_ms >= since_ms.saturating_add(PAUSE_MS_MAX) => {
                format!("clients have waited for {PAUSE_MS_MAX} ms and were let go")
            }
            Asked::Since(_) => return None,
        };
        Some(PhaseDone { operation: record.number, phase: record.phase, problem: Some(why), remark: None })
    }
}

/// The operation in which this pooler takes part.
pub fn concerns<'c>(cluster: &'c Cluster, pooler: &str) -> Option<&'c OperationRecord> {
    running(cluster).filter(|record| record.poolers.iter().any(|one| one == pooler))
}

/// The same, while it wants clients to be held.
fn pausing<'c>(cluster: &'c Cluster, pooler: &str) -> Option<&'c OperationRecord> {
    concerns(cluster, pooler)
        .filter(|record| matches!(record.phase, OperationPhase::Pause | OperationPhase::HandOver))
}

/// What a pooler has to prove, or to say, once its clients are where they belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// That another writes, and that nothing is left at the old one.
    Verify {
        /// The operation.
        operation: u64,
        /// The old writer's address and port, if they are known.
        old: Option<(String, u16)>,
    },
    /// That its clients are let go.
    Release {
        /// The operation.
        operation: u64,
    },
}

impl Duty {
    /// The operation and the phase that it belongs to.
    pub fn place(&self) -> (u64, OperationPhase) {
        match self {
            Self::Verify { operation, .. } => (*operation, OperationPhase::Verify),
            Self::Release { operation } => (*operation, OperationPhase::Release),
        }
    }
}

/// What is to be proved or said. `applied` is the route that is in place; `said` is the last answer.
pub fn duty(
    cluster: &Cluster,
    pooler: &str,
    applied: Option<&Route>,
    said: Option<&PhaseDone>,
) -> Option<Duty> {
    let record = concerns(cluster, pooler)?;
    let operation = record.number;
    let Some(Route::To { term, .. }) = applied else { return None };
    let in_office = term_in_force(cluster).is_some_and(|found| found.value.term == *term);
    if !in_office || said.is_some_and(|done| done.is_of(operation, record.phase)) {
        return None;
    }
    match record.phase {
        OperationPhase::Verify if record.term.is_some_and(|begun| *term > begun) => {
            let old = record.writer.as_ref().and_then(|writer| cluster.address(writer));
            Some(Duty::Verify { operation, old: old.map(|(address, port)| (address.to_owned(), port)) })
        }
        OperationPhase::Release => Some(Duty::Release { operation }),
        OperationPhase::Verify
        | OperationPhase::Prepare
        | OperationPhase::Pause
        | OperationPhase::HandOver
        | OperationPhase::Settle
        | OperationPhase::Restart
        | OperationPhase::Rejoin => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
