use super::*;
use crate::close::Revised;
use crate::testing::{lasting, name, patroni_member, stopped, term_open};
use holdfast_types::record::{Evidence, FenceReason, FenceRecord, ModeRecord};

fn revised<T>(value: T, mod_revision: i64) -> Revised<T> {
    Revised { value, mod_revision }
}

fn mode(mode: Mode) -> Revised<ModeRecord> {
    revised(ModeRecord { mode, by: "x".into(), reason: "y".into(), at_wall_ms: 0 }, 50)
}

/// `a` writes in term 4 and `b` is a standby, both tagged with nothing.
fn cluster() -> Cluster {
    Cluster {
        revision: 90,
        mode: Some(mode(Mode::Armed)),
        term: Some(revised(term_open("a", 4, true), 80)),
        leader_key: Some(revised(name("a"), 70)),
        members: [(name("a"), patroni_member(60)), (name("b"), patroni_member(60))].into(),
        leader_optime: Some(Lsn(1_000)),
        ..Cluster::default()
    }
}

fn view<'v>(me: &str, cluster: &'v Cluster) -> View<'v> {
    let is_writer = me == "a";
    View {
        me: lasting(name(me)),
        cluster,
        silent_ms: None,
        look_age_ms: Some(1_000),
        look_age_ms_max: 5_000,
        silence_ms_max: 3_000,
        now_ms: 10_000,
        postgres: Postgres::Running { in_recovery: Some(!is_writer) },
        left_recovery: is_writer,
        patroni_answers: true,
        streaming: Some(true),
        replayed: (!is_writer).then_some(Lsn(900)),
        fence: is_writer.then_some(Fence::Until { term: Term(4), deadline_ms: 12_000 }),
    }
}

fn closed() -> Reign {
    let (holder, evidence) = (name("a"), Evidence::AttestedClean);
    Reign::Closed { holder, floor: None, sync_version: 1, evidence, successor: None, at_wall_ms: 0 }
}

fn fenced() -> Revised<FenceRecord> {
    let why = FenceReason::Operator { by: "ann".into(), text: "disk".into() };
    revised(FenceRecord { why, at_wall_ms: 0 }, 85)
}

/// What `a` answers about writes after one thing was changed.
fn of_a(change: impl FnOnce(&mut Cluster), see: impl FnOnce(&mut View<'_>)) -> Result<Up, Down> {
    let mut cluster = cluster();
    change(&mut cluster);
    let mut view = view("a", &cluster);
    see(&mut view);
    writer(&view)
}

const UP: Result<Up, Down> = Ok(Up::WriterOf(Term(4)));

#[test]
fn the_writer_of_a_term_is_up_and_nobody_else() {
    let cluster = cluster();
    assert_eq!(writer(&view("a", &cluster)), UP);
    let another = Down::Another { writer: name("a"), term: Term(4) };
    assert_eq!(writer(&view("b", &cluster)), Err(another));
    assert_eq!(writer_of(&cluster), Some((&name("a"), Some(Term(4)))));
}

#[test]
fn what_the_records_say_against_it() {
    let said = |change: fn(&mut Cluster)| of_a(change, |_| ());
    type Case = (fn(&mut Cluster), Down);
    let table: [Case; 7] = [
        (|c| c.term = Some(revised(term_open("a", 4, false), 80)), Down::NotPromoted(Term(4))),
        (|c| c.term.as_mut().unwrap().value.reign = closed(), Down::Closed(Term(4))),
        (|c| drop(c.fences.insert(name("a"), fenced())), Down::Fenced),
        (|c| c.unreadable_fences.extend([name("a")]), Down::Fenced),
        (|c| c.mode_unreadable = true, Down::Unreadable),
        (|c| (c.term, c.terms_unreadable) = (None, true), Down::Unreadable),
        (|c| c.revision = 0, Down::NeverHeard),
    ];
    for (change, down) in table {
        assert_eq!(said(change), Err(down));
    }
    let attested = |cluster: &mut Cluster| {
        let word = stopped("a", 4);
        cluster.attestation = Some(revised(word, 81));
        assert_eq!(writer_of(cluster), None);
    };
    assert_eq!(of_a(attested, |_| ()), Err(Down::Stopped(Term(4))));
}

#[test]
fn what_this_host_sees_against_it() {
    let seen = |see: fn(&mut View<'_>)| of_a(|_| (), see);
    let no_lease = || Down::NoLease(Term(4));
    type Case = (fn(&mut View<'_>), Down);
    let table: [Case; 9] = [
        (|v| v.fence = None, no_lease()),
        (|v| v.fence = Some(Fence::Expiring), no_lease()),
        (|v| v.now_ms = 12_000, no_lease()),
        (|v| v.fence = Some(Fence::Until { term: Term(3), deadline_ms: 12_000 }), no_lease()),
        (|v| v.postgres = Postgres::Running { in_recovery: Some(true) }, Down::InRecovery),
        (|v| v.postgres = Postgres::Gone, Down::Gone),
        (|v| v.postgres = Postgres::Unknown, Down::Unknown),
        (|v| v.look_age_ms = Some(5_001), Down::OldLook { age_ms: Some(5_001) }),
        (|v| v.look_age_ms = None, Down::OldLook { age_ms: None }),
    ];
    for (see, down) in table {
        assert_eq!(seen(see), Err(down));
    }
    let not_answering = |left_recovery| {
        of_a(
            |_| (),
            |v| (v.postgres, v.left_recovery) = (Postgres::Running { in_recovery: None }, left_recovery),
        )
    };
    assert_eq!(not_answering(false), Err(Down::Unknown));
    assert_eq!(not_answering(true), UP, "a postmaster that has left recovery does not go back");
}

#[test]
fn losing_etcd_alone_takes_nobody_out_while_the_lease_lasts() {
    assert_eq!(of_a(|_| (), |v| v.silent_ms = Some(60_000)), UP, "the standbys have granted one");
    assert_eq!(of_a(|_| (), |v| v.fence = Some(Fence::Paused)), UP, "a person works on the cluster");
    let forgotten = |cluster: &mut Cluster| cluster.term = None;
    assert_eq!(of_a(forgotten, |v| v.fence = Some(Fence::Kept)), Ok(Up::Kept));
    let stopped = of_a(forgotten, |v| (v.fence, v.postgres) = (Some(Fence::Kept), Postgres::Gone));
    assert_eq!(stopped, Err(Down::Gone));
}

#[test]
fn without_a_term_in_force_patronis_leader_is_the_writer() {
    for (set, of) in [(Some(Mode::Disarmed), Mode::Disarmed), (None, Mode::Observe)] {
        let unarmed = |cluster: &mut Cluster| cluster.mode = set.map(mode);
        let none = |view: &mut View<'_>| view.fence = Some(Fence::None);
        assert_eq!(of_a(unarmed, none), Ok(Up::Leader(of)));
        let follows = |cluster: &mut Cluster| {
            unarmed(cluster);
            cluster.leader_key = Some(revised(name("b"), 71));
        };
        assert_eq!(of_a(follows, none), Err(Down::AnotherLeads(name("b"))));
        let leaderless = |cluster: &mut Cluster| {
            unarmed(cluster);
            cluster.leader_key = None;
        };
        assert_eq!(of_a(leaderless, none), Err(Down::NoLeader));
        let closing = of_a(unarmed, |v| v.fence = Some(Fence::Expiring));
        assert_eq!(closing, Err(Down::PortClosed), "this host remembers that it is armed");
        let candidate = |view: &mut View<'_>| {
            (view.postgres, view.left_recovery) = (Postgres::Running { in_recovery: Some(true) }, false);
        };
        assert_eq!(of_a(unarmed, candidate), Err(Down::InRecovery), "a candidate in its hook");
    }
    // Armed just now: the record of an earlier arming is not in force.
    let just_armed = |cluster: &mut Cluster| cluster.mode.as_mut().unwrap().mod_revision = 81;
    assert_eq!(of_a(just_armed, |v| v.fence = Some(Fence::None)), Ok(Up::Leader(Mode::Armed)));
}

#[test]
fn without_etcd_and_a_term_patroni_must_be_there() {
    let unarmed = |cluster: &mut Cluster| cluster.mode = None;
    let silent = |view: &mut View<'_>| view.silent_ms = Some(60_000);
    assert_eq!(of_a(unarmed, silent), Ok(Up::Leader(Mode::Observe)));
    let hung = |view: &mut View<'_>| (view.silent_ms, view.patroni_answers) = (Some(10), false);
    assert_eq!(of_a(unarmed, hung), Err(Down::SilentWithoutPatroni));
}

#[test]
fn a_replica_streams_and_is_not_too_far_behind() {
    let of_b = |max: Option<u64>, change: fn(&mut Cluster), see: fn(&mut View<'_>)| {
        let mut cluster = cluster();
        change(&mut cluster);
        let mut view = view("b", &cluster);
        see(&mut view);
        replica(&view, max)
    };
    let tag = |cluster: &mut Cluster| cluster.members.get_mut(&name("b")).unwrap().noloadbalance = true;
    assert_eq!(of_b(None, |_| (), |_| ()), Ok(Up::Replica));
    assert_eq!(of_b(Some(100), |_| (), |_| ()), Ok(Up::ReplicaWithin { lag_bytes: 100 }));
    assert_eq!(
        of_b(Some(0), |_| (), |v| v.replayed = Some(Lsn(2_000))),
        Ok(Up::ReplicaWithin { lag_bytes: 0 })
    );
    type Case = (Option<u64>, fn(&mut Cluster), fn(&mut View<'_>), Down);
    let table: [Case; 12] = [
        (Some(99), |_| (), |_| (), Down::Lags { lag_bytes: 100, max_bytes: 99 }),
        (Some(99), |_| (), |v| v.replayed = None, Down::LagUnknown),
        (Some(99), |c| c.leader_optime = None, |_| (), Down::LagUnknown),
        (None, |_| (), |v| v.streaming = None, Down::NotStreaming),
        (None, |_| (), |v| v.streaming = Some(false), Down::NotStreaming),
        (None, |_| (), |v| v.postgres = Postgres::Gone, Down::Gone),
        (None, |_| (), |v| v.postgres = Postgres::Running { in_recovery: None }, Down::Unknown),
        (None, |_| (), |v| v.silent_ms = Some(3_001), Down::Silent { silent_ms: 3_001 }),
        (None, |_| (), |v| v.look_age_ms = None, Down::OldLook { age_ms: None }),
        (None, |c| drop(c.fences.insert(name("b"), fenced())), |_| (), Down::Fenced),
        (None, |c| drop(c.members.remove(&name("b"))), |_| (), Down::NoMember),
        (None, tag, |_| (), Down::NoLoadBalance),
    ];
    for (max, change, see, down) in table {
        assert_eq!(of_b(max, change, see), Err(down));
    }
    let cluster = cluster();
    assert_eq!(replica(&view("a", &cluster), None), Err(Down::NotInRecovery));
}

#[test]
fn a_command_that_fails_is_run_again_after_a_time_that_grows_to_a_minute() {
    let waits: Vec<u64> = (1..9).map(retry_after_ms).collect();
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    assert_eq!((retry_after_ms(0), retry_after_ms(64), retry_after_ms(u32::MAX)), (1_000, 60_000, 60_000));
}
