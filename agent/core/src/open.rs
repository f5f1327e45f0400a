//! Rules 14 and 16: what the promotion hook answers, and the transaction that opens the next term.
//!
//! Called by `promote-gate` inside Patroni's `pre_promote`, after the candidate took the leader lock and before it is
//! promoted. A refused node stays out of the race for one Patroni ttl, so it refuses only what waiting cannot mend.

use std::collections::BTreeMap;

use holdfast_types::record::{FloorRecord, OverrideRecord, Reign, TermRecord};
use holdfast_types::{Configuration, Incarnation, MemberName, Position, SessionId, Term};

use crate::close::Revised;
use crate::mutant::{Mutant, left_out};
use crate::sync::{AnySetting, Misfit, SyncKey};
use crate::timeline;

/// What the candidate sees.
#[derive(Debug, Clone)]
pub struct View<'o> {
    /// The candidate: ourselves.
    pub me: &'o MemberName,
    /// Our agent's start.
    pub incarnation: Incarnation,
    /// Our session.
    pub session: SessionId,
    /// The term record that is in force, by a linearizable read; `None` when there is none.
    pub term: Option<&'o Revised<TermRecord>>,
    /// There is a term record that cannot be read.
    pub term_unreadable: bool,
    /// The id of each member's data directory.
    pub data_uuids: &'o BTreeMap<MemberName, String>,
    /// Patroni's leader key, by the same read.
    pub leader_key: Option<&'o Revised<MemberName>>,
    /// Patroni's `/sync`, by the same read.
    pub sync: Option<&'o SyncKey>,
    /// Where our WAL ends; `None` while it is unknown or not all of it is replayed.
    pub replayed: Option<Position>,
    /// Our actual `synchronous_standby_names`, if it is of the form `ANY k (S)`.
    pub actual: Option<&'o AnySetting>,
    /// Rule 15: we wrote in the closed term, and our data are still those that we wrote:
    /// [`Cluster::kept_its_data`](crate::cluster::Cluster::kept_its_data).
    pub wrote_last: bool,
    /// Rule 10: we have given the open term back, by our own state or by the attestation that stands in etcd.
    pub given_back: bool,
    /// The holder of the open term could lead again: [`Cluster::holder_could_lead`](crate::cluster::Cluster::holder_could_lead).
    pub holder_could_lead: bool,
    /// Rule 18: a person's order for the term in force.
    pub overriding: Option<&'o Revised<OverrideRecord>>,
    /// A fence record or policy forbids that we lead.
    pub barred: Option<&'o str>,
    /// Why nobody closes a term at present: a person has suspended automatic action.
    pub suspended: Option<&'o str>,
    /// For how long the hook has been waiting, in milliseconds.
    pub waited_ms: u64,
    /// Twice Patroni's ttl, in milliseconds: the longest wait.
    pub wait_ms_max: u64,
}

/// The transaction of OPEN. It compares the term record, the leader key and `/sync`, and puts the term and floor records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPlan {
    /// Compare: CLOSED at this revision.
    pub term_mod_revision: i64,
    /// Compare: ours, at this revision.
    pub leader_mod_revision: i64,
    /// Compare: what CLOSE wrote; for its old writer, what it was computed from.
    pub sync_mod_revision: i64,
    /// Compare: the override under which we are below the floor, if we are.
    pub override_mod_revision: Option<i64>,
    /// Write.
    pub opened: TermRecord,
    /// Write: the floor record of the new reign begins at the opener's position.
    pub floor: FloorRecord,
}

/// The answer of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Exit 0: this start of our agent holds the term, and the timeline id that it would write on is reserved: the answer to
    /// OPEN was lost on its way, or PostgreSQL has stopped in office and is promoted again.
    AlreadyOpen(Term),
    /// The same, but no id is reserved for what PostgreSQL writes from here: put this record, then look again.
    Reserve {
        /// Write: our open term with the next id.
        record: Box<TermRecord>,
        /// Compare: the term record at this revision.
        term_mod_revision: i64,
    },
    /// Exit 0: no term is in force since the arming, so there is nothing to close and nothing was promised. The first
    /// one is opened by whoever is the leader then.
    NoTermYet,
    /// Run the transaction; exit 0 if it succeeds, look again if it does not.
    Open(Box<OpenPlan>),
    /// Look again: evidence may still come.
    Wait(String),
    /// Exit 1: this node must not lead.
    Refuse(String),
}

/// Waiting for the setting to arrive by SIGHUP just before the hook: rule 16 gives it a second.
const SETTING_WAIT_MS_MAX: u64 = 1_000;
/// Promises and CLOSE take well under a second once the lock is another's. A reign that is not closed by then, although
/// its holder could lead, cannot be closed: whoever goes on holding the lock keeps the cluster without a writer.
const HOLDER_WAIT_MS_MAX: u64 = 5_000;

/// Decides what the hook answers in an armed cluster.
pub fn decide(view: &View<'_>) -> Answer {
    if let Some(why) = view.barred {
        return Answer::Refuse(why.to_owned());
    }
    if left_out(Mutant::HookPasses) {
        return Answer::NoTermYet;
    }
    if let Some(term) = already_open(view).filter(|_| !view.given_back) {
        return again(view, term);
    }
    if view.term.is_none() && !view.term_unreadable {
        return Answer::NoTermYet;
    }
    match open(view) {
        Ok(plan) => Answer::Open(Box::new(plan)),
        Err(Stop::Refuse(why)) => Answer::Refuse(why),
        Err(Stop::Wait(why)) if view.waited_ms >= view.wait_ms_max => {
            Answer::Refuse(format!("{why}; waited {} ms", view.waited_ms))
        }
        Err(Stop::Wait(why)) => Answer::Wait(why),
    }
}

/// etcd may have done what we asked for without our hearing of it. The lock must still be ours: a term that we hold
/// without it is about to be closed again by those who follow the other.
fn already_open<'o>(view: &View<'o>) -> Option<&'o Revised<TermRecord>> {
    let lock_is_ours = view.leader_key.is_some_and(|key| key.value == *view.me);
    let term_is_ours = |term: &&Revised<TermRecord>| match &term.value.reign {
        Reign::Open { holder, incarnation, session, .. } => {
            holder == view.me && *incarnation == view.incarnation && *session == view.session
        }
        Reign::Closed { .. } => false,
    };
    view.term.filter(term_is_ours).filter(|_| lock_is_ours)
}

/// Each promotion takes an id, also a second one within a term: another member may lead before anybody has seen that it was
/// taken (simulator, seed 306934).
fn again(view: &View<'_>, term: &Revised<TermRecord>) -> Answer {
    let Some(position) = view.replayed else { return Answer::Wait("local WAL is not all replayed".into()) };
    let recorded = term.value.timeline;
    if recorded > Some(position.timeline) {
        return Answer::AlreadyOpen(term.value.term);
    }
    let timeline = Some(timeline::reserve(recorded, position.timeline));
    let record = Box::new(TermRecord { timeline, ..term.value.clone() });
    Answer::Reserve { record, term_mod_revision: term.mod_revision }
}

/// Rule 15: `/sync` has moved since CLOSE, and whatever was acknowledged under its new values was acknowledged by us. Nobody
/// else has that, so no other member may open, and once the members of `/sync` were none no CLOSE can say so any more.
fn moved_by_us(view: &View<'_>, sync: &SyncKey) -> bool {
    view.wrote_last && sync.leader.as_ref() == Some(view.me)
}

enum Stop {
    Wait(String),
    Refuse(String),
}

fn wait<T>(why: &str) -> Result<T, Stop> {
    Err(Stop::Wait(why.to_owned()))
}

/// The last reign is still open: it is waited for, unless that is of no use.
fn not_closed<T>(view: &View<'_>, holder: &MemberName) -> Result<T, Stop> {
    if view.given_back {
        return wait(
            "this node has given the term back, because the hook before this one was lost; it is closed first (rule 10)",
        );
    }
    // Nobody will close it, and whoever waits in the hook keeps the lock from its last holder.
    if let Some(why) = view.suspended {
        return Err(Stop::Refuse(format!("the last reign is not closed, and nobody closes it: {why}")));
    }
    if view.holder_could_lead && holder != view.me && view.waited_ms >= HOLDER_WAIT_MS_MAX {
        return Err(Stop::Refuse(format!("the last reign is not closed and {holder} could go on with it")));
    }
    wait("the last reign is not closed")
}

fn open(view: &View<'_>) -> Result<OpenPlan, Stop> {
    let Some(term) = view.term else { return wait("the term record cannot be read") };
    let Reign::Closed { floor, .. } = &term.value.reign else {
        return not_closed(view, term.value.holder());
    };
    let Some(leader) = view.leader_key.filter(|key| key.value == *view.me) else {
        return wait("Patroni's leader key is not ours");
    };
    let Some(sync) = view.sync else { return wait("there is no /sync key") };
    // CLOSE put both in one transaction: equal revisions say that /sync is what CLOSE wrote.
    let moved = sync.mod_revision != term.mod_revision && !moved_by_us(view, sync);
    if moved && !left_out(Mutant::SyncNotComparedAtOpen) {
        return wait("/sync has changed since the reign was closed; it is closed again first (rule 12)");
    }
    let Some(position) = view.replayed else { return wait("local WAL is not all replayed") };
    let below = floor.filter(|floor| position < *floor);
    let overriding = view.overriding.filter(|found| {
        below.is_some() && (found.value.term, &found.value.successor) == (term.value.term, view.me)
    });
    let refused = overriding.is_none() && !left_out(Mutant::FloorNotReachedAtOpen);
    if let Some(floor) = below.filter(|_| refused) {
        return Err(Stop::Refuse(format!(
            "this node has {position}, the acknowledged writes end at {floor}"
        )));
    }
    let configuration = sync.configuration(view.me);
    setting_fits(view, &configuration)?;
    let next = term.value.term.next();
    let (incarnation, session) = (view.incarnation, view.session);
    // What was accepted as lost is asked of nobody again (rule 10): the reign begins at our own position.
    let asked = floor.filter(|_| below.is_none());
    let reign = Reign::Open { holder: view.me.clone(), incarnation, session, writable: false, floor: asked };
    Ok(OpenPlan {
        term_mod_revision: term.mod_revision,
        leader_mod_revision: leader.mod_revision,
        sync_mod_revision: sync.mod_revision,
        override_mod_revision: overriding.map(|found| found.mod_revision),
        opened: TermRecord {
            term: next,
            reign,
            trace: term.value.trace.clone(),
            timeline: Some(timeline::reserve(term.value.timeline, position.timeline)),
        },
        floor: FloorRecord {
            term: next,
            sync_version: sync.version,
            sync_mod_revision: sync.mod_revision,
            sync_create_revision: sync.create_revision,
            data_uuids: view
                .data_uuids
                .iter()
                .filter(|(member, _)| configuration.members.contains(*member) || *member == view.me)
                .map(|(member, uuid)| (member.clone(), uuid.clone()))
                .collect(),
            configuration,
            floor: position,
        },
    })
}

/// Rule 14: our actual setting is one of the configuration that `/sync` names.
fn setting_fits(view: &View<'_>, configuration: &Configuration) -> Result<(), Stop> {
    if configuration.members.is_empty() {
        return Ok(());
    }
    match view.actual.ok_or(Misfit::NoAcknowledgement).and_then(|actual| actual.fits(configuration)) {
        Ok(()) => Ok(()),
        Err(why) if view.waited_ms < SETTING_WAIT_MS_MAX => Err(Stop::Wait(why.to_string())),
        Err(why) => Err(Stop::Refuse(format!("{why}: a later failover could lose a write"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lasting, name, names, overriding};
    use holdfast_types::Timeline;
    use holdfast_types::record::Evidence;

    fn closed() -> TermRecord {
        let reign = Reign::Closed {
            holder: name("a"),
            floor: Some(at(1, 90)),
            sync_version: 4,
            evidence: Evidence::AttestedClean,
            successor: Some(name("b")),
            at_wall_ms: 0,
        };
        TermRecord { term: Term(4), reign, trace: Some("00-x".into()), timeline: None }
    }

    fn judge<'o>(change: impl FnOnce(&mut View<'o>)) -> Answer {
        let term = Revised { value: closed(), mod_revision: 300 };
        let leader = Revised { value: name("b"), mod_revision: 301 };
        let sync = SyncKey {
            leader: Some(name("a")),
            sync_standby: names(&["b", "c"]),
            quorum: 1,
            version: 4,
            mod_revision: 300,
            create_revision: 10,
        };
        let actual = AnySetting { acknowledgements: 1, names: names(&["a", "c"]) };
        let mut view = View {
            me: lasting(name("b")),
            incarnation: Incarnation(2),
            session: SessionId(8),
            term: Some(lasting(term)),
            term_unreadable: false,
            data_uuids: lasting([(name("a"), "1".to_owned()), (name("z"), "2".to_owned())].into()),
            leader_key: Some(lasting(leader)),
            sync: Some(lasting(sync)),
            replayed: Some(at(1, 100)),
            actual: Some(lasting(actual)),
            wrote_last: false,
            given_back: false,
            holder_could_lead: false,
            overriding: None,
            barred: None,
            suspended: None,
            waited_ms: 0,
            wait_ms_max: 60_000,
        };
        change(&mut view);
        decide(&view)
    }

    #[test]
    fn the_named_successor_opens_the_next_term() {
        let Answer::Open(plan) = judge(|_| ()) else { panic!("not opened") };
        assert_eq!(plan.opened.term, Term(5));
        assert_eq!(plan.opened.open_holder(), Some(&name("b")));
        assert!(matches!(plan.opened.reign, Reign::Open { floor, .. } if floor == Some(at(1, 90))));
        assert_eq!(plan.floor.floor, at(1, 100));
        assert_eq!(plan.floor.configuration.members, names(&["a", "c"]));
        assert_eq!(plan.floor.data_uuids.keys().collect::<Vec<_>>(), [&name("a")]);
        assert_eq!(
            (plan.term_mod_revision, plan.leader_mod_revision, plan.sync_mod_revision),
            (300, 301, 300)
        );
        assert_eq!(plan.opened.trace.as_deref(), Some("00-x"), "the incident's trace goes on");
    }

    #[test]
    fn the_next_timeline_is_reserved() {
        let reserved = |recorded: Option<u32>, own| {
            let mut term = Revised { value: closed(), mod_revision: 300 };
            term.value.timeline = recorded.map(Timeline);
            let replayed = Some(at(own, 100));
            let Answer::Open(plan) = judge(|v| (v.term, v.replayed) = (Some(&term), replayed)) else {
                panic!("not opened")
            };
            plan.opened.timeline
        };
        assert_eq!(reserved(None, 1), Some(Timeline(2)));
        assert_eq!(
            reserved(Some(4), 1),
            Some(Timeline(5)),
            "four reigns, none of which this node has followed"
        );
        assert_eq!(reserved(Some(2), 6), Some(Timeline(7)));
    }

    #[test]
    fn a_node_behind_the_floor_is_refused_at_once() {
        assert!(matches!(judge(|v| v.replayed = Some(at(1, 89))), Answer::Refuse(_)));
        assert!(matches!(judge(|v| v.barred = Some("fenced")), Answer::Refuse(_)));
    }

    #[test]
    fn below_the_floor_only_the_one_that_an_override_of_this_term_names_is_let_pass() {
        let ordered = |successor, term| {
            let found = Revised { value: overriding(successor, term), mod_revision: 400 };
            judge(|v| (v.replayed, v.overriding) = (Some(at(1, 50)), Some(lasting(found))))
        };
        let Answer::Open(plan) = ordered("b", 4) else { panic!("not opened") };
        assert_eq!((plan.override_mod_revision, plan.floor.floor), (Some(400), at(1, 50)));
        assert!(
            matches!(plan.opened.reign, Reign::Open { floor: None, .. }),
            "the reign begins at its position"
        );
        assert!(matches!(ordered("c", 4), Answer::Refuse(_)), "another is named");
        assert!(matches!(ordered("b", 3), Answer::Refuse(_)), "it was for a term that is over");
        let found = Revised { value: overriding("b", 4), mod_revision: 400 };
        let Answer::Open(plan) = judge(|v| v.overriding = Some(lasting(found))) else { panic!("not opened") };
        assert_eq!(plan.override_mod_revision, None, "not needed");
    }

    #[test]
    fn the_old_writer_may_open_on_a_sync_that_it_has_moved_itself() {
        let moved = |leader| {
            lasting(SyncKey {
                leader: Some(name(leader)),
                sync_standby: names(&[]),
                quorum: 0,
                version: 5,
                mod_revision: 320,
                create_revision: 10,
            })
        };
        let Answer::Open(plan) = judge(|v| (v.sync, v.wrote_last) = (Some(moved("b")), true)) else {
            panic!("not opened")
        };
        assert_eq!((plan.sync_mod_revision, plan.floor.sync_version), (320, 5));
        assert!(
            matches!(judge(|v| v.sync = Some(moved("b"))), Answer::Wait(_)),
            "it never wrote in that term"
        );
        let by_another = judge(|v| (v.sync, v.wrote_last) = (Some(moved("a")), true));
        assert!(matches!(by_another, Answer::Wait(_)));
        let behind =
            judge(|v| (v.sync, v.wrote_last, v.replayed) = (Some(moved("b")), true, Some(at(1, 89))));
        assert!(matches!(behind, Answer::Refuse(_)));
    }

    #[test]
    fn an_open_whose_answer_was_lost_is_not_waited_for() {
        let mine = |session| {
            let reign = Reign::Open {
                holder: name("b"),
                incarnation: Incarnation(2),
                session,
                writable: false,
                floor: None,
            };
            Revised {
                value: TermRecord { term: Term(5), reign, trace: None, timeline: Some(Timeline(2)) },
                mod_revision: 302,
            }
        };
        let ours = mine(SessionId(8));
        assert_eq!(judge(|v| v.term = Some(&ours)), Answer::AlreadyOpen(Term(5)));
        let replays = judge(|v| (v.term, v.replayed) = (Some(&ours), None));
        assert!(matches!(replays, Answer::Wait(_)));
        let of_another_boot = mine(SessionId(7));
        assert!(matches!(judge(|v| v.term = Some(&of_another_boot)), Answer::Wait(_)));
        let lock = Revised { value: name("c"), mod_revision: 303 };
        assert!(matches!(judge(|v| (v.term, v.leader_key) = (Some(&ours), Some(&lock))), Answer::Wait(_)));
    }

    #[test]
    fn a_second_promotion_in_a_term_has_an_id_of_its_own() {
        let recorded = |timeline: Option<u32>| {
            let reign = Reign::Open {
                holder: name("b"),
                incarnation: Incarnation(2),
                session: SessionId(8),
                writable: true,
                floor: None,
            };
            let timeline = timeline.map(Timeline);
            let ours = TermRecord { term: Term(5), reign, trace: None, timeline };
            judge(|v| {
                v.term = Some(lasting(Revised { value: ours, mod_revision: 302 }));
                v.replayed = Some(at(2, 100));
            })
        };
        let reserved = |answer: &Answer| match answer {
            Answer::Reserve { record, term_mod_revision: 302 } => {
                record.timeline.filter(|_| record.open_holder() == Some(&name("b")))
            }
            _ => None,
        };
        assert_eq!(reserved(&recorded(Some(2))), Some(Timeline(3)), "we have written on 2 already");
        assert_eq!(reserved(&recorded(Some(1))), Some(Timeline(3)));
        assert_eq!(reserved(&recorded(None)), Some(Timeline(3)), "of a build that reserved nothing");
        assert_eq!(recorded(Some(3)), Answer::AlreadyOpen(Term(5)), "OPEN has reserved it");
    }

    #[test]
    fn a_term_that_was_given_back_lets_no_hook_pass_until_it_is_closed() {
        let reign = Reign::Open {
            holder: name("b"),
            incarnation: Incarnation(2),
            session: SessionId(8),
            writable: false,
            floor: None,
        };
        let ours = Revised {
            value: TermRecord { term: Term(5), reign, trace: None, timeline: None },
            mod_revision: 302,
        };
        let waits = judge(|v| (v.term, v.given_back) = (Some(&ours), true));
        assert!(matches!(&waits, Answer::Wait(why) if why.contains("given the term back")), "{waits:?}");
        assert!(matches!(judge(|v| v.given_back = true), Answer::Open(_)), "the next term is another one");
    }

    #[test]
    fn an_armed_cluster_without_a_term_is_not_locked_out() {
        assert_eq!(judge(|v| v.term = None), Answer::NoTermYet);
        assert!(matches!(judge(|v| (v.term, v.term_unreadable) = (None, true)), Answer::Wait(_)));
        assert!(matches!(judge(|v| (v.term, v.barred) = (None, Some("fenced"))), Answer::Refuse(_)));
    }

    #[test]
    fn missing_evidence_waits_but_not_for_ever() {
        let open = Revised {
            value: TermRecord {
                term: Term(4),
                reign: Reign::Open {
                    holder: name("a"),
                    incarnation: Incarnation(1),
                    session: SessionId(5),
                    writable: true,
                    floor: None,
                },
                trace: None,
                timeline: None,
            },
            mod_revision: 300,
        };
        assert!(matches!(judge(|v| v.term = Some(&open)), Answer::Wait(_)));
        assert!(matches!(judge(|v| (v.term, v.waited_ms) = (Some(&open), 60_000)), Answer::Refuse(_)));
        let suspended = judge(|v| (v.term, v.suspended) = (Some(&open), Some("maintenance by ann")));
        assert!(matches!(suspended, Answer::Refuse(why) if why.ends_with("maintenance by ann")));
        assert!(
            matches!(judge(|v| v.suspended = Some("maintenance")), Answer::Open(_)),
            "it was closed before"
        );
        let held = |waited_ms| {
            judge(|v| (v.term, v.holder_could_lead, v.waited_ms) = (Some(&open), true, waited_ms))
        };
        assert!(matches!(held(HOLDER_WAIT_MS_MAX - 1), Answer::Wait(_)));
        assert!(
            matches!(held(HOLDER_WAIT_MS_MAX), Answer::Refuse(_)),
            "its holder could go on, and we keep the lock"
        );
        assert!(matches!(judge(|v| v.replayed = None), Answer::Wait(_)));
        let other = Revised { value: name("c"), mod_revision: 301 };
        assert!(matches!(judge(|v| v.leader_key = Some(&other)), Answer::Wait(_)));
    }

    #[test]
    fn a_sync_that_moved_since_close_waits_for_another_close() {
        let moved = SyncKey {
            leader: Some(name("a")),
            sync_standby: names(&["b", "c"]),
            quorum: 1,
            version: 5,
            mod_revision: 302,
            create_revision: 10,
        };
        assert!(matches!(judge(|v| v.sync = Some(&moved)), Answer::Wait(_)));
    }

    #[test]
    fn a_setting_that_does_not_fit_gets_a_second_to_arrive() {
        assert!(matches!(judge(|v| v.actual = None), Answer::Wait(_)));
        assert!(matches!(judge(|v| (v.actual, v.waited_ms) = (None, 1_000)), Answer::Refuse(_)));
        let older = AnySetting { acknowledgements: 1, names: names(&["c", "d", "e"]) };
        assert!(matches!(judge(|v| (v.actual, v.waited_ms) = (Some(&older), 1_000)), Answer::Refuse(_)));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn each_rule_that_can_be_left_out_is_what_these_tests_rest_on() {
        use crate::mutant::without;
        let behind = || judge(|v| v.replayed = Some(at(1, 89)));
        assert!(matches!(without(Mutant::FloorNotReachedAtOpen, behind), Answer::Open(_)));
        let no_lock = || judge(|v| v.leader_key = None);
        assert_eq!(without(Mutant::HookPasses, no_lock), Answer::NoTermYet);
        let moved = SyncKey {
            leader: Some(name("a")),
            sync_standby: names(&["b", "c"]),
            quorum: 1,
            version: 5,
            mod_revision: 302,
            create_revision: 10,
        };
        let overtaken = || judge(|v| v.sync = Some(&moved));
        assert!(matches!(without(Mutant::SyncNotComparedAtOpen, overtaken), Answer::Open(_)));
    }
}
