//! What `view/cluster.rs` makes of a cluster's keys.

use holdfast_types::{Mode, Term};

use crate::view::testing::{self, Built, db};

#[test]
fn a_view_shows_what_the_records_say() {
    let view = testing::healthy();
    assert_eq!(view.mode(), Mode::Armed);
    assert_eq!(view.writer(), Some((Term(4), &db(1))));
    assert_eq!(view.members(), [1, 2, 3, 4].map(db));
    assert_eq!(view.agent_alive(&db(2)), Some(true));
    assert!(view.problems.is_empty(), "{:?}", view.problems);
}

#[test]
fn a_term_from_before_the_mode_is_not_in_force() {
    let mut built = Built::healthy();
    built.stale(&built.keys.term());
    let view = built.view();
    assert_eq!((view.writer(), view.reign()), (None, None), "nobody knows what was done while disarmed");
    assert!(view.term.is_some(), "it is still shown");
    let mut disarmed = Built::healthy();
    disarmed.mode(Mode::Disarmed);
    assert_eq!(disarmed.view().writer(), None);
}

#[test]
fn a_hold_is_over_with_its_term() {
    let mut built = Built::healthy();
    built.hold();
    assert!(built.view().hold_in_force().is_some());
    built.open(5, 2);
    assert!(built.view().hold().is_none(), "a later term is open");
    built.closed(4, 1);
    assert!(built.view().hold().is_none(), "its term was closed all the same");
    built.pairs.remove(&built.keys.term());
    assert!(built.view().hold_in_force().is_some(), "without a term record nobody can say that it is over");
    built.released_hold();
    assert!(built.view().hold_in_force().is_none() && built.view().hold().is_some());
}

#[test]
fn a_damaged_record_is_a_problem_and_the_rest_is_shown() {
    let mut built = Built::healthy();
    built.raw(&built.keys.term(), b"{}");
    let view = built.view();
    assert_eq!(view.term.as_ref().map(|term| term.revision), None);
    assert_eq!(view.problems.len(), 1);
    assert!(view.problems[0].contains("/term"), "{:?}", view.problems);
    assert_eq!(view.mode(), Mode::Armed);
}

#[test]
fn a_fenced_member_that_nobody_hears_of_is_still_listed() {
    let mut built = Built::healthy();
    built.remove_member(4);
    built.fence(4);
    assert!(built.view().members().contains(&db(4)));
    assert_eq!(built.view().agent_alive(&db(4)), None);
}
