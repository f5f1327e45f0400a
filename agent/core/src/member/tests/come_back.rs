//! Rule 15: the writer of a closed term leads again.

use super::*;

/// Term 4 is closed and its lock is nobody's; neither b nor c may lead.
fn nobody_else() -> Cluster {
    let mut cluster = closed();
    cluster.leader_key = None;
    cluster.sessions.insert(A_SESSION, super::cluster().sessions[&A_SESSION].clone());
    for member in ["b", "c"] {
        cluster.facts.get_mut(&name(member)).unwrap().eligible = Some(false);
    }
    cluster
}

#[test]
fn the_old_writer_comes_back_when_nobody_else_can_lead() {
    let (network, mut memory) = (cut(), Memory::default());
    let back = Postgres::Running { in_recovery: Some(true) };
    let mut a = local("a", |l| (l.postgres, l.network, l.reached) = (back, network, Some(at(1, 500))));
    let cluster = nobody_else();
    assert_eq!(decide(&cluster, &a, &mut memory).actions, [], "Patroni's own race has its time");
    a.now.boottime_ms += SUCCESSOR_PATIENCE_MS;
    let names_itself = Action::NameNext {
        to: name("a"),
        member_lease: 60,
        leader_mod_revision: 0,
        term_mod_revision: 200,
        override_mod_revision: None,
    };
    let late = |change: &dyn Fn(&mut Cluster, &mut Local<'static>)| {
        let (mut cluster, mut a, mut memory) = (cluster.clone(), a.clone(), memory.clone());
        change(&mut cluster, &mut a);
        decide(&cluster, &a, &mut memory).actions
    };
    assert_eq!(late(&|_, _| ()), [names_itself]);
    assert_eq!(late(&|_, a| a.reached = Some(at(1, 139))), [], "a restored backup lacks something");
    assert_eq!(late(&|_, a| a.reached = None), []);
    assert_eq!(late(&|cluster, _| cluster.facts.get_mut(&name("b")).unwrap().eligible = Some(true)), []);
    assert_eq!(late(&|cluster, _| cluster.facts.get_mut(&name("a")).unwrap().eligible = Some(false)), []);
    let writes = Postgres::Running { in_recovery: Some(false) };
    assert_eq!(late(&|_, a| a.postgres = writes), [Action::KillDeposed], "first it is a standby");
}

#[test]
fn a_lock_that_the_old_writer_took_again_is_left_to_it_when_nobody_else_can_lead() {
    let (c, taken) = (local("c", |l| l.network = cut()), Some(revised(name("a"), 210)));
    let cluster = Cluster { leader_key: taken.clone(), ..nobody_else() };
    assert_eq!(actions(&cluster, &c), []);
    let gone = Cluster { sessions: closed().sessions, ..cluster.clone() };
    assert!(matches!(actions(&gone, &c)[..], [Action::TakeLeaderKey { .. }]), "its agent is not there");

    // Those who could lead have had their time: it is one among them from now on.
    let mut memory = Memory::default();
    let mut able = Cluster { leader_key: taken, ..closed() };
    able.sessions = cluster.sessions;
    for (revision, is_taken) in [(210, true), (220, true), (230, false)] {
        able.leader_key = Some(revised(name("a"), revision));
        let actions = decide(&able, &c, &mut memory).actions;
        assert_eq!(matches!(actions[..], [Action::TakeLeaderKey { .. }]), is_taken, "{revision}");
    }
}

#[test]
fn a_writer_has_kept_its_data_only_while_their_id_is_the_recorded_one() {
    let mut cluster = closed();
    assert!(!cluster.kept_its_data(&name("a")), "a record of an older build does not say");
    let ids = &mut cluster.floor.as_mut().unwrap().value.data_uuids;
    ids.insert(name("a"), facts("a").data_uuid.unwrap());
    assert!(cluster.kept_its_data(&name("a")));
    assert!(!cluster.kept_its_data(&name("b")), "it did not write");
    cluster.facts.get_mut(&name("a")).unwrap().data_uuid = Some("restored".into());
    assert!(!cluster.kept_its_data(&name("a")));
}

#[test]
fn the_holder_of_an_open_term_takes_a_lock_that_nobody_takes() {
    let standby = |later_ms| {
        local("a", |l| {
            (l.postgres, l.started_as_primary) = (Postgres::Running { in_recovery: Some(true) }, false);
            l.now.boottime_ms += later_ms;
        })
    };
    let mut unlocked = cluster();
    unlocked.term = Some(revised(term_open("a", 4, false), 80));
    unlocked.leader_key = None;
    let race_ms = 10_000 + SUCCESSOR_PATIENCE_MS;
    let after = |cluster: &Cluster, later_ms| {
        let mut memory = Memory::default();
        decide(&unlocked, &standby(0), &mut memory);
        decide(cluster, &standby(later_ms), &mut memory).actions
    };
    assert_eq!(after(&unlocked, race_ms - 1), [], "Patroni's race has its time");
    let names_itself = Action::NameNext {
        to: name("a"),
        member_lease: 60,
        leader_mod_revision: 0,
        term_mod_revision: 80,
        override_mod_revision: None,
    };
    assert_eq!(after(&unlocked, race_ms), [names_itself]);
    let changed = |change: fn(&mut Cluster)| {
        let mut cluster = unlocked.clone();
        change(&mut cluster);
        after(&cluster, race_ms)
    };
    assert_eq!(changed(|cluster| cluster.leader_key = Some(revised(name("b"), 99))), []);
    assert_eq!(changed(|cluster| cluster.facts.get_mut(&name("a")).unwrap().eligible = None), []);
    let word = |cluster: &mut Cluster| {
        let stop = StopKind::Relinquished;
        cluster.attestation = Some(revised(Attestation { stop, ..attestation() }, 96));
    };
    let withdraw = Action::WithdrawAttestation { attestation_mod_revision: 96, term_mod_revision: 80 };
    let mut said = unlocked.clone();
    word(&mut said);
    let mut memory = Memory::default();
    decide(&said, &standby(0), &mut memory);
    assert_eq!(decide(&said, &standby(race_ms), &mut memory).actions, [withdraw], "then it can");
}
