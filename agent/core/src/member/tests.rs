//! The composition, branch by branch. What each rule decides by itself is tested beside the rule.

use std::collections::BTreeMap;

use holdfast_types::record::{
    Attestation, FenceReason, FenceRecord, FloorRecord, HeldRecord, HoldRecord, MaintenanceRecord,
    ModeRecord, OperationPhase, Promise, Step, StopKind,
};
use holdfast_types::{Configuration, Mode, Profile};

use super::closing::{CLOSE_RANK_DELAY_MS, SUCCESSOR_PATIENCE_MS};
use super::writer::{ATTESTATION_PATIENCE_MS, PROMOTION_POLL_MS};
use super::*;
use crate::sync::SyncKey;
use crate::testing::{
    at, event, facts, lasting, name, names, overriding, patroni_config, patroni_member, session, term_open,
};

const A_SESSION: SessionId = SessionId(5);

fn revised<T>(value: T, mod_revision: i64) -> Revised<T> {
    Revised { value, mod_revision }
}

fn host(text: &str) -> HostName {
    HostName::new(text).unwrap()
}

/// a writes in term 4; b and c follow it synchronously.
fn cluster() -> Cluster {
    let mode = ModeRecord { mode: Mode::Armed, by: "x".into(), reason: "y".into(), at_wall_ms: 0 };
    let configuration = Configuration { members: names(&["b", "c"]), quorum: 1 };
    let floor = FloorRecord {
        term: Term(4),
        sync_version: 3,
        sync_mod_revision: 90,
        sync_create_revision: 10,
        configuration,
        data_uuids: [(name("b"), "b".to_owned()), (name("c"), "c".to_owned())].into(),
        floor: at(1, 100),
    };
    let sync = SyncKey {
        leader: Some(name("a")),
        sync_standby: names(&["b", "c"]),
        quorum: 1,
        version: 3,
        mod_revision: 90,
        create_revision: 10,
    };
    Cluster {
        mode: Some(revised(mode, 50)),
        term: Some(revised(term_open("a", 4, true), 80)),
        floor: Some(revised(floor, 91)),
        sync: Some(sync),
        sessions: [(A_SESSION, session("a")), (SessionId(6), session("b")), (SessionId(7), session("c"))]
            .into(),
        leader_key: Some(revised(name("a"), 70)),
        members: [
            (name("a"), patroni_member(60)),
            (name("b"), patroni_member(61)),
            (name("c"), patroni_member(62)),
        ]
        .into(),
        facts: [(name("a"), facts("a")), (name("b"), facts("b")), (name("c"), facts("c"))].into(),
        config: Some(patroni_config()),
        ..Cluster::default()
    }
}

fn promise(member: &str, lsn: u64) -> (MemberName, Revised<Promise>) {
    let promise = Promise {
        term: Term(4),
        writer: name("a"),
        position: at(1, lsn),
        data_uuid: member.into(),
        incarnation: Incarnation(1),
        heard_wall_ms: None,
        at_wall_ms: 0,
    };
    (name(member), revised(promise, 100 + i64::from(member.as_bytes()[0])))
}

fn attestation() -> Attestation {
    Attestation {
        term: Term(4),
        holder: name("a"),
        incarnation: Incarnation(1),
        session: A_SESSION,
        stop: StopKind::Stopped,
        stuck: Vec::new(),
        at_wall_ms: 0,
    }
}

fn phase(member: &str) -> Phase {
    Phase::Promised { promise: promise(member, 150).1.value }
}

/// a is dead, b and c have promised.
fn promised() -> Cluster {
    let mut cluster = cluster();
    cluster.sessions.remove(&A_SESSION);
    cluster.promises = BTreeMap::from([promise("b", 150), promise("c", 140)]);
    cluster
}

fn local(member: &str, change: impl FnOnce(&mut Local<'static>)) -> Local<'static> {
    let network = Network { installed: true, source: Some((facts("a").address, 5432)), ..Network::default() };
    let own = match member {
        "a" => OwnSession { session: A_SESSION, incarnation: Incarnation(1) },
        _ => OwnSession { session: SessionId(6), incarnation: Incarnation(1) },
    };
    let mut local = Local {
        me: lasting(name(member)),
        host: lasting(host(member)),
        class: Class::Quorum,
        now: Now { boottime_ms: 1_000_000, wall_ms: 1_000_000 },
        uptime_ms: 1_000_000,
        own: Some(own),
        postgres: Postgres::Running { in_recovery: Some(member != "a") },
        started_as_primary: member == "a",
        patroni_hung: false,
        pulse: None,
        after_stop: None,
        reached: None,
        known_term: Term(0),
        writer_gone_ms: 60_000,
        granted: false,
        gate_shut: false,
        ends_hung: false,
        away_in: None,
        fenced_in: true,
        hooks: Hooks::default(),
        phase: None,
        suspicion: lasting(Suspicion { unrenewed_ms: 60_000, ..Suspicion::default() }),
        network: if member == "a" { lasting(Network::default()) } else { lasting(network) },
        setting: None,
        devices: lasting(Devices::default()),
        timings: lasting(Timings::of(Profile::Fast)),
        second_failover_hold_ms: 600_000,
    };
    change(&mut local);
    local
}

/// What the kernel shows of a node that has left a.
fn cut() -> &'static Network {
    lasting(Network { installed: true, cut: [facts("a").address].into(), ..Network::default() })
}

fn actions(cluster: &Cluster, local: &Local<'_>) -> Vec<Action> {
    decide(cluster, local, &mut Memory::default()).actions
}

#[test]
fn a_healthy_region_does_nothing() {
    assert_eq!(actions(&cluster(), &local("a", |_| ())), []);
    assert_eq!(actions(&cluster(), &local("b", |_| ())), []);
}

#[test]
fn the_first_term_after_arming_is_above_every_known_one() {
    let mut rearmed = cluster();
    rearmed.mode.as_mut().unwrap().mod_revision = 81;
    rearmed.promises = BTreeMap::from([promise("b", 1)]);
    let expected = Action::OpenFirst { term: Term(5), term_mod_revision: 80 };
    assert_eq!(actions(&rearmed, &local("a", |_| ())), [expected]);
    assert_eq!(actions(&rearmed, &local("b", |_| ())), [], "only the present leader");
    rearmed.terms_unreadable = true;
    assert_eq!(actions(&rearmed, &local("a", |_| ())), [], "a term that cannot be read is not absent");
}

#[test]
fn a_pause_stops_everything_but_a_persons_fence() {
    let mut paused = promised();
    paused.config.as_mut().unwrap().paused = true;
    let bound = lasting(phase("b"));
    let b = local("b", |l| (l.phase, l.network, l.patroni_hung) = (Some(bound), cut(), true));
    assert_eq!(actions(&paused, &b), []);
    let why = FenceReason::Operator { by: "holdfast://operator/ann".into(), text: "disk".into() };
    paused.fences = [(name("b"), revised(FenceRecord { why, at_wall_ms: 0 }, 99))].into();
    assert_eq!(actions(&paused, &b), [Action::KillFenced]);
    paused = promised();
    paused.config = None;
    assert_eq!(actions(&paused, &b), [], "what cannot be read may be a pause");
}

#[test]
fn a_clean_stop_for_a_switchover_leaves_patroni_alive_and_goes_to_the_one_that_was_named() {
    let control = ControlState::ShutDown { end: at(1, 140) };
    let stopped = |gate_shut| {
        local("a", |l| {
            (l.postgres, l.gate_shut) = (Postgres::Gone, gate_shut);
            l.after_stop =
                Some(AfterStop { processes_gone: true, control: control.clone(), answering: names(&[]) });
        })
    };
    let mut cluster = cluster();
    assert_eq!(actions(&cluster, &stopped(false)), [], "with the lock in hand it is a restart");
    let mut planned = cluster.clone();
    planned.operation = Some(revised(crate::planned::tests::operation(OperationPhase::HandOver), 96));
    assert_eq!(actions(&planned, &stopped(false)), [], "Patroni does not have its order yet");
    planned.failover_candidate = Some(name("b"));
    assert_eq!(actions(&planned, &stopped(false)), [Action::ShutGate], "it hands over as planned");
    cluster.leader_key = None;
    assert_eq!(actions(&cluster, &stopped(false)), [Action::ShutGate]);
    let attest = Action::Attest { term: Term(4), stop: StopKind::Clean { end: at(1, 140) } };
    assert_eq!(actions(&cluster, &stopped(true)), [attest]);
    let named = |cluster: &Cluster| {
        let bound = lasting(phase("b"));
        let b = local("b", |l| (l.phase, l.network) = (Some(bound), cut()));
        let [Action::Close(plan)] = &actions(cluster, &b)[..] else { panic!("not closed") };
        plan.leader_key.to_string()
    };
    cluster.attestation = Some(revised(attestation(), 120));
    cluster.promises = BTreeMap::from([promise("b", 150), promise("c", 150)]);
    assert_eq!(named(&cluster), "given to b", "the first by name");
    cluster.failover_candidate = Some(name("c"));
    assert_eq!(named(&cluster), "given to c");
    cluster.facts.get_mut(&name("c")).unwrap().eligible = Some(false);
    assert_eq!(named(&cluster), "given to b", "a wish makes nobody eligible");
}

#[test]
fn the_patroni_of_a_writer_whose_agent_lives_is_not_refused() {
    assert_eq!(cluster().rest_port_to_refuse(&name("a")), None);
    assert_eq!(promised().rest_port_to_refuse(&name("a")), Some(8008));
    assert_eq!(promised().rest_port_to_refuse(&name("z")), None, "nobody knows its address");
}

fn maintenance(until_wall_ms: i64) -> Option<Revised<MaintenanceRecord>> {
    let (by, reason) = ("holdfast://operator/ann".into(), "new switch".into());
    Some(revised(MaintenanceRecord { until_wall_ms, since_wall_ms: 0, by, reason }, 95))
}

#[test]
fn a_maintenance_suspends_until_its_time_is_over() {
    let bound = lasting(phase("b"));
    let b = local("b", |l| (l.phase, l.network, l.patroni_hung) = (Some(bound), cut(), true));
    let mut cluster = promised();
    cluster.maintenance = maintenance(1_000_001);
    let decision = decide(&cluster, &b, &mut Memory::default());
    assert_eq!(decision.actions, [], "the promise stands, and nothing is closed");
    assert!(decision.waits[0].starts_with("maintenance by holdfast://operator/ann (new switch)"));
    let why = FenceReason::Operator { by: "holdfast://operator/ann".into(), text: "disk".into() };
    cluster.fences = [(name("b"), revised(FenceRecord { why, at_wall_ms: 0 }, 99))].into();
    assert_eq!(actions(&cluster, &b), [Action::KillFenced], "a person's fence still acts");
    cluster.fences.clear();
    cluster.maintenance = maintenance(1_000_000);
    let b = local("b", |l| (l.phase, l.network) = (Some(bound), cut()));
    let [Action::Close(plan)] = &actions(&cluster, &b)[..] else { panic!("it has run out") };
    assert_eq!(plan.maintenance_mod_revision, 95, "one that begins meanwhile keeps the term open");
    cluster.maintenance = None;
    let [Action::Close(plan)] = &actions(&cluster, &b)[..] else { panic!("there is none") };
    assert_eq!(plan.maintenance_mod_revision, 0);
    cluster.maintenance_unreadable = true;
    assert_eq!(actions(&cluster, &b), [], "what cannot be read may be in force");
}

#[test]
fn what_a_stop_had_shut_is_opened_while_nobody_closes() {
    let mut cluster = cluster();
    cluster.maintenance = maintenance(2_000_000);
    let stopped = local("a", |l| (l.postgres, l.gate_shut) = (Postgres::Gone, true));
    assert_eq!(actions(&cluster, &stopped), [Action::OpenGate]);
    cluster.attestation = Some(revised(attestation(), 120));
    let withdrawn = Action::WithdrawAttestation { attestation_mod_revision: 120, term_mod_revision: 80 };
    assert_eq!(actions(&cluster, &stopped), [withdrawn]);
    assert_eq!(actions(&cluster, &local("b", |_| ())), [], "nobody else's affair");
    cluster.maintenance_unreadable = true;
    assert_eq!(actions(&cluster, &stopped), [], "unknown: nothing is let go");
}

#[test]
fn a_suspension_is_told_from_its_absence_and_from_what_is_not_known() {
    let mut cluster = cluster();
    assert_eq!((cluster.suspended(0), cluster.why_suspended(0)), (Some(false), None));
    cluster.maintenance = maintenance(10);
    assert_eq!((cluster.suspended(9), cluster.suspended(10)), (Some(true), Some(false)));
    cluster.config = None;
    assert_eq!((cluster.suspended(9), cluster.suspended(10)), (Some(true), None));
    cluster.maintenance_unreadable = true;
    assert_eq!(cluster.suspended(9), None);
    assert!(cluster.why_suspended(9).unwrap().contains("cannot be read"));
}

#[test]
fn a_cut_that_the_kernel_no_longer_shows_is_made_again() {
    let bound = lasting(phase("b"));
    let flushed = local("b", |l| (l.phase, l.network) = (Some(bound), lasting(Network::default())));
    let again = Action::Promise { term: Term(4), writer: name("a") };
    assert_eq!(actions(&promised(), &flushed), [Action::Follow { source: None }, again]);
}

#[test]
fn a_sync_that_changed_twice_asks_for_its_history() {
    let mut later = promised();
    later.sync.as_mut().unwrap().version = 5;
    let bound = lasting(phase("b"));
    let b = local("b", |l| (l.phase, l.network) = (Some(bound), cut()));
    let decision = decide(&later, &b, &mut Memory::default());
    assert!(decision.needs_sync_history && decision.actions.is_empty(), "{decision:?}");
    later.sync_history = vec![SyncKey { version: 4, mod_revision: 88, ..later.sync.clone().unwrap() }];
    let decision = decide(&later, &b, &mut Memory::default());
    assert!(!decision.needs_sync_history && matches!(decision.actions[..], [Action::Close(_)]));
}

#[test]
fn a_hung_patroni_over_a_stopped_postgresql_is_left_alone() {
    let stopped = local("b", |l| (l.patroni_hung, l.postgres) = (true, Postgres::Gone));
    assert!(!actions(&cluster(), &stopped).contains(&Action::RestartPatroni));
}

#[test]
fn another_start_of_the_agent_keeps_the_term() {
    let again = local("a", |l| {
        l.own = Some(OwnSession { session: A_SESSION, incarnation: Incarnation(2) });
    });
    assert!(matches!(actions(&cluster(), &again)[..], [Action::KeepTerm { term_mod_revision: 80, .. }]));
    let unknown = local("a", |l| l.own = None);
    assert_eq!(actions(&cluster(), &unknown), []);
}

fn held(until_wall_ms: Option<i64>) -> Option<Revised<HeldRecord>> {
    Some(revised(HeldRecord { term: Term(4), holder: name("a"), until_wall_ms }, 97))
}

#[test]
fn another_start_of_the_agent_keeps_the_term_also_while_automatic_action_is_suspended() {
    let mut paused = cluster();
    paused.config.as_mut().unwrap().paused = true;
    paused.held = held(None);
    let later = local("a", |l| {
        l.own = Some(OwnSession { session: A_SESSION, incarnation: Incarnation(2) });
    });
    let decision = decide(&paused, &later, &mut Memory::default());
    assert!(matches!(&decision.actions[..], [Action::KeepTerm { .. }]), "{decision:?}");
    let unchanged = decide(&paused, &local("a", |_| ()), &mut Memory::default());
    assert_eq!(unchanged.actions, []);
}

#[test]
fn a_promoted_writer_says_so_once() {
    let mut opened = cluster();
    opened.term = Some(revised(term_open("a", 4, false), 80));
    assert!(matches!(actions(&opened, &local("a", |_| ()))[..], [Action::SayWritable { .. }]));
    let still = local("a", |l| l.postgres = Postgres::Running { in_recovery: Some(true) });
    let decision = decide(&opened, &still, &mut Memory::default());
    assert_eq!((decision.actions, decision.again_in_ms), (vec![], Some(PROMOTION_POLL_MS)));
}

#[test]
fn a_crash_is_attested_once_and_given_back_once() {
    let crashed = |gate_shut, processes_gone| {
        local("a", |l| {
            l.postgres = Postgres::Gone;
            l.gate_shut = gate_shut;
            let answering = names(&["b", "c"]);
            l.after_stop = Some(AfterStop { processes_gone, control: ControlState::InProduction, answering });
        })
    };
    let mut memory = Memory::default();
    let mut cluster = cluster();
    assert_eq!(decide(&cluster, &crashed(false, false), &mut memory).actions, [Action::ShutGateAndKill]);
    let attest = Action::Attest { term: Term(4), stop: StopKind::Stopped };
    assert_eq!(decide(&cluster, &crashed(true, true), &mut memory).actions, [attest]);
    cluster.attestation = Some(revised(attestation(), 120));
    assert_eq!(decide(&cluster, &crashed(true, true), &mut memory).actions, []);
    let mut later = crashed(true, true);
    later.now.boottime_ms += ATTESTATION_PATIENCE_MS;
    let withdrawn = Action::WithdrawAttestation { attestation_mod_revision: 120, term_mod_revision: 80 };
    assert_eq!(decide(&cluster, &later, &mut memory).actions, [withdrawn]);
    cluster.attestation = None;
    assert_eq!(decide(&cluster, &later, &mut memory).actions, [Action::OpenGate]);
    assert_eq!(
        decide(&cluster, &crashed(false, false), &mut memory).actions,
        [],
        "Patroni starts it on the spot"
    );
    decide(&cluster, &local("a", |_| ()), &mut memory);
    assert_eq!(decide(&cluster, &crashed(false, false), &mut memory).actions, [Action::ShutGateAndKill]);
}

#[test]
fn a_crash_beside_a_standby_that_has_just_died_is_not_attested() {
    // c's host has died a moment ago: its session and its facts still say that it streams.
    let crashed = |answering: &[&str]| {
        local("a", |l| {
            l.postgres = Postgres::Gone;
            let (control, answering) = (ControlState::InProduction, names(answering));
            l.after_stop = Some(AfterStop { processes_gone: false, control, answering });
        })
    };
    assert_eq!(actions(&cluster(), &crashed(&["b", "c"])), [Action::ShutGateAndKill]);
    assert_eq!(actions(&cluster(), &crashed(&["b"])), [], "Patroni starts it on the spot");
    let stranger = crashed(&["b", "d"]);
    assert_eq!(actions(&cluster(), &stranger), [], "its vote counts in no configuration");
    let again = decide(&cluster(), &crashed(&["b"]), &mut Memory::default()).again_in_ms;
    assert!(again.is_some(), "it may answer yet: our own link may have been cut");
}

#[test]
fn a_standby_leaves_a_dead_writer_and_not_a_silent_agent() {
    let mut gone = cluster();
    gone.sessions.remove(&A_SESSION);
    assert_eq!(actions(&gone, &local("b", |_| ())), [], "no probe has failed");
    let silent = Suspicion {
        late: true,
        silent_ms: 2_000,
        probes: vec![Life::None, Life::None],
        unrenewed_ms: 60_000,
    };
    let silent = lasting(silent);
    let leave = Action::Promise { term: Term(4), writer: name("a") };
    assert_eq!(actions(&gone, &local("b", |l| l.suspicion = silent)), [leave]);
    assert_eq!(actions(&cluster(), &local("b", |l| l.suspicion = silent)), [], "its session lives");
}

#[test]
fn a_promise_is_withdrawn_when_the_writer_is_in_office() {
    let mut back = cluster();
    back.promises = BTreeMap::from([promise("b", 150)]);
    let bound = lasting(phase("b"));
    let decided = actions(&back, &local("b", |l| l.phase = Some(bound)));
    assert!(
        decided.iter().any(|a| matches!(a, Action::WithdrawPromise { writers_session: A_SESSION, .. })),
        "{decided:?}"
    );
    assert!(
        decided.contains(&Action::Follow { source: None }),
        "until the withdrawal has succeeded replication stays closed: {decided:?}"
    );
}

/// Otherwise Patroni could start it again between its end and the next look.
#[test]
fn the_gate_is_shut_while_a_writer_that_hands_over_still_runs() {
    let runs = |gate_shut| {
        local("a", |l| {
            (l.postgres, l.gate_shut) = (Postgres::Running { in_recovery: Some(false) }, gate_shut)
        })
    };
    let gate = |cluster: &Cluster, gate_shut| {
        let decided = actions(cluster, &runs(gate_shut));
        decided.into_iter().find(|action| matches!(action, Action::ShutGate | Action::OpenGate))
    };
    let mut ordered = cluster();
    assert_eq!((gate(&ordered, false), gate(&ordered, true)), (None, Some(Action::OpenGate)));
    ordered.operation = Some(revised(crate::planned::tests::operation(OperationPhase::HandOver), 96));
    assert_eq!(gate(&ordered, false), None, "Patroni does not have its order yet");
    (ordered.failover_key, ordered.failover_candidate) = (true, Some(name("b")));
    assert_eq!((gate(&ordered, false), gate(&ordered, true)), (Some(Action::ShutGate), None));
    (ordered.failover_key, ordered.failover_candidate) = (false, None);
    assert_eq!(gate(&ordered, true), Some(Action::OpenGate), "Patroni has dropped it");
}

#[test]
fn closing_waits_for_its_rank() {
    let (b, c) = (lasting(phase("b")), lasting(phase("c")));
    let closed = cut();
    let first = local("b", |l| (l.phase, l.network) = (Some(b), closed));
    assert!(matches!(actions(&promised(), &first)[..], [Action::Close(_)]));
    let mut memory = Memory::default();
    let mut second = local("c", |l| (l.phase, l.network) = (Some(c), closed));
    let decision = decide(&promised(), &second, &mut memory);
    assert_eq!((decision.actions, decision.again_in_ms), (vec![], Some(CLOSE_RANK_DELAY_MS)));
    second.now.boottime_ms += CLOSE_RANK_DELAY_MS;
    assert!(matches!(decide(&promised(), &second, &mut memory).actions[..], [Action::Close(_)]));
}

#[test]
fn a_term_whose_session_was_gone_before_its_time_is_closed_once_the_lease_is_over() {
    let (phase, closed) = (lasting(phase("b")), cut());
    let over_ms = Timings::of(Profile::Fast).lease_over_ms();
    let after = |unrenewed_ms| {
        let suspicion = lasting(Suspicion { unrenewed_ms, ..Suspicion::default() });
        local("b", |l| {
            (l.phase, l.network, l.suspicion, l.writer_gone_ms) = (Some(phase), closed, suspicion, 0);
        })
    };
    let early = decide(&promised(), &after(over_ms - 700), &mut Memory::default());
    assert_eq!((early.actions, early.again_in_ms), (vec![], Some(700)));
    assert!(matches!(actions(&promised(), &after(over_ms))[..], [Action::Close(_)]));
    // Nobody watches its renewals any more: it has been gone for long enough.
    let mut unwatched = after(0);
    unwatched.writer_gone_ms = 1;
    let waits_ms = decide(&promised(), &unwatched, &mut Memory::default()).again_in_ms;
    assert_eq!(waits_ms, Some(over_ms - 1));
    unwatched.writer_gone_ms = over_ms;
    assert!(matches!(actions(&promised(), &unwatched)[..], [Action::Close(_)]));
}

#[test]
fn a_second_failover_so_soon_waits_for_a_person() {
    let mut again = promised();
    again.events = vec![revised(event(3, "b", 900_000), 40)];
    let bound = lasting(phase("b"));
    let closed = cut();
    let local = local("b", |l| (l.phase, l.network) = (Some(bound), closed));
    let hold = Action::Hold { term: Term(4), last_failover_wall_ms: 900_000 };
    assert_eq!(actions(&again, &local), [hold]);
    let mut record = HoldRecord {
        term: Term(4),
        last_failover_wall_ms: 900_000,
        text: String::new(),
        released_by: None,
        released_why: None,
        paged: None,
    };
    again.hold = Some(revised(record.clone(), 130));
    assert_eq!(actions(&again, &local), [], "said once");
    record.released_by = Some("holdfast://operator/ann".into());
    again.hold = Some(revised(record, 131));
    assert!(matches!(actions(&again, &local)[..], [Action::Close(_)]));
}

/// Term 4 is closed, at the revision at which `/sync` was bumped.
fn closed() -> Cluster {
    let mut cluster = promised();
    let bound = lasting(phase("b"));
    let network = cut();
    let local = local("b", |l| (l.phase, l.network) = (Some(bound), network));
    let Some(Action::Close(plan)) = actions(&cluster, &local).pop() else { panic!("not closed") };
    cluster.term = Some(revised(plan.closed, 200));
    cluster.leader_key = Some(revised(name("b"), 200));
    let sync = cluster.sync.as_mut().unwrap();
    (sync.version, sync.mod_revision) = (4, 200);
    cluster
}

#[test]
fn a_lock_that_the_old_writer_took_again_is_taken_from_it() {
    let mut retaken = closed();
    retaken.leader_key = Some(revised(name("a"), 210));
    let network = cut();
    let take = Action::TakeLeaderKey { leader_mod_revision: 210, term_mod_revision: 200 };
    assert_eq!(actions(&retaken, &local("c", |l| l.network = network)), [take]);
}

#[test]
fn a_successor_that_does_not_open_is_replaced_after_its_time() {
    let mut memory = Memory::default();
    let mut c = local("c", |l| l.network = cut());
    assert_eq!(decide(&closed(), &c, &mut memory).actions, []);
    c.now.boottime_ms += SUCCESSOR_PATIENCE_MS;
    let mut reachable = closed();
    reachable.promises.extend([promise("c", 150)]);
    let next = Action::NameNext {
        to: name("c"),
        member_lease: 62,
        leader_mod_revision: 200,
        term_mod_revision: 200,
        override_mod_revision: None,
    };
    assert_eq!(decide(&reachable, &c, &mut memory).actions, std::slice::from_ref(&next));
    assert_eq!(decide(&reachable, &c, &mut memory).actions, [next], "a fresh read decides the same");
    reachable.leader_key = Some(revised(name("c"), 210));
    assert_eq!(decide(&reachable, &c, &mut memory).actions, [], "named: it has its time");
    c.now.boottime_ms += SUCCESSOR_PATIENCE_MS;
    assert_eq!(decide(&reachable, &c, &mut memory).actions, [], "twice the time of the one before");
    c.now.boottime_ms += SUCCESSOR_PATIENCE_MS;
    assert!(matches!(decide(&reachable, &c, &mut memory).actions[..], [Action::NameNext { .. }]));
}

#[test]
fn a_closed_writer_may_start_again_as_a_standby() {
    let stopped = local("a", |l| (l.postgres, l.gate_shut, l.network) = (Postgres::Gone, true, cut()));
    assert_eq!(actions(&closed(), &stopped), [Action::OpenGate]);
}

#[test]
fn an_incident_without_its_proof_is_proved_once() {
    let mut unproved = cluster();
    unproved.events = vec![revised(event(3, "b", 900_000), 40)];
    let mut memory = Memory::default();
    let prove = Action::Prove { closed: Term(3) };
    assert_eq!(decide(&unproved, &local("a", |_| ()), &mut memory).actions, [prove]);
    assert_eq!(decide(&unproved, &local("a", |_| ()), &mut memory).actions, []);
    unproved.events[0].value.steps_wall_ms.insert(Step::Proved, 900_100);
    assert_eq!(actions(&unproved, &local("a", |_| ())), []);
}

#[test]
fn who_accepts_writes_in_anothers_term_is_ended() {
    let deposed = local("b", |l| l.postgres = Postgres::Running { in_recovery: Some(false) });
    assert_eq!(actions(&cluster(), &deposed), [Action::KillDeposed]);
    let hanging = local("b", |l| {
        l.postgres = Postgres::Running { in_recovery: None };
        l.started_as_primary = true;
    });
    assert_eq!(actions(&cluster(), &hanging), [Action::KillDeposed]);
    let starting = local("b", |l| l.postgres = Postgres::Running { in_recovery: None });
    assert_eq!(actions(&cluster(), &starting), [], "a standby that does not answer yet");
}

#[test]
fn a_fenced_node_is_ended_and_does_not_vote() {
    let mut fenced = cluster();
    fenced.sessions.remove(&A_SESSION);
    let why = FenceReason::Operator { by: "holdfast://operator/ann".into(), text: "disk".into() };
    fenced.fences = [(name("b"), revised(FenceRecord { why, at_wall_ms: 0 }, 99))].into();
    let silent = Suspicion {
        late: true,
        silent_ms: 2_000,
        probes: vec![Life::None, Life::None],
        unrenewed_ms: 60_000,
    };
    let silent = lasting(silent);
    assert_eq!(actions(&fenced, &local("b", |l| l.suspicion = silent)), [Action::KillFenced]);
}

#[test]
fn an_override_names_the_successor_of_a_closed_term_whoever_has_the_key() {
    let mut closed = cluster();
    let reign = Reign::Closed {
        holder: name("a"),
        floor: Some(at(1, 500)),
        sync_version: 3,
        evidence: holdfast_types::record::Evidence::AttestedClean,
        successor: None,
        at_wall_ms: 0,
    };
    closed.term = Some(revised(TermRecord { term: Term(4), reign, trace: None, timeline: None }, 90));
    closed.overriding = Some(revised(overriding("C", 4), 400));
    let named = |to: &str, member_lease| Action::NameNext {
        to: name(to),
        member_lease,
        leader_mod_revision: 70,
        term_mod_revision: 90,
        override_mod_revision: Some(400),
    };
    let follows = local("b", |l| l.network = cut());
    assert_eq!(actions(&closed, &follows), [named("c", 62)]);
    closed.overriding = Some(revised(overriding("a", 4), 400));
    assert_eq!(actions(&closed, &follows), [], "the old writer has the key, and is the one that is named");
    closed.leader_key = None;
    let returned = local("a", |l| {
        (l.postgres, l.started_as_primary) = (Postgres::Running { in_recovery: Some(true) }, false);
        l.network = lasting(Network { installed: true, ..Network::default() });
    });
    assert_eq!(actions(&closed, &returned).len(), 1, "it may be the only one that is left to name itself");
    closed.overriding = Some(revised(overriding("c", 3), 400));
    assert!(!actions(&closed, &follows).contains(&named("c", 62)), "of a term that is over");
}

#[cfg(feature = "mutants")]
#[test]
fn without_the_rule_who_accepts_writes_in_anothers_term_goes_on() {
    use crate::mutant::{Mutant, without};
    let deposed = local("b", |l| l.postgres = Postgres::Running { in_recovery: Some(false) });
    let done = without(Mutant::OlderTermWrites, || actions(&cluster(), &deposed));
    assert!(!done.contains(&Action::KillDeposed), "{done:?}");
}

#[cfg(feature = "mutants")]
#[test]
fn without_the_rule_a_term_is_closed_beside_a_lease() {
    use crate::mutant::{Mutant, without};
    let suspicion = lasting(Suspicion::default());
    let first = local("b", |l| {
        (l.phase, l.network, l.suspicion) = (Some(lasting(phase("b"))), cut(), suspicion);
        l.writer_gone_ms = 0;
    });
    let done = without(Mutant::LeaseNotAwaited, || actions(&promised(), &first));
    assert!(matches!(done[..], [Action::Close(_)]), "{done:?}");
}

mod asynchronous;
mod come_back;
mod given_back;
mod hung;
mod suspension;

#[test]
fn a_restart_in_its_own_term_is_told_once() {
    let back = |term| local("a", |l| l.away_in = Some(Term(term)));
    let mut memory = Memory::default();
    let mut tells = |l: &Local<'static>| decide(&cluster(), l, &mut memory).actions == [Action::TellRestart];
    assert!(tells(&back(4)));
    assert!(!tells(&back(4)), "it is being told");
    assert!(!tells(&local("a", |_| ())), "it is told");
    assert!(tells(&back(4)), "another restart");
    assert!(!tells(&back(3)), "of a reign that is over");
    let starts = local("a", |l| {
        (l.away_in, l.postgres) = (Some(Term(4)), Postgres::Running { in_recovery: Some(true) });
    });
    assert_eq!(actions(&cluster(), &starts), [], "it is not back yet");
}
