//! Rule 24: what the writer says before its fence may be lifted, and who waits for it.

use super::*;

#[test]
fn a_writer_says_that_it_is_held_before_its_fence_may_be_lifted_and_takes_it_back_after() {
    let mut cluster = cluster();
    let a = local("a", |_| ());
    cluster.config.as_mut().unwrap().paused = true;
    let record = held(None).unwrap().value;
    let say = Action::SayHeld { record, held_mod_revision: 0, term_mod_revision: 80 };
    assert_eq!(actions(&cluster, &a), [say]);
    assert_eq!(actions(&cluster, &local("b", |_| ())), [], "only the writer");
    cluster.held = held(None);
    assert_eq!(actions(&cluster, &a), []);
    cluster.maintenance = maintenance(2_000_000);
    assert_eq!(actions(&cluster, &a), [], "the pause has no end of its own");
    cluster.config.as_mut().unwrap().paused = false;
    let until = Action::SayHeld {
        record: held(Some(2_000_000)).unwrap().value,
        held_mod_revision: 97,
        term_mod_revision: 80,
    };
    assert_eq!(actions(&cluster, &a), [until], "what is left ends by itself");
    cluster.maintenance = None;
    let open = local("a", |l| l.fenced_in = false);
    assert!(!actions(&cluster, &open).iter().any(|action| matches!(action, Action::SayBound { .. })));
    let bound = Action::SayBound { held_mod_revision: 97, term_mod_revision: 80 };
    assert_eq!(actions(&cluster, &a)[0], bound);
    let gone = local("a", |l| (l.fenced_in, l.postgres) = (false, Postgres::Gone));
    assert_eq!(actions(&cluster, &gone)[0], bound, "there is nothing to fence");
}

#[test]
fn a_held_term_is_closed_when_the_maintenance_is_over_on_both_hosts_and_not_before() {
    let (bound, network) = (lasting(phase("b")), cut());
    let b = local("b", |l| (l.phase, l.network) = (Some(bound), network));
    let closes = |held| {
        let actions = actions(&Cluster { held, ..promised() }, &b);
        actions.iter().find_map(|action| match action {
            Action::Close(plan) => Some(plan.held_mod_revision),
            _ => None,
        })
    };
    assert_eq!(closes(None), Some(0), "one that is put meanwhile keeps the term open");
    assert_eq!(closes(held(None)), None);
    assert_eq!(closes(held(Some(995_000))), None, "the writer's clock may be behind");
    assert_eq!(closes(held(Some(985_000))), Some(97));
    let of_an_earlier_term = held(None).map(|held| revised(HeldRecord { term: Term(3), ..held.value }, 97));
    assert_eq!(closes(of_an_earlier_term), Some(97));
    let unreadable = Cluster { held_unreadable: true, ..promised() };
    assert!(!actions(&unreadable, &b).iter().any(|action| matches!(action, Action::Close(_))));
}
