//! CLOSE, asked of the product: `close::decide` on the view that a state and a mutant make.

use std::collections::BTreeMap;

use holdfast_agent_core::close::{self, LeaderKey, Revised};
use holdfast_agent_core::successor::Candidate;
use holdfast_agent_core::sync::SyncKey;
use holdfast_types::record::{Attestation, FloorRecord, Promise as PromiseRecord, Reign, StopKind};
use holdfast_types::{Configuration, Incarnation, MemberName, SessionId, Term};

use super::{
    FLOOR_VERSION, OTHER_REVISION, Product, TERM_REVISION, TermView, ask, end_of, name, names, node_of,
    revised,
};
use crate::model::log::End;
use crate::model::mutant::Mutant;
use crate::model::node::{NODES_MAX, Node, NodeSet};
use crate::model::state::{Configurations, Counted, Promise, State, Sync};

/// What CLOSE would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The floor.
    pub floor: End,
    /// Patroni's leader key afterwards.
    pub leader_key: Option<Node>,
    /// The highest timeline id on which a reign may have written.
    pub timeline: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CloseQuestion {
    term: TermView,
    sync_is_closes: bool,
    sync: Sync,
    in_force: Configurations,
    floor: End,
    promises: [Option<Promise>; NODES_MAX],
    replaced: NodeSet,
    attested: Option<(bool, End)>,
    session: bool,
    leader_key: Option<Node>,
    eligible: NodeSet,
}

impl Product {
    /// Rules 2, 8, 9 and 12: `close::decide`.
    pub fn close(&self, state: &State, eligible: bool) -> Option<Closed> {
        let promisers = state.nodes().filter(|node| state.promise(*node).is_some());
        let up = promisers.filter(|node| state.host(*node).up).collect();
        let question = CloseQuestion {
            term: TermView::of(state),
            sync_is_closes: state.sync_is_closes,
            sync: state.sync,
            in_force: state.in_force,
            floor: state.floor,
            promises: state.promises,
            replaced: state.nodes().filter(|node| state.host(*node).data_replaced).collect(),
            attested: state.attested.map(|clean| (clean, state.host(state.holder).log.end())),
            session: state.writers_session(),
            leader_key: state.leader_key,
            eligible: if eligible { up } else { NodeSet::EMPTY },
        };
        ask(&self.closes, question, || self.decide_close(&question))
    }

    /// A configuration as this variant of rule 8 counts it.
    fn weakened(&self, counted: Counted, writer: Node) -> Configuration {
        let (mut members, size, quorum) =
            (counted.members, usize::from(counted.members.len()), usize::from(counted.quorum));
        let quorum = match self.mutant {
            Some(Mutant::QuorumIsEnough) => quorum.saturating_sub(1),
            Some(Mutant::LengthMinusQuorum) => size.saturating_sub(quorum + 1),
            Some(Mutant::Majority) => size / 2,
            _ => quorum,
        };
        if self.is(Mutant::CountedByNumber) && !members.is_empty() {
            members = NodeSet::first(NODES_MAX).without(writer);
        }
        Configuration { members: names(members), quorum }
    }

    fn decide_close(&self, q: &CloseQuestion) -> Option<Closed> {
        let writer = q.term.holder;
        let present = q.sync.counted(writer);
        let earlier: Vec<Counted> = q.in_force.iter().filter(|one| *one != present).collect();
        let earlier = if self.is(Mutant::PresentSyncOnly) { Vec::new() } else { earlier };
        let recorded = earlier.first().copied().unwrap_or(present);
        let versions = FLOOR_VERSION..;
        let history: Vec<SyncKey> = earlier
            .iter()
            .zip(versions)
            .map(|(one, version)| Self::sync_key(writer, self.weakened(*one, writer), version, 0))
            .collect();
        let revision = if q.sync_is_closes { TERM_REVISION } else { OTHER_REVISION };
        let version = FLOOR_VERSION + earlier.len() as i64;
        let sync = Self::sync_key(writer, self.weakened(present, writer), version, revision);
        let (floor, uuids) = self.floor_record(q, self.weakened(recorded, writer));
        let closed_floor = Some(self.position(q.term.floor));
        let plan = close::decide(&close::View {
            term: &Revised { value: q.term.record(closed_floor), mod_revision: TERM_REVISION },
            floor: Some(&floor),
            sync: Some(&sync),
            sync_history: &history,
            promises: &self.promise_records(q),
            data_uuids: &uuids,
            attestation: self.attestation(q).as_ref(),
            outside: None,
            overriding: None,
            session_present: q.session,
            leader_key: q.leader_key.map(|leader| revised(name(leader).clone())).as_ref(),
            failover_key: false,
            config_mod_revision: 0,
            maintenance_mod_revision: 0,
            held: false,
            held_mod_revision: 0,
            candidates: &self.candidates(q),
            now_wall_ms: 0,
        })
        .ok()?;
        let Reign::Closed { floor: Some(floor), .. } = plan.closed.reign else { return None };
        let timeline = plan.closed.timeline.expect("every reign of the model has one").0 as u8;
        let leader_key = match plan.leader_key {
            LeaderKey::Give { to, .. } => Some(node_of(&to)),
            LeaderKey::Delete => None,
            LeaderKey::Leave => q.leader_key,
        };
        Some(Closed { floor: end_of(floor), leader_key, timeline })
    }

    fn floor_record(
        &self,
        q: &CloseQuestion,
        configuration: Configuration,
    ) -> (Revised<FloorRecord>, BTreeMap<MemberName, String>) {
        let all = NodeSet::first(NODES_MAX);
        let uuids = |of: &dyn Fn(Node) -> &'static str| -> BTreeMap<MemberName, String> {
            all.iter().map(|node| (name(node).clone(), of(node).to_owned())).collect()
        };
        let replaced = |node| q.replaced.has(node) && !self.is(Mutant::ReinitUnnoticed);
        let floor = if self.is(Mutant::FloorNotReached) { End::default() } else { q.floor };
        let record = FloorRecord {
            term: Term(u64::from(q.term.number)),
            sync_version: FLOOR_VERSION,
            sync_mod_revision: OTHER_REVISION,
            sync_create_revision: 10,
            configuration,
            data_uuids: uuids(&|node| if replaced(node) { "before" } else { "now" }),
            floor: self.position(floor),
        };
        (revised(record), uuids(&|_| "now"))
    }

    fn promise_records(&self, q: &CloseQuestion) -> BTreeMap<MemberName, Revised<PromiseRecord>> {
        let of_present = |promise: &Promise| promise.of_present_data || self.is(Mutant::ReinitUnnoticed);
        let record = |promise: &Promise| PromiseRecord {
            term: Term(u64::from(promise.term)),
            writer: name(q.term.holder).clone(),
            position: self.position(promise.end),
            data_uuid: if of_present(promise) { "now" } else { "before" }.to_owned(),
            incarnation: Incarnation(1),
            heard_wall_ms: None,
            at_wall_ms: 0,
        };
        let nodes = (0..NODES_MAX as u8).map(Node);
        nodes
            .zip(&q.promises)
            .filter_map(|(node, promise)| Some((name(node).clone(), revised(record(promise.as_ref()?)))))
            .collect()
    }

    fn attestation(&self, q: &CloseQuestion) -> Option<Revised<Attestation>> {
        let (clean, end) = q.attested?;
        let stop = if clean { StopKind::Clean { end: self.position(end) } } else { StopKind::Stopped };
        Some(revised(Attestation {
            term: Term(u64::from(q.term.number)),
            holder: name(q.term.holder).clone(),
            incarnation: Incarnation(1),
            session: SessionId(5),
            stop,
            stuck: Vec::new(),
            at_wall_ms: 0,
        }))
    }

    fn candidates(&self, q: &CloseQuestion) -> Vec<Candidate> {
        let promised = |node: Node| Some(self.candidate(node, q.promises[node.index()]?.end));
        q.eligible.iter().filter_map(promised).collect()
    }
}
