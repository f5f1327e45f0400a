//! Everything survives the wire; what is wrong is named.

use super::*;
use crate::message::HostReport;
use crate::tests::{instance as name, preflight, report, status};
use holdfast_types::Profile;
use holdfast_types::preflight::{Preflight, StandbyPreflight, WriterPreflight};

#[test]
fn a_status_survives_the_wire() {
    let full = status();
    assert_eq!(HostStatus::try_from(wire::HostStatus::from(&full)).unwrap(), full);
    for class in [Class::Quorum, Class::On, Class::Off] {
        for mode in [Mode::Observe, Mode::Armed, Mode::Disarmed] {
            for role in [None, Some(Role::Primary), Some(Role::Standby), Some(Role::Stopped)] {
                let one = InstanceStatus { class, mode, role, ..full.instances[0].clone() };
                assert_eq!(InstanceStatus::try_from(wire::InstanceStatus::from(&one)).unwrap(), one);
            }
        }
    }
}

#[test]
fn unknown_stays_unknown() {
    let mut sparse = status();
    sparse.etcd_reachable = None;
    sparse.poolers.clear();
    let one = &mut sparse.instances[0];
    (one.role, one.position, one.term, one.promise) = (None, None, None, None);
    (one.fenced, one.patroni_state) = (None, None);
    assert_eq!(HostStatus::try_from(wire::HostStatus::from(&sparse)).unwrap(), sparse);
}

#[test]
fn signs_of_life_survive_the_wire() {
    let question = LifeQuestion { instance: name(), term: Term(7) };
    assert_eq!(LifeQuestion::try_from(wire::LifeRequest::from(&question)).unwrap(), question);
    for life in [Life::Alive, Life::Stopped, Life::Unknown] {
        let answer = LifeAnswer { term: Term(7), life, age_ms: 90 };
        assert_eq!(LifeAnswer::try_from(wire::LifeReply::from(answer)).unwrap(), answer);
    }
}

#[test]
fn grants_survive_the_wire() {
    let writer = MemberName::new("db2").unwrap();
    let question = GrantQuestion { instance: name(), term: Term(7), writer, incarnation: Incarnation(3) };
    assert_eq!(GrantQuestion::try_from(wire::GrantRequest::from(&question)).unwrap(), question);
    let answer = GrantAnswer { duration_ms: 5_000 };
    assert_eq!(GrantAnswer::try_from(wire::GrantReply::from(answer)).unwrap(), answer);
    let nameless = wire::GrantRequest { writer: String::new(), ..wire::GrantRequest::from(&question) };
    assert!(matches!(GrantQuestion::try_from(nameless), Err(ConvertError::Name(_))));
}

#[test]
fn a_report_survives_the_wire_and_what_cannot_be_read_of_it_is_counted() {
    let full = report();
    for profile in [None, Some(Profile::Fast), Some(Profile::Normal), Some(Profile::Wide)] {
        let one = HostReport { profile, ..full.clone() };
        assert_eq!(HostReport::try_from(wire::HostReport::from(&one)).unwrap(), one);
    }
    let mut sent = wire::HostReport::from(&full);
    sent.incidents.push(br#"{"format":9,"min_reader":9}"#.to_vec());
    sent.renewals.push(b"{}".to_vec());
    let read = HostReport::try_from(sent).unwrap();
    assert_eq!(read, HostReport { unreadable: 3, ..full });
}

#[test]
fn a_preflight_survives_the_wire_and_what_is_unknown_stays_so() {
    let full = preflight();
    let knows_role_only = Preflight {
        writer: Some(WriterPreflight::default()),
        standby: Some(StandbyPreflight::default()),
        ..Preflight::default()
    };
    let nothing_is_open = Preflight {
        writer: Some(WriterPreflight {
            lost_slots: Some(Vec::new()),
            standbys: Some(Vec::new()),
            ..WriterPreflight::default()
        }),
        ..Preflight::default()
    };
    for one in [full, knows_role_only, nothing_is_open, Preflight::default()] {
        assert_eq!(Preflight::try_from(wire::PreflightReply::from(&one)).unwrap(), one);
    }
    assert_eq!(InstanceName::try_from(wire::PreflightRequest::from(&name())).unwrap(), name());
}

#[test]
fn what_is_wrong_is_named() {
    let good = wire::LifeRequest::from(&LifeQuestion { instance: name(), term: Term(1) });
    let error = |request: wire::LifeRequest| LifeQuestion::try_from(request).unwrap_err().to_string();
    assert_eq!(
        error(wire::LifeRequest { instance: None, ..good.clone() }),
        "instance is missing from the message"
    );
    let mut unnamed = good.clone();
    unnamed.instance = Some(wire::Instance { scope: "a b".into(), ..unnamed.instance.unwrap() });
    assert!(error(unnamed).contains("scope \"a b\""));
    let newer = Some(wire::Envelope { format: 9, min_reader: 2 });
    assert!(error(wire::LifeRequest { envelope: newer, ..good }).contains("upgrade this host"));
}

#[test]
fn an_enumeration_of_a_newer_build_is_not_guessed() {
    let mut newer = wire::InstanceStatus::from(&status().instances[0]);
    newer.role = 99;
    assert_eq!(InstanceStatus::try_from(newer.clone()).unwrap().role, None);
    newer.mode = 99;
    let error = InstanceStatus::try_from(newer).unwrap_err();
    assert_eq!(error, ConvertError::Enumeration { field: "mode", value: 99 });
}
