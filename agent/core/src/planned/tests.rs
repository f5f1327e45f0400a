use super::*;
use crate::close::Revised;
use crate::testing::{facts, name, patroni_config, patroni_member, session, stopped, term_open};
use holdfast_types::record::{
    FenceReason, FenceRecord, IntentRecord, MaintenanceRecord, ModeRecord, OperationEnd, OperationState,
    PatroniFile, Rolling, SetupSeen, Stored, Switchover, Wanted,
};
use holdfast_types::{HostName, Mode, SessionId};

const POOLER: &str = "pool1.main";
const PHASES: [OperationPhase; 8] = [
    OperationPhase::Restart,
    OperationPhase::Rejoin,
    OperationPhase::Prepare,
    OperationPhase::Pause,
    OperationPhase::HandOver,
    OperationPhase::Verify,
    OperationPhase::Settle,
    OperationPhase::Release,
];

pub(crate) fn operation(phase: OperationPhase) -> OperationRecord {
    OperationRecord {
        number: 7,
        wanted: Wanted::Switchover(Switchover::default()),
        by: "operator/ann".into(),
        intent: "i".into(),
        from: None,
        reason: "kernel".into(),
        coordinator: HostName::new("backup1").unwrap(),
        term: Some(Term(4)),
        writer: Some(name("a")),
        successor: Some(name("b")),
        poolers: vec![POOLER.into()],
        rolling: None,
        phase,
        steps: Vec::new(),
        findings: Vec::new(),
        given_up: None,
        traceparent: None,
        ended: None,
    }
}

/// Writer `a` in term 4, standby `b`, both with their agents, and operation 7 in this phase.
fn cluster(phase: OperationPhase) -> Cluster {
    let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
    Cluster {
        mode: Some(Revised { value: mode, mod_revision: 1 }),
        term: Some(Revised { value: term_open("a", 4, true), mod_revision: 2 }),
        config: Some(patroni_config()),
        facts: ["a", "b"].map(|member| (name(member), facts(member))).into(),
        members: [(name("a"), patroni_member(8)), (name("b"), patroni_member(9))].into(),
        sessions: [(SessionId(5), session("a")), (SessionId(6), session("b"))].into(),
        operation: Some(Revised { value: operation(phase), mod_revision: 3 }),
        ..Cluster::default()
    }
}

/// What `a`'s own Patroni says of what runs at a stop.
fn file(cluster: &mut Cluster, acts_on_stop: Option<bool>) {
    let file = PatroniFile { acts_on_stop, ..PatroniFile::default() };
    let setup = SetupSeen { file: Some(file), ..SetupSeen::default() };
    cluster.facts.get_mut(&name("a")).unwrap().setup = Some(setup);
}

fn change(cluster: &mut Cluster, change: impl FnOnce(&mut OperationRecord)) {
    change(&mut cluster.operation.as_mut().unwrap().value);
}

fn done(operation: u64, phase: OperationPhase) -> PhaseDone {
    PhaseDone { operation, phase, problem: None, remark: None }
}

/// Everything that keeps an operation from going on, as a change of a good view.
/// What stands in the way, and how it comes about.
type Obstacle = (&'static str, fn(&mut Cluster));

fn obstacles() -> Vec<Obstacle> {
    vec![
        ("it has ended", |cluster| {
            change(cluster, |record| {
                let state = OperationState::Done;
                record.ended = Some(OperationEnd { state, text: String::new(), next: None, at_wall_ms: 0 });
            });
        }),
        ("it was given up", |cluster| change(cluster, |record| record.given_up = Some("x".into()))),
        ("of another term", |cluster| change(cluster, |record| record.term = Some(Term(3)))),
        ("of another writer", |cluster| change(cluster, |record| record.writer = Some(name("b")))),
        ("not armed", |cluster| cluster.mode.as_mut().unwrap().value.mode = Mode::Observe),
        ("the mode cannot be read", |cluster| cluster.mode_unreadable = true),
        ("paused", |cluster| cluster.config.as_mut().unwrap().paused = true),
        ("Patroni's configuration is not known", |cluster| cluster.config = None),
        ("maintenance", |cluster| {
            let (by, reason) = (String::new(), String::new());
            let record = MaintenanceRecord { until_wall_ms: 9, since_wall_ms: 0, by, reason };
            cluster.maintenance = Some(Revised { value: record, mod_revision: 4 });
        }),
        ("attested", |cluster| {
            cluster.attestation = Some(Revised { value: stopped("a", 4), mod_revision: 4 });
        }),
        ("not writable", |cluster| cluster.term.as_mut().unwrap().value = term_open("a", 4, false)),
        ("another writes", |cluster| cluster.term.as_mut().unwrap().value = term_open("b", 5, true)),
        ("a term of before it was armed", |cluster| cluster.term.as_mut().unwrap().mod_revision = 1),
        ("no operation", |cluster| cluster.operation = None),
    ]
}

#[test]
fn the_writer_prepares_and_hands_over_and_nobody_else_does() {
    for phase in PHASES {
        let cluster = cluster(phase);
        let wanted = match phase {
            OperationPhase::Prepare => {
                Some(Task::Prepare { operation: 7, drain_timeout_ms: 5_000, terminate: false })
            }
            OperationPhase::HandOver => Some(Task::HandOver { operation: 7 }),
            _ => None,
        };
        assert_eq!(task(&cluster, &name("a"), None, 0), wanted, "{phase}");
        assert!(wanted.as_ref().is_none_or(|task| task.place() == (7, phase)));
        assert_eq!(task(&cluster, &name("b"), None, 0), None, "{phase}");
        let said = done(7, phase);
        assert_eq!(task(&cluster, &name("a"), Some(&said), 0), None, "it was answered");
        let before = done(6, phase);
        assert_eq!(task(&cluster, &name("a"), Some(&before), 0), wanted, "of the operation before");
    }
    let mut drains = cluster(OperationPhase::HandOver);
    change(&mut drains, |record| {
        let text = br#"{"format":1,"min_reader":1,"operation":"drain","node":"a","reason":"x"}"#;
        record.wanted = Stored::<IntentRecord>::decode("k", text).unwrap().body.wanted;
    });
    assert!(task(&drains, &name("a"), None, 0).is_some(), "a drain of the writer hands over");
    let mut answered = cluster(OperationPhase::Prepare);
    answered.done.insert(name("a"), done(7, OperationPhase::Prepare));
    assert_eq!(task(&answered, &name("a"), None, 0), None, "by an earlier start of the agent");
    answered.done.insert(name("a"), done(7, OperationPhase::Pause));
    assert!(task(&answered, &name("a"), None, 0).is_some(), "another phase");
}

#[test]
fn a_standby_is_restarted_when_it_is_its_turn_and_a_writer_never() {
    let turn_of = |member: &str| {
        let mut cluster = cluster(OperationPhase::Restart);
        change(&mut cluster, |record| {
            let text = br#"{"format":1,"min_reader":1,"operation":"restart","all":true,"reason":"x"}"#;
            record.wanted = Stored::<IntentRecord>::decode("k", text).unwrap().body.wanted;
            let rolling = Rolling {
                now: Some(name(member)),
                counted: true,
                left: vec![name("a")],
                restarted: Vec::new(),
                cancelled: None,
            };
            (record.successor, record.rolling) = (None, Some(rolling));
        });
        cluster
    };
    let restart = Some(Task::Restart { operation: 7 });
    assert_eq!(task(&turn_of("b"), &name("b"), None, 0), restart);
    let said = done(7, OperationPhase::Restart);
    assert_eq!(task(&turn_of("b"), &name("b"), Some(&said), 0), None, "it was answered");
    for (member, turn) in [("a", "b"), ("b", "a"), ("a", "a")] {
        assert_eq!(task(&turn_of(turn), &name(member), None, 0), None, "{member} in the turn of {turn}");
    }
    for (what, obstacle) in obstacles() {
        let mut cluster = turn_of("b");
        obstacle(&mut cluster);
        assert_eq!(task(&cluster, &name("b"), None, 0), None, "{what}");
    }
}

#[test]
fn whatever_comes_in_between_ends_the_writers_part() {
    for (what, obstacle) in obstacles() {
        for phase in [OperationPhase::Prepare, OperationPhase::HandOver] {
            let mut cluster = cluster(phase);
            obstacle(&mut cluster);
            assert_eq!(task(&cluster, &name("a"), None, 0), None, "{what}");
            assert_eq!(hand_over(&cluster, &name("a"), 7, 0), HandOver::Over, "{what}");
        }
    }
}

#[test]
fn it_is_ordered_once_for_a_successor_that_can_lead() {
    let judge = |change: fn(&mut Cluster)| {
        let mut cluster = cluster(OperationPhase::HandOver);
        change(&mut cluster);
        hand_over(&cluster, &name("a"), 7, 0)
    };
    let order = |stop_at_once| HandOver::Order { successor: name("b"), stop_at_once };
    assert_eq!(judge(|_| ()), order(false), "Patroni's file is not known");
    assert_eq!(judge(|cluster| file(cluster, Some(false))), order(true));
    assert_eq!(judge(|cluster| file(cluster, Some(true))), order(false));
    assert_eq!(judge(|cluster| file(cluster, None)), order(false), "of an older agent");
    let in_config = |cluster: &mut Cluster| {
        file(cluster, Some(false));
        cluster.config.as_mut().unwrap().acts_on_stop = true;
    };
    assert_eq!(judge(in_config), order(false));
    assert_eq!(
        judge(|cluster| (cluster.failover_key, cluster.failover_candidate) = (true, Some(name("b")))),
        HandOver::Ordered
    );
    assert_eq!(hand_over(&cluster(OperationPhase::Pause), &name("a"), 7, 0), HandOver::Over);
    assert_eq!(hand_over(&cluster(OperationPhase::HandOver), &name("a"), 8, 0), HandOver::Over);
    let refused: [Obstacle; 10] = [
        ("another order", |cluster| cluster.failover_key = true),
        ("another order", |cluster| {
            (cluster.failover_key, cluster.failover_candidate) = (true, Some(name("c")));
        }),
        ("fenced", |cluster| {
            let record = FenceRecord { why: FenceReason::Deposed { term: Term(1) }, at_wall_ms: 0 };
            cluster.fences.insert(name("b"), Revised { value: record, mod_revision: 4 });
        }),
        ("is drained", |cluster| cluster.unreadable_drains.extend(["b".into()])),
        ("no agent", |cluster| drop(cluster.facts.remove(&name("b")))),
        ("lives", |cluster| drop(cluster.sessions.remove(&SessionId(6)))),
        ("may not lead", |cluster| cluster.facts.get_mut(&name("b")).unwrap().eligible = None),
        ("disarmed", |cluster| {
            let facts = cluster.facts.get_mut(&name("b")).unwrap();
            facts.local_disarm = Some(crate::local_disarm::tests::disarmed(false));
        }),
        ("does not know", |cluster| drop(cluster.members.remove(&name("b")))),
        ("no successor", |cluster| change(cluster, |record| record.successor = Some(name("a")))),
    ];
    for (why, change) in refused {
        match judge(change) {
            HandOver::Refused(text) => assert!(text.contains(why), "{text}"),
            other => panic!("{why}: {other:?}"),
        }
    }
}

#[test]
fn a_stop_is_a_hand_over_once_patroni_has_its_order_in_the_same_term() {
    let judge = |phase, change: fn(&mut Cluster)| {
        let mut cluster = cluster(phase);
        (cluster.failover_key, cluster.failover_candidate) = (true, Some(name("b")));
        change(&mut cluster);
        is_handing_over(&cluster, &name("a"))
    };
    for phase in PHASES {
        assert_eq!(judge(phase, |_| ()), phase >= OperationPhase::HandOver, "{phase}");
    }
    let others: [fn(&mut Cluster); 6] = [
        |cluster| cluster.failover_candidate = None,
        |cluster| cluster.failover_candidate = Some(name("c")),
        |cluster| change(cluster, |record| record.successor = None),
        |cluster| change(cluster, |record| record.writer = Some(name("b"))),
        |cluster| change(cluster, |record| record.term = Some(Term(3))),
        |cluster| cluster.mode.as_mut().unwrap().value.mode = Mode::Observe,
    ];
    for (place, other) in others.into_iter().enumerate() {
        assert!(!judge(OperationPhase::HandOver, other), "{place}");
    }
}

#[test]
fn an_order_outlives_its_operation_by_nobodys_wish() {
    let judge = |phase, change: fn(&mut Cluster)| {
        let mut cluster = cluster(phase);
        (cluster.failover_key, cluster.failover_candidate) = (true, Some(name("b")));
        cluster.failover_operation = Some(7);
        change(&mut cluster);
        is_left_over(&cluster, &name("a"))
    };
    for phase in PHASES {
        assert_eq!(judge(phase, |_| ()), phase != OperationPhase::HandOver, "{phase}");
    }
    assert!(judge(OperationPhase::HandOver, |cluster| change(cluster, |record| record.given_up =
        Some("x".into()))));
    assert!(judge(OperationPhase::HandOver, |cluster| change(cluster, |record| record.number = 8)));
    let stay: [fn(&mut Cluster); 4] = [
        |cluster| cluster.failover_operation = None,
        |cluster| cluster.operation = None,
        |cluster| cluster.mode.as_mut().unwrap().value.mode = Mode::Observe,
        |cluster| {
            cluster.term = Some(Revised { value: crate::testing::term_open("b", 4, true), mod_revision: 9 })
        },
    ];
    for (place, stays) in stay.into_iter().enumerate() {
        assert!(!judge(OperationPhase::Release, stays), "{place}");
    }
}

#[test]
fn a_term_that_ends_as_planned_is_nobodys_alarm() {
    for phase in PHASES {
        let late = phase >= OperationPhase::HandOver;
        assert_eq!(hands_over(&cluster(phase)), late.then_some(Term(4)), "{phase}");
    }
    let mut given_up = cluster(OperationPhase::Release);
    change(&mut given_up, |record| record.given_up = Some("x".into()));
    assert_eq!(hands_over(&given_up), None);
}

/// A pooler's agent that has looked before the operation was there.
fn watching() -> Seen {
    let mut seen = Seen::default();
    seen.look(&Cluster::default(), POOLER, 0);
    seen
}

#[test]
fn clients_are_held_from_the_pause_to_the_hand_over_for_as_long_as_may_be() {
    let mut seen = watching();
    for (phase, now_ms) in [(OperationPhase::Prepare, 50), (OperationPhase::Pause, 100)] {
        seen.look(&cluster(phase), POOLER, now_ms);
    }
    for phase in PHASES {
        let cluster = cluster(phase);
        seen.look(&cluster, POOLER, 300);
        let until_ms = 100 + PAUSE_MS_MAX;
        let pauses = matches!(phase, OperationPhase::Pause | OperationPhase::HandOver);
        let held = pauses.then_some(Held { operation: 7, until_ms });
        assert_eq!(seen.held(&cluster, POOLER, 200), held, "{phase}");
        assert_eq!(seen.held(&cluster, POOLER, until_ms), None, "its own deadline");
        assert_eq!(seen.why_not_held(&cluster, POOLER, until_ms).is_some(), pauses);
        assert_eq!(seen.why_not_held(&cluster, POOLER, until_ms - 1), None);
        assert_eq!(seen.held(&cluster, "pool2.main", 200), None, "it does not take part");
    }
}

#[test]
fn an_agent_that_began_in_the_middle_holds_nobody() {
    let mut seen = Seen::default();
    let pausing = cluster(OperationPhase::Pause);
    seen.look(&pausing, POOLER, 100);
    assert_eq!(seen.held(&pausing, POOLER, 100), None);
    let said = seen.why_not_held(&pausing, POOLER, 100).unwrap();
    assert!(said.is_of(7, OperationPhase::Pause) && said.problem.unwrap().contains("started in the middle"));
    let mut next = pausing;
    change(&mut next, |record| record.number = 8);
    seen.look(&next, POOLER, 200);
    assert!(seen.held(&next, POOLER, 200).is_some(), "the next one is new to it");
    seen.give_up(8, "a transaction".into());
    seen.look(&next, POOLER, 300);
    assert_eq!(seen.held(&next, POOLER, 300), None, "and is not tried again");
    assert!(seen.why_not_held(&next, POOLER, 300).is_some());
}

#[test]
fn a_writer_that_stops_is_the_routers_business_and_no_longer_the_operations() {
    let mut seen = watching();
    seen.look(&cluster(OperationPhase::HandOver), POOLER, 100);
    for (what, obstacle) in obstacles() {
        let still = ["it was given up", "of another writer", "paused", "maintenance"].contains(&what)
            || what.starts_with("Patroni's");
        let mut cluster = cluster(OperationPhase::HandOver);
        obstacle(&mut cluster);
        assert_eq!(seen.held(&cluster, POOLER, 200).is_some(), still, "{what}");
    }
}

#[test]
fn a_writer_that_comes_back_in_its_term_ends_the_wait() {
    let mut seen = watching();
    let handing_over = cluster(OperationPhase::HandOver);
    seen.look(&handing_over, POOLER, 100);
    let mut stopped_here = handing_over.clone();
    stopped_here.attestation = Some(Revised { value: stopped("a", 4), mod_revision: 4 });
    seen.look(&stopped_here, POOLER, 200);
    assert_eq!(seen.why_not_held(&stopped_here, POOLER, 200), None, "the router holds them");
    seen.look(&handing_over, POOLER, 300);
    assert_eq!(seen.held(&handing_over, POOLER, 300), None);
    assert!(seen.why_not_held(&handing_over, POOLER, 300).unwrap().problem.unwrap().contains("is back"));
}

#[test]
fn a_pooler_proves_the_new_writer_and_says_when_it_has_let_go() {
    let to = |term: u64| Route::To { term: Term(term), writer: name("b"), address: (String::new(), 5432) };
    let mut moved = cluster(OperationPhase::Verify);
    moved.term.as_mut().unwrap().value = term_open("b", 5, true);
    let verify = Duty::Verify { operation: 7, old: Some((facts("a").address, 5432)) };
    assert_eq!(duty(&moved, POOLER, Some(&to(5)), None), Some(verify.clone()));
    assert_eq!(verify.place(), (7, OperationPhase::Verify));
    assert_eq!(duty(&moved, POOLER, Some(&to(4)), None), None, "it is not there yet");
    assert_eq!(duty(&moved, POOLER, None, None), None);
    assert_eq!(duty(&moved, "pool2.main", Some(&to(5)), None), None);
    let said = done(7, OperationPhase::Verify);
    assert_eq!(duty(&moved, POOLER, Some(&to(5)), Some(&said)), None);
    assert_eq!(
        duty(&cluster(OperationPhase::Verify), POOLER, Some(&to(4)), None),
        None,
        "the writer is the same"
    );
    let released = cluster(OperationPhase::Release);
    let release = Duty::Release { operation: 7 };
    assert_eq!(duty(&released, POOLER, Some(&to(4)), None), Some(release));
    let hold = Route::Hold { term: Term(4), lost: None };
    assert_eq!(duty(&released, POOLER, Some(&hold), None), None, "they still wait");
}
