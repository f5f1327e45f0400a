//! Each demand is met, missed and left open.

use super::super::record::{FORMAT, Unmeasured};
use super::super::stalls::{Stall, Thing};
use super::super::testing::{footprint, pair, run, writes};
use super::*;

fn of_runs(runs: Vec<RunRecord>) -> Vec<Judgement> {
    judge(&Records { runs, ..Records::default() })
}

fn row<'j>(rows: &'j [Judgement], what: &str) -> &'j Judgement {
    rows.iter().find(|row| row.what.contains(what)).unwrap_or_else(|| panic!("no row {what:?} in {rows:#?}"))
}

fn is_met(rows: &[Judgement], what: &str) -> bool {
    matches!(row(rows, what).met, Met::Yes(_))
}

fn why_not(rows: &[Judgement], what: &str) -> String {
    match &row(rows, what).met {
        Met::No(why) => why.clone(),
        met => panic!("{what} is {met:?}"),
    }
}

/// A run of a hung Patroni that nobody noticed.
fn unnoticed() -> RunRecord {
    let mut run = run(Case::PatroniHung, System::HoldfastNormal, 80);
    run.final_writer.clone_from(&run.primary);
    run.verdict.writable_hosts = [run.primary.clone()].into();
    run
}

#[test]
fn a_gap_is_judged_by_its_maximum_on_each_route() {
    let mut slow = run(Case::HostDeath, System::HoldfastFast, 3_900);
    slow.verdict.routes[1].gap.as_mut().unwrap().gap_us = 4_250_000;
    (slow.number, slow.phase_ms) = (7, 3120);
    let quick = run(Case::HostDeath, System::HoldfastFast, 3_100);
    let rows = of_runs(vec![slow, quick.clone(), quick]);
    let libpq = row(&rows, "gap, libpq");
    assert_eq!((libpq.found.as_str(), libpq.median.as_str(), libpq.n), ("3.90", "3.10", 3));
    assert_eq!((libpq.must.as_str(), libpq.statistic), ("<= 4 s", "maximum"));
    assert_eq!(libpq.met, Met::Yes("0.10 s below".into()));
    let why = why_not(&rows, "gap, PgBouncer");
    assert_eq!(why, "0.25 s above (seed 1 run 7, fault on db1 after 3120 ms)");
    let text = "issue 3, section 7: host death";
    assert_eq!(libpq.target.source, text);
}

#[test]
fn haproxy_is_judged_beside_libpq_of_the_same_run() {
    let with = |haproxy_ms: u64, open| {
        let mut run = run(Case::HostDeath, System::HoldfastFast, 3_100);
        let mut route = run.verdict.routes[0].clone();
        (route.route, route.kind) = ("haproxy:pool1".into(), RouteKind::Haproxy);
        let gap = route.gap.as_mut().unwrap();
        (gap.gap_us, gap.open) = (haproxy_ms * 1_000, open);
        run.verdict.routes.push(route);
        run
    };
    let without = run(Case::HostDeath, System::HoldfastFast, 9_000);
    let rows = of_runs(vec![without.clone(), with(3_300, false), with(3_000, false)]);
    let found = row(&rows, "beyond libpq's, HAProxy");
    assert_eq!((found.found.as_str(), found.median.as_str(), found.n), ("0.20", "0.05", 2));
    assert_eq!(found.met, Met::Yes("0.30 s below".into()));
    let late = of_runs(vec![with(3_650, false)]);
    assert!(why_not(&late, "beyond libpq's").starts_with("0.05 s above"));
    assert!(why_not(&of_runs(vec![with(3_100, true)]), "beyond libpq's").starts_with("a route was not back"));
    assert!(of_runs(vec![without]).iter().all(|row| !row.what.contains("beyond")));
}

#[test]
fn each_profile_has_its_own_limit_and_patroni_has_none() {
    assert!(!is_met(&of_runs(vec![run(Case::LinkCut, System::HoldfastFast, 5_000)]), "gap, libpq"));
    assert!(is_met(&of_runs(vec![run(Case::LinkCut, System::HoldfastNormal, 5_000)]), "gap, libpq"));
    assert!(of_runs(vec![run(Case::LinkCut, System::Patroni, 5_000)]).is_empty());
}

#[test]
fn a_route_that_was_not_back_is_a_miss_however_short_the_recording() {
    let mut never = run(Case::HostDeath, System::HoldfastFast, 1_000);
    never.verdict.routes[0].gap.as_mut().unwrap().open = true;
    let rows = of_runs(vec![never, run(Case::HostDeath, System::HoldfastFast, 2_000)]);
    assert!(why_not(&rows, "gap, libpq").starts_with("1 of 2 routes were not back"));
}

#[test]
fn a_run_that_could_not_be_measured_leaves_the_target_open() {
    let unmeasured = Unmeasured {
        format: FORMAT,
        case: Case::HostDeath,
        system: System::HoldfastFast,
        mode: Mode::Quorum,
        seed: 1,
        number: 2,
        not_measured: String::new(),
    };
    let runs = vec![run(Case::HostDeath, System::HoldfastFast, 1_000)];
    let rows = judge(&Records { runs, unmeasured: vec![unmeasured.clone()], ..Records::default() });
    for row in &rows {
        assert!(matches!(&row.met, Met::Open(why) if why.contains("not measured: 1")), "{row:?}");
    }
    // A missed target stays missed.
    let runs = vec![run(Case::HostDeath, System::HoldfastFast, 9_000)];
    let rows = judge(&Records { runs, unmeasured: vec![unmeasured], ..Records::default() });
    assert!(why_not(&rows, "gap, libpq").starts_with("5.00 s above"));
}

#[test]
fn through_the_pooler_one_statement_of_each_client_may_fail() {
    let mut killed = run(Case::PostmasterKill, System::HoldfastNormal, 300);
    // Two clients, one failed statement each: both were in flight.
    killed.verdict.routes[1].errors = [("08P01".to_owned(), 2)].into();
    killed.verdict.routes[0].errors_of_one_client_max = Some(20);
    let what = "failed statements of one client";
    let rows = of_runs(vec![killed.clone()]);
    assert!(is_met(&rows, what), "libpq clients are not asked: {rows:?}");
    assert_eq!(row(&rows, what).found, "1");
    let mut worse = killed.clone();
    worse.verdict.routes[1].errors_of_one_client_max = Some(3);
    assert!(why_not(&of_runs(vec![killed.clone(), worse]), what).starts_with("2 more than were in flight"));
    killed.verdict.routes[1].errors_of_one_client_max = None;
    assert!(matches!(row(&of_runs(vec![killed]), what).met, Met::Open(_)));
}

#[test]
fn a_hung_patroni_must_go_unnoticed() {
    let mut clean = unnoticed();
    for route in &mut clean.verdict.routes {
        route.errors.clear();
    }
    let rows = of_runs(vec![clean.clone()]);
    assert_eq!(rows.len(), 5, "two gaps, errors, role, losses: {rows:?}");
    assert!(rows.iter().all(|row| matches!(row.met, Met::Yes(_))), "{rows:?}");
    let mut noticed = clean.clone();
    noticed.verdict.counts.unknown = 1;
    noticed.verdict.counts.refused = 2;
    noticed.verdict.routes[0].gap.as_mut().unwrap().gap_us = 510_000;
    let rows = of_runs(vec![clean, noticed]);
    assert!(why_not(&rows, "refused or unknown").starts_with("3 too many (most in seed 1"));
    assert!(why_not(&rows, "gap, libpq").starts_with("0.01 s above"));
    assert!(is_met(&rows, "gap, PgBouncer") && is_met(&rows, "changes of role"));
}

#[test]
fn a_role_that_moved_and_came_back_has_changed() {
    let what = "changes of role";
    assert!(is_met(&of_runs(vec![unnoticed()]), what));
    let mut moved = unnoticed();
    moved.final_writer = "db2".into();
    assert!(!is_met(&of_runs(vec![moved]), what));
    let mut there_and_back = unnoticed();
    there_and_back.verdict.writable_hosts.insert("db3".into());
    assert!(!is_met(&of_runs(vec![there_and_back]), what));
}

#[test]
fn a_stall_may_move_the_writer_only_when_it_is_long() {
    let stalled = |length_ms, moved: bool| {
        let stall = Some(Stall { of: Thing::Host, length_ms });
        let unmoved = RunRecord { case: Case::Stalls, stall, ..unnoticed() };
        RunRecord { final_writer: if moved { "db2".into() } else { unmoved.final_writer.clone() }, ..unmoved }
    };
    let what = "changes of role by stalls up to 3000 ms";
    let rows = of_runs(vec![stalled(3_000, false), stalled(5_000, true)]);
    assert!(is_met(&rows, what) && row(&rows, what).n == 1, "{rows:?}");
    assert!(why_not(&of_runs(vec![stalled(3_000, true)]), what).starts_with("1 too many"));
}

#[test]
fn the_return_counts_from_what_was_mended() {
    let what = "every route back after the return";
    let back = |us| RunRecord {
        back_after_mending_us: us,
        ..run(Case::EtcdDownHostDeath, System::HoldfastFast, 30_000)
    };
    assert!(is_met(&of_runs(vec![back(Some(5_900_000))]), what));
    assert!(
        why_not(&of_runs(vec![back(Some(5_000_000)), back(Some(6_500_000))]), what)
            .starts_with("0.50 s above")
    );
    let never = of_runs(vec![back(Some(5_000_000)), back(None)]);
    assert!(why_not(&never, what).starts_with("a route was not back"));
}

#[test]
fn no_loss_is_allowed_in_a_quorum_nor_with_a_hung_asynchronous_writer() {
    for (case, mode) in [
        (Case::HostDeath, Mode::Quorum),
        (Case::PostmasterKill, Mode::Quorum),
        (Case::PatroniHung, Mode::Quorum),
        (Case::LinkCut, Mode::Quorum),
        (Case::PatroniHung, Mode::Off),
    ] {
        let mut lost = run(case, System::HoldfastFast, 100);
        lost.mode = mode;
        assert!(is_met(&of_runs(vec![lost.clone()]), "lost acknowledged"), "{case:?}");
        lost.verdict.lost.count = 4;
        let rows = of_runs(vec![lost.clone(), lost]);
        assert!(why_not(&rows, "lost acknowledged").starts_with("8 too many"), "{case:?}");
        assert_eq!(row(&rows, "lost acknowledged").found, "8");
    }
}

#[test]
fn the_cost_needs_enough_pairs() {
    let of_pairs = |count: usize, armed| {
        let pairs = vec![pair(armed, 100.0); count];
        judge(&Records { pairs, ..Records::default() })
    };
    let few = of_pairs(12, 99.0);
    assert!(few.iter().all(|row| row.met == Met::Open("12 pairs of at least 30".into())), "{few:?}");
    let good = of_pairs(30, 98.5);
    assert_eq!(good.len(), 4, "median and upper end of tps and p99");
    assert!(good.iter().all(|row| matches!(row.met, Met::Yes(_)) && row.n == 30), "{good:?}");
    let bad = of_pairs(30, 94.0);
    assert!(matches!(&bad[0].met, Met::No(why) if why.starts_with("4.00 % above")), "{bad:?}");
    assert!(matches!(&bad[1].met, Met::No(why) if why.starts_with("1.00 % above")), "{bad:?}");
}

#[test]
fn an_idle_agent_is_judged_by_its_largest_figure() {
    let footprints =
        vec![footprint("agent", 8.0, 0.02), footprint("agent", 9.5, 0.09), footprint("patroni", 35.0, 0.07)];
    let rows = judge(&Records { footprints, writes: vec![writes(1, 0)], ..Records::default() });
    assert_eq!(row(&rows, "PSS").met, Met::Yes("0.5 MB below".into()));
    assert_eq!(why_not(&rows, "of a core"), "0.020 % above (db1, primary)");
    assert!(is_met(&rows, "writes to etcd"));
    let rows = judge(&Records { writes: vec![writes(1, 0), writes(1, 1)], ..Records::default() });
    assert_eq!(why_not(&rows, "writes to etcd"), "1.00 a minute above (db1)");
}

#[test]
fn what_has_no_records_is_named_once() {
    let runs = vec![run(Case::HostDeath, System::HoldfastFast, 1_000)];
    let missing = missing(&Records { runs, ..Records::default() });
    let named = |name: &str| missing.iter().filter(|other| *other == name).count();
    assert_eq!(named("host-death (quorum) holdfast-fast"), 0);
    assert_eq!(named("host-death (quorum) holdfast-normal"), 1);
    assert_eq!(named("patroni-hung (off) holdfast-fast"), 1);
    assert_eq!(named("idle holdfast-normal"), 1);
}

#[test]
fn a_switchover_is_judged_by_its_median_and_by_every_error_through_the_pooler() {
    let of = |ms: u64| {
        let mut run = run(Case::Switchover, System::HoldfastFast, ms);
        let pooled = &mut run.verdict.routes[1].counts;
        (pooled.refused, pooled.unknown) = (0, 0);
        run
    };
    let rows = of_runs(vec![of(400), of(450), of(700)]);
    let gap = |statistic: &str| {
        let found = rows.iter().find(|row| row.statistic == statistic && row.what == "gap, PgBouncer");
        found.unwrap_or_else(|| panic!("{rows:#?}"))
    };
    assert_eq!(
        (gap("median").found.as_str(), &gap("median").met),
        ("0.45", &Met::Yes("0.05 s below".into()))
    );
    assert_eq!(
        (gap("maximum").found.as_str(), &gap("maximum").met),
        ("0.70", &Met::Yes("0.10 s below".into()))
    );
    assert!(is_met(&rows, "refused or unknown, PgBouncer"));
    let mut failed = of(400);
    failed.verdict.routes[1].counts.refused = 1;
    let rows = of_runs(vec![failed]);
    assert!(why_not(&rows, "refused or unknown, PgBouncer").starts_with("1 too many"));
}
