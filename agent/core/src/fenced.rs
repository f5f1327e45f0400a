//! The journal of a host's fences: what was done is kept on disk until etcd has it, and each fence is told once.
//!
//! Decides which records a proof is worth, which of them are one, and what the journal drops when etcd is away for long.
//! It never reads a clock and writes nothing; called by the member's loop with what its layers have seen.

use holdfast_types::keys::FENCED_KEPT;
use holdfast_types::record::{FenceCause, FenceLayer, FencedRecord};
use holdfast_types::{MemberName, Now, Term};
use serde::{Deserialize, Serialize};

/// How many fences wait for etcd at most; the oldest go, and etcd would not keep more either.
const PENDING_MAX: usize = FENCED_KEPT as usize;
/// Closures of the port in one term that follow each other within this time are one record.
const SAME_CLOSURE_MS: i64 = 60_000;

/// A fence as the layer that acted tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Who was fenced.
    pub node: MemberName,
    /// In which term.
    pub term: Option<Term>,
    /// What acted.
    pub layer: FenceLayer,
    /// Why.
    pub cause: FenceCause,
    /// What was seen afterwards.
    pub verified: String,
    /// How long it took, in milliseconds.
    pub took_ms: Option<u64>,
    /// When it was verified: wall clock, milliseconds since 1970.
    pub done_wall_ms: i64,
}

/// The proof of one kill by the guard; all times are `CLOCK_BOOTTIME` in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardProof {
    /// The term of the lease.
    pub term: Term,
    /// The deadline, the grace included.
    pub deadline_ns: u64,
    /// When the last process was seen gone.
    pub gone_ns: u64,
}

/// What is on disk. Whoever loses it begins at number 0 again and writes over the oldest records first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The number of the next record.
    #[serde(default)]
    next: u64,
    /// What etcd does not have yet, oldest first.
    #[serde(default)]
    pending: Vec<FencedRecord>,
    /// The last closure of the port.
    #[serde(default)]
    closure: Option<FencedRecord>,
    /// The last kill of the guard that was told.
    #[serde(default)]
    proof: Option<GuardProof>,
}

impl Journal {
    /// Takes the guard's proof; `None` if it was told before.
    pub fn guard(&mut self, me: &MemberName, proof: GuardProof, now: Now) -> Option<Told> {
        if self.proof == Some(proof) {
            return None;
        }
        self.proof = Some(proof);
        let late_us = proof.gone_ns.saturating_sub(proof.deadline_ns) / 1_000;
        let ago_ms = now.boottime_ms.saturating_sub(proof.gone_ns / 1_000_000);
        Some(Told {
            node: me.clone(),
            term: Some(proof.term),
            layer: FenceLayer::Guard,
            cause: FenceCause::LeaseOver,
            verified: format!(
                "the last process of Patroni and PostgreSQL was gone {}.{} ms after the deadline",
                late_us / 1_000,
                late_us / 100 % 10
            ),
            took_ms: Some(late_us.div_ceil(1_000)),
            done_wall_ms: before(now.wall_ms, ago_ms),
        })
    }

    /// Adds a fence, with what the host knows beside it. Returns the record as it stands now.
    pub fn add(
        &mut self,
        me: &MemberName,
        told: Told,
        warned_in_term: Option<u64>,
        trace_id: Option<String>,
    ) -> FencedRecord {
        let Told { node, term, layer, cause, verified, took_ms, done_wall_ms } = told;
        let due_wall_ms = took_ms.map(|took_ms| before(done_wall_ms, took_ms));
        let (told_by, number) = (me.clone(), self.next);
        let mut record = FencedRecord {
            number,
            node,
            told_by,
            term,
            layer,
            cause,
            verified,
            due_wall_ms,
            done_wall_ms,
            took_ms,
            times: 1,
            warned_in_term,
            trace_id,
        };
        match self.closure.as_ref().filter(|last| is_same_closure(last, &record)) {
            Some(last) => {
                (record.number, record.times) = (last.number, last.times + 1);
                record.took_ms = record.took_ms.max(last.took_ms);
                self.pending.retain(|pending| pending.number != last.number);
            }
            None => self.next += 1,
        }
        if record.layer == FenceLayer::Kernel {
            self.closure = Some(record.clone());
        }
        self.pending.push(record.clone());
        let over = self.pending.len().saturating_sub(PENDING_MAX);
        self.pending.drain(..over);
        record
    }

    /// What etcd does not have yet, oldest first.
    pub fn pending(&self) -> &[FencedRecord] {
        &self.pending
    }

    /// etcd has everything.
    pub fn all_put(&mut self) {
        self.pending.clear();
    }
}

fn is_same_closure(last: &FencedRecord, record: &FencedRecord) -> bool {
    record.layer == FenceLayer::Kernel
        && (&last.node, last.term, &last.cause) == (&record.node, record.term, &record.cause)
        && record.done_wall_ms - last.done_wall_ms < SAME_CLOSURE_MS
}

fn before(wall_ms: i64, by_ms: u64) -> i64 {
    wall_ms.saturating_sub_unsigned(by_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    const NOW: Now = Now { boottime_ms: 500_000, wall_ms: 1_700_000_000_000 };

    fn proof() -> GuardProof {
        GuardProof { term: Term(4), deadline_ns: 499_000_000_000, gone_ns: 499_017_350_000 }
    }

    fn closure(term: u64, done_wall_ms: i64, took_ms: u64) -> Told {
        Told {
            node: name("a"),
            term: Some(Term(term)),
            layer: FenceLayer::Kernel,
            cause: FenceCause::LeaseOver,
            verified: "closed".into(),
            took_ms: Some(took_ms),
            done_wall_ms,
        }
    }

    #[test]
    fn a_proof_of_the_guard_is_told_once_with_what_it_took() {
        let mut journal = Journal::default();
        let told = journal.guard(&name("a"), proof(), NOW).unwrap();
        assert_eq!((told.took_ms, told.done_wall_ms), (Some(18), NOW.wall_ms - 983));
        assert!(told.verified.contains("17.3 ms after"), "{}", told.verified);
        let record = journal.add(&name("a"), told, Some(2), Some("abc".into()));
        assert_eq!((record.number, record.due_wall_ms), (0, Some(NOW.wall_ms - 983 - 18)));
        assert_eq!((record.layer, record.warned_in_term), (FenceLayer::Guard, Some(2)));
        let text = serde_json::to_string(&journal).unwrap();
        let mut read: Journal = serde_json::from_str(&text).unwrap();
        assert_eq!(read.guard(&name("a"), proof(), NOW), None, "an agent that starts again knows it");
        assert_eq!(read.pending(), [record]);
        let next = GuardProof { deadline_ns: 1, ..proof() };
        assert!(read.guard(&name("a"), next, NOW).is_some());
    }

    #[test]
    fn closures_that_follow_each_other_are_one_record() {
        let mut journal = Journal::default();
        let mut add = |told| journal.add(&name("a"), told, None, None);
        assert_eq!(add(closure(4, 0, 300)).times, 1);
        let second = add(closure(4, 30_000, 200));
        assert_eq!((second.number, second.times, second.took_ms), (0, 2, Some(300)));
        assert_eq!(add(closure(4, 100_000, 1)).number, 1, "a minute later it is another");
        assert_eq!(add(closure(5, 100_001, 1)).number, 2, "in another term too");
        assert_eq!(journal.pending().len(), 3);
        journal.all_put();
        journal.add(&name("a"), closure(5, 100_002, 1), None, None);
        assert_eq!(journal.pending()[0].number, 2, "it is written again");
    }

    #[test]
    fn what_etcd_cannot_take_is_bounded_and_the_newest_is_kept() {
        let mut journal = Journal::default();
        for at in 0..40 {
            journal.add(&name("a"), closure(at, 0, 1), None, None);
        }
        assert_eq!(journal.pending().len(), PENDING_MAX);
        assert_eq!(journal.pending().last().unwrap().number, 39);
    }
}
