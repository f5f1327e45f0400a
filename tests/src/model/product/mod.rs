//! The product's own decisions, asked about a state of the model.
//!
//! The model does not decide what a rule allows: it builds the view that the agent would have and calls the function that
//! the agent calls. A mutant lies in the view, or leaves out what the transaction compares. Answers are remembered by
//! their inputs, so a search of millions of states asks each question once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{LazyLock, Mutex};

use holdfast_agent_core::close::Revised;
use holdfast_agent_core::detach::{Life, NotNow, Phase};
use holdfast_agent_core::successor::{self, Candidate};
use holdfast_agent_core::sync::{AnySetting, SyncKey};
use holdfast_agent_core::{detach, floor, open, start_gate, timeline};
use holdfast_types::record::{Evidence, FloorRecord, Reign, TermRecord};
use holdfast_types::{
    Configuration, Incarnation, Lsn, MemberName, Mode, Position, SessionId, Term, Timeline,
};

use crate::model::log::End;
use crate::model::mutant::Mutant;
use crate::model::node::{NODES_MAX, Node, NodeSet};
use crate::model::state::{Configurations, Postgres, Setting, State, Sync};

mod close;

use close::CloseQuestion;
pub use close::Closed;

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

/// What the hook would answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // `open::Answer` has the words.
pub enum Hook {
    /// With this timeline id reserved.
    Opens(u8),
    AlreadyOpen,
    /// This timeline id, for a second promotion in our term.
    Reserves(u8),
    No,
}

/// Term, candidate, `/sync` is what CLOSE wrote, it wrote last and its data are the same, `/sync`, leader key, position if all
/// is replayed, actual setting.
type OpenQuestion = (TermView, Node, bool, bool, Sync, Option<Node>, Option<End>, Setting);
/// Term, standby, leader key, attested, the writer's session exists.
type PromiseQuestion = (TermView, Node, Option<Node>, bool, bool);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct TermView {
    number: u8,
    holder: Node,
    open: bool,
    floor: End,
    timeline: u8,
}

impl TermView {
    fn of(state: &State) -> Self {
        let State { term: number, holder, open, closed_floor: floor, timeline, .. } = *state;
        Self { number, holder, open, floor, timeline }
    }

    fn record(self, floor: Option<Position>) -> TermRecord {
        let holder = name(self.holder).clone();
        let reign = if self.open {
            let (incarnation, session) = (Incarnation(1), SessionId(5));
            Reign::Open { holder, incarnation, session, writable: true, floor: None }
        } else {
            let (evidence, successor) = (Evidence::AttestedClean, None);
            Reign::Closed { holder, floor, sync_version: FLOOR_VERSION, evidence, successor, at_wall_ms: 0 }
        };
        let timeline = Some(Timeline(u32::from(self.timeline)));
        TermRecord { term: Term(u64::from(self.number)), reign, trace: None, timeline }
    }
}

type Remembered<Q, A> = Mutex<HashMap<Q, A>>;

/// The product, with one rule possibly weakened.
#[derive(Default)]
pub struct Product {
    mutant: Option<Mutant>,
    closes: Remembered<CloseQuestion, Option<Closed>>,
    opens: Remembered<OpenQuestion, Hook>,
    promises: Remembered<PromiseQuestion, Result<(), NotNow>>,
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

    fn candidate(&self, node: Node, end: End) -> Candidate {
        Candidate {
            member: name(node).clone(),
            position: self.position(end),
            eligible: true,
            nosync: false,
            priority: 1,
            member_lease: Some(7),
        }
    }

    /// Rules 13, 15 and 16: whether `successor::choose` could name this member. The old writer has no promise; it names itself
    /// by what it has.
    pub fn may_be_named(&self, state: &State, node: Node) -> bool {
        let host = state.host(node);
        let end = if node != state.holder {
            state.promise(node).map(|promise| promise.end)
        } else {
            (host.up && host.postgres == Postgres::Replica && !host.replaying).then(|| host.log.end())
        };
        let floor = self.position(state.closed_floor);
        end.is_some_and(|end| successor::choose(&[self.candidate(node, end)], floor).is_some())
    }

    /// Rule 14: `open::decide`.
    pub fn hook(&self, state: &State, me: Node) -> Hook {
        let host = state.host(me);
        let settled = !host.replaying || self.is(Mutant::PositionWhileReplaying);
        let as_closed = state.sync_is_closes || self.is(Mutant::SyncNotComparedAtOpen);
        let kept = !host.data_replaced || self.is(Mutant::WriterReturnsWithOtherData);
        let question = (
            TermView::of(state),
            me,
            as_closed,
            !state.open && state.holder == me && kept,
            state.sync,
            state.leader_key,
            settled.then(|| host.log.end()),
            host.setting,
        );
        ask(&self.opens, question, || {
            let (term, me, as_closed, wrote_last, sync, leader_key, replayed, setting) = question;
            let floor = Some(self.position(term.floor)).filter(|_| !self.is(Mutant::FloorNotReachedAtOpen));
            let revision = if as_closed { TERM_REVISION } else { OTHER_REVISION };
            let counted = sync.counted(me);
            let configuration =
                Configuration { members: names(counted.members), quorum: usize::from(counted.quorum) };
            let key = Self::sync_key(sync.leader, configuration, FLOOR_VERSION, revision);
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
                sync: Some(&key),
                replayed: replayed.map(|end| self.position(end)),
                actual: any(setting).as_ref(),
                wrote_last,
                given_back: false,
                holder_could_lead: false,
                overriding: None,
                barred: None,
                suspended: None,
                waited_ms: 0,
                wait_ms_max: 1,
            });
            match answer {
                open::Answer::Open(plan) => {
                    let reserved = plan.opened.timeline.expect("OPEN reserves a timeline id");
                    Hook::Opens(reserved.0 as u8)
                }
                open::Answer::AlreadyOpen(_) => Hook::AlreadyOpen,
                open::Answer::Reserve { record, .. } => {
                    let reserved = record.timeline.expect("an id is reserved");
                    Hook::Reserves(reserved.0 as u8)
                }
                open::Answer::NoTermYet | open::Answer::Wait(_) | open::Answer::Refuse(_) => Hook::No,
            }
        })
    }

    /// Rule 14: the highest id of `timeline::to_hold`: what PostgreSQL then has seen a history file of.
    pub fn held(&self, own: End, reserved: u8) -> u8 {
        if self.is(Mutant::TimelineTwice) {
            return 0;
        }
        let ids = timeline::to_hold(Timeline(u32::from(own.timeline)), Timeline(u32::from(reserved)));
        ids.expect("the model has a few terms only").last().map_or(0, |id| id.0 as u8)
    }

    /// Rule 4: `detach::may_promise`. Silence and failed probes are taken for granted: they are there for a healthy
    /// writer's sake, and no safety rests on them.
    pub fn may_promise(&self, state: &State, me: Node) -> Result<(), NotNow> {
        let question =
            (TermView::of(state), me, state.leader_key, state.attested.is_some(), state.writers_session());
        ask(&self.promises, question, || {
            let (term, me, leader_key, attested, session_present) = question;
            detach::may_promise(&detach::View {
                outside: false,
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
            let key = Self::sync_key(term.holder, configuration.clone(), FLOOR_VERSION, OTHER_REVISION);
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
                local: None,
                me: name(me),
                mode: Some(Mode::Armed),
                agent_gone: false,
                contradiction: None,
                given_back: false,
                last_known_mode: Mode::Armed,
                start_as,
                fenced: None,
                attesting,
                term: Some(&term.record(None)),
                term_unreadable: false,
                has_terms: true,
                needs_session: false,
                own_session: None,
            });
            answer == start_gate::Answer::Pass
        })
    }
}

fn revised<T>(value: T) -> Revised<T> {
    Revised { value, mod_revision: 1 }
}
