//! The product's own decisions, asked about a state of the model.
//!
//! The model does not decide what a rule allows: it builds the view that the agent would have and calls the function that
//! the agent calls. A mutant lies in the view, or leaves out what the transaction compares. Answers are remembered by
//! their inputs, so a search of millions of states asks each question once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{LazyLock, Mutex};

use holdfast_agent_core::close::{LeaderKey, Revised};
use holdfast_agent_core::detach::{Life, NotNow, Phase};
use holdfast_agent_core::successor::{self, Candidate};
use holdfast_agent_core::sync::{AnySetting, SyncKey};
use holdfast_agent_core::{close, detach, floor, open, start_gate};
use holdfast_types::record::{Attestation, Evidence, FloorRecord, Promise as PromiseRecord};
use holdfast_types::record::{Reign, StopKind, TermRecord};
use holdfast_types::{
    Configuration, Incarnation, Lsn, MemberName, Mode, Position, SessionId, Term, Timeline,
};

use super::log::End;
use super::mutant::Mutant;
use super::node::{NODES_MAX, Node, NodeSet};
use super::state::{Configurations, Counted, Promise, Setting, State, Sync};

/// Revision of the term record in every view.
const TERM_REVISION: i64 = 300;
/// Revision of `/sync` when it is not what CLOSE wrote.
const OTHER_REVISION: i64 = 290;
/// `version` of `/sync` in the floor record of every view; later values count up from it.
const FLOOR_VERSION: i64 = 1;

static NAMES: LazyLock<[MemberName; NODES_MAX]> =
    LazyLock::new(|| ["a", "b", "c", "d"].map(|name| MemberName::new(name).expect("a letter is a name")));

/// The name of a member.
pub fn name(node: Node) -> &'static MemberName {
    &NAMES[node.index()]
}

/// The names of some members.
pub fn names(nodes: NodeSet) -> BTreeSet<MemberName> {
    nodes.iter().map(|node| name(node).clone()).collect()
}

fn node_of(member: &MemberName) -> Node {
    let at = NAMES.iter().position(|name| name == member).expect("the product names members it was given");
    Node(at as u8)
}

fn end_of(position: Position) -> End {
    End { timeline: position.timeline.0 as u8, length: position.lsn.0 as u8 }
}

fn any(setting: Setting) -> Option<AnySetting> {
    let acknowledgements = usize::from(setting.count);
    (setting.count > 0).then(|| AnySetting { acknowledgements, names: names(setting.names) })
}

/// What CLOSE would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The floor.
    pub floor: End,
    /// Patroni's leader key afterwards.
    pub leader_key: Option<Node>,
}

/// What the hook would answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // `open::Answer` has the words.
pub enum Hook {
    Opens,
    AlreadyOpen,
    No,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct CloseQuestion {
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

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct TermView {
    number: u8,
    holder: Node,
    open: bool,
    floor: End,
}

impl TermView {
    fn of(state: &State) -> Self {
        Self { number: state.term, holder: state.holder, open: state.open, floor: state.closed_floor }
    }

    fn record(self, floor: Option<Position>) -> TermRecord {
        let holder = name(self.holder).clone();
        let reign = if self.open {
            Reign::Open { holder, incarnation: Incarnation(1), session: SessionId(5), writable: true }
        } else {
            let (evidence, successor) = (Evidence::AttestedClean, None);
            Reign::Closed { holder, floor, sync_version: FLOOR_VERSION, evidence, successor, at_wall_ms: 0 }
        };
        TermRecord { term: Term(u64::from(self.number)), reign, trace: None }
    }
}

type Remembered<Q, A> = Mutex<HashMap<Q, A>>;

/// The product, with one rule possibly weakened.
#[derive(Default)]
pub struct Product {
    mutant: Option<Mutant>,
    closes: Remembered<CloseQuestion, Option<Closed>>,
    opens: Remembered<(TermView, Node, bool, Sync, Option<Node>, Option<End>, Setting), Hook>,
    promises: Remembered<(TermView, Node, Option<Node>, bool, bool), Result<(), NotNow>>,
    sources: Remembered<(TermView, Node, bool, bool), bool>,
    begins: Remembered<(TermView, Configurations, Sync, Setting, NodeSet), bool>,
    starts: Remembered<(TermView, Node, bool, bool), bool>,
}

fn ask<Q: Hash + Eq + Copy, A: Copy>(known: &Remembered<Q, A>, question: Q, answer: impl FnOnce() -> A) -> A {
    let mut known = known.lock().expect("no answer panics while it holds the lock");
    *known.entry(question).or_insert_with(answer)
}

impl Product {
    /// The right rules, or all but one.
    pub fn new(mutant: Option<Mutant>) -> Self {
        Self { mutant, ..Self::default() }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn position(&self, end: End) -> Position {
        let timeline = if self.is(Mutant::LsnWithoutTimeline) { 0 } else { end.timeline };
        Position { timeline: Timeline(u32::from(timeline)), lsn: Lsn(u64::from(end.length)) }
    }

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

    /// A value of `/sync` that the writer would count as `configuration`.
    fn sync_key(writer: Node, configuration: Configuration, version: i64, mod_revision: i64) -> SyncKey {
        SyncKey {
            leader: Some(name(writer).clone()),
            sync_standby: configuration.members,
            quorum: configuration.quorum,
            version,
            mod_revision,
            create_revision: 10,
        }
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
            session_present: q.session,
            leader_key: q.leader_key.map(|leader| revised(name(leader).clone())).as_ref(),
            failover_key: false,
            config_mod_revision: 0,
            candidates: &self.candidates(q),
            now_wall_ms: 0,
        })
        .ok()?;
        let Reign::Closed { floor: Some(floor), .. } = plan.closed.reign else { return None };
        let leader_key = match plan.leader_key {
            LeaderKey::Give { to, .. } => Some(node_of(&to)),
            LeaderKey::Delete => None,
            LeaderKey::Leave => q.leader_key,
        };
        Some(Closed { floor: end_of(floor), leader_key })
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
            at_wall_ms: 0,
        }))
    }

    fn candidates(&self, q: &CloseQuestion) -> Vec<Candidate> {
        let promised = |node: Node| Some(self.candidate(node, q.promises[node.index()]?));
        q.eligible.iter().filter_map(promised).collect()
    }

    fn candidate(&self, node: Node, promise: Promise) -> Candidate {
        Candidate {
            member: name(node).clone(),
            position: self.position(promise.end),
            eligible: true,
            priority: 1,
            member_lease: Some(7),
        }
    }

    /// Rules 13 and 16: whether `successor::choose` could name this member.
    pub fn may_be_named(&self, state: &State, node: Node) -> bool {
        let Some(promise) = state.promise(node) else { return false };
        let floor = self.position(state.closed_floor);
        successor::choose(&[self.candidate(node, promise)], floor).is_some()
    }

    /// Rule 14: `open::decide`.
    pub fn hook(&self, state: &State, me: Node) -> Hook {
        let host = state.host(me);
        let settled = !host.replaying || self.is(Mutant::PositionWhileReplaying);
        let as_closed = state.sync_is_closes || self.is(Mutant::SyncNotComparedAtOpen);
        let question = (
            TermView::of(state),
            me,
            as_closed,
            state.sync,
            state.leader_key,
            settled.then(|| host.log.end()),
            host.setting,
        );
        ask(&self.opens, question, || {
            let (term, me, as_closed, sync, leader_key, replayed, setting) = question;
            let floor = Some(self.position(term.floor)).filter(|_| !self.is(Mutant::FloorNotReachedAtOpen));
            let revision = if as_closed { TERM_REVISION } else { OTHER_REVISION };
            let counted = sync.counted(me);
            let configuration = Configuration {
                members: names(counted.members),
                quorum: usize::from(counted.quorum),
            };
            let fitting = Setting { count: counted.members.len(), names: counted.members };
            let setting = if self.is(Mutant::SettingNotChecked) { fitting } else { setting };
            let answer = open::decide(&open::View {
                me: name(me),
                incarnation: Incarnation(1),
                session: SessionId(5),
                term: Some(&Revised { value: term.record(floor), mod_revision: TERM_REVISION }),
                term_unreadable: false,
                data_uuids: &BTreeMap::new(),
                leader_key: leader_key.map(|leader| revised(name(leader).clone())).as_ref(),
                sync: Some(&Self::sync_key(me, configuration, FLOOR_VERSION, revision)),
                replayed: replayed.map(|end| self.position(end)),
                actual: any(setting).as_ref(),
                barred: None,
                waited_ms: 0,
                wait_ms_max: 1,
            });
            match answer {
                open::Answer::Open(_) => Hook::Opens,
                open::Answer::AlreadyOpen => Hook::AlreadyOpen,
                open::Answer::NoTermYet | open::Answer::Wait(_) | open::Answer::Refuse(_) => Hook::No,
            }
        })
    }

    /// Rule 4: `detach::may_promise`. Silence and failed probes are taken for granted: they are there for a healthy
    /// writer's sake, and no safety rests on them.
    pub fn may_promise(&self, state: &State, me: Node) -> Result<(), NotNow> {
        let question =
            (TermView::of(state), me, state.leader_key, state.attested.is_some(), state.writers_session());
        ask(&self.promises, question, || {
            let (term, me, leader_key, attested, session_present) = question;
            detach::may_promise(&detach::View {
                me: name(me),
                term: Some(&term.record(None)),
                leader_key: leader_key.map(name),
                attested,
                session_present,
                silent_ms: 1,
                probes: &[Life::None, Life::None],
                grant_in_force: false,
                up_long_enough: true,
                barred: false,
                suspect_after_ms: 1,
            })
            .map(|_| ())
        })
    }

    /// Rule 6: whether `detach::replication_source` names the holder.
    pub fn may_follow(&self, state: &State, me: Node) -> bool {
        let (on_disk, in_store) = (state.host(me).left == state.term, state.promise(me).is_some());
        let question = (TermView::of(state), me, on_disk, in_store);
        ask(&self.sources, question, || {
            let (term, me, on_disk, in_store) = question;
            let (number, writer) = (Term(u64::from(term.number)), name(term.holder).clone());
            let phase = Phase::Intended { term: number, writer, received_timeline: None };
            let record = term.record(None);
            let phase = on_disk.then_some(&phase);
            detach::replication_source(Some(&record), name(me), phase, in_store).is_some()
        })
    }

    /// Rule 1, first half: `floor::begin`.
    pub fn floor_may_begin(&self, state: &State) -> bool {
        let replaced = state.nodes().filter(|node| state.host(*node).data_replaced).collect();
        let setting = state.host(state.holder).setting;
        let question = (TermView::of(state), state.in_force, state.sync, setting, replaced);
        ask(&self.begins, question, || {
            let (term, in_force, sync, mut setting, replaced) = question;
            let counted = sync.counted(term.holder);
            if self.is(Mutant::SettingNotCheckedForFloor) {
                setting = Setting { count: counted.members.len(), names: counted.members };
            }
            let configuration =
                Configuration { members: names(counted.members), quorum: usize::from(counted.quorum) };
            let is_recorded = in_force == Configurations::only(counted);
            let key =
                Self::sync_key(term.holder, configuration.clone(), FLOOR_VERSION, OTHER_REVISION);
            let ids = |nodes: NodeSet| -> BTreeMap<MemberName, String> {
                nodes.iter().map(|node| (name(node).clone(), "now".to_owned())).collect()
            };
            let all = NodeSet::first(NODES_MAX);
            let number = Term(u64::from(term.number));
            let recorded = FloorRecord {
                term: number,
                sync_version: FLOOR_VERSION,
                sync_mod_revision: if is_recorded { OTHER_REVISION } else { OTHER_REVISION - 1 },
                sync_create_revision: 10,
                configuration,
                data_uuids: ids(all.minus(replaced)),
                floor: self.position(End::default()),
            };
            let actual = any(setting);
            floor::begin(Some(&recorded), &key, actual.as_ref(), name(term.holder), number, &ids(all)).is_ok()
        })
    }

    /// Rule 1, second half: `floor::publish`.
    pub fn floor_may_be_published(&self, state: &State, floor: End) -> bool {
        let writer = state.holder;
        let counted = state.sync.counted(writer);
        let configuration =
            Configuration { members: names(counted.members), quorum: usize::from(counted.quorum) };
        let sync = Self::sync_key(writer, configuration.clone(), FLOOR_VERSION, OTHER_REVISION);
        let begun = floor::Begun { sync, configuration, data_uuids: BTreeMap::new() };
        let reports = state.reported[writer.index()];
        let flushed = |node: Node| {
            let length = if self.is(Mutant::FloorNotHeldBack) { u8::MAX } else { reports[node.index()] };
            // Reports name no timeline: they are of the writer's own.
            (name(node).clone(), self.position(End { timeline: floor.timeline, length }))
        };
        let flushed = state.nodes().map(flushed).collect();
        floor::publish(&begun, self.position(floor), &flushed, Term(u64::from(state.term))).is_some()
    }

    /// The start gate: `start_gate::decide`.
    pub fn may_start(&self, state: &State, me: Node, as_primary: bool) -> bool {
        let attesting = state.attested.is_some() && state.holder == me;
        let question = (TermView::of(state), me, as_primary, attesting);
        ask(&self.starts, question, || {
            let (term, me, as_primary, attesting) = question;
            let start_as =
                if as_primary { start_gate::StartAs::Primary } else { start_gate::StartAs::Standby };
            let answer = start_gate::decide(&start_gate::View {
                me: name(me),
                mode: Some(Mode::Armed),
                agent_gone: false,
                last_known_mode: Mode::Armed,
                start_as,
                fenced: None,
                attesting,
                term: Some(&term.record(None)),
                term_unreadable: false,
                has_terms: true,
            });
            answer == start_gate::Answer::Pass
        })
    }
}

fn revised<T>(value: T) -> Revised<T> {
    Revised { value, mod_revision: 1 }
}
