//! Short forms for the tests of this crate.

use std::collections::BTreeSet;

use holdfast_types::{Lsn, MemberName, Position, Timeline};

pub(crate) fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

pub(crate) fn names(list: &[&str]) -> BTreeSet<MemberName> {
    list.iter().copied().map(name).collect()
}

pub(crate) fn at(timeline: u32, lsn: u64) -> Position {
    Position { timeline: Timeline(timeline), lsn: Lsn(lsn) }
}

/// A view borrows its parts; a test that changes one part needs the others to live as long as the test does.
pub(crate) fn lasting<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// What the agent of a healthy member tells; its host bears its name.
pub(crate) fn facts(member: &str) -> holdfast_types::record::MemberFacts {
    holdfast_types::record::MemberFacts {
        host: holdfast_types::HostName::new(member).unwrap(),
        address: format!("10.0.0.{}", member.as_bytes()[0]),
        port: 5432,
        rest_port: 8008,
        grpc: String::new(),
        patroni_state: Some("running".into()),
        eligible: Some(true),
        failover_priority: 1,
        streaming: Some(true),
        data_uuid: Some(member.into()),
        highest_term: holdfast_types::Term(0),
        contradiction: None,
        setup: None,
        warned: None,
        local_disarm: None,
        certificate_ends_unix_s: None,
    }
}

/// The session of a host.
pub(crate) fn session(host: &str) -> holdfast_types::record::SessionRecord {
    holdfast_types::record::SessionRecord {
        host: holdfast_types::HostName::new(host).unwrap(),
        boot_id: "boot".into(),
        incarnation: holdfast_types::Incarnation(1),
        grpc: String::new(),
        version: String::new(),
        reads_format: 1,
    }
}

/// Patroni's configuration, with its defaults and failsafe mode.
pub(crate) fn patroni_config() -> crate::cluster::PatroniConfig {
    crate::cluster::PatroniConfig {
        ttl_ms: 30_000,
        loop_wait_ms: 10_000,
        paused: false,
        failsafe_mode: true,
        maximum_lag_on_failover: 1_048_576,
        acts_on_stop: false,
        mod_revision: 20,
    }
}

/// What Patroni publishes of a member that runs, on this lease.
pub(crate) fn patroni_member(lease: i64) -> crate::cluster::PatroniMember {
    crate::cluster::PatroniMember {
        lease,
        address: String::new(),
        state: Some("running".into()),
        nofailover: false,
        failover_priority: 1,
        nosync: false,
        noloadbalance: false,
        position: None,
    }
}

/// The word of the holder of a term, in its session 5, that its PostgreSQL has stopped.
pub(crate) fn stopped(holder: &str, term: u64) -> holdfast_types::record::Attestation {
    holdfast_types::record::Attestation {
        term: holdfast_types::Term(term),
        holder: name(holder),
        incarnation: holdfast_types::Incarnation(1),
        session: holdfast_types::SessionId(5),
        stop: holdfast_types::record::StopKind::Stopped,
        stuck: Vec::new(),
        at_wall_ms: 0,
    }
}

/// An open term.
pub fn term_open(holder: &str, term: u64, writable: bool) -> holdfast_types::record::TermRecord {
    use holdfast_types::{Incarnation, SessionId, Term};
    let reign = holdfast_types::record::Reign::Open {
        holder: name(holder),
        incarnation: Incarnation(1),
        session: SessionId(5),
        writable,
        floor: None,
    };
    holdfast_types::record::TermRecord { term: Term(term), reign, trace: None, timeline: None }
}

/// The incident that ended a term of `from`, closed at this time.
pub fn event(term: u64, from: &str, closed_wall_ms: i64) -> holdfast_types::record::EventRecord {
    use holdfast_types::record::{EventRecord, Step};
    EventRecord {
        number: term,
        term: holdfast_types::Term(term),
        from: name(from),
        to: None,
        floor: None,
        trace_id: None,
        steps_wall_ms: [(Step::Closed, closed_wall_ms)].into(),
        text: String::new(),
        route_commands: std::collections::BTreeMap::new(),
    }
}

/// A device has switched the host of the writer of that term off; its session was 5.
pub fn off(writer: &str, term: u64) -> holdfast_types::record::OutsideRecord {
    use holdfast_types::record::{OutsideRecord, OutsideState};
    OutsideRecord {
        term: holdfast_types::Term(term),
        writer: name(writer),
        host: holdfast_types::HostName::new(writer).unwrap(),
        session: holdfast_types::SessionId(5),
        incarnation: holdfast_types::Incarnation(1),
        device: "ipmi".into(),
        state: OutsideState::Off,
        tries: Vec::new(),
        began_wall_ms: 0,
        took_ms: Some(900),
    }
}

/// A person accepts that what the successor lacks is lost.
pub fn overriding(successor: &str, term: u64) -> holdfast_types::record::OverrideRecord {
    holdfast_types::record::OverrideRecord {
        term: holdfast_types::Term(term),
        successor: name(successor),
        by: "ann".into(),
        reason: "lost".into(),
        known_end: None,
        position: None,
        accepted: "360 B".into(),
        at_wall_ms: 0,
    }
}
