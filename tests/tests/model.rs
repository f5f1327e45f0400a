//! The protocol's model: the right rules hold, every mutant is caught, and Patroni's resolver does what the model says.

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::ValueEnum as _;
use holdfast_agent_core::in_force;
use holdfast_agent_core::sync::SyncKey;
use holdfast_lab::model::mutant::Mutant;
use holdfast_lab::model::search::{self, Limits, Replayed};
use holdfast_lab::model::world::{Bounds, World};
use holdfast_lab::model::{check, resolver, scripts};
use holdfast_types::record::FloorRecord;
use holdfast_types::{Configuration, Lsn, MemberName, Position, Term, Timeline};

/// About a minute of one core; `holdfast-lab model --states` goes further. The time is only for a machine that stands
/// still: what is searched must not depend on what else runs.
const LIMITS: Limits = Limits { states: 1_500_000, depth: 200, time: Duration::from_secs(300) };

#[test]
fn the_right_protocol_holds() {
    let rows = check::right(LIMITS, |row| println!("{}: {} states", row.what, row.states));
    let wrong: Vec<_> = rows.iter().filter_map(|row| Some((row.what, row.wrong.as_ref()?))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What must be reached is asked of complete searches only: a model that outgrows the limits must not pass in silence.
    let complete = rows.iter().filter(|row| row.complete).count();
    assert!(complete >= 4, "only {complete} of {} searches are complete", rows.len());
}

#[test]
fn every_mutant_is_caught() {
    let rows = Mutant::value_variants().iter().map(|mutant| check::hunt(*mutant, LIMITS));
    let missed: Vec<_> = rows.filter(|row| !row.caught).map(|row| (row.mutant, row.how)).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn the_old_writer_comes_back_on_a_sync_that_it_has_emptied_itself() {
    let replayed = search::replay(&World::new(Bounds::WIDE, None), scripts::COMES_BACK);
    assert_eq!(replayed, Replayed::Kept, "nobody else could ever open");
}

#[tokio::test]
async fn patronis_own_resolver_plans_what_the_model_plans() {
    let compared = resolver::compare(3).await.unwrap();
    assert!(compared > 10_000, "only {compared} views");
}

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

fn names(list: &BTreeSet<String>) -> BTreeSet<MemberName> {
    list.iter().map(|text| name(text)).collect()
}

/// The first row of the list of weaker rules, on the resolver itself: a row is lost when the present `/sync` alone is
/// asked, and refused when every configuration in force is.
#[tokio::test]
async fn patronis_hole_loses_a_row_to_the_present_sync_alone() {
    let steps = resolver::hole().await.unwrap();
    let configuration =
        |step: &resolver::HoleStep| Configuration { members: names(&step.voters), quorum: step.quorum };
    let (first, last) = (steps.first().unwrap(), steps.last().unwrap());
    let only_c = BTreeSet::from([name("c")]);
    assert!(names(&last.flushed).is_disjoint(&only_c), "c has nothing: {steps:#?}");
    assert!(configuration(last).is_closed_by(&only_c), "/sync alone lets c lead: {steps:#?}");

    let key = |step: &resolver::HoleStep, version| SyncKey {
        leader: Some(name("a")),
        sync_standby: names(&step.voters),
        quorum: step.quorum,
        version,
        mod_revision: 100 + version,
        create_revision: 10,
    };
    let floor = FloorRecord {
        term: Term(1),
        sync_version: 1,
        sync_mod_revision: 101,
        sync_create_revision: 10,
        configuration: configuration(first),
        data_uuids: BTreeMap::new(),
        floor: Position { timeline: Timeline(1), lsn: Lsn(0) },
    };
    let in_force = in_force::configurations(&floor, &key(last, 2), &[], &name("a")).unwrap();
    assert!(!in_force.iter().all(|one| one.is_closed_by(&only_c)), "{in_force:?}");
    let both = BTreeSet::from([name("b"), name("c")]);
    assert!(in_force.iter().all(|one| one.is_closed_by(&both)), "{in_force:?}");
}
