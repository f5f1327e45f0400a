//! The layout of our keys in etcd: the one place that builds or reads them.
//!
//! ```text
//! /holdfast/v1/<region>/session/<host>                       on the session's lease: who is up
//! /holdfast/v1/<region>/coordinator                          on a lease: which coordinator works
//! /holdfast/v1/<region>/<namespace>/<scope>/mode             observe | armed | disarmed
//!                                          /term             OPEN or CLOSED: the reign
//!                                          /floor            floor record of the present writer
//!                                          /promise/<member>/<term>
//!                                          /attest/<term>    the writer's own word that it has stopped
//!                                          /facts/<member>   what others need to choose a successor; it stays when the session goes, as the address to cut off
//!                                          /fence/<member>   keeps a node out until it has been validated
//!                                          /fenced/<member>/<nn>  a ring of the fences that the agent of a member tells of
//!                                          /hold             a second failover waits for a person
//!                                          /held             the writer may write without a lease, in a pause or a maintenance
//!                                          /maintenance      a person works on the cluster: nothing automatic until a moment
//!                                          /outside/<member>  what a fence device said to that member's agent when it was asked last
//!                                          /override         a person accepts a loss, so that one member may follow
//!                                          /route/<pooler>   where a pooler sends its clients; it stays when the session goes, and is then no longer known to be true
//!                                          /would/<member>   what its agent would have done, in mode observe
//!                                          /intents/<user>/<id>  a request for an operation, under the etcd user that made it
//!                                          /operation        the operation that runs, or ran last
//!                                          /operations/<nn>  a ring of the operations that have ended
//!                                          /drained/<node>   a member, or a pooler by host.name, that a person is about to stop
//!                                          /done/<member>    how a phase of an operation went, by the agent of a member
//!                                          /format           up to which format records may be written
//!                                          /event/<nn>       a ring of the last incidents
//!                                          /audit/<nn>       a ring of the last orders of people
//! ```
//! A promise stands under its node's name, because etcd's permissions are by prefix.

use crate::names::{ClusterId, HostName, MemberName, RegionName};
use crate::term::Term;

/// How many events a cluster keeps: the ring's keys are `event/00` to `event/63`.
pub const EVENTS_KEPT: u64 = 64;
/// How many fences an agent keeps of a cluster: the ring's keys are `fenced/<member>/00` to `fenced/<member>/31`.
pub const FENCED_KEPT: u64 = 32;
/// How many restarts in place are kept of a member: the ring's keys are `restart/<member>/00` to `restart/<member>/07`.
pub const RESTARTS_KEPT: u64 = 8;
/// How many operations that have ended a cluster keeps: the ring's keys are `operations/00` to `operations/31`.
pub const OPERATIONS_KEPT: u64 = 32;
/// How many orders a cluster keeps, likewise.
pub const AUDITS_KEPT: u64 = 64;

const ROOT: &str = "/holdfast/v1";

/// The session of a host.
pub fn session(region: &RegionName, host: &HostName) -> String {
    format!("{ROOT}/{region}/session/{host}")
}

/// All sessions of a region.
pub fn sessions(region: &RegionName) -> String {
    format!("{ROOT}/{region}/session/")
}

/// Which coordinator works in a region.
pub fn coordinator(region: &RegionName) -> String {
    format!("{ROOT}/{region}/coordinator")
}

/// An etcd user as one segment of a key.
fn user_segment(user: &str) -> String {
    user.replace('%', "%25").replace('/', "%2F")
}

/// The keys of one cluster, ours and Patroni's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterKeys {
    ours: String,
    patroni: String,
}

/// The etcd user that a segment of a key stands for.
pub fn user_of(segment: &str) -> String {
    segment.replace("%2F", "/").replace("%25", "%")
}

impl ClusterKeys {
    /// The keys of `cluster`.
    pub fn new(cluster: &ClusterId) -> Self {
        let ours =
            format!("{ROOT}/{}/{}/{}/", cluster.region, cluster.namespace.to_key_segment(), cluster.scope);
        let patroni = format!("/{}/{}/", cluster.namespace.as_str().trim_matches('/'), cluster.scope);
        Self { ours, patroni }
    }

    /// Prefix of all our keys of the cluster, with its closing slash.
    pub fn prefix(&self) -> &str {
        &self.ours
    }
    /// Prefix of Patroni's keys of the cluster, with its closing slash.
    pub fn patroni_prefix(&self) -> &str {
        &self.patroni
    }
    /// The mode record.
    pub fn mode(&self) -> String {
        format!("{}mode", self.ours)
    }
    /// The term record.
    pub fn term(&self) -> String {
        format!("{}term", self.ours)
    }
    /// The floor record.
    pub fn floor(&self) -> String {
        format!("{}floor", self.ours)
    }
    /// A member's promise for one term.
    pub fn promise(&self, member: &MemberName, term: Term) -> String {
        format!("{}promise/{member}/{term}", self.ours)
    }
    /// Prefix of all promises.
    pub fn promises(&self) -> String {
        format!("{}promise/", self.ours)
    }
    /// The writer's own word that it has stopped.
    pub fn attest(&self, term: Term) -> String {
        format!("{}attest/{term}", self.ours)
    }
    /// What others need to know of a member.
    pub fn facts(&self, member: &MemberName) -> String {
        format!("{}facts/{member}", self.ours)
    }
    /// The fence record of a member.
    pub fn fence(&self, member: &MemberName) -> String {
        format!("{}fence/{member}", self.ours)
    }
    /// One place of the ring of fences that the agent of a member tells of.
    pub fn fenced(&self, member: &MemberName, number: u64) -> String {
        format!("{}{:02}", self.fenced_by(member), number % FENCED_KEPT)
    }
    /// Prefix of that ring.
    pub fn fenced_by(&self, member: &MemberName) -> String {
        format!("{}fenced/{member}/", self.ours)
    }
    /// One place of the ring of a member's restarts in place.
    pub fn restart(&self, member: &MemberName, number: u64) -> String {
        format!("{}restart/{member}/{:02}", self.ours, number % RESTARTS_KEPT)
    }
    /// The mark that the next failover waits for a person.
    pub fn hold(&self) -> String {
        format!("{}hold", self.ours)
    }
    /// The writer's word that its fence may be lifted, or is: no CLOSE while it stands.
    pub fn held(&self) -> String {
        format!("{}held", self.ours)
    }
    /// The mark that a person works on the cluster.
    pub fn maintenance(&self) -> String {
        format!("{}maintenance", self.ours)
    }
    /// What a fence device has said to the agent of a member.
    pub fn outside(&self, asker: &MemberName) -> String {
        format!("{}outside/{asker}", self.ours)
    }
    /// A person's order to go on with a loss.
    pub fn overriding(&self) -> String {
        format!("{}override", self.ours)
    }
    /// A request for an operation, by an etcd user.
    pub fn intent(&self, user: &str, id: &str) -> String {
        format!("{}{id}", self.intents_of(user))
    }
    /// Prefix of the requests of one etcd user.
    pub fn intents_of(&self, user: &str) -> String {
        format!("{}intents/{}/", self.ours, user_segment(user))
    }
    /// Prefix of all requests.
    pub fn intents(&self) -> String {
        format!("{}intents/", self.ours)
    }
    /// The operation that runs, or ran last.
    pub fn operation(&self) -> String {
        format!("{}operation", self.ours)
    }
    /// One place of the ring of operations that have ended.
    pub fn ended_operation(&self, number: u64) -> String {
        format!("{}operations/{:02}", self.ours, number % OPERATIONS_KEPT)
    }
    /// How a phase of an operation went, by the agent of a member.
    pub fn done(&self, member: &MemberName) -> String {
        format!("{}done/{member}", self.ours)
    }
    /// The mark of a drained member, or of a drained pooler by `host.name`.
    pub fn drained(&self, node: &str) -> String {
        format!("{}drained/{node}", self.ours)
    }
    /// Up to which format records of the cluster may be written.
    pub fn format(&self) -> String {
        format!("{}format", self.ours)
    }
    /// Where a pooler sends its clients.
    pub fn route(&self, host: &HostName, pooler: &str) -> String {
        format!("{}route/{host}.{pooler}", self.ours)
    }
    /// What the agent of a member would have done in mode observe.
    pub fn would(&self, member: &MemberName) -> String {
        format!("{}would/{member}", self.ours)
    }
    /// One place of the ring of events.
    pub fn event(&self, number: u64) -> String {
        format!("{}event/{:02}", self.ours, number % EVENTS_KEPT)
    }
    /// One place of the ring of orders.
    pub fn audit(&self, number: u64) -> String {
        format!("{}audit/{:02}", self.ours, number % AUDITS_KEPT)
    }
    /// Patroni's leader key.
    pub fn patroni_leader(&self) -> String {
        format!("{}leader", self.patroni)
    }
    /// Patroni's record of the synchronous standbys.
    pub fn patroni_sync(&self) -> String {
        format!("{}sync", self.patroni)
    }
    /// Patroni's request for a switchover.
    pub fn patroni_failover(&self) -> String {
        format!("{}failover", self.patroni)
    }
    /// Patroni's dynamic configuration.
    pub fn patroni_config(&self) -> String {
        format!("{}config", self.patroni)
    }
    /// Patroni's key of one member; its lease is the one that a named successor's lock is put on.
    pub fn patroni_member(&self, member: &MemberName) -> String {
        format!("{}members/{member}", self.patroni)
    }

    /// Prefix of Patroni's keys of its members.
    pub fn patroni_members(&self) -> String {
        format!("{}members/", self.patroni)
    }

    /// Which of Patroni's keys of the cluster a key is; `None` for any other key.
    pub fn parse_patroni<'k>(&self, key: &'k str) -> Option<PatroniKey<'k>> {
        Some(match key.strip_prefix(&self.patroni)? {
            "leader" => PatroniKey::Leader,
            "sync" => PatroniKey::Sync,
            "failover" => PatroniKey::Failover,
            rest => rest.strip_prefix("members/").map_or(PatroniKey::Other, PatroniKey::Member),
        })
    }

    /// What a key of ours is, and to whom it belongs; `None` for a key that this build does not know.
    pub fn parse<'k>(&self, key: &'k str) -> Option<OurKey<'k>> {
        let rest = key.strip_prefix(&self.ours)?;
        Some(match rest.split_once('/') {
            None => match rest {
                "mode" => OurKey::Mode,
                "term" => OurKey::Term,
                "floor" => OurKey::Floor,
                "hold" => OurKey::Hold,
                "held" => OurKey::Held,
                "maintenance" => OurKey::Maintenance,
                "override" => OurKey::Override,
                "format" => OurKey::Format,
                "operation" => OurKey::Operation,
                _ => return None,
            },
            Some(("promise", path)) => {
                let (member, term) = path.rsplit_once('/')?;
                OurKey::Promise { member, term: Term(term.parse().ok()?) }
            }
            Some(("attest", term)) => OurKey::Attest(Term(term.parse().ok()?)),
            Some(("facts", member)) => OurKey::Facts(member),
            Some(("fence", member)) => OurKey::Fence(member),
            Some(("outside", member)) => OurKey::Outside(member),
            Some(("fenced", path)) => {
                let (member, number) = path.rsplit_once('/')?;
                OurKey::Fenced { member, number: number.parse().ok()? }
            }
            Some(("restart", path)) => {
                let (member, number) = path.rsplit_once('/')?;
                OurKey::Restart { member, number: number.parse().ok()? }
            }
            Some(("intents", path)) => {
                let (user, id) = path.split_once('/')?;
                OurKey::Intent { user, id }
            }
            Some(("operations", number)) => OurKey::EndedOperation(number.parse().ok()?),
            Some(("done", member)) => OurKey::Done(member),
            Some(("drained", node)) => OurKey::Drained(node),
            Some(("route", pooler)) => OurKey::Route(pooler),
            Some(("would", member)) => OurKey::Would(member),
            Some(("audit", number)) => OurKey::Audit(number.parse().ok()?),
            Some(("event", number)) => OurKey::Event(number.parse().ok()?),
            Some(_) => return None,
        })
    }
}

/// A key of ours, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Each variant is the line of the same name in the module's table.
pub enum OurKey<'k> {
    Mode,
    Term,
    Floor,
    Hold,
    Held,
    Maintenance,
    Override,
    Format,
    Operation,
    EndedOperation(u64),
    Intent { user: &'k str, id: &'k str },
    Done(&'k str),
    Drained(&'k str),
    Promise { member: &'k str, term: Term },
    Attest(Term),
    Facts(&'k str),
    Fence(&'k str),
    Outside(&'k str),
    Fenced { member: &'k str, number: u64 },
    Restart { member: &'k str, number: u64 },
    Route(&'k str),
    Would(&'k str),
    Event(u64),
    Audit(u64),
}

/// A key of Patroni's, taken apart as far as we write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatroniKey<'k> {
    /// The leader lock.
    Leader,
    /// The synchronous standbys.
    Sync,
    /// A request for a switchover.
    Failover,
    /// The key of a member: locks are put on its lease.
    Member(&'k str),
    /// Every other one: only Patroni writes it.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Namespace, Scope};

    fn keys(namespace: &str) -> ClusterKeys {
        ClusterKeys::new(&ClusterId {
            region: RegionName::new("r1").unwrap(),
            namespace: Namespace::new(namespace).unwrap(),
            scope: Scope::new("main").unwrap(),
        })
    }

    #[test]
    fn keys_can_be_read_back() {
        let keys = keys("service");
        let db1 = MemberName::new("db1.plant").unwrap();
        assert_eq!(keys.term(), "/holdfast/v1/r1/service/main/term");
        assert_eq!(keys.parse(&keys.term()), Some(OurKey::Term));
        assert_eq!(keys.parse(&keys.maintenance()), Some(OurKey::Maintenance));
        assert_eq!(keys.parse(&keys.held()), Some(OurKey::Held));
        let promise = keys.promise(&db1, Term(7));
        assert_eq!(keys.parse(&promise), Some(OurKey::Promise { member: "db1.plant", term: Term(7) }));
        assert_eq!(keys.parse(&keys.event(65)), Some(OurKey::Event(1)));
        assert_eq!(keys.parse(&keys.audit(65)), Some(OurKey::Audit(1)));
        assert_eq!(keys.parse(&keys.outside(&db1)), Some(OurKey::Outside("db1.plant")));
        assert_eq!(keys.parse(&keys.overriding()), Some(OurKey::Override));
        assert_eq!(keys.parse(&keys.format()), Some(OurKey::Format));
        assert_eq!(keys.fenced(&db1, 33), "/holdfast/v1/r1/service/main/fenced/db1.plant/01");
        assert_eq!(
            keys.parse(&keys.fenced(&db1, 33)),
            Some(OurKey::Fenced { member: "db1.plant", number: 1 })
        );
        assert_eq!(
            keys.parse(&keys.restart(&db1, 9)),
            Some(OurKey::Restart { member: "db1.plant", number: 1 })
        );
        assert_eq!(keys.parse(&keys.operation()), Some(OurKey::Operation));
        assert_eq!(keys.parse(&keys.ended_operation(33)), Some(OurKey::EndedOperation(1)));
        assert_eq!(keys.parse(&keys.done(&db1)), Some(OurKey::Done("db1.plant")));
        let intent = keys.intent("operator/ann", "7f");
        assert_eq!(intent, "/holdfast/v1/r1/service/main/intents/operator%2Fann/7f");
        assert_eq!(keys.parse(&intent), Some(OurKey::Intent { user: "operator%2Fann", id: "7f" }));
        assert_eq!(keys.parse(&keys.would(&db1)), Some(OurKey::Would("db1.plant")));
        assert_eq!(keys.parse("/holdfast/v1/r1/service/main/later"), None);
        assert_eq!(keys.parse("/holdfast/v1/r1/service/other/term"), None);
    }

    #[test]
    fn an_inner_slash_of_the_namespace_stays_in_patronis_keys_only() {
        let keys = keys("team/a");
        assert_eq!(keys.prefix(), "/holdfast/v1/r1/team%2Fa/main/");
        assert_eq!(keys.patroni_leader(), "/team/a/main/leader");
        assert_eq!(keys.parse_patroni("/team/a/main/leader"), Some(PatroniKey::Leader));
        assert_eq!(keys.parse_patroni("/team/a/main/members/db1"), Some(PatroniKey::Member("db1")));
        assert_eq!(keys.parse_patroni("/team/a/main/config"), Some(PatroniKey::Other));
        assert_eq!(keys.parse_patroni("/team/main/leader"), None);
    }
}
