//! What must hold of operations, looked at from outside: the journal only goes on, an operation ends in the state that it
//! says, an order stands only while its operation hands over, and no pooler keeps its clients for longer than it may.

use std::cell::{Cell, RefCell};

use holdfast_agent_core::cluster::Cluster;
use holdfast_types::record::{OperationPhase, OperationRecord, OperationState, PAUSE_MS_MAX, Reign, Wanted};
use holdfast_types::{MemberName, Term};

use super::{Place, Role, Stage};
use crate::simulator::checker::Promise;
use crate::simulator::executor::ms;
use crate::simulator::world::{Sim, World};

/// Between a coordinator's read and what it stores by it: its call's deadline, and an agent that does not answer.
const READ_BEFORE_US: u64 = ms(5_000);
/// A pooler's own steps, and a look.
const PAUSE_SLACK_US: u64 = ms(1_000);
const LOOK_US: u64 = ms(50);

/// An operation that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub operation: &'static str,
    /// How.
    pub state: OperationState,
    /// What it said.
    pub text: String,
    /// Since it was taken.
    pub took_us: u64,
}

/// A term in which somebody wrote.
struct Written {
    term: Term,
    holder: MemberName,
    since_us: u64,
}

/// See the module.
#[derive(Default)]
pub struct Watch {
    journal: RefCell<Option<(i64, OperationRecord, u64)>>,
    written: RefCell<Vec<Written>>,
    ordered: Cell<i64>,
    ended: RefCell<Vec<Ended>>,
    longest_pause_us: Cell<u64>,
    late_orders: Cell<u64>,
}

impl Watch {
    /// The operations that have ended.
    pub fn ended(&self) -> Vec<Ended> {
        self.ended.borrow().clone()
    }

    /// The longest time for which a pooler kept its clients for an operation.
    pub fn longest_pause_us(&self) -> u64 {
        self.longest_pause_us.get()
    }

    /// How often Patroni obeyed the order of an operation that had ended: it may have taken that up in the moment in which it
    /// ended, so this is counted and breaks nothing.
    pub fn late_orders(&self) -> u64 {
        self.late_orders.get()
    }

    /// A coordinator is about to store an operation that has ended with its being taken.
    pub fn ended_at_once(&self, record: &OperationRecord) {
        if let Some(end) = &record.ended {
            let (operation, text) = (record.wanted.name(), end.text.clone());
            self.ended.borrow_mut().push(Ended { operation, state: end.state, text, took_us: 0 });
        }
    }

    fn last_written(&self) -> Option<Term> {
        self.written.borrow().last().map(|one| one.term)
    }
}

impl World {
    /// etcd has changed.
    pub fn saw_operation(&self, cluster: &Cluster) {
        if self.setup.operations.is_none() {
            return;
        }
        let watch = &self.outside.watch;
        if let Some(term) = &cluster.term
            && let Reign::Open { holder, writable: true, .. } = &term.value.reign
            && watch.last_written() != Some(term.value.term)
        {
            let (term, holder, since_us) = (term.value.term, holder.clone(), self.executor.now_us());
            watch.written.borrow_mut().push(Written { term, holder, since_us });
        }
        self.saw_order(cluster);
        let Some(now) = &cluster.operation else { return };
        let before = watch.journal.borrow().clone();
        if before.as_ref().is_some_and(|(revision, ..)| *revision == now.mod_revision) {
            return;
        }
        let same = before.as_ref().filter(|(_, before, _)| before.number == now.value.number);
        let begun_us = same.map_or(self.executor.now_us(), |(_, _, begun)| *begun);
        *watch.journal.borrow_mut() = Some((now.mod_revision, now.value.clone(), begun_us));
        self.say(&"journal", &describe(&now.value));
        self.goes_on(before.as_ref().map(|(_, before, _)| before), &now.value);
        self.stage(match &now.value.ended {
            Some(_) => Stage::Ended,
            None => Stage::Stored(now.value.phase),
        });
        if let Some(end) = &now.value.ended {
            let (operation, text) = (now.value.wanted.name(), end.text.clone());
            let took_us = self.executor.now_us() - begun_us;
            watch.ended.borrow_mut().push(Ended { operation, state: end.state, text, took_us });
            self.is_so(&now.value, end.state);
        }
    }

    fn goes_on(&self, before: Option<&OperationRecord>, now: &OperationRecord) {
        let Some(before) = before else { return };
        let goes_on = match before.number == now.number {
            true => before.runs() && now.steps.starts_with(&before.steps),
            false => !before.runs() && now.number > before.number,
        };
        if !goes_on {
            let text = format!("{} after {}", describe(now), describe(before));
            self.checker.broken(self, Promise::Journal, text);
        }
    }

    /// Whether what an operation says at its end is so.
    fn is_so(&self, record: &OperationRecord, state: OperationState) {
        let (Some(begun), Wanted::Switchover(_)) = (record.term, &record.wanted) else { return };
        let watch = &self.outside.watch;
        let is_so = match state {
            OperationState::Done => watch
                .written
                .borrow()
                .iter()
                .any(|one| one.term > begun && Some(&one.holder) == record.successor.as_ref()),
            OperationState::Refused | OperationState::Unchanged => {
                let since_us = self.executor.now_us().saturating_sub(READ_BEFORE_US);
                watch.written.borrow().last().is_none_or(|one| one.term == begun || one.since_us > since_us)
            }
            OperationState::Overtaken | OperationState::PartlyDone => true,
        };
        if !is_so {
            self.checker.broken(self, Promise::WrongEnd, describe(record));
        }
    }

    /// An order in `/failover` stands only while the operation that it belongs to hands over.
    fn saw_order(&self, cluster: &Cluster) {
        let revision = cluster.failover_mod_revision;
        let is_new = self.outside.watch.ordered.replace(revision) < revision && cluster.failover_key;
        if is_new && !hands_over(cluster) {
            let text = format!("for {:?}", cluster.failover_candidate);
            self.checker.broken(self, Promise::StrayOrder, text);
        }
    }

    /// Patroni begins to hand over by the order that stands in `/failover`.
    pub fn obeys_order(&self, host: usize) {
        let truth = self.truth();
        let ended = truth.operation.as_ref().is_none_or(|found| !found.value.runs());
        if truth.failover_key && ended {
            self.say(&self.hosts[host].member, &"Patroni obeys the order of an operation that has ended");
            let late = &self.outside.watch.late_orders;
            late.set(late.get() + 1);
        }
    }

    /// No operation runs, and none is asked for.
    pub fn operations_are_over(&self) -> bool {
        let journal = self.outside.watch.journal.borrow();
        let prefix = self.keys.intents();
        let asked = self.etcd.snapshot().pairs.iter().any(|pair| pair.key.starts_with(&prefix));
        !asked && journal.as_ref().is_none_or(|(_, record, _)| !record.runs())
    }

    /// Every pooler sends its clients to `writer`.
    pub fn is_pooled(&self, writer: usize) -> bool {
        let sends = |place: &Place| {
            place.bouncer.paused_us.get().is_none() && place.bouncer.target.get() == Some(writer)
        };
        self.outside.of(Role::Pooler).all(sends)
    }

    /// Where operations and poolers stand, for whoever asks why they do not come to an end.
    pub fn describe_operations(&self) -> String {
        let journal = self.outside.watch.journal.borrow();
        let journal = journal.as_ref().map_or_else(|| "no operation".to_owned(), |(_, one, _)| describe(one));
        let pooler = |place: &Place| {
            let target = place.bouncer.target.get().map(|host| self.hosts[host].member.to_string());
            format!("{}: paused {:?}, to {target:?}", place.name, place.bouncer.paused_us.get())
        };
        let poolers: Vec<String> = self.outside.of(Role::Pooler).map(pooler).collect();
        format!("{journal}; {}", poolers.join("; "))
    }
}

fn hands_over(cluster: &Cluster) -> bool {
    let record = cluster.operation.as_ref().map(|found| &found.value);
    record.is_some_and(|record| {
        let term = cluster.term.as_ref().map(|term| term.value.term);
        let in_phase = record.phase == OperationPhase::HandOver && record.given_up.is_none();
        record.runs() && in_phase && record.term == term && record.successor == cluster.failover_candidate
    })
}

/// An operation in one line.
pub fn describe(record: &OperationRecord) -> String {
    let way = match (&record.writer, &record.successor) {
        (Some(from), Some(to)) => format!(" from {from} to {to}"),
        _ => String::new(),
    };
    let state = match (&record.ended, &record.given_up) {
        (Some(end), _) => format!("{}: {}", end.state, end.text),
        (None, Some(why)) => format!("{}, given up: {why}", record.phase),
        (None, None) => record.phase.to_string(),
    };
    format!("operation {}, {}{way}, by {}: {state}", record.number, record.wanted.name(), record.coordinator)
}

/// No pooler keeps its clients for an operation for longer than it may, while its own agent runs.
pub(super) async fn look_at_poolers(world: Sim) {
    let mut absent_us = vec![0; world.outside.places.len()];
    loop {
        world.executor.sleep(LOOK_US).await;
        for (at, place) in world.outside.places.iter().enumerate() {
            let since_us = place.bouncer.paused_us.get().filter(|_| place.bouncer.for_operation.get());
            let Some(since_us) = since_us else {
                absent_us[at] = 0;
                continue;
            };
            let process = place.program.get();
            let runs = process.is_some_and(|it| world.executor.lives(it) && !world.executor.is_frozen(it));
            absent_us[at] += if runs { 0 } else { LOOK_US };
            let watch = &world.outside.watch;
            let waited_us = (world.executor.now_us() - since_us).saturating_sub(absent_us[at]);
            watch.longest_pause_us.set(watch.longest_pause_us.get().max(waited_us));
            if waited_us > ms(PAUSE_MS_MAX) + PAUSE_SLACK_US {
                let text = format!("{} for {} ms", place.name, waited_us / 1_000);
                world.checker.broken(&world, Promise::PausedTooLong, text);
            }
        }
    }
}
