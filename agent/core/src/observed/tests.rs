//! Incidents as observing agents see them: three members, `a` writes under session 5.

use super::*;
use crate::close::Revised;
use crate::member::{Local, Memory, Network, Suspicion, decide};
use crate::sync::SyncKey;
use crate::testing::{at, facts, name, names, patroni_config, patroni_member, session};
use holdfast_types::record::WouldRecord;
use holdfast_types::{Class, Namespace, Now, Position, RegionName, Scope, Term, Timings};

const NOW: i64 = 1_000_000;

fn id() -> ClusterId {
    ClusterId {
        region: RegionName::new("r1").unwrap(),
        namespace: Namespace::new("service").unwrap(),
        scope: Scope::new("main").unwrap(),
    }
}

/// Patroni's keys and the agents' sessions, as they are before anybody has armed anything.
fn calm() -> Cluster {
    let mut cluster = Cluster {
        revision: 50,
        leader_key: Some(Revised { value: name("a"), mod_revision: 3 }),
        sync: Some(SyncKey {
            leader: Some(name("a")),
            quorum: 1,
            sync_standby: names(&["b", "c"]),
            version: 3,
            mod_revision: 40,
            create_revision: 1,
        }),
        config: Some(patroni_config()),
        ..Cluster::default()
    };
    for (member, lease) in [("a", 5), ("b", 6), ("c", 7)] {
        cluster.sessions.insert(SessionId(lease), session(member));
        cluster.members.insert(name(member), patroni_member(lease + 100));
        let mut facts = facts(member);
        facts.data_uuid = None;
        cluster.facts.insert(name(member), facts);
    }
    cluster
}

/// One agent: what it carries from round to round.
struct Agent {
    me: MemberName,
    position: Option<Position>,
    postgres: Postgres,
    suspicion: Suspicion,
    patroni_hung: bool,
    killed: Option<crate::member::AfterStop>,
    shadow: Option<holdfast_types::record::TermRecord>,
    said: WouldRecord,
    memory: Memory,
    observer: Observer,
}

fn agent(me: &str, lsn: u64) -> Agent {
    let in_recovery = Some(me != "a");
    Agent {
        me: name(me),
        position: in_recovery.filter(|recovers| *recovers).map(|_| at(1, lsn)),
        postgres: Postgres::Running { in_recovery },
        suspicion: Suspicion::default(),
        patroni_hung: false,
        killed: None,
        shadow: None,
        said: WouldRecord::default(),
        memory: Memory::default(),
        observer: Observer::default(),
    }
}

impl Agent {
    /// One round at this moment; the others see what it says in `cluster`.
    fn round(&mut self, cluster: &mut Cluster, now_ms: u64) -> Option<ObservedRecord> {
        self.shadow = observe::imagine(self.shadow.as_ref(), cluster);
        let considered = match self.shadow.clone() {
            Some(term) => observe::as_if_armed(cluster.clone(), term),
            None => cluster.clone(),
        };
        let left = observe::as_if_left(&considered, &self.me);
        let network = left.as_ref().map_or_else(Network::default, |(_, network)| network.clone());
        let host = holdfast_types::HostName::new(self.me.as_str()).unwrap();
        let now = Now { boottime_ms: now_ms, wall_ms: NOW + now_ms as i64 };
        let local = Local {
            me: &self.me,
            host: &host,
            class: Class::Quorum,
            now,
            uptime_ms: 1_000_000,
            own: None,
            postgres: self.postgres,
            started_as_primary: self.me == name("a"),
            patroni_hung: self.patroni_hung,
            pulse: None,
            after_stop: self.killed.clone(),
            reached: self.position,
            known_term: Term(0),
            writer_gone_ms: 60_000,
            granted: false,
            gate_shut: false,
            ends_hung: false,
            away_in: None,
            hooks: crate::relinquish::Hooks::default(),
            fenced_in: false,
            phase: left.as_ref().map(|(phase, _)| phase),
            suspicion: &self.suspicion,
            network: &network,
            setting: None,
            devices: &Default::default(),
            timings: &Timings::of(holdfast_types::Profile::Fast),
            second_failover_hold_ms: 600_000,
        };
        let local = Local { own: own(cluster, &host), ..local };
        let decision = decide(&considered, &local, &mut self.memory);
        self.said =
            observe::said(&self.said, &considered, &self.me, &decision.actions, self.position, now.wall_ms);
        cluster.would.insert(self.me.clone(), self.said.clone());
        let worth_saying = decision.actions.iter().filter(|action| observe::is_worth_saying(action));
        let would: Vec<String> = worth_saying.map(kind).collect();
        self.observer.look(&Look {
            cluster: &considered,
            me: &self.me,
            id: &id(),
            actions: &decision.actions,
            would: &would,
            waits: &decision.waits,
            postgres: self.postgres,
            last_sign_wall_ms: Some(NOW - 1),
            now_wall_ms: now.wall_ms,
        })
    }
}

/// The action without what it carries.
fn kind(action: &Action) -> String {
    format!("{action:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()
}

fn own(cluster: &Cluster, host: &holdfast_types::HostName) -> Option<crate::member::OwnSession> {
    let (id, session) = cluster.sessions.iter().find(|(_, session)| session.host == *host)?;
    Some(crate::member::OwnSession { session: *id, incarnation: session.incarnation })
}

fn silent() -> Suspicion {
    let probes = vec![crate::detach::Life::None; 2];
    Suspicion { late: true, silent_ms: 5_000, probes, unrenewed_ms: 60_000 }
}

#[test]
fn a_dead_host_is_told_with_the_close_the_successor_and_who_led_instead() {
    let mut cluster = calm();
    let (mut b, mut c) = (agent("b", 100), agent("c", 200));
    assert_eq!((b.round(&mut cluster, 0), c.round(&mut cluster, 0)), (None, None));
    cluster.sessions.remove(&SessionId(5));
    (b.suspicion, c.suspicion) = (silent(), silent());
    let first = b.round(&mut cluster, 1_000).expect("it would leave the writer");
    assert_eq!((first.reason, first.writer.as_str()), (ObservedReason::SessionGone, "a"));
    assert_eq!((first.would_close_wall_ms, first.would.len()), (None, 1));
    assert_eq!(first.last_sign_wall_ms, Some(NOW - 1));
    assert!(c.round(&mut cluster, 1_010).is_some());
    let close = b.round(&mut cluster, 1_020).expect("both have left it by now");
    assert_eq!((close.would_close_wall_ms, &close.would_name), (Some(NOW + 1_020), &Some(name("c"))));
    assert_eq!(c.round(&mut cluster, 1_030), None, "the second in rank waits");
    assert_eq!(c.round(&mut cluster, 1_140).unwrap().would_name, Some(name("c")), "the same choice");
    assert_eq!(b.round(&mut cluster, 5_000), None, "nothing new");

    // Patroni's lock runs out, and b takes it.
    cluster.leader_key = None;
    assert_eq!(b.round(&mut cluster, 20_000), None);
    cluster.leader_key = Some(Revised { value: name("b"), mod_revision: 60 });
    let led = b.round(&mut cluster, 20_100).unwrap();
    assert_eq!(
        (led.next, led.led_wall_ms, led.writable_wall_ms),
        (Some(name("b")), Some(NOW + 20_100), None)
    );
    let seen = c.round(&mut cluster, 20_110).unwrap();
    assert_eq!((seen.next, seen.writable_wall_ms), (Some(name("b")), None), "only b knows when it writes");
    b.postgres = Postgres::Running { in_recovery: Some(false) };
    let over = b.round(&mut cluster, 20_400).unwrap();
    assert_eq!((over.led_wall_ms, over.writable_wall_ms), (Some(NOW + 20_100), Some(NOW + 20_400)));
    assert_eq!(over.noticed_wall_ms, NOW + 1_000, "one record");
    assert_eq!((b.round(&mut cluster, 21_000), c.round(&mut cluster, 21_000)), (None, None));
    assert!(b.said.promise.is_none(), "it was of the reign before");
}

#[test]
fn a_crash_is_told_by_the_writers_own_agent_and_closed_by_the_others() {
    let mut cluster = calm();
    let (mut a, mut b, mut c) = (agent("a", 0), agent("b", 100), agent("c", 100));
    for agent in [&mut a, &mut b, &mut c] {
        assert_eq!(agent.round(&mut cluster, 0), None);
    }
    a.postgres = Postgres::Gone;
    a.killed = Some(crate::member::AfterStop {
        processes_gone: false,
        control: crate::attest::ControlState::InProduction,
        answering: names(&["b", "c"]),
    });
    let told = a.round(&mut cluster, 1_000).unwrap();
    assert_eq!(told.reason, ObservedReason::PostmasterGone);
    assert!(cluster.would[&name("a")].stop.is_some());
    assert_eq!(b.round(&mut cluster, 1_010).unwrap().reason, ObservedReason::PostmasterGone);
    c.round(&mut cluster, 1_020);
    let close = b.round(&mut cluster, 1_030).unwrap();
    assert_eq!((close.would_close_wall_ms, close.would_name), (Some(NOW + 1_030), Some(name("b"))));
    // Patroni starts it again on the spot.
    (a.postgres, a.killed) = (Postgres::Running { in_recovery: Some(false) }, None);
    let back = a.round(&mut cluster, 2_500).unwrap();
    assert_eq!((back.next, back.writable_wall_ms), (Some(name("a")), Some(NOW + 2_500)));
    assert!(cluster.would[&name("a")].stop.is_none(), "it would have taken its word back");
    b.round(&mut cluster, 2_510);
    let over = b.round(&mut cluster, 2_520).unwrap();
    assert_eq!((over.next, over.writable_wall_ms), (Some(name("a")), None));
    assert!(b.said.promise.is_none(), "and so would its standbys");
    a.round(&mut cluster, 2_530);
    assert_eq!((a.round(&mut cluster, 3_000), b.round(&mut cluster, 3_000)), (None, None));
}

#[test]
fn a_dead_agent_is_no_incident_and_a_hung_patroni_is_one_without_a_close() {
    let mut cluster = calm();
    let (mut a, mut b) = (agent("a", 0), agent("b", 100));
    a.round(&mut cluster, 0);
    b.round(&mut cluster, 0);
    cluster.sessions.remove(&SessionId(5));
    for now_ms in [1_000, 2_000] {
        assert_eq!(b.round(&mut cluster, now_ms), None, "its PostgreSQL gives signs of life");
    }
    cluster.sessions.insert(SessionId(5), session("a"));
    a.patroni_hung = true;
    let told = a.round(&mut cluster, 3_000).unwrap();
    assert_eq!((told.reason, told.would.len()), (ObservedReason::PatroniHung, 1));
    assert_eq!(b.round(&mut cluster, 3_000), None);
    assert_eq!(a.round(&mut cluster, 4_000), None, "nothing that is worth a write");
    cluster.leader_key = Some(Revised { value: name("b"), mod_revision: 60 });
    let (from_a, from_b) = (a.round(&mut cluster, 22_000).unwrap(), b.round(&mut cluster, 22_000).unwrap());
    assert_eq!((from_a.next, from_a.would_close_wall_ms), (Some(name("b")), None));
    assert_eq!(from_a.last_sign_wall_ms, Some(NOW + 4_000), "it wrote on");
    assert_eq!((from_b.reason, from_b.would_close_wall_ms), (ObservedReason::LockLost, None));
}

#[test]
fn a_switchover_is_no_incident_and_what_was_not_seen_is_not_told() {
    let mut cluster = calm();
    let mut c = agent("c", 100);
    c.round(&mut cluster, 0);
    cluster.failover_key = true;
    c.round(&mut cluster, 1_000);
    cluster.failover_key = false;
    cluster.leader_key = Some(Revised { value: name("b"), mod_revision: 60 });
    assert_eq!(c.round(&mut cluster, 1_100), None);
    assert_eq!(c.round(&mut cluster, 1_200), None);
    // A request that stands for a later time explains no dead host.
    cluster.failover_key = true;
    cluster.sessions.remove(&SessionId(6));
    c.suspicion = silent();
    assert_eq!(c.round(&mut cluster, 30_000).unwrap().reason, ObservedReason::SessionGone);
    cluster.sessions.insert(SessionId(6), session("b"));
    cluster.failover_key = false;
    c.observer.forget();
    cluster.leader_key = Some(Revised { value: name("a"), mod_revision: 70 });
    assert_eq!(c.round(&mut cluster, 90_000), None, "etcd was out of its sight");
    cluster.leader_key = Some(Revised { value: name("b"), mod_revision: 80 });
    let moved = c.round(&mut cluster, 91_000).unwrap();
    assert_eq!((moved.reason, moved.next), (ObservedReason::LockLost, Some(name("b"))));
}
