use holdfast_types::record::{HeldRecord, ModeRecord};
use holdfast_types::{Incarnation, Mode, Profile};

use super::*;
use crate::cluster::PatroniMember;
use crate::testing::{at, facts, lasting, name, names, patroni_config, patroni_member, session, term_open};

const OWN: OwnSession = OwnSession { session: SessionId(6), incarnation: Incarnation(1) };

fn revised<T>(value: T, mod_revision: i64) -> Revised<T> {
    Revised { value, mod_revision }
}

/// a was the writer of term 3 under session 5, which is gone; b has Patroni's lock.
fn cluster() -> Cluster {
    let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
    Cluster {
        mode: Some(revised(mode, 50)),
        term: Some(revised(term_open("a", 3, true), 80)),
        floor: Some(revised(named(Term(3), names(&["b", "c"])), 81)),
        leader_key: Some(revised(name("b"), 90)),
        sessions: [(SessionId(6), session("b")), (SessionId(7), session("c"))].into(),
        facts: ["a", "b", "c"].map(|member| (name(member), facts(member))).into(),
        config: Some(patroni_config()),
        ..Cluster::default()
    }
}

fn word(stop: StopKind) -> Attestation {
    Attestation {
        term: Term(3),
        holder: name("a"),
        incarnation: Incarnation(1),
        session: SessionId(5),
        stop,
        stuck: Vec::new(),
        at_wall_ms: 0,
    }
}

/// What b sees.
fn view(cluster: Cluster) -> View<'static> {
    View {
        cluster: lasting(cluster),
        me: lasting(name("b")),
        own: OWN,
        known_term: Term(0),
        gone_ms: 60_000,
        timings: lasting(Timings::of(Profile::Fast)),
        granted: false,
        given_back: false,
        barred: None,
        now_wall_ms: 1_000,
        waited_ms: 0,
        wait_ms_max: 40_000,
    }
}

fn judge(change: impl FnOnce(&mut Cluster, &mut View<'static>)) -> Answer {
    let (mut cluster, mut view) = (cluster(), view(Cluster::default()));
    change(&mut cluster, &mut view);
    view.cluster = lasting(cluster);
    decide(&view)
}

fn waits(answer: &Answer, why: &str) -> bool {
    matches!(answer, Answer::Wait(said) if said.contains(why))
}

#[test]
fn who_is_named_opens_once_the_session_is_gone() {
    let Answer::Open(plan) = judge(|_, _| ()) else { panic!("not opened") };
    assert_eq!(plan.out_of_office, Some(OutOfOffice::SessionAbsent(SessionId(5))));
    assert_eq!(plan.last, Some((name("a"), Term(3))));
    assert_eq!((plan.term_mod_revision, plan.leader_mod_revision, plan.floor_mod_revision), (80, 90, 81));
    assert_eq!((plan.opened.term, plan.opened.open_holder()), (Term(4), Some(&name("b"))));
    assert!(matches!(plan.opened.reign, Reign::Open { writable: false, .. }));
    assert_eq!(plan.floor, named(Term(4), names(&["c"])), "a is away with its agent");
    let Answer::Open(plan) = judge(|_, v| v.known_term = Term(8)) else { panic!("not opened") };
    assert_eq!(plan.opened.term, Term(9));
}

#[test]
fn a_writer_that_may_have_a_lease_is_waited_for() {
    let lives = |c: &mut Cluster| drop(c.sessions.insert(SessionId(5), session("a")));
    assert!(waits(&judge(|c, _| lives(c)), "is alive"));
    let booted = |c: &mut Cluster| drop(c.sessions.insert(SessionId(8), session("a")));
    assert!(waits(&judge(|c, _| booted(c)), "is alive"));
    assert!(waits(&judge(|_, v| v.granted = true), "has not run out"));
    let timings = Timings::of(Profile::Fast);
    let lease_ms = timings.write_lease_ms() + timings.guard_grace_ms();
    assert!(waits(&judge(|_, v| v.gone_ms = lease_ms), "a lease by it may last"), "it may have been revoked");
    assert!(matches!(judge(|_, v| v.gone_ms = v.timings.grant_ms()), Answer::Open(_)));
    let held = HeldRecord { term: Term(3), holder: name("a"), until_wall_ms: None };
    assert!(waits(&judge(|c, _| c.held = Some(revised(held, 85))), "hold end"));
    assert!(waits(&judge(|c, _| c.floor_unreadable = true), "upgrade"));
    assert!(matches!(
        judge(|c, v| {
            lives(c);
            v.waited_ms = v.wait_ms_max;
        }),
        Answer::Refuse(_)
    ));
}

#[test]
fn who_was_never_asked_for_a_lease_does_not_follow() {
    let d = |c: &mut Cluster, v: &mut View<'static>| {
        (v.me, c.leader_key) = (lasting(name("d")), Some(revised(name("d"), 90)));
    };
    assert!(matches!(judge(d), Answer::Refuse(why) if why.contains("has not named")));
    let counted = |c: &mut Cluster| {
        c.floor.as_mut().unwrap().value.configuration.quorum = 1;
    };
    assert!(matches!(judge(|c, _| counted(c)), Answer::Refuse(_)), "a record of class quorum asks fewer");
}

#[test]
fn the_word_of_the_old_writers_agent_needs_no_waiting() {
    let said = |stop| {
        judge(|c, v| {
            c.sessions.insert(SessionId(5), session("a"));
            c.attestation = Some(revised(word(stop), 95));
            v.granted = true;
        })
    };
    let Answer::Open(plan) = said(StopKind::Stopped) else { panic!("not opened") };
    assert_eq!(plan.out_of_office, Some(OutOfOffice::Attested { mod_revision: 95 }));
    assert!(waits(&said(StopKind::Relinquished), "is alive"));
    let of_another_boot = Attestation { session: SessionId(4), ..word(StopKind::Stopped) };
    let stale = judge(|c, _| {
        c.sessions.insert(SessionId(5), session("a"));
        c.attestation = Some(revised(of_another_boot, 95));
    });
    assert!(waits(&stale, "is alive"));
}

#[test]
fn a_writer_whose_agent_guards_no_lease_holds_nobody_back() {
    let older = |c: &mut Cluster| {
        c.sessions.insert(SessionId(5), session("a"));
        c.floor = None;
    };
    assert_eq!(judge(|c, _| older(c)), Answer::Pass);
    assert_eq!(judge(|c, _| c.floor = Some(revised(named(Term(2), names(&["b"])), 81))), Answer::Pass);
    assert_eq!(judge(|c, _| c.term = None), Answer::Pass, "the first term is opened by a primary that runs");
}

#[test]
fn a_hook_of_the_holder_passes_unless_its_stop_is_attested() {
    let mine = |c: &mut Cluster| {
        let mut term = term_open("b", 4, false);
        if let Reign::Open { session, .. } = &mut term.reign {
            *session = OWN.session;
        }
        c.term = Some(revised(term, 96));
    };
    assert_eq!(judge(|c, _| mine(c)), Answer::AlreadyOpen(Term(4)));
    let given_back = judge(|c, v| {
        mine(c);
        v.given_back = true;
    });
    assert!(waits(&given_back, "given away"));
    let of_another_start = judge(|c, v| {
        mine(c);
        v.own.incarnation = Incarnation(2);
    });
    assert!(waits(&of_another_start, "earlier start"));
    let without_lock = judge(|c, _| {
        mine(c);
        c.leader_key = Some(revised(name("c"), 97));
    });
    assert!(waits(&without_lock, "not ours"));
}

#[test]
fn what_waiting_cannot_mend_is_refused_at_once() {
    assert_eq!(judge(|_, v| v.barred = Some("fenced")), Answer::Refuse("fenced".into()));
    let paused = |c: &mut Cluster| c.config.as_mut().unwrap().paused = true;
    let alive = judge(|c, _| {
        paused(c);
        c.sessions.insert(SessionId(5), session("a"));
    });
    assert!(matches!(alive, Answer::Refuse(why) if why.contains("paused")), "nobody attests in a pause");
    assert!(matches!(judge(|c, _| paused(c)), Answer::Open(_)), "its lease is over all the same");
    assert!(waits(&judge(|c, _| (c.term, c.terms_unreadable) = (None, true)), "cannot be read"));
}

#[test]
fn a_primary_without_a_hook_needs_the_same_evidence() {
    let lock = revised(name("b"), 90);
    let plan = follow(&view(cluster()), &lock).unwrap();
    assert!(matches!(plan.opened.reign, Reign::Open { writable: true, .. }));
    let mut alive = cluster();
    alive.sessions.insert(SessionId(5), session("a"));
    assert_eq!(follow(&view(alive), &lock), Err(NotYet::WriterLives(name("a"))));
    let first = follow(&view(Cluster { term: None, floor: None, ..cluster() }), &lock).unwrap();
    assert_eq!((first.term_mod_revision, first.last, first.out_of_office), (0, None, None));
}

#[test]
fn whom_a_writer_asks_follows_who_is_there() {
    assert_eq!(naming(&cluster(), &name("a"), Term(3)), None);
    let mut gone = cluster();
    gone.sessions.remove(&SessionId(7));
    assert_eq!(naming(&gone, &name("a"), Term(3)), Some(named(Term(3), names(&["b"]))));
    assert_eq!(naming(&cluster(), &name("a"), Term(4)), Some(named(Term(4), names(&["b", "c"]))));
    assert_eq!(naming(&Cluster { floor_unreadable: true, ..gone }, &name("a"), Term(3)), None);
}

#[cfg(feature = "mutants")]
#[test]
fn each_rule_that_can_be_left_out_is_what_these_tests_rest_on() {
    use crate::mutant::without;
    let alive = || judge(|c, _| drop(c.sessions.insert(SessionId(5), session("a"))));
    assert_eq!(without(Mutant::ExpiredNotAwaited, alive), Answer::Pass);
}

/// b and c may follow, c has more.
fn followers(change: impl FnOnce(&mut Cluster)) -> Option<String> {
    let mut cluster = cluster();
    let patroni =
        |lease, lsn| PatroniMember { nosync: true, position: Some(at(2, lsn)), ..patroni_member(lease) };
    cluster.members =
        [(name("a"), patroni(60, 900)), (name("b"), patroni(61, 700)), (name("c"), patroni(62, 800))].into();
    change(&mut cluster);
    let plan = give_lock(&cluster, cluster.term.as_ref().unwrap(), cluster.leader_key.as_ref().unwrap())?;
    assert_eq!((plan.leader_mod_revision, plan.term_mod_revision), (90, 80));
    Some(format!("{} {}", plan.to, plan.member_lease))
}

#[test]
fn the_successor_is_the_one_that_patronis_race_would_take() {
    let found = |change: fn(&mut Cluster)| followers(change);
    let member = |cluster: &mut Cluster, of: &str, change: fn(&mut PatroniMember)| {
        change(cluster.members.get_mut(&name(of)).unwrap());
    };
    assert_eq!(found(|_| ()).as_deref(), Some("c 62"), "never the writer itself");
    let equal = followers(|cluster| member(cluster, "b", |b| b.position = Some(at(2, 800))));
    assert_eq!(equal.as_deref(), Some("b 61"), "by name");
    let preferred = followers(|cluster| {
        member(cluster, "b", |b| b.position = Some(at(2, 800)));
        member(cluster, "c", |c| c.failover_priority = 2);
    });
    assert_eq!(preferred.as_deref(), Some("c 62"));
    let left_behind = followers(|cluster| member(cluster, "c", |c| c.position = Some(at(1, 5_000))));
    assert_eq!(left_behind.as_deref(), Some("b 61"), "on a timeline that is over");
    assert_eq!(found(|cluster| cluster.failover_candidate = Some(name("b"))).as_deref(), Some("b 61"));
}

#[test]
fn who_could_not_lead_gets_no_lock() {
    let without_c = |change: fn(&mut Cluster)| assert_eq!(followers(change).as_deref(), Some("b 61"));
    without_c(|cluster| cluster.floor = Some(revised(named(Term(3), names(&["b"])), 81)));
    without_c(|cluster| drop(cluster.sessions.remove(&SessionId(7))));
    without_c(|cluster| cluster.facts.get_mut(&name("c")).unwrap().eligible = None);
    without_c(|cluster| cluster.members.get_mut(&name("c")).unwrap().lease = 0);
    without_c(|cluster| cluster.members.get_mut(&name("c")).unwrap().position = None);
    without_c(|cluster| cluster.unreadable_fences.extend([name("c")]));
    let lag = |bytes: u64, end: u64| {
        followers(|cluster| {
            cluster.config.as_mut().unwrap().maximum_lag_on_failover = bytes;
            cluster.leader_optime = Some(Lsn(end));
        })
    };
    assert_eq!(lag(100, 900).as_deref(), Some("c 62"));
    assert_eq!(lag(99, 900), None, "Patroni would take nobody either");
    assert_eq!(followers(|cluster| cluster.config = None), None, "nobody knows how much may be lost");
}
