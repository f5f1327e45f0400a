//! Rule 10: a term whose promotion hook was lost.

use super::*;

/// a has opened term 4, its PostgreSQL is in recovery, and no hook of it has been answered.
fn unused() -> Cluster {
    let mut cluster = cluster();
    cluster.term = Some(revised(term_open("a", 4, false), 80));
    cluster
}

/// The holder whose hook was lost; `hooks` as they are after that.
fn holder(change: impl FnOnce(&mut Local<'static>)) -> Local<'static> {
    let mut hooks = Hooks::default();
    hooks.opening(Term(4));
    local("a", |l| {
        l.postgres = Postgres::Running { in_recovery: Some(true) };
        (l.started_as_primary, l.hooks) = (false, hooks);
        change(l);
    })
}

/// The same, with its word in etcd.
fn given_back() -> Cluster {
    let word = Attestation {
        term: Term(4),
        holder: name("a"),
        incarnation: Incarnation(1),
        session: A_SESSION,
        stop: StopKind::Relinquished,
        stuck: Vec::new(),
        at_wall_ms: 0,
    };
    Cluster { attestation: Some(revised(word, 120)), ..unused() }
}

/// Nobody but the holder has an agent left.
fn alone(mut cluster: Cluster) -> Cluster {
    cluster.sessions.retain(|session, _| *session == A_SESSION);
    cluster
}

#[test]
fn a_holder_in_recovery_whose_hook_is_lost_gives_the_term_back() {
    let give = Action::Attest { term: Term(4), stop: StopKind::Relinquished };
    assert_eq!(actions(&unused(), &holder(|_| ())), [give]);
    assert_eq!(actions(&unused(), &holder(|l| l.hooks.came())), [], "its hook waits");
    assert_eq!(actions(&unused(), &holder(|l| l.hooks.passed(Term(4)))), [], "its hook was let pass");
    assert_eq!(
        actions(&unused(), &holder(|l| l.hooks = Hooks::default())),
        [],
        "another start of the agent may have let one pass"
    );
    let unseen = |in_recovery| holder(|l| l.postgres = Postgres::Running { in_recovery });
    assert_eq!(actions(&unused(), &unseen(None)), [], "not known to be in recovery");
    assert!(matches!(actions(&unused(), &unseen(Some(false)))[..], [Action::SayWritable { .. }]));
    assert_eq!(actions(&cluster(), &holder(|_| ())), [], "it has written in this term");
}

#[test]
fn a_term_that_was_given_back_is_closed_by_the_others_at_once_and_by_its_holder_last() {
    let closes = |decision: Decision| matches!(&decision.actions[..], [Action::Close(plan)] if plan.closed.was_given_back());
    let b = local("b", |_| ());
    assert!(closes(decide(&given_back(), &b, &mut Memory::default())), "no promise first");
    let waits = decide(&given_back(), &holder(|_| ()), &mut Memory::default());
    assert_eq!((waits.actions, waits.again_in_ms), (vec![], Some(2 * CLOSE_RANK_DELAY_MS)));
    assert!(closes(decide(&alone(given_back()), &holder(|_| ()), &mut Memory::default())));
    let later_start = holder(|l| {
        l.own = Some(OwnSession { session: A_SESSION, incarnation: Incarnation(2) });
        l.hooks = Hooks::default();
    });
    assert!(
        closes(decide(&alone(given_back()), &later_start, &mut Memory::default())),
        "it does not keep it"
    );
}

#[test]
fn a_second_failover_is_not_held_for_a_term_that_was_given_back() {
    let mut again = given_back();
    again.events = vec![revised(event(3, "b", 900_000), 40)];
    assert!(matches!(actions(&again, &local("b", |_| ()))[..], [Action::Close(_)]));
}

#[test]
fn a_word_that_closes_nothing_is_taken_back_for_a_hook_that_waits() {
    let mut stuck = given_back();
    stuck.sync.as_mut().unwrap().mod_revision = 95;
    let mut memory = Memory::default();
    let given = |waits: bool, later_ms: u64| {
        holder(|l| {
            l.hooks.give_back(Term(4));
            if waits {
                l.hooks.came();
            }
            l.now.boottime_ms += later_ms;
        })
    };
    assert_eq!(decide(&stuck, &given(true, 0), &mut memory).actions, []);
    assert_eq!(decide(&stuck, &given(false, ATTESTATION_PATIENCE_MS), &mut memory).actions, []);
    let withdraw = Action::WithdrawAttestation { attestation_mod_revision: 120, term_mod_revision: 80 };
    assert_eq!(decide(&stuck, &given(true, ATTESTATION_PATIENCE_MS), &mut memory).actions, [withdraw]);
    let leaves = Action::Promise { term: Term(4), writer: name("a") };
    assert_eq!(actions(&stuck, &local("b", |_| ())), [leaves], "promises are needed after all");
}

#[test]
fn a_word_of_an_earlier_start_is_taken_back() {
    let mut stale = given_back();
    stale.attestation.as_mut().unwrap().value.incarnation = Incarnation(0);
    let withdraw = Action::WithdrawAttestation { attestation_mod_revision: 120, term_mod_revision: 80 };
    assert_eq!(actions(&stale, &holder(|l| l.hooks = Hooks::default())), [withdraw]);
}

#[test]
fn a_holder_that_was_promoted_by_hand_takes_its_word_back_or_is_ended() {
    let by_hand = holder(|l| {
        l.postgres = Postgres::Running { in_recovery: Some(false) };
        l.hooks.give_back(Term(4));
    });
    let withdraw = Action::WithdrawAttestation { attestation_mod_revision: 120, term_mod_revision: 80 };
    assert_eq!(actions(&given_back(), &by_hand), [withdraw]);
    let ended = actions(&closed_unused(), &by_hand);
    assert_eq!(ended.first(), Some(&Action::KillDeposed));
    let mut followed = closed_unused();
    followed.term = Some(revised(term_open("b", 5, false), 210));
    assert_eq!(actions(&followed, &by_hand), [Action::KillDeposed]);
}

/// Term 4 is closed because a gave it back; a has Patroni's lock.
fn closed_unused() -> Cluster {
    let mut cluster = given_back();
    let Some(Action::Close(plan)) = actions(&cluster, &local("b", |_| ())).pop() else {
        panic!("not closed")
    };
    cluster.term = Some(revised(plan.closed, 200));
    let sync = cluster.sync.as_mut().unwrap();
    (sync.version, sync.mod_revision) = (4, 200);
    cluster
}

#[test]
fn who_gave_its_term_back_is_a_candidate_like_any_other() {
    let closed = closed_unused();
    let idle = |member: &str, later_ms: u64| {
        local(member, |l| {
            l.postgres = Postgres::Running { in_recovery: Some(true) };
            (l.started_as_primary, l.network) = (false, cut());
            l.now.boottime_ms += later_ms;
        })
    };
    let mut memory = Memory::default();
    assert_eq!(decide(&closed, &idle("b", 0), &mut memory).actions, [], "the lock is not taken from it");
    assert_eq!(decide(&closed, &idle("a", 0), &mut Memory::default()).actions, [], "and it is not ended");
    assert_eq!(decide(&closed, &idle("b", SUCCESSOR_PATIENCE_MS), &mut memory).actions, []);
    let mut raced = closed.clone();
    raced.leader_key = None;
    let mut memory = Memory::default();
    assert_eq!(decide(&raced, &idle("b", 0), &mut memory).actions, []);
    let name_it = Action::NameNext {
        to: name("a"),
        member_lease: 60,
        leader_mod_revision: 0,
        term_mod_revision: 200,
        override_mod_revision: None,
    };
    assert_eq!(decide(&raced, &idle("b", SUCCESSOR_PATIENCE_MS), &mut memory).actions, [name_it]);
}

#[test]
fn a_patroni_that_does_nothing_with_the_lock_of_a_given_back_term_loses_it() {
    let mut closed = closed_unused();
    closed.facts.get_mut(&name("a")).unwrap().eligible = Some(false);
    let mut memory = Memory::default();
    let mut b = local("b", |l| l.network = cut());
    assert_eq!(decide(&closed, &b, &mut memory).actions, []);
    b.now.boottime_ms += SUCCESSOR_PATIENCE_MS;
    let take = Action::TakeLeaderKey { leader_mod_revision: 70, term_mod_revision: 200 };
    assert_eq!(decide(&closed, &b, &mut memory).actions, [take]);
}
