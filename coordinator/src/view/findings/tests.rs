use holdfast_store::{EndpointHealth, EndpointStatus, EtcdHealth};
use holdfast_types::Mode;
use serde_json::json;

use super::*;
use crate::view::testing::Built;

/// The findings after one change of a healthy cluster.
fn after(change: impl FnOnce(&mut Built)) -> Vec<Finding> {
    let mut built = Built::healthy();
    change(&mut built);
    find(&built.view(), None)
}

fn causes(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.cause.as_str()).collect()
}

#[test]
fn a_healthy_cluster_has_none() {
    assert_eq!(after(|_| ()), []);
}

#[test]
fn a_closed_term_says_who_follows() {
    let findings = after(|built| built.closed(4, 1));
    let first = &findings[0];
    assert_eq!(first.severity, Severity::Outage);
    assert_eq!(first.cause, "term 4 of db1 was closed 3 s ago (revoked by db2, db3)");
    assert_eq!(first.effect, "nothing is written until db2 opens term 5");
}

#[test]
fn who_has_everything_and_may_not_lead_is_named_with_its_tag() {
    let next = |change: fn(&mut Built)| {
        let findings = after(|built| {
            built.closed(4, 1);
            built.remove_session(1);
            // db3 is behind, and the only one that may lead.
            built.promise(2, 4);
            built.facts(2, |facts| facts.eligible = Some(false));
            built.patroni_member(2, serde_json::json!({"tags": {"nofailover": true}}));
            change(built);
        });
        findings[0].next.clone()
    };
    let said = next(|_| ());
    assert!(said.starts_with("db2 has everything") && said.contains("patronictl reload main db2"), "{said}");
    let priority = |built: &mut Built| {
        built.patroni_member(2, serde_json::json!({"tags": {"failover_priority": 0}}));
    };
    assert!(next(priority).contains("its tag failover_priority"));
    let waits = |said: String| assert!(said.starts_with("holdfast status"), "{said}");
    waits(next(|built| built.promise(3, 4)));
    waits(next(|built| built.remove_session(2)));
    waits(next(|built| built.fence(2)));
}

#[test]
fn an_etcd_that_has_forgotten_the_cluster_is_not_healthy() {
    let findings = after(|built| {
        built.remove_mode();
        built.facts(2, |facts| facts.contradiction = Some("etcd has no mode record".into()));
    });
    assert_eq!(findings[0].cause, "etcd has no mode record");
    assert_eq!(findings[0].next, "holdfast arm --reason WHY --region r1 --cluster main");
}

#[test]
fn a_hold_comes_first_and_names_the_command_that_ends_it() {
    let findings = after(|built| {
        built.remove_session(4);
        built.hold();
    });
    assert_eq!(findings[0].severity, Severity::Outage);
    assert_eq!(findings[0].next, "holdfast hold end --reason WHY --region r1 --cluster main");
    assert_eq!(findings[1].cause, "the agent of db4 has no session");
}

#[test]
fn a_writer_that_is_not_promoted_yet_is_an_outage_and_a_released_hold_is_none() {
    assert_eq!(
        causes(&after(|built| built.opening(5, 2, false)))[0],
        "term 5 is open for db2, whose PostgreSQL is still in recovery"
    );
    assert_eq!(after(|built| built.released_hold()), []);
}

#[test]
fn too_few_agents_for_a_proof_is_a_risk() {
    let findings = after(|built| built.remove_session(3));
    let proof = findings.iter().find(|finding| finding.effect.contains("could not be proved")).unwrap();
    assert_eq!(proof.cause, "of db2, db3 only 1 have a live agent, 2 are needed");
    let asynchronous = after(|built| built.remove_session(4));
    assert_eq!(causes(&asynchronous), ["the agent of db4 has no session"]);
}

#[test]
fn the_writers_silent_agent_is_told_from_a_standbys() {
    let findings = after(|built| built.remove_session(1));
    assert_eq!(causes(&findings), ["the agent of the writer db1 has no session"]);
}

#[test]
fn armed_without_a_term_is_a_risk() {
    let findings = after(|built| {
        built.pairs.remove(&built.keys.term());
        built.pairs.remove(&built.keys.floor());
    });
    let cause = "armed, but no term has been opened since";
    assert_eq!(causes(&findings), [cause]);
    let of_an_earlier_arming = after(|built| built.stale(&built.keys.term()));
    assert_eq!(causes(&of_an_earlier_arming), [cause]);
}

#[test]
fn a_hold_whose_term_is_over_is_none() {
    let later = after(|built| {
        built.hold();
        built.open(5, 2);
        built.floor(5);
        built.raw(&built.keys.patroni_leader(), b"db2");
        built.patroni_member(1, json!({"role": "replica", "replication_state": "streaming"}));
        built.patroni_member(2, json!({"role": "primary", "replication_state": null}));
    });
    assert_eq!(later, []);
}

#[test]
fn settings_that_the_promises_rest_on_are_watched_while_armed() {
    let config = json!({"synchronous_mode": true, "failsafe_mode": false, "pause": true});
    let armed = after(|built| built.patroni("config", &config));
    let expected = ["Patroni is paused", "synchronous_mode is on, not quorum", "failsafe_mode is off"];
    assert_eq!(causes(&armed), expected);
    let observing = after(|built| {
        built.patroni("config", &config);
        built.mode(Mode::Observe);
    });
    assert_eq!(observing, []);
}

#[test]
fn a_fence_a_dead_member_and_a_lost_one_cost_copies() {
    let findings = after(|built| {
        built.fence(4);
        built.patroni_member(4, json!({"state": "stopped"}));
        built.patroni_member(3, json!({"replication_state": "in archive recovery"}));
        let key = built.keys.patroni_member(&crate::view::testing::db(2));
        built.pairs.remove(&key);
    });
    let causes = causes(&findings);
    assert!(causes[0].starts_with("db4 is fenced (by holdfast://operator/ann: bad disk)"), "{causes:?}");
    assert_eq!(causes[1..], ["db3 runs, in archive recovery", "Patroni of db2 is gone"]);
}

#[test]
fn a_pooler_that_stays_behind_is_named() {
    let findings = after(|built| {
        built.route("a", Some(1));
        built.route("b", Some(2));
        built.route("c", None);
    });
    assert_eq!(
        causes(&findings),
        ["the pooler pool1.b routes to db2 in term 4", "the pooler pool1.c routes to nobody in term 4"]
    );
}

#[test]
fn no_leader_is_an_outage_in_every_mode() {
    let findings = after(|built| {
        built.mode(Mode::Disarmed);
        let key = built.keys.patroni_leader();
        built.pairs.remove(&key);
    });
    assert_eq!(causes(&findings), ["Patroni has no leader"]);
    assert_eq!(findings[0].severity, Severity::Outage);
}

#[test]
fn a_second_primary_is_named() {
    let findings = after(|built| {
        let key = built.keys.patroni_leader();
        built.raw(&key, b"db2");
        built.open(5, 2);
        built.floor(5);
        built.patroni_member(2, json!({"role": "primary", "replication_state": null}));
    });
    assert_eq!(causes(&findings), ["db1 runs as primary, but Patroni's leader is db2"]);
}

#[test]
fn etcds_own_faults_are_found() {
    let status = EndpointStatus {
        version: "3.4.23".into(),
        leads: true,
        has_leader: true,
        db_size_bytes: 1,
        took_ms: 1,
        read_us: Some(800),
        fsync_p99_us: None,
    };
    let endpoint = |endpoint: &str, status| EndpointHealth { endpoint: endpoint.into(), status };
    let etcd = EtcdHealth {
        endpoints: vec![endpoint("a:1", Ok(status)), endpoint("b:1", Err("refused".into()))],
        members: Some(2),
        alarms: Some(vec!["NOSPACE".into()]),
    };
    let findings = find(&Built::healthy().view(), Some(&etcd));
    assert_eq!(causes(&findings), ["etcd has the alarm NOSPACE", "etcd b:1: refused"]);
    assert_eq!(findings[1].effect, "1 of 2 servers answer");
}

#[test]
fn etcds_quorum_space_and_speed_are_judged() {
    let server = |has_leader, db_size_bytes, read_us| {
        let version = "3.4.23".into();
        let fsync_p99_us = None;
        let status = EndpointStatus {
            version,
            leads: false,
            has_leader,
            db_size_bytes,
            took_ms: 1,
            read_us,
            fsync_p99_us,
        };
        EndpointHealth { endpoint: "a:1".into(), status: Ok(status) }
    };
    let judge = |endpoints| {
        let etcd = EtcdHealth { endpoints, members: Some(3), alarms: Some(Vec::new()) };
        find(&Built::healthy().view(), Some(&etcd))
    };
    let lost = judge(vec![server(false, 1, None)]);
    assert!(lost[0].cause.starts_with("etcd has no quorum as seen from here: 0 of 1"), "{lost:?}");
    assert_eq!(lost[0].severity, Severity::Outage);
    assert_eq!(judge(vec![server(true, 1, Some(900))]), [], "a read that was answered proves a quorum");
    let slow = judge(vec![server(true, 1 << 31, Some(250_000))]);
    let expected = ["etcd's database has 2048 MiB", "a linearizable read of etcd takes 250 ms"];
    assert_eq!(causes(&slow), expected);
}

#[test]
fn a_pooler_whose_agent_is_gone_is_no_risk_for_ever() {
    let findings = after(|built| {
        built.route("b", Some(2));
        built.remove_pooler_session();
    });
    assert_eq!(findings, []);
}

#[test]
fn class_off_asks_for_no_floor_no_quorum_and_no_standby() {
    assert_eq!(after(|built| built.asynchronous()), []);
    let findings = after(|built| {
        built.asynchronous();
        built.pairs.remove(&built.keys.floor());
        built.promise(2, 4);
        built.remove_session(3);
        built.remove_session(1);
    });
    let expected = ["the agent of the writer db1 has no session", "the agent of db3 has no session"];
    assert_eq!(causes(&findings), expected);
    assert!(findings.iter().all(|one| !one.effect.contains("promise")), "{findings:?}");
    let nothing = after(|built| {
        built.asynchronous();
        built.pairs.remove(&built.keys.term());
    });
    assert_eq!(nothing[0].effect, "the poolers follow nobody yet");
}

#[test]
fn a_writer_that_was_lost_in_a_pause_waits_for_a_person() {
    assert_eq!(after(|built| built.held()), [], "its agent is there and takes it back");
    let lost = after(|built| {
        built.held();
        built.remove_session(1);
    });
    assert_eq!(lost[0].severity, Severity::Outage);
    assert_eq!(lost[0].next, "holdfast hold end --reason WHY --region r1 --cluster main");
    let paused = after(|built| {
        built.held();
        built.remove_session(1);
        built.patroni("config", &json!({"synchronous_mode": "quorum", "failsafe_mode": true, "pause": true}));
    });
    assert!(
        paused.iter().all(|finding| finding.severity != Severity::Outage),
        "nothing is closed now anyway"
    );
}
