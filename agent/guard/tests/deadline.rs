//! The deadline against real cgroups and processes: who dies, who does not, and what is told of it.

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.

mod support;

use std::fs;
use std::time::Duration;

use holdfast_guard::client::GuardError;
use holdfast_guard::wire::{Phase, Postmaster, Refusal};
use support::{
    Cgroup, Guard, MS, guarded, has_ended, in_ms, may_guard, name, now_ns, stat, state, until_ns, wait_for,
    wait_killed,
};

/// Both ways to kill: the kernel's, and that of kernels before 5.14.
const WAYS: [&[&str]; 2] = [&[], &["--kill-by-pid"]];

#[test]
fn what_is_guarded_dies_at_its_deadline_and_the_proof_is_kept() {
    if !may_guard() {
        return;
    }
    for way in WAYS {
        let (guard, mut cgroup) = (Guard::start(way), Cgroup::new());
        let (client, pid) = (guard.connect(), cgroup.sleeper());
        let registered = cgroup.register(&client, Some(pid));
        assert_eq!((registered.phase, registered.postmaster), (Phase::Idle, Postmaster::Inside));
        let deadline_ns = in_ms(500);
        client.extend(name(), 7, deadline_ns, Some(pid)).unwrap();
        assert!(guard.proof().contains("phase armed\nterm 7\n"), "{}", guard.proof());
        until_ns(deadline_ns - 300 * MS);
        assert!(!has_ended(pid), "it died before its deadline");
        let kill = wait_killed(&client).last_kill.unwrap();
        assert!(has_ended(pid) && !cgroup.is_populated());
        assert_eq!((kill.term, kill.deadline_ns), (7, deadline_ns));
        let proof = guard.proof();
        for line in ["phase killed", "killed_term 7", "left 0", "empty_ns ", "port 5432"] {
            assert!(proof.contains(line), "{line}: {proof}");
        }
        // The same term may go on: a lease that was won again, and PostgreSQL started again.
        client.extend(name(), 7, in_ms(5_000), None).unwrap();
        client.release(name(), 7).unwrap();
    }
}

#[test]
fn forking_processes_and_nested_cgroups_die_too() {
    if !may_guard() {
        return;
    }
    for way in WAYS {
        let (guard, mut cgroup) = (Guard::start(way), Cgroup::new());
        let client = guard.connect();
        // 150 that stay, and one that goes on forking: at most 20 at a time by their short lives.
        cgroup
            .run("", "for i in $(seq 150); do sleep 1000 & done; while :; do sleep 0.05 & sleep 0.01; done");
        cgroup.run("child/grandchild", "while :; do sleep 0.02 & sleep 0.01; done");
        wait_for("the processes", || support::procs(&cgroup.path).len() > 150);
        cgroup.register(&client, None);
        client.extend(name(), 1, in_ms(50), None).unwrap();
        wait_killed(&client);
        assert!(!cgroup.is_populated());
    }
}

#[test]
fn an_extension_in_time_prevents_the_kill() {
    if !may_guard() {
        return;
    }
    let (_guard, _cgroup, client, pid) = guarded(&[]);
    // As near to the deadline as a shared machine lets a test be.
    let mut deadline_ns = in_ms(600);
    client.extend(name(), 1, deadline_ns, Some(pid)).unwrap();
    for _ in 0..3 {
        until_ns(deadline_ns - 300 * MS);
        deadline_ns += 500 * MS;
        client.extend(name(), 1, deadline_ns, Some(pid)).unwrap();
    }
    assert!(!has_ended(pid));
    assert_eq!(state(&client).last_kill, None);
    wait_killed(&client);
}

#[test]
fn what_was_released_lives() {
    if !may_guard() {
        return;
    }
    let (guard, _cgroup, client, pid) = guarded(&[]);
    let deadline_ns = in_ms(500);
    client.extend(name(), 1, deadline_ns, Some(pid)).unwrap();
    assert_eq!(client.release(name(), 1).unwrap().phase, Phase::Idle);
    until_ns(deadline_ns + 150 * MS);
    assert!(!has_ended(pid));
    assert!(guard.proof().contains("phase idle"));
}

#[test]
fn a_dead_agent_does_not_keep_the_kill_away() {
    if !may_guard() {
        return;
    }
    let (guard, mut cgroup) = (Guard::start(&[]), Cgroup::new());
    let pid = cgroup.sleeper();
    let agent = guard.connect();
    cgroup.register(&agent, Some(pid));
    agent.extend(name(), 1, in_ms(100), Some(pid)).unwrap();
    drop(agent);
    wait_for("the kill", || has_ended(pid));
    wait_killed(&guard.connect());
}

#[test]
fn the_next_agent_goes_on_where_the_last_one_ended() {
    if !may_guard() {
        return;
    }
    let (guard, mut cgroup) = (Guard::start(&[]), Cgroup::new());
    let pid = cgroup.sleeper();
    let agent = guard.connect();
    cgroup.register(&agent, Some(pid));
    let deadline_ns = in_ms(1_000);
    agent.extend(name(), 4, deadline_ns, Some(pid)).unwrap();
    drop(agent);
    let next = guard.connect();
    // Registering again takes nothing from the deadline.
    let known = cgroup.register(&next, Some(pid));
    assert_eq!((known.phase, known.term, known.deadline_ns), (Phase::Armed, 4, deadline_ns));
    next.extend(name(), 4, in_ms(10_000), Some(pid)).unwrap();
    until_ns(deadline_ns + 150 * MS);
    assert!(!has_ended(pid));
}

#[test]
fn a_postmaster_outside_the_cgroup_is_taken_with_its_children() {
    if !may_guard() {
        return;
    }
    let (guard, mut cgroup) = (Guard::start(&[]), Cgroup::new());
    let client = guard.connect();
    let inside = cgroup.sleeper();
    let postmaster = cgroup.run_outside("sleep 1000 & sleep 1000 & while :; do sleep 0.02; done");
    let bystander = cgroup.run_outside("exec sleep 1000");
    cgroup.register(&client, None);
    assert_eq!(state(&client).postmaster, Postmaster::Unknown);
    let armed = client.extend(name(), 1, in_ms(1_500), Some(postmaster)).unwrap();
    assert_eq!(armed.postmaster, Postmaster::Outside);
    let children = || -> Vec<i32> {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == postmaster)).collect()
    };
    wait_for("the children", || children().len() >= 3);
    let before = children();
    wait_killed(&client);
    assert!(has_ended(postmaster) && has_ended(inside));
    assert!(before.iter().all(|child| has_ended(*child)), "a child lives");
    assert!(!has_ended(bystander), "one that nobody named was killed");
}

#[test]
fn a_postmaster_outside_that_has_gone_is_nobody_elses_number() {
    if !may_guard() {
        return;
    }
    let (guard, mut cgroup) = (Guard::start(&[]), Cgroup::new());
    let client = guard.connect();
    let postmaster = cgroup.run_outside("exec sleep 0.1");
    cgroup.register(&client, Some(postmaster));
    wait_for("its end", || has_ended(postmaster));
    client.extend(name(), 1, in_ms(50), None).unwrap();
    wait_killed(&client);
}

#[test]
fn orders_that_must_not_be_followed_are_refused() {
    if !may_guard() {
        return;
    }
    let (guard, mut cgroup) = (Guard::start(&[]), Cgroup::new());
    let (client, pid) = (guard.connect(), cgroup.sleeper());
    let refusal = |result: Result<_, GuardError>| match result {
        Err(GuardError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(client.extend(name(), 1, in_ms(500), None)), Refusal::UnknownInstance);
    assert_eq!(client.query(name()).unwrap(), None);
    cgroup.register(&client, Some(pid));
    client.extend(name(), 5, in_ms(20_000), Some(pid)).unwrap();
    assert_eq!(refusal(client.extend(name(), 4, in_ms(500), None)), Refusal::LowerTerm);
    assert_eq!(refusal(client.release(name(), 4)), Refusal::LowerTerm);
    assert_eq!(refusal(client.extend(name(), 5, now_ns() - 1, None)), Refusal::Past);
    assert_eq!(refusal(client.extend(name(), 5, in_ms(61_000), None)), Refusal::TooFar);
    for pid in [1, -1, i32::try_from(guard.pid()).unwrap()] {
        assert_eq!(refusal(client.extend(name(), 5, in_ms(500), Some(pid))), Refusal::BadProcess);
    }
    assert_eq!((state(&client).phase, state(&client).term), (Phase::Armed, 5));
    std::thread::sleep(Duration::from_millis(600));
    assert!(!has_ended(pid), "a refused order was followed");
}

#[test]
fn a_removed_cgroup_cannot_be_extended_and_the_new_one_takes_its_place() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    let (client, mut cgroup) = (guard.connect(), Cgroup::new());
    cgroup.register(&client, None);
    client.extend(name(), 1, in_ms(10_000), None).unwrap();
    cgroup.renew();
    let refused = client.extend(name(), 1, in_ms(10_000), None);
    assert!(matches!(refused, Err(GuardError::Refused(Refusal::CgroupGone))), "{refused:?}");
    assert_eq!(state(&client).phase, Phase::Armed, "the deadline before stands");
    let pid = cgroup.sleeper();
    let known = cgroup.register(&client, Some(pid));
    assert_eq!((known.phase, known.postmaster), (Phase::Armed, Postmaster::Inside));
    client.extend(name(), 1, in_ms(50), Some(pid)).unwrap();
    wait_killed(&client);
    assert!(has_ended(pid));
}

#[test]
fn a_deadline_over_a_removed_cgroup_is_no_kill() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    let (client, mut cgroup) = (guard.connect(), Cgroup::new());
    cgroup.register(&client, None);
    client.extend(name(), 3, in_ms(100), None).unwrap();
    cgroup.renew();
    let pid = cgroup.sleeper();
    wait_for("the end of the deadline", || state(&client).phase == Phase::Idle);
    assert_eq!(state(&client).last_kill, None, "nobody was killed, and nothing is told of it");
    assert!(guard.proof().contains("phase idle"), "{}", guard.proof());
    assert!(!has_ended(pid), "what has the path now was never named");
    // The unit has started again, and its agent goes on in the same term.
    cgroup.register(&client, Some(pid));
    client.extend(name(), 3, in_ms(50), Some(pid)).unwrap();
    assert_eq!(wait_killed(&client).last_kill.unwrap().term, 3);
    assert!(has_ended(pid));
}

#[test]
fn a_postmaster_that_was_started_by_hand_is_guarded_while_the_unit_is_stopped() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    let (client, mut cgroup) = (guard.connect(), Cgroup::new());
    cgroup.register(&client, None);
    client.extend(name(), 1, in_ms(10_000), None).unwrap();
    cgroup.renew();
    let postmaster = cgroup.run_outside("exec sleep 1000");
    let armed = client.extend(name(), 1, in_ms(10_000), Some(postmaster)).unwrap();
    assert_eq!(armed.postmaster, Postmaster::Outside);
    let refused = client.extend(name(), 1, in_ms(10_000), None);
    assert!(matches!(refused, Err(GuardError::Refused(Refusal::CgroupGone))), "unnamed: {refused:?}");
    client.extend(name(), 1, in_ms(50), Some(postmaster)).unwrap();
    wait_killed(&client);
    assert!(has_ended(postmaster));
}

#[test]
fn a_guard_that_was_started_again_guards_nothing_but_remembers_the_term() {
    if !may_guard() {
        return;
    }
    let (mut guard, mut cgroup) = (Guard::start(&[]), Cgroup::new());
    let pid = cgroup.sleeper();
    let client = guard.connect();
    cgroup.register(&client, Some(pid));
    let deadline_ns = in_ms(500);
    client.extend(name(), 5, deadline_ns, Some(pid)).unwrap();
    guard.restart(&[]);
    let client = guard.connect();
    assert_eq!(client.all().unwrap(), []);
    until_ns(deadline_ns + 100 * MS);
    assert!(!has_ended(pid), "the design says so: nothing is armed until the agent has extended again");
    cgroup.register(&client, Some(pid));
    let lower = client.extend(name(), 4, in_ms(100), Some(pid));
    assert!(matches!(lower, Err(GuardError::Refused(Refusal::LowerTerm))), "{lower:?}");
    client.extend(name(), 5, in_ms(50), Some(pid)).unwrap();
    wait_killed(&client);
}
