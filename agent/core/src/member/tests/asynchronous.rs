//! Class `off`: the term follows Patroni's leader once the last writer's lease is over.

use super::*;
use crate::expired::{self, LockPlan};
use crate::member::asynchronous::ORDERLY_STOP_MS;

/// a writes in term 4 and has named b and c.
fn cluster_off() -> Cluster {
    let mut cluster = cluster();
    cluster.sync = None;
    cluster.floor = Some(revised(expired::naming(&cluster, &name("a"), Term(4)).unwrap(), 91));
    cluster
}

fn off(member: &str, change: impl FnOnce(&mut Local<'static>)) -> Local<'static> {
    local(member, |l| {
        l.class = Class::Off;
        change(l);
    })
}

fn is_led_by(member: &str) -> Cluster {
    Cluster { leader_key: Some(revised(name(member), 95)), ..cluster_off() }
}

#[test]
fn a_crash_with_the_lock_in_hand_is_left_to_patroni_and_a_hung_patroni_is_not() {
    assert_eq!(actions(&cluster_off(), &off("a", |_| ())), []);
    assert_eq!(actions(&cluster_off(), &off("b", |_| ())), []);
    assert_eq!(actions(&cluster_off(), &off("a", |l| l.patroni_hung = true)), [Action::RestartPatroni]);
    assert_eq!(actions(&cluster_off(), &off("a", |l| l.postgres = Postgres::Gone)), []);
}

#[test]
fn the_writer_names_who_may_follow() {
    let mut cluster = cluster_off();
    cluster.sessions.remove(&SessionId(7));
    cluster.members.remove(&name("c"));
    let [Action::NameMembers { floor, floor_mod_revision: 91, term_mod_revision: 80 }] =
        &actions(&cluster, &off("a", |_| ()))[..]
    else {
        panic!("not named")
    };
    assert_eq!(floor.configuration, Configuration { members: names(&["b"]), quorum: 0 });
    cluster.term = Some(revised(term_open("a", 4, false), 80));
    assert!(matches!(actions(&cluster, &off("a", |_| ()))[..], [Action::SayWritable { .. }]), "first of all");
}

#[test]
fn a_writer_whose_lock_is_anothers_is_ended_and_says_so() {
    let moved = is_led_by("b");
    let mut memory = Memory::default();
    let at_ms = |ms: u64, in_recovery| {
        off("a", |l| (l.postgres, l.now.boottime_ms) = (Postgres::Running { in_recovery }, ms))
    };
    let early = decide(&moved, &at_ms(1_000, Some(false)), &mut memory);
    assert_eq!(
        (early.actions, early.again_in_ms),
        (vec![], Some(ORDERLY_STOP_MS)),
        "Patroni may be stopping it"
    );
    assert_eq!(decide(&moved, &at_ms(2_000, None), &mut memory).again_in_ms, Some(ORDERLY_STOP_MS - 1_000));
    let late_ms = 1_000 + ORDERLY_STOP_MS;
    assert_eq!(decide(&moved, &at_ms(late_ms, None), &mut memory).actions, [Action::EndDeposed]);
    let standby = at_ms(late_ms, Some(true));
    let ended = decide(&moved, &standby, &mut memory).actions;
    assert_eq!(ended, [Action::EndDeposed], "a hook of its own may have been let pass");
    decide(&cluster_off(), &at_ms(late_ms, Some(false)), &mut memory);
    assert_eq!(decide(&moved, &at_ms(late_ms, Some(false)), &mut memory).actions, [], "it is another's anew");
    let stopped = |clean: bool, gate_shut, processes_gone| {
        let control = match clean {
            true => ControlState::ShutDown { end: at(1, 140) },
            false => ControlState::InProduction,
        };
        let seen = AfterStop { processes_gone, control, answering: names(&[]) };
        let stopped = off("a", |l| {
            (l.postgres, l.gate_shut, l.after_stop) = (Postgres::Gone, gate_shut, Some(seen));
        });
        actions(&moved, &stopped)
    };
    assert_eq!(stopped(true, false, true), [Action::ShutGate]);
    let clean = Action::Attest { term: Term(4), stop: StopKind::Clean { end: at(1, 140) } };
    assert_eq!(stopped(true, true, true), [clean]);
    assert_eq!(stopped(true, true, false), [Action::ShutGateAndKill], "it had passed the gate before");
    assert_eq!(stopped(false, false, false), [Action::ShutGateAndKill]);
    let killed = Action::Attest { term: Term(4), stop: StopKind::Stopped };
    assert_eq!(stopped(false, true, true), [killed]);
    let unseen = off("a", |l| l.postgres = Postgres::Gone);
    assert_eq!(actions(&moved, &unseen), [], "it is looked at first");
}

#[test]
fn the_incident_that_brought_it_into_office_ends_with_a_write() {
    let mut cluster = cluster_off();
    let writer = off("a", |l| l.postgres = Postgres::Running { in_recovery: Some(false) });
    cluster.events = vec![revised(crate::testing::event(3, "b", 0), 80)];
    let mut memory = Memory::default();
    assert_eq!(decide(&cluster, &writer, &mut memory).actions, [Action::Prove { closed: Term(3) }]);
    assert_eq!(decide(&cluster, &writer, &mut memory).actions, [], "once");
}

#[test]
fn a_word_that_nobody_used_is_taken_back() {
    let mut said = is_led_by("b");
    said.attestation = Some(revised(attestation(), 96));
    let mut memory = Memory::default();
    let at_ms = |ms: u64, session| {
        off("a", |l| {
            (l.postgres, l.gate_shut, l.now.boottime_ms) = (Postgres::Gone, true, ms);
            l.own.as_mut().unwrap().session = session;
        })
    };
    assert_eq!(decide(&said, &at_ms(0, A_SESSION), &mut memory).actions, [], "b opens its term");
    said.leader_key = None;
    assert_eq!(decide(&said, &at_ms(1_000, A_SESSION), &mut memory).actions, [], "another may come");
    let withdraw = Action::WithdrawAttestation { attestation_mod_revision: 96, term_mod_revision: 80 };
    let late = at_ms(1_000 + ATTESTATION_PATIENCE_MS, A_SESSION);
    assert_eq!(decide(&said, &late, &mut memory).actions, std::slice::from_ref(&withdraw));
    said.leader_key = Some(revised(name("a"), 97));
    assert_eq!(actions(&said, &at_ms(0, A_SESSION)), [withdraw], "Patroni starts it again");
    said.attestation = None;
    assert_eq!(actions(&said, &at_ms(0, A_SESSION)), [Action::OpenGate]);
}

#[test]
fn a_primary_that_no_hook_has_let_pass_waits_for_the_end_of_the_last() {
    let b = off("b", |l| l.postgres = Postgres::Running { in_recovery: Some(false) });
    let mut moved = is_led_by("b");
    let waiting = decide(&moved, &b, &mut Memory::default());
    assert!(waiting.actions.is_empty() && waiting.again_in_ms.is_some(), "{waiting:?}");
    moved.sessions.remove(&A_SESSION);
    let [Action::FollowPatroni(plan)] = &actions(&moved, &b)[..] else { panic!("does not follow") };
    assert_eq!((plan.opened.term, plan.term_mod_revision, plan.leader_mod_revision), (Term(5), 80, 95));
    let granted =
        off("b", |l| (l.postgres, l.granted) = (Postgres::Running { in_recovery: Some(false) }, true));
    assert_eq!(actions(&moved, &granted), []);
    assert_eq!(actions(&is_led_by("b"), &off("b", |_| ())), [], "not before it is promoted");
    moved.terms_unreadable = true;
    assert_eq!(actions(&moved, &b), [], "a term that cannot be read is not absent");
}

#[test]
fn a_second_writer_is_killed_and_the_gate_opens_once_the_term_is_anothers() {
    let mut moved = is_led_by("b");
    moved.term = Some(revised(term_open("b", 5, true), 96));
    assert_eq!(actions(&moved, &off("a", |_| ())), [Action::KillDeposed]);
    let stopped = off("a", |l| (l.postgres, l.gate_shut) = (Postgres::Gone, true));
    assert_eq!(actions(&moved, &stopped), [Action::OpenGate]);
    moved.leader_key = None;
    assert_eq!(actions(&moved, &off("a", |_| ())), [], "nobody holds the lock");
}

#[test]
fn the_lock_of_a_writer_that_is_over_is_given_to_who_has_most() {
    let mut over = cluster_off();
    over.sessions.remove(&A_SESSION);
    let alone = decide(&over, &off("b", |_| ()), &mut Memory::default());
    assert!(alone.actions.is_empty() && alone.waits[0].contains("maximum_lag_on_failover"), "{alone:?}");
    for (member, lsn) in [("a", 900), ("b", 800), ("c", 850)] {
        over.members.get_mut(&name(member)).unwrap().position = Some(at(1, lsn));
    }
    let give = LockPlan {
        writer: name("a"),
        to: name("c"),
        member_lease: 62,
        leader_mod_revision: 70,
        term_mod_revision: 80,
    };
    assert_eq!(actions(&over, &off("b", |_| ())), [Action::GiveLock(Box::new(give))]);
    assert_eq!(actions(&over, &off("b", |l| l.granted = true)), [], "the writer may have a lease by it");
    assert_eq!(actions(&over, &off("b", |l| l.postgres = Postgres::Gone)), []);
    let early = decide(&over, &off("b", |l| l.writer_gone_ms = 100), &mut Memory::default());
    assert!(early.actions.is_empty() && early.again_in_ms.is_some_and(|ms| ms > 2_000), "{early:?}");
    over.floor = None;
    assert_eq!(actions(&over, &off("b", |_| ())), [], "its agent guards no lease");
    over = cluster_off();
    over.sessions.remove(&A_SESSION);
    over.config.as_mut().unwrap().paused = true;
    assert_eq!(actions(&over, &off("b", |_| ())), [], "Patroni elects nobody in a pause");
}

#[test]
fn in_a_pause_the_writer_says_that_it_is_held() {
    let mut paused = cluster_off();
    paused.config.as_mut().unwrap().paused = true;
    assert!(matches!(actions(&paused, &off("a", |_| ()))[..], [Action::SayHeld { .. }]));
}
