//! Rule 9: a writer whose PostgreSQL or disk hangs.

use super::*;
use crate::hung::{Cause, Hung};

fn hung(for_ms: u64) -> Hung {
    Hung { cause: Cause::Processes, for_ms }
}

/// The writer, which has hung for long enough.
fn writer(change: impl FnOnce(&mut Local<'static>)) -> Local<'static> {
    local("a", |l| {
        l.postgres = Postgres::Running { in_recovery: None };
        l.pulse = Some(Pulse::Hung(hung(l.timings.hung_after_ms())));
        change(l);
    })
}

fn ends(cluster: &Cluster, change: impl FnOnce(&mut Local<'static>)) -> bool {
    actions(cluster, &writer(change)).iter().any(|action| matches!(action, Action::EndHung(_)))
}

#[test]
fn a_writer_that_has_hung_for_long_enough_is_ended() {
    let after_ms = Timings::of(Profile::Fast).hung_after_ms();
    assert_eq!(actions(&cluster(), &writer(|_| ())), [Action::EndHung(hung(after_ms))]);
    assert!(!ends(&cluster(), |l| l.pulse = Some(Pulse::Hung(hung(after_ms - 1)))), "a stall");
    assert!(!ends(&cluster(), |l| l.pulse = Some(Pulse::Beats)));
    assert!(!ends(&cluster(), |l| l.pulse = None), "not asked");
    let read_only = Pulse::Hung(Hung { cause: Cause::ReadOnly, for_ms: 0 });
    assert!(ends(&cluster(), |l| l.pulse = Some(read_only)), "it does not come back");
}

#[test]
fn a_disk_that_hangs_need_not_let_postgresql_be_looked_at() {
    for postgres in [Postgres::Unknown, Postgres::Running { in_recovery: Some(false) }] {
        assert!(ends(&cluster(), |l| l.postgres = postgres), "{postgres:?}");
    }
    assert!(!ends(&cluster(), |l| l.postgres = Postgres::Running { in_recovery: Some(true) }));
    assert!(!ends(&cluster(), |l| l.postgres = Postgres::Gone), "that is a crash");
}

#[test]
fn a_writer_that_hangs_is_left_alone_while_nobody_can_follow() {
    let lone = |change: fn(&mut Cluster)| {
        let mut cluster = cluster();
        change(&mut cluster);
        let decision = decide(&cluster, &writer(|_| ()), &mut Memory::default());
        assert!(!decision.actions.iter().any(|action| matches!(action, Action::EndHung(_))), "{decision:?}");
        decision.waits
    };
    let waits = lone(|c| c.facts.values_mut().for_each(|facts| facts.streaming = Some(false)));
    assert!(waits.iter().any(|wait| wait.contains("left alone: too few")), "{waits:?}");
    lone(|c| c.facts.values_mut().for_each(|facts| facts.eligible = Some(false)));
    lone(|c| c.floor = None);
}

#[test]
fn nobody_ends_a_writer_while_a_person_works_or_it_is_not_known_to_all() {
    let mut paused = cluster();
    paused.config.as_mut().unwrap().paused = true;
    assert!(!ends(&paused, |_| ()));
    assert!(!ends(&cluster(), |l| l.own = None), "etcd does not know us: the lease decides");
    let mut opened = cluster();
    opened.term = Some(revised(term_open("a", 4, false), 80));
    assert!(!ends(&opened, |_| ()), "its promotion has its own rules");
    let others = local("b", |l| l.pulse = Some(Pulse::Hung(hung(60_000))));
    assert_eq!(actions(&cluster(), &others), [], "a standby that hangs is nobody's failover");
}

#[test]
fn what_was_ended_for_hanging_is_attested_and_not_ended_twice() {
    let ended = |processes_gone, control| {
        writer(|l| {
            (l.postgres, l.gate_shut) = (Postgres::Gone, true);
            l.after_stop = Some(AfterStop { processes_gone, control, answering: names(&["b", "c"]) });
        })
    };
    let attest = Action::Attest { term: Term(4), stop: StopKind::Stopped };
    for control in [ControlState::NotRead, ControlState::InProduction] {
        assert_eq!(actions(&cluster(), &ended(true, control.clone())), std::slice::from_ref(&attest));
        assert_eq!(actions(&cluster(), &ended(false, control)), [Action::ShutGateAndKill]);
    }
    // Nobody closed the term, Patroni starts it on the spot, and it hangs again before it has written.
    let mut memory = Memory { attestation_withdrawn: true, ..Memory::default() };
    assert_eq!(decide(&cluster(), &writer(|_| ()), &mut memory).actions, []);
    let beats = local("a", |l| l.pulse = Some(Pulse::Beats));
    decide(&cluster(), &beats, &mut memory);
    assert!(matches!(decide(&cluster(), &writer(|_| ()), &mut memory).actions[..], [Action::EndHung(_)]));
}

#[test]
fn what_an_earlier_start_of_the_agent_was_ending_is_ended() {
    let after = |change: fn(&mut Local<'static>)| {
        local("a", |l| {
            // Nothing is felt of it: this start has never heard it answer.
            (l.postgres, l.gate_shut, l.ends_hung) = (Postgres::Running { in_recovery: None }, true, true);
            change(l);
        })
    };
    let ends = |cluster: &Cluster, l: &Local<'static>| actions(cluster, l) == [Action::ShutGateAndKill];
    assert!(ends(&cluster(), &after(|_| ())));
    assert!(ends(&cluster(), &after(|l| l.postgres = Postgres::Unknown)), "its disk hangs");
    assert!(!ends(&cluster(), &after(|l| l.ends_hung = false)), "it starts, or is overloaded");
    assert!(!ends(&cluster(), &after(|l| l.gate_shut = false)), "something has come through the gate since");
    let answers = after(|l| l.postgres = Postgres::Running { in_recovery: Some(false) });
    assert_eq!(actions(&cluster(), &answers), [Action::OpenGate], "it goes on in its term");
    let mut paused = cluster();
    paused.config.as_mut().unwrap().paused = true;
    assert!(!ends(&paused, &after(|_| ())), "a person works on it");
}
