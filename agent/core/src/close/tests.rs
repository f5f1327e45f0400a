use super::*;
use crate::testing::{at, lasting, name, names, off, overriding};
use holdfast_types::{Configuration, Incarnation, Term, Timeline};

/// A cluster whose writer `a` died in term 4; `b` and `c` are synchronous and have promised, `d` is asynchronous.
struct World {
    term: Revised<TermRecord>,
    floor: Option<Revised<FloorRecord>>,
    sync: SyncKey,
    history: Vec<SyncKey>,
    promises: BTreeMap<MemberName, Revised<Promise>>,
    data_uuids: BTreeMap<MemberName, String>,
    attestation: Option<Revised<Attestation>>,
    outside: Option<Revised<OutsideRecord>>,
    overriding: Option<Revised<OverrideRecord>>,
    session_present: bool,
    leader_key: Option<Revised<MemberName>>,
    failover_key: bool,
    held: bool,
    candidates: Vec<Candidate>,
}

fn promise(term: u64, lsn: u64, mod_revision: i64) -> Revised<Promise> {
    let value = Promise {
        term: Term(term),
        writer: name("a"),
        position: at(1, lsn),
        data_uuid: "u".into(),
        incarnation: Incarnation(1),
        heard_wall_ms: None,
        at_wall_ms: 0,
    };
    Revised { value, mod_revision }
}

fn candidate(member: &str, lsn: u64) -> Candidate {
    Candidate {
        member: name(member),
        position: at(1, lsn),
        eligible: true,
        nosync: false,
        priority: 1,
        member_lease: Some(70),
    }
}

impl World {
    fn new() -> Self {
        let configuration = Configuration { members: names(&["b", "c"]), quorum: 1 };
        let reign = Reign::Open {
            holder: name("a"),
            incarnation: Incarnation(1),
            session: SessionId(5),
            writable: true,
            floor: None,
        };
        let floor = FloorRecord {
            term: Term(4),
            sync_version: 3,
            sync_mod_revision: 103,
            sync_create_revision: 10,
            configuration,
            data_uuids: BTreeMap::from([(name("b"), "u".into()), (name("c"), "u".into())]),
            floor: at(1, 100),
        };
        Self {
            term: Revised {
                value: TermRecord { term: Term(4), reign, trace: None, timeline: None },
                mod_revision: 200,
            },
            floor: Some(Revised { value: floor, mod_revision: 201 }),
            sync: SyncKey {
                leader: Some(name("a")),
                sync_standby: names(&["b", "c"]),
                quorum: 1,
                version: 3,
                mod_revision: 103,
                create_revision: 10,
            },
            history: Vec::new(),
            promises: BTreeMap::from([(name("b"), promise(4, 150, 210)), (name("c"), promise(4, 140, 211))]),
            data_uuids: BTreeMap::from([(name("b"), "u".into()), (name("c"), "u".into())]),
            attestation: None,
            outside: None,
            overriding: None,
            session_present: false,
            leader_key: Some(Revised { value: name("a"), mod_revision: 190 }),
            failover_key: false,
            held: false,
            candidates: vec![candidate("b", 150), candidate("c", 140)],
        }
    }

    fn decide(&self) -> Result<ClosePlan, NotYet> {
        decide(&View {
            term: &self.term,
            floor: self.floor.as_ref(),
            sync: Some(&self.sync),
            sync_history: &self.history,
            promises: &self.promises,
            data_uuids: &self.data_uuids,
            attestation: self.attestation.as_ref(),
            outside: self.outside.as_ref().map(|found| (lasting(name("c")), found)),
            overriding: self.overriding.as_ref(),
            session_present: self.session_present,
            leader_key: self.leader_key.as_ref(),
            failover_key: self.failover_key,
            config_mod_revision: 20,
            maintenance_mod_revision: 0,
            held: self.held,
            held_mod_revision: 0,
            candidates: &self.candidates,
            now_wall_ms: 9,
        })
    }

    fn attest(&mut self, stop: StopKind) {
        let value = Attestation {
            term: Term(4),
            holder: name("a"),
            incarnation: Incarnation(1),
            session: SessionId(5),
            stop,
            stuck: Vec::new(),
            at_wall_ms: 0,
        };
        self.session_present = true;
        self.attestation = Some(Revised { value, mod_revision: 220 });
    }
}

fn floor_of(plan: &ClosePlan) -> Option<Position> {
    match &plan.closed.reign {
        Reign::Closed { floor, .. } => *floor,
        Reign::Open { .. } => panic!("CLOSE wrote an open reign"),
    }
}

#[test]
fn a_dead_writer_is_closed_and_the_best_standby_named() {
    let plan = World::new().decide().unwrap();
    assert_eq!(plan.out_of_office, OutOfOffice::SessionAbsent(SessionId(5)));
    assert_eq!(plan.leader_key, LeaderKey::Give { to: name("b"), member_lease: 70 });
    assert_eq!((plan.term_mod_revision, plan.floor_mod_revision, plan.sync_mod_revision), (200, 201, 103));
    assert_eq!(plan.leader_mod_revision, 190);
    assert_eq!(plan.promise_mod_revisions, BTreeMap::from([(name("b"), 210), (name("c"), 211)]));
    assert_eq!(floor_of(&plan), Some(at(1, 150)));
    assert_eq!(plan.closed.term, Term(4));
}

#[test]
fn a_living_session_without_a_word_closes_nothing() {
    let mut world = World::new();
    world.session_present = true;
    assert_eq!(world.decide(), Err(NotYet::WriterLives));
    world.leader_key = None;
    assert_eq!(
        world.decide(),
        Err(NotYet::WriterLives),
        "an absent leader key is a writer that lost only etcd"
    );
    world.leader_key = Some(Revised { value: name("c"), mod_revision: 191 });
    let plan = world.decide().unwrap();
    assert_eq!((plan.out_of_office, plan.leader_key), (OutOfOffice::LeaderIsAnother, LeaderKey::Leave));
}

#[test]
fn promises_are_counted_in_every_configuration_in_force() {
    // Section 9, first row: b acknowledged, /sync became {c} with quorum 0; c alone must not close the reign.
    let mut world = World::new();
    world.sync =
        SyncKey { sync_standby: names(&["c"]), quorum: 0, version: 4, mod_revision: 104, ..world.sync };
    world.promises.remove(&name("b"));
    assert_eq!(world.decide(), Err(NotYet::Promises { promised: 1, members: 2, quorum: 1 }));
}

#[test]
fn promises_that_do_not_count() {
    let missing = Err(NotYet::Promises { promised: 1, members: 2, quorum: 1 });
    let mut of_the_last_term = World::new();
    of_the_last_term.promises.insert(name("c"), promise(3, 140, 211));
    assert_eq!(of_the_last_term.decide(), missing);
    let mut replaced = World::new();
    replaced.data_uuids.insert(name("c"), "another".into());
    assert_eq!(replaced.decide(), missing);
    let mut outsider = World::new();
    outsider.promises.remove(&name("c"));
    outsider.promises.insert(name("d"), promise(4, 140, 211));
    assert_eq!(outsider.decide(), missing);
    let mut by_another_writer = World::new();
    by_another_writer.promises.get_mut(&name("c")).unwrap().value.writer = name("z");
    assert_eq!(by_another_writer.decide(), missing);
}

#[test]
fn nobody_behind_the_floor_closes() {
    let mut world = World::new();
    world.floor.as_mut().unwrap().value.floor = at(1, 151);
    assert_eq!(world.decide(), Err(NotYet::BehindFloor { best: at(1, 150), floor: at(1, 151) }));
    world.floor.as_mut().unwrap().value.term = Term(3);
    assert_eq!(world.decide(), Err(NotYet::NoFloor));
    world.floor = None;
    assert_eq!(world.decide(), Err(NotYet::NoFloor));
}

#[test]
fn an_empty_sync_can_never_be_revoked() {
    let mut world = World::new();
    world.sync = SyncKey { sync_standby: names(&[]), quorum: 0, version: 4, mod_revision: 104, ..world.sync };
    assert_eq!(world.decide(), Err(NotYet::Promises { promised: 0, members: 0, quorum: 0 }));
}

#[test]
fn a_crash_takes_its_floor_from_the_standbys_and_a_shutdown_from_itself() {
    let mut crashed = World::new();
    crashed.attest(StopKind::Stopped);
    let plan = crashed.decide().unwrap();
    assert_eq!(plan.out_of_office, OutOfOffice::Attested { mod_revision: 220 });
    assert_eq!(floor_of(&plan), Some(at(1, 150)));
    crashed.promises.clear();
    assert!(matches!(crashed.decide(), Err(NotYet::Promises { .. })), "a stop alone is no quorum");

    let mut clean = World::new();
    clean.attest(StopKind::Clean { end: at(1, 145) });
    let plan = clean.decide().unwrap();
    assert_eq!(floor_of(&plan), Some(at(1, 145)));
    assert!(matches!(plan.closed.reign, Reign::Closed { evidence: Evidence::AttestedClean, .. }));
}

#[test]
fn a_shutdown_that_nobody_received_is_a_stop_like_any_other() {
    let mut recovered_alone = World::new();
    recovered_alone.attest(StopKind::Clean { end: at(1, 900) });
    let plan = recovered_alone.decide().unwrap();
    assert_eq!(floor_of(&plan), Some(at(1, 150)));
    assert!(matches!(plan.closed.reign, Reign::Closed { evidence: Evidence::AttestedStopped { .. }, .. }));
    recovered_alone.promises.clear();
    assert!(matches!(recovered_alone.decide(), Err(NotYet::Promises { .. })));
}

#[test]
fn an_attestation_of_an_earlier_term_or_session_is_no_word() {
    let mut world = World::new();
    world.attest(StopKind::Stopped);
    world.attestation.as_mut().unwrap().value.session = SessionId(4);
    assert_eq!(world.decide(), Err(NotYet::WriterLives));
    world.attest(StopKind::Stopped);
    world.attestation.as_mut().unwrap().value.term = Term(3);
    assert_eq!(world.decide(), Err(NotYet::WriterLives));
}

#[test]
fn without_a_successor_the_key_goes_and_patroni_races() {
    let mut world = World::new();
    for one in &mut world.candidates {
        one.eligible = false;
    }
    world.failover_key = true;
    let plan = world.decide().unwrap();
    assert_eq!((plan.leader_key, plan.delete_failover), (LeaderKey::Delete, true));
    world.leader_key = None;
    assert_eq!(world.decide().unwrap().leader_key, LeaderKey::Leave);
}

#[test]
fn a_closed_reign_is_closed_again_only_after_sync_moved() {
    let mut world = World::new();
    world.term.value = world.decide().unwrap().closed;
    world.term.mod_revision = 300;
    world.sync.mod_revision = 300;
    world.sync.version = 4;
    assert_eq!(world.decide(), Err(NotYet::AlreadyClosed));
    world.sync = SyncKey { sync_standby: names(&[]), version: 5, mod_revision: 301, ..world.sync };
    world.history = vec![SyncKey {
        sync_standby: names(&["b", "c"]),
        version: 4,
        mod_revision: 300,
        ..world.sync.clone()
    }];
    assert!(
        matches!(world.decide(), Err(NotYet::Promises { members: 0, .. })),
        "A emptied /sync after CLOSE: refuse"
    );
}

/// a opened term 4 over the floor 1/90 and gave it back: nobody has promised anything to anybody.
fn given_back() -> World {
    let mut world = World::new();
    world.promises.clear();
    world.attest(StopKind::Relinquished);
    let reign = &mut world.term.value.reign;
    let Reign::Open { writable, floor, .. } = reign else { unreachable!("World::new opens the term") };
    (*writable, *floor) = (false, Some(at(1, 90)));
    world.leader_key = None;
    world.candidates = vec![candidate("a", 100)];
    world
}

#[test]
fn a_term_that_was_given_back_is_closed_without_a_promise_over_the_floor_it_was_opened_over() {
    let mut world = given_back();
    let plan = world.decide().unwrap();
    assert_eq!(plan.out_of_office, OutOfOffice::Attested { mod_revision: 220 });
    assert_eq!((floor_of(&plan), plan.promise_mod_revisions.len()), (Some(at(1, 90)), 0));
    assert!(plan.closed.was_given_back() && plan.closed.holder() == &name("a"));
    assert_eq!((plan.term_mod_revision, plan.floor_mod_revision, plan.sync_mod_revision), (200, 201, 103));
    let Reign::Open { floor, .. } = &mut world.term.value.reign else { unreachable!() };
    *floor = None;
    assert_eq!(floor_of(&world.decide().unwrap()), Some(at(1, 100)), "not known: what the opener had");
}

#[test]
fn a_term_that_was_given_back_leaves_its_timeline_unused() {
    let (mut unused, mut written) = (given_back(), World::new());
    written.session_present = false;
    for world in [&mut unused, &mut written] {
        world.term.value.timeline = Some(Timeline(3));
    }
    assert_eq!(unused.decide().unwrap().closed.timeline, Some(Timeline(2)));
    assert_eq!(written.decide().unwrap().closed.timeline, Some(Timeline(3)));
}

#[test]
fn a_sync_that_moved_since_open_makes_a_given_back_term_a_stop_like_any_other() {
    let mut world = given_back();
    world.sync.mod_revision = 104;
    assert!(matches!(world.decide(), Err(NotYet::Promises { promised: 0, .. })));
    world.promises = World::new().promises;
    let plan = world.decide().unwrap();
    assert_eq!(floor_of(&plan), Some(at(1, 150)));
    assert!(matches!(plan.closed.reign, Reign::Closed { evidence: Evidence::AttestedStopped { .. }, .. }));
    assert!(!plan.closed.was_given_back());
}

#[test]
fn what_an_earlier_start_gave_back_or_what_has_written_is_not_given_back() {
    let mut later_start = given_back();
    later_start.attestation.as_mut().unwrap().value.incarnation = Incarnation(0);
    assert_eq!(later_start.decide(), Err(NotYet::WriterLives));
    let mut promoted = given_back();
    let Reign::Open { writable, .. } = &mut promoted.term.value.reign else { unreachable!() };
    *writable = true;
    assert_eq!(promoted.decide(), Err(NotYet::WriterLives));
}

#[test]
fn the_lock_of_who_gave_its_term_back_stays_with_it_while_its_patroni_lives() {
    let mut world = given_back();
    assert_eq!(world.decide().unwrap().leader_key, LeaderKey::Leave, "nobody has it: Patroni's race");
    world.leader_key = Some(Revised { value: name("c"), mod_revision: 191 });
    assert_eq!(world.decide().unwrap().leader_key, LeaderKey::Leave, "its hook waits for this CLOSE");
    world.leader_key = Some(Revised { value: name("a"), mod_revision: 190 });
    assert_eq!(world.decide().unwrap().leader_key, LeaderKey::Leave);
    world.candidates[0].eligible = false;
    assert_eq!(world.decide().unwrap().leader_key, LeaderKey::Delete);
    world.candidates.push(candidate("c", 95));
    let plan = world.decide().unwrap();
    assert_eq!(plan.leader_key, LeaderKey::Give { to: name("c"), member_lease: 70 });
}

#[test]
fn a_given_back_term_is_closed_again_by_promises_only() {
    let mut world = given_back();
    world.term.value = world.decide().unwrap().closed;
    (world.term.mod_revision, world.sync.mod_revision, world.sync.version) = (300, 300, 4);
    assert_eq!(world.decide(), Err(NotYet::AlreadyClosed));
    (world.sync.mod_revision, world.sync.version) = (301, 5);
    world.history = vec![SyncKey { version: 4, mod_revision: 300, ..world.sync.clone() }];
    assert!(matches!(world.decide(), Err(NotYet::Promises { promised: 0, .. })));
}

#[test]
fn the_word_of_a_device_takes_the_place_of_the_session_and_of_nothing_else() {
    let mut world = World::new();
    world.outside = Some(Revised { value: off("a", 4), mod_revision: 300 });
    world.session_present = true;
    let plan = world.decide().unwrap();
    assert_eq!(plan.out_of_office, OutOfOffice::Outside { asker: name("c"), mod_revision: 300 });
    let Reign::Closed { evidence, .. } = &plan.closed.reign else { panic!("not closed") };
    assert!(matches!(evidence, Evidence::Revoked { outside: Some(asker), .. } if *asker == name("c")));
    world.promises.remove(&name("c"));
    assert!(matches!(world.decide(), Err(NotYet::Promises { .. })), "the count stays");
    world = World { outside: world.outside, ..World::new() };
    world.floor.as_mut().unwrap().value.floor = at(1, 151);
    assert!(matches!(world.decide(), Err(NotYet::BehindFloor { .. })), "the floor stays");
}

#[test]
fn an_override_drops_the_count_and_the_floor_for_one_successor_that_has_left_the_writer() {
    let mut world = World::new();
    world.promises.remove(&name("b"));
    world.candidates.remove(0);
    world.floor.as_mut().unwrap().value.floor = at(1, 500);
    world.overriding = Some(Revised { value: overriding("c", 4), mod_revision: 400 });
    let plan = world.decide().unwrap();
    let Reign::Closed { floor, evidence, successor, .. } = &plan.closed.reign else { panic!("not closed") };
    assert_eq!((*floor, successor), (Some(at(1, 500)), &Some(name("c"))), "the floor is stated, not lowered");
    assert!(
        matches!(evidence, Evidence::Override { by, reason } if (by.as_str(), reason.as_str()) == ("ann", "lost"))
    );
    assert_eq!(plan.override_mod_revision, Some(400));
    assert_eq!(plan.promise_mod_revisions.keys().collect::<Vec<_>>(), [&name("c")]);
    world.session_present = true;
    assert_eq!(world.decide(), Err(NotYet::WriterLives), "it says nothing about a writer that lives");
    world.session_present = false;
    world.data_uuids.remove(&name("c"));
    assert_eq!(world.decide(), Err(NotYet::SuccessorFollows(name("c"))), "its data have been replaced since");
}

#[test]
fn an_override_that_was_not_needed_only_names_the_successor() {
    let mut world = World::new();
    world.overriding = Some(Revised { value: overriding("c", 4), mod_revision: 400 });
    let plan = world.decide().unwrap();
    let Reign::Closed { evidence, successor, .. } = &plan.closed.reign else { panic!("not closed") };
    assert!(matches!(evidence, Evidence::Revoked { .. }), "the proof is there");
    assert_eq!((successor, plan.override_mod_revision), (&Some(name("c")), Some(400)));
}

#[test]
fn a_writer_that_may_write_without_a_lease_is_closed_only_once_it_has_stopped() {
    let mut held = World { held: true, ..World::new() };
    assert_eq!(held.decide(), Err(NotYet::Held));
    held.attest(StopKind::Stopped);
    assert!(held.decide().is_ok(), "its own agent says that it has stopped");
    let outside = Some(Revised { value: off("a", 4), mod_revision: 300 });
    assert!(
        World { held: true, outside, ..World::new() }.decide().is_ok(),
        "a device says that its host is off"
    );
}

#[cfg(feature = "mutants")]
#[test]
fn each_rule_that_can_be_left_out_is_what_these_tests_rest_on() {
    use crate::mutant::without;
    let mut hole = World::new();
    hole.sync =
        SyncKey { sync_standby: names(&["c"]), quorum: 0, version: 4, mod_revision: 104, ..hole.sync };
    hole.promises.remove(&name("b"));
    assert!(without(Mutant::PresentSyncOnly, || hole.decide()).is_ok());
    assert!(without(Mutant::QuorumIsEnough, || hole.decide()).is_ok());
    let mut behind = World::new();
    behind.floor.as_mut().unwrap().value.floor = at(1, 151);
    assert!(without(Mutant::FloorNotReached, || behind.decide()).is_ok());
    let mut overtaken = World::new();
    overtaken.term.value = overtaken.decide().unwrap().closed;
    overtaken.term.mod_revision = 300;
    overtaken.sync.mod_revision = 301;
    overtaken.sync.version = 5;
    assert!(overtaken.decide() != Err(NotYet::AlreadyClosed));
    assert_eq!(without(Mutant::NotClosedAgain, || overtaken.decide()), Err(NotYet::AlreadyClosed));
}
