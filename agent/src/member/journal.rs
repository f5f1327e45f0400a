//! The record of each fence: on this host's disk first, then in etcd, and in the trace of its incident.
//!
//! Nothing waits for it but the member's own loop, and that for no longer than a disk may take. What is told is decided in
//! `holdfast-agent-core`'s `fenced`.

use std::path::Path;

use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::fenced::{GuardProof, Journal, Told};
use holdfast_agent_core::member::term_in_force;
use holdfast_host::{clock, durable};
use holdfast_proto::trace::TraceContext;
use holdfast_store::{Txn, Write};
use holdfast_types::Term;
use holdfast_types::record::{FenceLayer, FencedRecord, Stored};

use super::Member;
use super::look::Eyes;
use crate::act::trace;
use crate::gate::remembered;

const FILE: &str = "fenced.json";
/// What the layers may tell between two looks; more than that cannot have been done.
const TOLD_MAX: usize = 16;

/// The journal, and what has not been entered yet.
#[derive(Debug, Default)]
pub struct Fences {
    journal: Journal,
    /// The file does not have all of it.
    unsaved: bool,
    told: Vec<Told>,
    proof: Option<GuardProof>,
    proof_seen: Option<GuardProof>,
}

impl Fences {
    /// What an earlier start of the agent left; `folder` is the cluster's. One that cannot be read is begun anew.
    pub fn load(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let read = || -> anyhow::Result<Option<Journal>> {
            let Some(bytes) = durable::read_optional(&file)? else { return Ok(None) };
            Ok(Some(Stored::decode(&file.display().to_string(), &bytes)?.body))
        };
        let journal = read().unwrap_or_else(|error| {
            tracing::warn!(path = %file.display(), %error, "the journal of fences cannot be read; it is begun anew");
            None
        });
        Self { journal: journal.unwrap_or_default(), ..Self::default() }
    }
}

impl Member {
    /// A layer has fenced somebody. The loop keeps it.
    pub fn tell(&self, told: Told) {
        let mut state = self.state();
        if state.fences.told.len() < TOLD_MAX {
            state.fences.told.push(told);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The guard has shown its last kill.
    pub fn saw_guard_kill(&self, proof: GuardProof) {
        let mut state = self.state();
        if state.fences.proof_seen != Some(proof) {
            (state.fences.proof, state.fences.proof_seen) = (Some(proof), Some(proof));
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Enters what the layers have told, and puts what etcd does not have yet.
    pub(super) async fn keep_fences(&self, eyes: &mut Eyes, cluster: &Cluster, connected: bool) {
        let (mut journal, told, proof) = {
            let fences = &mut self.state().fences;
            if fences.told.is_empty() && fences.proof.is_none() && fences.journal.pending().is_empty() {
                return;
            }
            (fences.journal.clone(), std::mem::take(&mut fences.told), fences.proof.take())
        };
        let me = &self.instance.member;
        let proved = proof.and_then(|proof| journal.guard(me, proof, clock::now()));
        let told: Vec<Told> = proved.into_iter().chain(told).collect();
        let mut unsaved = self.state().fences.unsaved || !told.is_empty();
        if !told.is_empty() {
            // What PostgreSQL said before it ended belongs to the record.
            self.count_warned(eyes, cluster).await;
        }
        for told in told {
            self.enter(&mut journal, told, cluster);
        }
        unsaved = unsaved && !self.save(&journal).await;
        if connected && !journal.pending().is_empty() && self.put_fences(&journal).await {
            journal.all_put();
            unsaved = !self.save(&journal).await;
        }
        let mut state = self.state();
        (state.fences.journal, state.fences.unsaved) = (journal, unsaved);
    }

    fn enter(&self, journal: &mut Journal, told: Told, cluster: &Cluster) {
        let of_us = told.node == self.instance.member;
        let warned = self.state().warned.clone().filter(|_| of_us);
        let warned_in_term = warned.zip(told.term).and_then(|(warned, term)| warned.of_term(term));
        let context = context(cluster, told.term, told.layer);
        let trace_id = context.as_ref().and_then(trace::id);
        let record = journal.add(&self.instance.member, told, warned_in_term, trace_id);
        trace::fence(&self.telemetry, context, &record);
        tracing::warn!(
            cluster = %self.instance.cluster, node = %record.node, layer = ?record.layer, cause = ?record.cause,
            took_ms = record.took_ms, times = record.times, "fenced: {}", record.verified
        );
    }

    async fn save(&self, journal: &Journal) -> bool {
        let file = remembered::folder(&self.config.state_dir, &self.instance.cluster).join(FILE);
        let kept = self.disk.keep(file, Some(Stored::new(journal.clone()).encode())).await;
        if let Err(error) = &kept {
            tracing::warn!(%error, path = %self.config.state_dir.display(), "the record of a fence is not on disk yet; tried again");
        }
        kept.is_ok()
    }

    /// A put that is repeated writes the same: an answer that was lost does no harm.
    async fn put_fences(&self, journal: &Journal) -> bool {
        let put = |record: &FencedRecord| {
            let key = self.keys.fenced(&self.instance.member, record.number);
            Write::put(key, Stored::new(record.clone()).encode())
        };
        let writes = journal.pending().iter().map(put).collect();
        match self.world.store.txn(Txn { writes, ..Txn::default() }).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "the record of a fence is not in etcd yet");
                false
            }
        }
    }
}

/// The incident that a fence belongs to. A port that has closed while the term goes on has none: it may open again.
fn context(cluster: &Cluster, term: Option<Term>, layer: FenceLayer) -> Option<TraceContext> {
    let now = &term_in_force(cluster)?.value;
    let goes_on = now.open_holder().is_some() && layer == FenceLayer::Kernel;
    match term? {
        term if term == now.term => trace::of_incident(cluster).filter(|_| !goes_on),
        term if term.next() == now.term => trace::of_record(cluster),
        _ => None,
    }
}
