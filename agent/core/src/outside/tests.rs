//! Rule 11 on its own: who asks when, what a device proves, and for how long a host may be shot.

use holdfast_types::record::{ModeRecord, SessionRecord, TermRecord};
use holdfast_types::{Class, Incarnation, Mode, Now, Profile, Timings};

use super::*;
use crate::detach::Life;
use crate::member::{Network, OwnSession, Postgres, Suspicion};
use crate::relinquish::Hooks;
use crate::testing::{facts, lasting, name, off, session, term_open};

fn revised<T>(value: T, mod_revision: i64) -> Revised<T> {
    Revised { value, mod_revision }
}

fn host(text: &str) -> HostName {
    HostName::new(text).unwrap()
}

/// a was the writer of term 4 and its session is gone; b and c live.
fn cluster() -> Cluster {
    let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
    Cluster {
        mode: Some(revised(mode, 50)),
        term: Some(revised(term_open("a", 4, true), 80)),
        sessions: [(SessionId(6), session("b")), (SessionId(7), session("c"))].into(),
        facts: ["a", "b", "c"].map(|member| (name(member), facts(member))).into(),
        ..Cluster::default()
    }
}

fn local(member: &str, now_ms: u64, silent: bool) -> Local<'static> {
    let heard = if silent { Life::None } else { Life::Alive };
    Local {
        me: lasting(name(member)),
        host: lasting(host(member)),
        class: Class::Quorum,
        now: Now { boottime_ms: now_ms, wall_ms: 0 },
        uptime_ms: 1_000_000,
        own: Some(OwnSession { session: SessionId(6), incarnation: Incarnation(1) }),
        reached: None,
        postgres: Postgres::Running { in_recovery: Some(true) },
        fenced_in: false,
        started_as_primary: false,
        patroni_hung: false,
        pulse: None,
        after_stop: None,
        known_term: Term(0),
        writer_gone_ms: 0,
        granted: false,
        gate_shut: false,
        ends_hung: false,
        away_in: None,
        hooks: Hooks::default(),
        phase: None,
        suspicion: lasting(Suspicion {
            late: true,
            silent_ms: 60_000,
            probes: vec![heard, heard],
            unrenewed_ms: 60_000,
        }),
        network: lasting(Network::default()),
        setting: None,
        devices: lasting([(host("a"), 500)].into()),
        timings: lasting(Timings::of(Profile::Fast)),
        second_failover_hold_ms: 0,
    }
}

fn asks(cluster: &Cluster, local: &Local<'_>, memory: &mut Option<Silent>) -> bool {
    match decide(cluster, local, memory) {
        Some(Action::AskOutside(target)) => {
            assert_eq!((target.term, &target.host, target.session), (Term(4), &host("a"), SessionId(5)));
            true
        }
        Some(other) => panic!("{other:?}"),
        None => false,
    }
}

#[test]
fn peers_ask_one_after_the_other_once_the_writer_is_silent() {
    let (mut first, mut second) = (None, None);
    for (now_ms, by_b, by_c) in [(1_000, false, false), (1_500, true, false), (1_600, false, false)] {
        assert_eq!(asks(&cluster(), &local("b", now_ms, true), &mut first), by_b, "b at {now_ms}");
        assert_eq!(asks(&cluster(), &local("c", now_ms, true), &mut second), by_c, "c at {now_ms}");
    }
    assert_eq!(due_in_ms(&cluster(), &local("c", 1_600, true), second.as_ref()), Some(900));
    assert!(asks(&cluster(), &local("c", 2_500, true), &mut second));
    assert!(asks(&cluster(), &local("b", 3_500, true), &mut first), "nothing became of the first order");
}

#[test]
fn who_is_heard_is_not_shot() {
    let mut memory = None;
    assert!(!asks(&cluster(), &local("b", 9_000, false), &mut memory) && memory.is_none());
    let mut alive = cluster();
    alive
        .sessions
        .insert(SessionId(5), SessionRecord { host: host("a"), ..alive.sessions[&SessionId(6)].clone() });
    assert!(!asks(&alive, &local("b", 9_000, true), &mut memory) && memory.is_none());
    assert!(!asks(&cluster(), &local("b", 9_000, true), &mut memory) && memory.is_some());
    // A boot: another session of the same host, before the term record knows of it.
    let mut back = cluster();
    back.sessions
        .insert(SessionId(9), SessionRecord { host: host("a"), ..back.sessions[&SessionId(6)].clone() });
    assert!(!asks(&back, &local("b", 20_000, true), &mut memory) && memory.is_none());
    let mut without = local("b", 9_000, true);
    without.devices = lasting(Devices::default());
    assert!(!asks(&cluster(), &without, &mut memory));
}

#[test]
fn it_is_asked_for_the_successor_of_the_term_too_and_not_later() {
    let mut memory = None;
    asks(&cluster(), &local("b", 1_000, true), &mut memory);
    let mut open = cluster();
    open.term = Some(revised(term_open("b", 5, true), 95));
    let mut of_b = memory.clone();
    assert!(asks(&open, &local("b", 2_000, false), &mut of_b), "the failover was faster");
    open.term = Some(revised(term_open("b", 6, true), 96));
    assert!(!asks(&open, &local("b", 2_000, false), &mut memory) && memory.is_none());
}

#[test]
fn one_that_is_asked_or_off_is_left_to_its_asker() {
    let asked = |state, incarnation, asker: &str| {
        let mut cluster = cluster();
        let record = OutsideRecord { state, incarnation: Incarnation(incarnation), ..off("a", 4) };
        cluster.outside.insert(name(asker), revised(record, 90));
        let mut memory = None;
        asks(&cluster, &local("c", 1_000, true), &mut memory);
        asks(&cluster, &local("c", 3_000, true), &mut memory)
    };
    assert!(!asked(OutsideState::Off, 1, "b"));
    assert!(!asked(OutsideState::Asking, 1, "b"));
    assert!(asked(OutsideState::Asking, 0, "b"), "that start of its agent is over");
    assert!(asked(OutsideState::NotProved, 1, "b"), "we may have another way");
    assert!(!asked(OutsideState::NotProved, 1, "c"), "we have tried");
}

#[test]
fn a_word_counts_for_the_session_that_it_was_given_for() {
    let mut cluster = cluster();
    cluster.outside.insert(name("c"), revised(off("a", 4), 90));
    assert_eq!(
        proof(&cluster).map(|(asker, found)| (asker.clone(), found.mod_revision)),
        Some((name("c"), 90))
    );
    let mut older = cluster.clone();
    older.outside.insert(name("c"), revised(off("a", 3), 90));
    assert!(proof(&older).is_none());
    let mut again = cluster.clone();
    let TermRecord { reign: Reign::Open { session, .. }, .. } = &mut again.term.as_mut().unwrap().value
    else {
        panic!("it is open")
    };
    *session = SessionId(9);
    assert!(proof(&again).is_none(), "it was switched on again");
    let not = OutsideRecord { state: OutsideState::NotProved, ..off("a", 4) };
    cluster.outside.insert(name("c"), revised(not, 91));
    assert!(proof(&cluster).is_none());
}

#[test]
fn only_done_and_then_off_is_a_proof() {
    let exit = |code| DeviceAnswer::Exit { code, text: String::new() };
    let one = |off, status| DeviceTry { off, status, took_ms: 1 };
    let proved = |last| judge(&[one(DeviceAnswer::Hung, None), last]) == OutsideState::Off;
    assert!(proved(one(exit(0), Some(exit(2)))));
    assert!(!proved(one(exit(0), Some(exit(0)))), "it lies: the host is on");
    assert!(!proved(one(exit(0), Some(exit(1)))), "it cannot say");
    assert!(!proved(one(exit(0), Some(DeviceAnswer::Hung))));
    assert!(!proved(one(exit(0), None)));
    assert!(!proved(one(exit(1), Some(exit(2)))), "off for a reason that nobody knows");
    assert!(!proved(one(DeviceAnswer::Hung, Some(exit(2)))));
    assert_eq!(judge(&[]), OutsideState::NotProved);
}
