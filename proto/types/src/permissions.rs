//! Who may write which key of etcd: one table, as data. [`may_write`] is what the protocol needs, line by line; [`grants`] is
//! the same in the words of etcd's own permissions, which know keys and prefixes only.
//!
//! Everybody who has a certificate of the region may read: no record holds a secret, and a promise or a fence that somebody
//! cannot see would be taken for absent. Nothing here talks to etcd; who sets its users up does, and a test holds a real
//! etcd with these permissions to the table.
//!
//! etcd lets nobody end a lease, or put a key on it, who may not write every key that hangs on it already. So a database
//! agent may write the keys of all members (CLOSE puts the leader key on the successor's lease and ends the old writer's)
//! and the sessions of its cluster's other database hosts (one that has run out is ended at once).

use crate::keys::{self, ClusterKeys, OurKey, PatroniKey};
use crate::names::{HostName, MemberName, RegionName};

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The agent of a host with a member of the cluster.
    Database {
        /// The host.
        host: HostName,
        /// Its member.
        member: MemberName,
        /// The other database hosts of the cluster.
        peers: Vec<HostName>,
    },
    /// The cluster's Patroni, and `patronictl`: a user of its own with a password, because etcd's JSON gateway refuses every
    /// client certificate with a common name once authentication is on.
    Patroni,
    /// A host with a PgBouncer, or one whose applications follow the writer by themselves.
    Pooler {
        /// The host.
        host: HostName,
        /// The pooler's name on it.
        pooler: String,
    },
    /// A host without either.
    Backup {
        /// The host.
        host: HostName,
    },
    /// A host with a coordinator: this comes beside what else the host is.
    Coordinator,
    /// A person, or an automation, who may give orders.
    Operator {
        /// Its user of etcd.
        user: String,
    },
    /// A person who may only look.
    Viewer,
    /// Any other certificate: another region's host, a host that is in no cluster of this etcd, a PostgreSQL role.
    Stranger,
}

/// A key of the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'k> {
    /// The session of a host.
    Session(&'k str),
    /// Which coordinator works.
    Coordinator,
    /// A key of the cluster of ours.
    Ours(OurKey<'k>),
    /// A key of Patroni's in the cluster.
    Patroni(PatroniKey<'k>),
}

/// The table. A new kind of key does not compile without its line.
pub fn may_write(holder: &Holder, key: Key<'_>) -> bool {
    use Holder::{Backup, Coordinator, Database, Operator, Pooler};
    let is_database = matches!(holder, Database { .. });
    let is_operator = matches!(holder, Operator { .. });
    let is_own_member = |name: &str| matches!(holder, Database { member, .. } if member.as_str() == name);
    match key {
        Key::Session(name) => match holder {
            Database { host, peers, .. } => {
                host.as_str() == name || peers.iter().any(|peer| peer.as_str() == name)
            }
            Pooler { host, .. } | Backup { host } => host.as_str() == name,
            Operator { .. } | Coordinator | Holder::Viewer | Holder::Patroni | Holder::Stranger => false,
        },
        Key::Coordinator => *holder == Coordinator,
        // CLOSE and its repairs; everything else is Patroni's alone.
        Key::Patroni(key) => *holder == Holder::Patroni || (is_database && key != PatroniKey::Other),
        Key::Ours(key) => match key {
            OurKey::Mode
            | OurKey::Fence(_)
            | OurKey::Maintenance
            | OurKey::Override
            | OurKey::Format
            | OurKey::Audit(_) => is_operator,
            // An agent holds the failover, or says that the writer is held open; a person lets it go on.
            OurKey::Hold | OurKey::Held => is_database || is_operator,
            OurKey::Term | OurKey::Floor | OurKey::Attest(_) => is_database,
            // Nobody speaks for another member.
            OurKey::Promise { member, .. } => is_own_member(member),
            OurKey::Facts(member)
            | OurKey::Would(member)
            | OurKey::Outside(member)
            | OurKey::Fenced { member, .. }
            | OurKey::Restart { member, .. }
            | OurKey::Done(member) => is_own_member(member),
            // Only a coordinator says what is being done, and only it takes a request away; who made one is told by its place.
            OurKey::Operation | OurKey::EndedOperation(_) | OurKey::Drained(_) => *holder == Coordinator,
            OurKey::Intent { user: place, .. } => match holder {
                Operator { user } => keys::user_of(place) == *user,
                _ => *holder == Coordinator,
            },
            OurKey::Route(name) => {
                matches!(holder, Pooler { host, pooler } if name == format!("{host}.{pooler}"))
            }
            // The step "routed" of an incident is the pooler's.
            OurKey::Event(_) => is_database || matches!(holder, Pooler { .. }),
        },
    }
}

/// One permission of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The key, or what the keys begin with.
    pub key: String,
    /// All keys that begin with it.
    pub prefix: bool,
    /// Reading and writing; else reading alone.
    pub write: bool,
}

/// The permissions of a holder in the cluster of these keys.
pub fn grants(holder: &Holder, region: &RegionName, keys: &ClusterKeys) -> Vec<Grant> {
    let one = |key: String| Grant { key, prefix: false, write: true };
    let below = |key: String| Grant { key, prefix: true, write: true };
    let inside = |name: &str| below(format!("{}{name}/", keys.prefix()));
    let written = match holder {
        Holder::Stranger => return Vec::new(),
        Holder::Patroni => return vec![below(keys.patroni_prefix().to_owned())],
        Holder::Viewer => Vec::new(),
        Holder::Backup { host } => vec![one(keys::session(region, host))],
        Holder::Pooler { host, pooler } => {
            vec![one(keys::session(region, host)), one(keys.route(host, pooler)), inside("event")]
        }
        Holder::Database { host, member, peers } => [
            [host].into_iter().chain(peers).map(|host| one(keys::session(region, host))).collect(),
            of_database(keys, member),
        ]
        .concat(),
        Holder::Coordinator => {
            vec![
                one(keys::coordinator(region)),
                one(keys.operation()),
                inside("operations"),
                inside("drained"),
                below(keys.intents()),
            ]
        }
        Holder::Operator { user } => vec![
            below(keys.intents_of(user)),
            one(keys.mode()),
            one(keys.hold()),
            one(keys.held()),
            one(keys.maintenance()),
            one(keys.overriding()),
            one(keys.format()),
            inside("fence"),
            inside("audit"),
        ],
    };
    let read = |key: String| Grant { key, prefix: true, write: false };
    let ours = keys::sessions(region).trim_end_matches("session/").to_owned();
    [vec![read(ours), read(keys.patroni_prefix().to_owned())], written].concat()
}

/// What the agent of a member writes in its cluster.
fn of_database(keys: &ClusterKeys, member: &MemberName) -> Vec<Grant> {
    let one = |key: String| Grant { key, prefix: false, write: true };
    let below = |key: String| Grant { key, prefix: true, write: true };
    let inside = |name: &str| below(format!("{}{name}/", keys.prefix()));
    vec![
        one(keys.term()),
        one(keys.floor()),
        one(keys.hold()),
        one(keys.held()),
        below(format!("{}{member}/", keys.promises())),
        inside("attest"),
        one(keys.facts(member)),
        one(keys.would(member)),
        one(keys.outside(member)),
        one(keys.done(member)),
        inside(&format!("fenced/{member}")),
        inside(&format!("restart/{member}")),
        inside("event"),
        one(keys.patroni_leader()),
        one(keys.patroni_sync()),
        one(keys.patroni_failover()),
        below(keys.patroni_members()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{ClusterId, Namespace, Scope};
    use crate::term::Term;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn ours(keys: &ClusterKeys, db1: &MemberName, db2: &MemberName) -> Vec<String> {
        vec![
            keys.mode(),
            keys.term(),
            keys.floor(),
            keys.hold(),
            keys.held(),
            keys.maintenance(),
            keys.overriding(),
            keys.format(),
            keys.attest(Term(4)),
            keys.event(4),
            keys.audit(4),
            keys.promise(db1, Term(4)),
            keys.promise(db2, Term(4)),
            keys.facts(db1),
            keys.facts(db2),
            keys.would(db1),
            keys.would(db2),
            keys.outside(db1),
            keys.outside(db2),
            keys.fenced(db1, 4),
            keys.fenced(db2, 4),
            keys.restart(db1, 4),
            keys.restart(db2, 4),
            keys.done(db1),
            keys.done(db2),
            keys.operation(),
            keys.ended_operation(4),
            keys.drained("db1"),
            keys.intent("operator/ann", "1"),
            keys.intent("operator/bob", "1"),
            keys.fence(db1),
            keys.fence(db2),
            keys.route(&host("pool1"), "a"),
            keys.route(&host("pool2"), "a"),
        ]
    }

    #[test]
    fn the_permissions_of_etcd_say_what_the_table_says() {
        let region = RegionName::new("r1").unwrap();
        let (namespace, scope) = (Namespace::new("service").unwrap(), Scope::new("main").unwrap());
        let keys = ClusterKeys::new(&ClusterId { region: region.clone(), namespace, scope });
        let (db1, db2) = (MemberName::new("db1").unwrap(), MemberName::new("db2").unwrap());
        let holders = [
            Holder::Database { host: host("db1"), member: db1.clone(), peers: vec![host("db2")] },
            Holder::Patroni,
            Holder::Pooler { host: host("pool1"), pooler: "a".into() },
            Holder::Backup { host: host("backup1") },
            Holder::Coordinator,
            Holder::Operator { user: "operator/ann".into() },
            Holder::Viewer,
            Holder::Stranger,
        ];
        let ours = ours(&keys, &db1, &db2);
        for holder in &holders {
            let grants = grants(holder, &region, &keys);
            let written = |key: &str| {
                let covers = |grant: &&Grant| {
                    if grant.prefix { key.starts_with(&grant.key) } else { key == grant.key }
                };
                grants.iter().filter(covers).any(|grant| grant.write)
            };
            for key in &ours {
                let parsed = Key::Ours(keys.parse(key).unwrap());
                assert_eq!(written(key), may_write(holder, parsed), "{holder:?} {key}");
            }
            for name in ["db1", "db2", "db3", "pool1", "backup1"] {
                let key = keys::session(&region, &host(name));
                assert_eq!(written(&key), may_write(holder, Key::Session(name)), "{holder:?} {key}");
            }
            let key = keys::coordinator(&region);
            assert_eq!(written(&key), may_write(holder, Key::Coordinator), "{holder:?} {key}");
            let of_patroni = [
                keys.patroni_leader(),
                keys.patroni_sync(),
                keys.patroni_failover(),
                keys.patroni_config(),
                keys.patroni_member(&db2),
                format!("{}history", keys.patroni_prefix()),
            ];
            for key in of_patroni {
                let parsed = Key::Patroni(keys.parse_patroni(&key).unwrap());
                assert_eq!(written(&key), may_write(holder, parsed), "{holder:?} {key}");
            }
            assert!(!written("/holdfast/v1/r2/service/main/mode") && !written("/service/other/leader"));
        }
    }
}
